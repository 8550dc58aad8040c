"""What a data set holds, as a hash: it changes when images, masks or tags do, so that stale results are noticed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Any

from maskwright.data.dataset import Dataset

FILES = ("images", "masks", "saliency")
WHOLE = 2**18  # bytes of a photograph that are read; of a larger one that many, in blocks
BLOCKS = 16

# What a `source` says of where the files of a set lie and what they are called, not of what they hold.
PLACES = ("root", "split", "split_source", "masks", "classes", "tag_source", "saliency")


def content_hash(
    dataset: Dataset,
    files: Sequence[str] = FILES,
    digests: Callable[[Sequence[tuple[str, bool]]], list[str]] | None = None,
) -> str:
    """Hash over names, tags, and what every file holds, wherever it lies; nothing is decoded.

    A built-in set has no files: what it holds follows from its `source`, which callers record beside this.

    Args:
        dataset: of any reader.
        files: which of them count.
        digests: gives `file_digest` of pairs (path, whole), such as `maskwright.runs.digests.Digests`, which remembers
            them; by default every file is read.
    """
    digests = digests or (lambda pairs: [file_digest(*pair) for pair in pairs])
    digest = hashlib.sha256()
    with_files = dataset.images is not None
    derived = with_files and dataset.tags_from_masks
    digest.update(f"{derived} {sorted((dataset.label_map or {}).items())}".encode())
    for index, name in enumerate(dataset.names):
        digest.update(name.encode() + b"\0")
        if with_files and not derived:
            digest.update(repr(dataset.tags(index)).encode())
    for kind in files if with_files else ():
        paths = getattr(dataset, kind) or [None] * len(dataset.names)
        there = sorted({path for path in paths if path is not None and os.path.exists(path)})
        # Masks and annotations are read whole: an edit may change nothing but a few bytes in the middle.
        found = dict(zip(there, digests([(path, kind != "images") for path in there]), strict=True))
        digest.update(f"{kind} {[found.get(path) for path in paths]}".encode())
    return digest.hexdigest()[:16]


def file_digest(path: str, whole: bool = True) -> str:
    """Hash of a file's size and bytes.

    Args:
        path: of the file.
        whole: read all of it. Otherwise of a file of more than 256 KiB sixteen blocks of 16 KiB are read, evenly spread
            from its first to its last byte: that a compressed photograph was changed shows in them, while an edit in
            place of an uncompressed one may lie between them and is then not noticed.
    """
    with open(path, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        digest = hashlib.blake2b(str(size).encode(), digest_size=12)
        if whole or size <= WHOLE:
            while block := stream.read(2**20):
                digest.update(block)
        else:
            length = WHOLE // BLOCKS
            for number in range(BLOCKS):
                stream.seek((size - length) * number // (BLOCKS - 1))
                digest.update(stream.read(length))
    return digest.hexdigest()


def facts(dataset: Dataset) -> dict[str, Any]:
    """What `source` says of a set besides places and names of files; of a built-in set everything."""
    source = {key: value for key, value in dict(dataset.source).items() if key != "saliency"}
    return {key: value for key, value in source.items() if "layout" not in source or key not in PLACES}


def content_hash_of_0_1(dataset: Dataset, files: Sequence[str] = FILES) -> str:
    """The hash that runs of version 0.1 recorded: of every file the size and the time of change."""
    digest = hashlib.sha256()
    counted = [getattr(dataset, key) for key in files]
    for index, name in enumerate(dataset.names):
        digest.update(name.encode())
        if dataset.images is None:
            continue
        if not dataset.tags_from_masks:
            digest.update(repr(dataset.tags(index)).encode())
        for paths in counted:
            path = paths[index] if paths is not None else None
            if path is not None and os.path.exists(path):
                found = os.stat(path)
                digest.update(f"{found.st_size} {found.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]
