"""Tar files in the layout of WebDataset: the files of one example stand together and share all before the first dot."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterable
from contextlib import nullcontext
from os import PathLike
from typing import BinaryIO

from maskwright.data.shards.stores import written
from maskwright.errors import DataError

BLOCK = tarfile.BLOCKSIZE  # what starts in a tar file starts at a multiple of this
LARGEST = 2**32 - 1  # bytes of one member that an index can hold


def key_of(name: str) -> str:
    """The name of an image as the key of an example, which has no dot in its last part.

    WebDataset cuts a file's name at the first dot of its last part: `a.b/photo.1` becomes `a.b/photo%2E1`.
    """
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.replace("%", "%25").replace(".", "%2E")


def name_of(key: str) -> str:
    """The name of the image that `key_of` made a key of."""
    folder, slash, last = key.rpartition("/")
    return folder + slash + last.replace("%2E", ".").replace("%25", "%")


def write_tar(
    where: str | PathLike[str] | BinaryIO | Hashed, members: Iterable[tuple[str, bytes]]
) -> list[tuple[int, int]]:
    """Write a tar file whose bytes depend on the names and bytes of its members alone.

    Args:
        where: a path or an address, which is written wholly or not at all, or a stream.
        members: name and bytes of each file, in order; gone through once.

    Returns:
        Offset and length of each member's bytes in the file.

    Raises:
        DataError: a member of 4 GB or more.
    """
    places = []
    with nullcontext(where) if hasattr(where, "write") else written(where) as stream:
        position = 0
        for name, content in members:
            if len(content) > LARGEST:
                raise DataError(f"{name} has {len(content)} bytes; expected less than 4 GB. Fix: leave it out")
            before, after = header(name, len(content)), b"\0" * (-len(content) % BLOCK)
            for part in (before, content, after):
                stream.write(part)
            places.append((position + len(before), len(content)))
            position += len(before) + len(content) + len(after)
        stream.write(b"\0" * (2 * BLOCK + -(position + 2 * BLOCK) % tarfile.RECORDSIZE))
    return places


class Hashed:
    """A stream to another one that knows how much was written and the SHA-256 of it."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.digest, self.bytes = stream, hashlib.sha256(), 0

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        self.bytes += len(content)
        return self.stream.write(content)


def header(name: str, length: int) -> bytes:
    """What stands before a member's bytes: nothing in it tells who wrote it, or when."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = length, 0o644
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def check_header(block: bytes, name: str, length: int) -> str:
    """What is wrong with the block before a member's bytes, in words; empty where it is the member's.

    Args:
        block: the 512 bytes before.
        name: of the member.
        length: of the member.
    """
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return "no file begins there"
    plain = name.isascii() and len(name) <= tarfile.LENGTH_NAME  # other names stand before this block
    if (plain and info.name != name) or info.size != length:
        return f"{info.name} of {info.size} bytes begins there"
    return ""
