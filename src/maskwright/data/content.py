"""What a data set holds, as a hash: it changes when images, masks or tags do, so that stale results are noticed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any


def content_hash(dataset: Any, files: Sequence[str] = ("images", "masks", "saliency")) -> str:
    """Hash over names, tags, and the size and time of change of every file; nothing is decoded.

    A built-in set has no files: what it holds follows from its `source`, which callers record beside this.

    Args:
        dataset: of any reader.
        files: which of them count.
    """
    digest = hashlib.sha256()
    images = getattr(dataset, "images", None)
    counted = [getattr(dataset, key, None) for key in files]
    derived = isinstance(getattr(dataset, "given_tags", None), str)
    for index, name in enumerate(dataset.names):
        digest.update(name.encode())
        if images is None:
            continue
        if not derived:
            digest.update(repr(dataset.tags(index)).encode())
        for paths in counted:
            path = paths[index] if paths is not None else None
            if path is not None and os.path.exists(path):
                facts = os.stat(path)
                digest.update(f"{facts.st_size} {facts.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]
