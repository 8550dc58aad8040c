"""Images with masks that are hard to write: holes, parts, single pixels, ignored ones; names in folders, in unicode."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskwright.data.sample import LabelSpace
from maskwright.formats.export import Example, Export

LABELS = LabelSpace(("background", "cat", "Übung", "a b"), palette=((0, 0, 0), (200, 0, 0), (0, 99, 0), (0, 0, 77)))
NAMES = ("one", "a/same", "b/same", "größe/日本")
SIZE = (23, 31)


def hard_mask(number: int, ignored: bool) -> np.ndarray:
    """A ring with an object in its hole, parts that touch at corners, single pixels at the border."""
    mask = np.zeros(SIZE, np.uint8)
    mask[2:15, 3:20] = 1
    mask[5:11, 6:14] = 0
    mask[7:9, 8:11] = 2
    mask[16, 21], mask[17, 22], mask[18, 21] = 3, 3, 3
    mask[0, 0] = mask[-1, -1] = 2
    mask[20:, 2 + number : 9] = 3
    if ignored:
        mask[4:6, 24:30] = 255
    return mask


class Hard:
    """An export of such images, with their files below a folder."""

    def __init__(self, root: Path, what: str = "ground truth", ignored: bool = True) -> None:
        noise = np.random.default_rng(0)
        self.masks = {name: hard_mask(number, ignored) for number, name in enumerate(NAMES)}
        self.masks["b/same"][:] = 0  # nothing but background
        self.files = {}
        for number, name in enumerate(NAMES):
            self.files[name] = root / f"{name}{('.jpg', '.png')[number % 2]}"
            self.files[name].parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(self.files[name])
        self.export = Export(LABELS, "train", what, self.examples, len(NAMES))

    def examples(self) -> Iterator[Example]:
        for name in NAMES:
            certainty = np.full(SIZE, 200, np.uint8)
            pixels = np.zeros((*SIZE, 3), np.uint8)
            yield Example(name, self.files[name], lambda pixels=pixels: pixels, self.masks[name], certainty, (1,))


@pytest.fixture
def hard(tmp_path) -> Hard:
    return Hard(tmp_path / "from")


@pytest.fixture
def hard_whole(tmp_path) -> Hard:
    return Hard(tmp_path / "from", ignored=False)
