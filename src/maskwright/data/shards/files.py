"""Parts of many files, read by several threads and processes with few of them open."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from typing import Any

from maskwright.data.shards.index import AGAIN, ShardIndex
from maskwright.data.shards.stores import is_remote, join, read
from maskwright.data.shards.tars import BLOCK, check_header
from maskwright.data.stored import Stored
from maskwright.errors import DataError

MOST_OPEN = 64

_all: weakref.WeakSet[Parts] = weakref.WeakSet()


class Parts:
    """Reads parts of files; those that were read last stay open.

    A copy that is sent to another process opens its own.

    Args:
        most: files that stay open at most.
    """

    def __init__(self, most: int = MOST_OPEN) -> None:
        self.most = most
        self.begin()

    def begin(self) -> None:
        """Start with no open file, as a forked process does: the lock that it inherits may be held for ever."""
        _all.add(self)
        self._lock = threading.Lock()
        self._open: OrderedDict[str, _File] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"most": self.most}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.most = state["most"]
        self.begin()

    def read(self, place: str, start: int, length: int) -> bytes:
        """Bytes of a file; fewer only where it ends sooner.

        Raises:
            OSError: it is not there, or cannot be read.
            MaskwrightError: as `maskwright.data.shards.stores.read`.
        """
        if is_remote(place) or not hasattr(os, "pread"):  # Windows has no reading that leaves the position alone
            return read(place, start, length)
        with self._lock:
            file = self._open.pop(place, None) or _File(place)
            self._open[place] = file
            if len(self._open) > self.most:
                self._open.popitem(last=False)
        content = os.pread(file.number, length, start)
        while 0 < len(content) < length and (
            more := os.pread(file.number, length - len(content), start + len(content))
        ):
            content += more
        return content


class Whole(Parts):
    """Parts of one file that is read whole, when the first part is asked for, and kept in memory."""

    def begin(self) -> None:
        super().begin()
        self._kept: tuple[str, bytes] = ("", b"")

    def read(self, place: str, start: int, length: int) -> bytes:
        with self._lock:
            if self._kept[0] != place:
                self._kept = place, read(place)
            content = self._kept[1]
        return content[start : start + length]


def read_member(files: Parts, place: str, shard: ShardIndex, kind: str, row: int) -> Stored | None:
    """One file of an example, which has been read; None where it has none of this kind.

    Args:
        files: that are open.
        place: of the tar file.
        shard: which one.
        kind: of file.
        row: of the example in the shard.

    Raises:
        DataError: the tar file is damaged, or another one than its index is of.
    """
    member = shard.member(kind, row)
    if member is None:
        return None
    name, offset, length = member
    where = join(place, f"{shard.entry.name}.tar")
    try:
        content = files.read(where, offset - BLOCK, length + BLOCK)
    except OSError as error:
        raise DataError(f"{where} cannot be read: {error}") from error
    wrong = check_header(content[:BLOCK], name, length)
    if wrong or len(content) != length + BLOCK:
        wrong = wrong or f"it ends after {len(content) - BLOCK} of {length} bytes"
        raise DataError(
            f"{where} is not the file that its index is of: expected {name} at byte {offset}, found that {wrong}. Fix: "
            f"put back the files that belong together, or {AGAIN}"
        )
    return Stored(f"{where}:{name}", lambda: content[BLOCK:])


class _File:
    """An open file, closed when the last thread that reads from it lets go of it."""

    def __init__(self, place: str) -> None:
        self.number = os.open(place, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


def _begin_all() -> None:
    for parts in list(_all):
        parts.begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_all)
