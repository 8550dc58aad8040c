"""The size that a network sees an image at."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import TypeAlias

# Height and width; or the long side, whatever the image's shape; or none: the image's own.
Size: TypeAlias = tuple[int, int] | int | None


def nearest(numerator: int, denominator: int) -> int:
    """`round(numerator / denominator)`, in whole numbers alone.

    An exporter can follow it for sizes that it keeps open, and what it writes rounds as Python does.

    Args:
        numerator: 0 or more.
        denominator: 1 or more.
    """
    doubled = 2 * numerator + denominator
    whole, rest = doubled // (2 * denominator), doubled % (2 * denominator)
    in_the_middle = (2 * denominator - 1 - rest) // (2 * denominator - 1)  # 1 where nothing is left, else 0
    return whole - in_the_middle * (whole % 2)


def half_up(numerator: int, denominator: int) -> int:
    """`floor(numerator / denominator + 1/2)` likewise."""
    return (2 * numerator + denominator) // (2 * denominator)


def scaled_size(own: tuple[int, int], scale: float, rounded: Callable[[int, int], int] = nearest) -> tuple[int, int]:
    """Height and width of an image that is enlarged by a factor, each rounded, at least 1.

    Args:
        own: height and width of the image.
        scale: above 0; it counts as the decimal number that it is written as.
        rounded: `nearest` or `half_up`.
    """
    exact = Fraction(repr(float(scale)))
    height, width = (max(1, rounded(length * exact.numerator, exact.denominator)) for length in own)
    return height, width


def seen_size(size: Size, own: tuple[int, ...], longest: Callable[[int, int], int] = max) -> tuple[int, int]:
    """Height and width that an image is resized to.

    Args:
        size: as in the settings `seeds.size` and `inference.size`.
        own: of the image, height and width first; the rest is not read.
        longest: the larger of two numbers; an exporter needs its own for sizes that it keeps open.
    """
    height, width = own[:2]
    if size is None:
        return height, width
    if isinstance(size, int):
        long = longest(height, width)
        return max(1, nearest(height * size, long)), max(1, nearest(width * size, long))
    return size
