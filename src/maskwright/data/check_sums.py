"""What each split of a set holds, added up image by image, for the data check."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from maskwright.data import Dataset
from maskwright.data.finding import Finding, Some
from maskwright.data.images import ImageSet
from maskwright.data.sample import LabelSpace
from maskwright.data.scan import Record, scan
from maskwright.data.shards.names import Names
from maskwright.data.shards.reader import ShardSet
from maskwright.data.shards.tally import tally


@dataclass
class SplitSummary:
    """What one split holds, added up image by image.

    Args:
        split: its name.
        labels: of the set.
        source: of the split, as its reader gives it.
        read: images whose files were read; of the others only names and tags are known, and whether there is a mask.
        all_masks: whether every mask was read.
        pixels: `(256,)` pixels of each label value, over masks whose values all mean something.
        with_pixels: `(256,)` images whose mask has each value.
        together: `(K, K)` images tagged with both, over `labels.foreground`.
        transparent: images with pixels that are not opaque.
        numbers: type, lowest and highest number of each image file that holds no plain bytes.
        examples: for each problem's kind its first finding, its files and how many there are.
    """

    split: str
    labels: LabelSpace
    source: dict[str, Any] = field(default_factory=dict)
    images: int = 0
    read: int = 0
    all_masks: bool = False
    masks: int = 0
    tagged: int = 0
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    with_pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    together: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    out_of_range: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    binary: int = 0
    unlabelled: Some = field(default_factory=Some)
    untagged: Some = field(default_factory=Some)
    unmasked: Some = field(default_factory=Some)
    tag_without_pixels: dict[int, list[str]] = field(default_factory=dict)
    pixels_without_tag: dict[int, list[str]] = field(default_factory=dict)
    digests: dict[bytes, list[str]] = field(default_factory=dict)
    names: set[str] | Names = field(default_factory=set)
    examples: dict[str, tuple[Finding, list[str]]] = field(default_factory=dict)
    numbers: list[tuple[np.dtype, float, float]] = field(default_factory=list)
    transparent: list[str] = field(default_factory=list)
    tags_derived: bool = False

    @property
    def tag_counts(self) -> np.ndarray:
        return np.diagonal(self.together)

    @property
    def whole(self) -> bool:
        """Whether every file was read."""
        return self.read == self.images


def add_up(summary: SplitSummary, dataset: Dataset, seconds: float | None, all_masks: bool) -> None:
    """Add every image of a split to the sums; `seconds` and `all_masks` as for `maskwright.data.check.examine`."""
    if isinstance(dataset, ShardSet) and seconds is not None:
        _look(summary, dataset, seconds)
        return
    for record in _records(dataset, seconds, summary, all_masks):
        _add_listed(summary, record)
        _add_content(summary, record)


def _records(dataset: Dataset, seconds: float | None, summary: SplitSummary, all_masks: bool) -> Iterator[Record]:
    """Records of all images in order: read from the files, or for the rest, after some seconds, from their masks or
    from what is listed."""
    if seconds is None:
        summary.read, summary.all_masks = len(dataset), True
        return scan(dataset)
    found: dict[int, Record] = {}
    if isinstance(dataset, ImageSet):  # what is drawn has nothing wrong with it
        found = dict(_some(dataset, seconds))
    summary.read = len(found)
    if all_masks and isinstance(dataset, ImageSet) and dataset.masks_in_files:
        rest = [index for index in range(len(dataset)) if index not in found]
        found |= zip(rest, scan(dataset, rest, images=False))
    summary.all_masks = len(found) == len(dataset)

    def listed(index: int) -> Record:
        tags = None if isinstance(dataset, ImageSet) and summary.tags_derived else dataset.tags(index)
        return Record(dataset.names[index], has_mask=dataset.has_mask(index), tags=tags)

    return (found.get(index) or listed(index) for index in range(len(dataset)))


def _some(dataset: Dataset, seconds: float) -> Iterator[tuple[int, Record]]:
    """Records of examples in random order, until some seconds are over."""
    order, started = np.random.default_rng(0).permutation(len(dataset)), time.perf_counter()
    for index, record in zip(order, scan(dataset, order)):  # type: ignore[arg-type]
        yield int(index), record
        if time.perf_counter() - started > seconds:
            return


def _look(summary: SplitSummary, dataset: ShardSet, seconds: float) -> None:
    """Add what the indices of shards say of all images, and what some of the images hold."""
    listed = tally(dataset)
    summary.images, summary.names, summary.together = len(dataset), dataset.names, listed.together
    summary.tagged, summary.untagged = listed.tagged, listed.untagged
    summary.unmasked, summary.unlabelled = listed.unmasked, listed.unlabelled
    for _, record in _some(dataset, seconds):
        _add_content(summary, record)
        summary.read += 1
    summary.all_masks = summary.whole


def _add_listed(summary: SplitSummary, record: Record) -> None:
    """Add what is known of one image without its files."""
    summary.images += 1
    assert isinstance(summary.names, set)
    summary.names.add(record.name)
    if record.tags is None:
        summary.untagged.add([record.name])
    else:
        summary.tagged += 1
        vector = summary.labels.tag_vector(record.tags).astype(bool)
        summary.together[np.ix_(vector, vector)] += 1
    if not record.has_mask:
        summary.unmasked.add([record.name])
        if record.tags is None:
            summary.unlabelled.add([record.name])


def _add_content(summary: SplitSummary, record: Record) -> None:
    """Add what the files of one image hold."""
    labels = summary.labels
    if record.transparent:
        summary.transparent.append(record.name)
    if record.numbers is not None:
        summary.numbers.append(record.numbers)
    if record.digest:
        summary.digests.setdefault(record.digest, []).append(record.name)
    for problem in record.problems:
        _, files = summary.examples.setdefault(problem.kind, (problem, []))
        files += problem.files
    if record.counts is None:
        return
    summary.masks += 1
    if any(problem.kind == "mask-range" for problem in record.problems):
        summary.out_of_range += record.counts
        return
    summary.binary += record.values == (0, 255)
    summary.pixels += record.counts
    summary.with_pixels += record.counts > 0
    if record.tags is not None and not summary.tags_derived:
        seen = {value for value in record.values if value in labels.foreground}
        for value in set(record.tags) - seen:
            summary.tag_without_pixels.setdefault(value, []).append(record.name)
        for value in seen - set(record.tags):
            summary.pixels_without_tag.setdefault(value, []).append(record.name)
