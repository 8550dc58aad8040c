"""What an export holds, whatever its format: images, and their masks one at a time."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskwright.data.decode import HEIC_SUFFIXES
from maskwright.data.images import image_suffixes, orientation
from maskwright.data.readers.shapes import IGNORED
from maskwright.data.sample import LabelSpace

__all__ = ["IGNORED", "Example", "Export", "put_image"]


@dataclass(frozen=True)
class Example:
    """One image with its mask.

    Args:
        name: unique; relative path without suffix, with `/` between folders.
        image: path of its file; None where it is in none.
        pixels: `(H, W, 3)` uint8, decodes it as displayed.
        mask: `(H, W)` uint8 label values.
        certainty: `(H, W)` uint8, 255 where the mask is sure; None where nobody knows.
        tags: label values said to be in the image; None where nobody said.
    """

    name: str
    image: str | Path | None
    pixels: Callable[[], np.ndarray]
    mask: np.ndarray
    certainty: np.ndarray | None = None
    tags: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Export:
    """Images with masks, and what they mean.

    Args:
        labels: of the masks.
        split: name of the part that the images are.
        what: the masks are: ground truth, pseudo-masks, predictions, or pseudo-masks and ground truth.
        examples: gives them anew at each call, one at a time.
        count: how many there are.
        made_by: facts for the record.
    """

    labels: LabelSpace
    split: str
    what: str
    examples: Callable[[], Iterator[Example]]
    count: int
    made_by: dict[str, Any] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[int, ...]:
        """Label values that are regions in formats whose regions have labels: all but the background."""
        return self.labels.foreground


def put_image(example: Example, folder: Path, suffixes: Sequence[str] = ()) -> str:
    """Copy an image as it is, in its subfolder, so that names cannot collide; written anew where others would read it
    otherwise than it is displayed.

    Args:
        example: gives the image.
        folder: of images.
        suffixes: that the other side reads, in lower case with the dot; empty: any but HEIC. Others become PNG.

    Returns:
        The file's path below `folder`, with `/`.
    """
    suffix = Path(example.image).suffix if example.image is not None else ".png"
    known = suffix.lower() in (suffixes or image_suffixes() - {*HEIC_SUFFIXES})
    # Many tools read past the EXIF orientation: the mask would lie on an image of another size.
    anew = example.image is None or not known or orientation(example.image) != 1
    target = folder / f"{example.name}{'.png' if anew else suffix}"
    target.parent.mkdir(parents=True, exist_ok=True)
    if anew or example.image is None:
        Image.fromarray(example.pixels()).save(target)
    else:
        shutil.copyfile(example.image, target)
    return target.relative_to(folder).as_posix()
