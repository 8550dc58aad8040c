"""Small files of published sets, written in the test, and what every data set keeps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

SIZE = (24, 32)


class Files:
    """Writes images, masks and lists below a root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.noise = np.random.default_rng(0)

    def image(self, path: str, size: tuple[int, int] = SIZE) -> Path:
        return self._save(path, self.noise.integers(0, 256, (*size, 3), dtype=np.uint8))

    def mask(self, path: str, values: Sequence[Any], size: tuple[int, int] = SIZE) -> Path:
        """Columns of the values, as 8 bit grey, or as RGB where they are colours."""
        values = np.asarray(values, np.uint8)
        return self._save(
            path, np.broadcast_to(values[column_values(len(values), size[1])], (*size, *values.shape[1:]))
        )

    def text(self, path: str, text: str) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    def _save(self, path: str, pixels: np.ndarray) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(pixels)).save(file)
        return file


def column_values(count: int, width: int) -> np.ndarray:
    """Which of `count` values each column has."""
    return np.arange(width) * count // width


def values_of(mask: np.ndarray) -> list[int]:
    """The values of a mask's columns, from left to right, each once."""
    row = mask[0].tolist()
    assert (mask == mask[0]).all()
    return [value for index, value in enumerate(row) if index == 0 or value != row[index - 1]]


def check_contract(dataset) -> None:
    """What every data set keeps, whichever reader made it."""
    labels = dataset.labels
    assert len(dataset) == len(dataset.names) == len(set(dataset.names)) > 0
    assert dataset.source["count"] == len(dataset)
    assert {"root", "split", "tag_source"} <= set(dataset.source)
    assert len(labels.palette) == labels.num_classes
    for index in range(len(dataset)):
        size, tags, has_mask = dataset.size(index), dataset.tags(index), dataset.has_mask(index)
        sample = dataset[index]
        assert sample.name == dataset.names[index]
        assert sample.image.dtype == np.uint8
        assert sample.image.shape == (*size, 3)
        assert sample.tags == tags
        assert (sample.mask is not None) == has_mask
        assert np.array_equal(dataset.mask(index), sample.mask)
        if sample.mask is not None:
            assert sample.mask.shape == size
            assert sample.mask.dtype == np.uint8
            assert set(np.unique(sample.mask)) <= {*range(labels.num_classes), labels.ignore_index}
        assert tags is None or (list(tags) == sorted(tags) and set(tags) <= set(labels.foreground))


@pytest.fixture
def files(tmp_path) -> Files:
    return Files(tmp_path)


@pytest.fixture
def contract():
    return check_contract


@pytest.fixture
def columns():
    return values_of
