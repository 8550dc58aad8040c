"""The size that a network sees an image at."""

from __future__ import annotations

from typing import TypeAlias

# Height and width; or the long side, whatever the image's shape; or none: the image's own.
Size: TypeAlias = tuple[int, int] | int | None


def seen_size(size: Size, own: tuple[int, ...]) -> tuple[int, int]:
    """Height and width that an image is resized to.

    Args:
        size: as in the settings `seeds.size` and `inference.size`.
        own: of the image, height and width first; the rest is not read.
    """
    height, width = own[:2]
    if size is None:
        return height, width
    if isinstance(size, int):
        ratio = size / max(height, width)
        return max(1, round(height * ratio)), max(1, round(width * ratio))
    return size
