"""What processes a process has started, as Linux tells it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def children_of(process: int) -> list[int]:
    """Processes that one started, and that were not started by another of them."""
    found = []
    for path in Path(f"/proc/{process}/task").glob("*/children"):  # each thread has its own
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            found += [int(word) for word in path.read_text().split()]
    return found


def descendants(process: int) -> Iterator[int]:
    """Processes that one started, that those started, and so on."""
    for child in children_of(process):
        yield child
        yield from descendants(child)


def group_of(process: int) -> int | None:
    """The group of a process; None where it has ended."""
    with contextlib.suppress(ProcessLookupError):
        return os.getpgid(process)
    return None


def workers_of(process: int) -> list[int]:
    """Processes that label for the engine `local`, or Ray's actors, below one."""
    return [
        pid for pid in descendants(process) if any(word in called(pid) for word in (b"spawn_main", b"ray::_Worker"))
    ]


def called(process: int) -> bytes:
    """The command line of a process; empty where it has ended."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
