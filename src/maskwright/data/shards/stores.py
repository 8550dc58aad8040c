"""Files that lie in a folder or in an object store: read whole or in part, and written wholly or not at all.

A place is a path, or an address such as `s3://bucket/folder`, which the package fsspec reads and writes.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

from maskwright.errors import DataError, MaskwrightError
from maskwright.files import atomic_write

ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
INSTALL = "pip install 'maskwright[stores]'"


def is_remote(place: str | PathLike[str]) -> bool:
    """Whether a place is an address that fsspec reads, not a path."""
    return ADDRESS.match(os.fspath(place)) is not None


def join(place: str | PathLike[str], name: str) -> str:
    """The place of a file in a folder."""
    return f"{os.fspath(place).rstrip('/')}/{name}" if is_remote(place) else os.path.join(place, name)


def size_of(place: str | PathLike[str]) -> int | None:
    """Bytes of a file; None where there is none.

    Raises:
        MaskwrightError: as `read`.
    """
    if not is_remote(place):
        return os.stat(place).st_size if os.path.isfile(place) else None
    store, path = _store(place)
    try:
        return int(store.size(path))
    except FileNotFoundError:
        return None


def version_of(place: str | PathLike[str]) -> str:
    """What changes when a file does, for what is remembered of it.

    Raises:
        OSError: it is not there.
        MaskwrightError: as `read`.
    """
    if not is_remote(place):
        facts = os.stat(place)
        return f"{facts.st_ino} {facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns}"
    store, path = _store(place)
    return repr(sorted((key, str(value)) for key, value in store.info(path).items()))


def read(place: str | PathLike[str], start: int = 0, length: int | None = None) -> bytes:
    """Bytes of a file: all, or fewer than `length` only where it ends sooner.

    Raises:
        OSError: it is not there, or cannot be read.
        MaskwrightError: a package that reads such addresses is missing, or there is none.
    """
    if is_remote(place):
        store, path = _store(place)
        return bytes(store.cat_file(path, start=start, end=None if length is None else start + length))
    with open(place, "rb") as stream:
        stream.seek(start)
        return stream.read(-1 if length is None else length)


@contextmanager
def written(place: str | PathLike[str]) -> Iterator[BinaryIO]:
    """A stream to a temporary file, which becomes the file when the block ends without an error.

    Raises:
        MaskwrightError: as `read`.
    """
    if not is_remote(place):
        with atomic_write(os.fspath(place)) as temporary, open(temporary, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        return
    store, path = _store(place)
    with tempfile.TemporaryDirectory(prefix="maskwright-") as folder:
        kept = Path(folder, "part")
        with open(kept, "wb") as stream:
            yield stream
        try:
            store.put_file(str(kept), path)
        except FileNotFoundError:  # a store that has folders
            store.makedirs(store._parent(path), exist_ok=True)
            store.put_file(str(kept), path)


def write(place: str | PathLike[str], content: bytes) -> None:
    """Write a file, wholly or not at all.

    Raises:
        MaskwrightError: as `read`.
    """
    with written(place) as stream:
        shutil.copyfileobj(io.BytesIO(content), stream)


def remove(place: str | PathLike[str]) -> None:
    """Delete a file, if it is there.

    Raises:
        MaskwrightError: as `read`.
    """
    if not is_remote(place):
        Path(place).unlink(missing_ok=True)
        return
    store, path = _store(place)
    if store.isfile(path):
        store.rm_file(path)


def _store(place: str | PathLike[str]) -> tuple[Any, str]:
    """The file system of an address, and the path in it.

    Asked for anew each time: fsspec keeps one for each process, and one that a forked process took over would hang.
    """
    text = os.fspath(place)
    try:
        import fsspec
    except ImportError:
        raise MaskwrightError(f"{text} is in an object store, which needs the package fsspec. Fix: {INSTALL}") from None
    try:
        return fsspec.core.url_to_fs(text)
    except ImportError as error:
        raise MaskwrightError(
            f"{text}: a package that reads it is missing: {error}. Fix: install it with pip"
        ) from None
    except ValueError as error:
        raise DataError(f"{text} is no address that can be read: {error}") from None
