"""The few images that stages are tried on: crops of a data set, or drawn where it is not there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from maskwright.data.dataset import Dataset
from maskwright.data.loading import generator_for
from maskwright.data.sample import LabelSpace, Sample
from maskwright.data.scenes import scenes

COUNT = 8


class FewImages:
    """Examples in memory.

    Args:
        samples: what it holds.
        labels: what their masks and tags mean.
        split: its name.
    """

    images = masks = saliency = label_map = None
    tags_from_masks = False

    def __init__(self, samples: Sequence[Sample], labels: LabelSpace, split: str) -> None:
        self.samples, self.labels = list(samples), labels
        self.names = [sample.name for sample in samples]
        self.source: dict[str, Any] = {"root": "trial", "split": split, "tags": "trial", "count": len(samples)}
        channels = samples[0].image.shape[2] if samples else 3
        if channels != 3:
            self.source["channels"] = channels

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def get(self, index: int, with_mask: bool = True) -> Sample:
        sample = self.samples[index]
        return sample if with_mask else replace(sample, mask=None)

    def mask(self, index: int) -> np.ndarray | None:
        return self.samples[index].mask

    def has_mask(self, index: int) -> bool:
        return self.samples[index].mask is not None

    def tags(self, index: int) -> tuple[int, ...] | None:
        return self.samples[index].tags

    def size(self, index: int) -> tuple[int, int]:
        height, width = self.samples[index].image.shape[:2]
        return height, width


def generated_samples(
    labels: LabelSpace, size: tuple[int, int], count: int = COUNT, *, salient: bool = False
) -> list[Sample]:
    """Drawn scenes with masks of random patches, a fifth of them ignored.

    Args:
        labels: what the masks hold.
        size: height and width of all images.
        count: of the images.
        salient: also a saliency map of what is not background.
    """
    height, width = size
    drawn = scenes("train", count=count, size=(max(32, min(height, 256)), max(32, min(width, 256))))
    samples = []
    for index in range(count):
        rng = generator_for(index)
        cells = rng.integers(0, labels.num_classes, (-(-height // 32), -(-width // 32)), np.uint8)
        cells[rng.random(cells.shape) < 0.2] = labels.ignore_index
        mask = np.ascontiguousarray(cells.repeat(32, 0).repeat(32, 1)[:height, :width])
        tile = drawn[index].image
        image = np.tile(tile, (-(-height // tile.shape[0]), -(-width // tile.shape[1]), 1))[:height, :width]
        saliency = np.where(mask == labels.background, 0, 255).astype(np.uint8) if salient else None
        tags = labels.tags_in(mask)[:2] or labels.foreground[:1]
        samples.append(Sample(f"trial_{index}", np.ascontiguousarray(image), mask, tags, saliency))
    return samples


def cropped_samples(dataset: Dataset, pixels: int, weak: bool, count: int = COUNT) -> list[Sample]:
    """The middle of a few images of a data set, all of one size.

    Args:
        dataset: images, with tags or masks.
        pixels: of each crop, at most.
        weak: tagged images are wanted; otherwise images with masks.
        count: of the images; the last is repeated where there are fewer.
    """
    spread = np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), 20)).astype(int)).tolist()
    wanted = [index for index in spread if (dataset.tags(index) if weak else dataset.has_mask(index))]
    chosen = [dataset[index] for index in (wanted or spread)[:count]]
    size = np.array([sample.image.shape[:2] for sample in chosen]).min(0)
    height, width = shrunk((int(size[0]), int(size[1])), pixels)

    def middle(array: np.ndarray | None) -> np.ndarray | None:
        if array is None:
            return None
        top, left = (array.shape[0] - height) // 2, (array.shape[1] - width) // 2
        return np.ascontiguousarray(array[top : top + height, left : left + width])

    samples = []
    for index in range(count):
        whole = chosen[min(index, len(chosen) - 1)]
        image = middle(whole.image)
        assert image is not None
        samples.append(Sample(f"trial_{index}", image, middle(whole.mask), whole.tags, middle(whole.saliency)))
    return samples


def shrunk(size: tuple[int, int], pixels: float) -> tuple[int, int]:
    """A size of about so many pixels at most, with the same shape."""
    factor = min(1.0, math.sqrt(pixels / (size[0] * size[1])))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
