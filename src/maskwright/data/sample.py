"""What an example is, and what its labels mean: `Sample` and `LabelSpace`, used by every reader and every stage."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from maskwright.data.names import normal, odd_letters
from maskwright.errors import DataError, unknown_name


@lru_cache
def voc_palette(count: int = 256) -> tuple[tuple[int, int, int], ...]:
    """The PASCAL VOC colour map: one RGB triple for each of `count` label values."""
    colours = []
    for value in range(count):
        red = green = blue = 0
        bits = value
        for shift in range(7, -1, -1):
            red |= (bits & 1) << shift
            green |= (bits >> 1 & 1) << shift
            blue |= (bits >> 2 & 1) << shift
            bits >>= 3
        colours.append((red, green, blue))
    return tuple(colours)


@dataclass(frozen=True)
class LabelSpace:
    """Class names, colours, which value is background and which is ignored; a label's value is its index in `names`.

    Args:
        names: one name per class, background included where there is one.
        background: the value of the background class, or None where every class is a thing or stuff of its own.
        ignore_index: the value of pixels that carry no label.
        palette: one RGB triple per class; the VOC colour map by default.

    Raises:
        DataError: no names, a name twice, one with characters that no text shows, a background or ignore value that
            cannot be, or a palette of another length.
    """

    names: tuple[str, ...]
    background: int | None = 0
    ignore_index: int = 255
    palette: tuple[tuple[int, int, int], ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(normal(str(name)) for name in self.names))
        if not self.names:
            raise DataError("a label space needs at least one class name, found none")
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise DataError(f"class names must differ, found more than once: {', '.join(twice)}")
        odd = next((name for name in self.names if not name.isprintable() and odd_letters(name)), None)
        if odd is not None:
            raise DataError(f"the class name {odd!r} holds {odd_letters(odd)[0]!r}, which would break lists of classes")
        if self.background is not None and not 0 <= self.background < len(self.names):
            raise DataError(f"background must be one of the values 0..{len(self.names) - 1}, found {self.background}")
        if 0 <= self.ignore_index < len(self.names):
            raise DataError(
                f"ignore_index {self.ignore_index} is also the class {self.names[self.ignore_index]!r}; "
                f"choose a value outside 0..{len(self.names) - 1}"
            )
        palette = self.palette or voc_palette(len(self.names))
        if len(palette) != len(self.names):
            raise DataError(f"palette has {len(palette)} colours for {len(self.names)} classes")
        colours = tuple((int(red), int(green), int(blue)) for red, green, blue in palette)
        object.__setattr__(self, "palette", colours)

    @property
    def num_classes(self) -> int:
        return len(self.names)

    @property
    def foreground(self) -> tuple[int, ...]:
        """Values of the classes that an image can be tagged with: all but the background."""
        return tuple(value for value in range(self.num_classes) if value != self.background)

    @property
    def tag_names(self) -> tuple[str, ...]:
        """Names in the order of `foreground`: tag k of a tag vector is `tag_names[k]`."""
        return tuple(self.names[value] for value in self.foreground)

    def value(self, name: str) -> int:
        """The label value of a class name.

        Raises:
            DataError: no such class; the message names the nearest ones.
        """
        try:
            return self.names.index(normal(name))
        except ValueError:
            raise DataError(unknown_name("class", name, self.names)) from None

    def tag_vector(self, tags: Iterable[int]) -> np.ndarray:
        """Binary vector `(K,)` float32 over `foreground` from label values."""
        vector = np.zeros(len(self.foreground), np.float32)
        position = {value: index for index, value in enumerate(self.foreground)}
        for value in tags:
            vector[position[value]] = 1
        return vector

    def tags_in(self, mask: np.ndarray) -> tuple[int, ...]:
        """Label values of the foreground classes that occur in a mask `(H, W)`, ascending."""
        present = set(np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist())
        return tuple(value for value in self.foreground if value in present)

    def flat_palette(self) -> list[int]:
        """768 numbers for `PIL.Image.putpalette`: class colours, then VOC's, the ignore value light grey."""
        colours = list(voc_palette(256))
        colours[: len(self.palette)] = self.palette
        if 0 <= self.ignore_index < 256:
            colours[self.ignore_index] = (224, 224, 224)
        return [channel for colour in colours for channel in colour]

    def to_dict(self) -> dict[str, Any]:
        return {
            "names": list(self.names),
            "background": self.background,
            "ignore_index": self.ignore_index,
            "palette": [list(colour) for colour in self.palette],
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> LabelSpace:
        return cls(
            names=tuple(fields["names"]),
            background=fields["background"],
            ignore_index=fields["ignore_index"],
            palette=tuple((red, green, blue) for red, green, blue in fields["palette"]),
        )


@dataclass
class Sample:
    """One example as a reader gives it.

    Args:
        name: unique in its set; relative path without extension, so it may contain `/`.
        image: `(H, W, 3)` uint8, RGB; of other files than photographs `(H, W, C)`.
        mask: `(H, W)` uint8 label values, or None where there is no mask.
        tags: label values of the classes said to be in the image, ascending; `()` means that none is, None that
            nobody said.
        saliency: `(H, W)` uint8, 0 to 255, or None.
    """

    name: str
    image: np.ndarray
    mask: np.ndarray | None = None
    tags: tuple[int, ...] | None = None
    saliency: np.ndarray | None = None
