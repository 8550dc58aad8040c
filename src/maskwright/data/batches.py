"""Which images go through a network together."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

from maskwright.data.dataset import Dataset
from maskwright.data.sizes import Size, seen_size


def equal_batches(
    dataset: Dataset, indices: Iterable[int], size: Size, largest: int, pixels: float = math.inf
) -> list[list[int]]:
    """Batches of images that a network sees at one size, the smallest size first, in the order of `indices`.

    Args:
        dataset: its sizes.
        indices: of the images.
        size: as for `sizes.seen_size`.
        largest: images in a batch at most.
        pixels: of a batch at most, but for batches of one image.
    """
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index in indices:
        height, width = seen_size(size, dataset.size(index))
        groups[height, width].append(index)
    batches = []
    for (height, width), group in sorted(groups.items()):
        count = int(min(max(1, pixels / (height * width)), largest))
        batches += [group[start : start + count] for start in range(0, len(group), count)]
    return batches
