"""Where the bytes of an image or a mask are: in a file of its own, or in a part of another file."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias


@dataclass(frozen=True)
class Stored:
    """A file within another one, which functions that read images take in the place of a path.

    Args:
        name: what messages call it; it ends as the name of such a file does.
        read: gives its bytes.
    """

    name: str
    read: Callable[[], bytes]

    def __str__(self) -> str:
        return self.name


Where: TypeAlias = str | Path | Stored


def opened(where: Where) -> BinaryIO:
    """A stream over the bytes of a file.

    Raises:
        OSError: it cannot be read.
    """
    return io.BytesIO(where.read()) if isinstance(where, Stored) else open(where, "rb")


def for_pillow(where: Where) -> str | Path | BinaryIO:
    """What `PIL.Image.open` is given: a path as it is."""
    return io.BytesIO(where.read()) if isinstance(where, Stored) else where
