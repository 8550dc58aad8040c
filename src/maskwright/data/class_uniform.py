"""Class-uniform sampling: part of the crops are cut around a class drawn evenly, so that rare classes are seen often.

As in the training of hierarchical multi-scale attention (Tao, Sapra, Catanzaro, 2020): the masks are gone through once
for the places of each class; then, with some probability, a class is drawn, an image that has it, and a crop that
covers one of its places.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from maskwright.data.dataset import Dataset
from maskwright.data.loading import Batch, Key, TrainingSet, generator_for
from maskwright.errors import DataError
from maskwright.files import atomic_write, read_arrays

TILE = 256  # pixels; one place for each class in each tile of this side
_STREAM = 1  # keeps these draws apart from those of the augmentation, which go by (seed, epoch, index)


class ClassIndex(NamedTuple):
    """Where each class lies, one place for each class in each tile of each mask, sorted by class, then image.

    Args:
        values: `(P,)` uint8 label value.
        images: `(P,)` int32 position in the data set.
        rows: `(P,)` int32 in pixels of the mask.
        columns: `(P,)` int32.
    """

    values: np.ndarray
    images: np.ndarray
    rows: np.ndarray
    columns: np.ndarray


def class_index(dataset: Dataset, indices: Iterable[int] | None = None, tile: int = TILE) -> ClassIndex:
    """Go through the masks of a data set once and note the places of every class.

    The place of a class in a tile is the pixel of that class nearest to the mean position of all of them there: a crop
    that covers it is sure to show the class, which the mean itself (in the hole of a ring) would not promise.

    Args:
        dataset: `mask(i)` gives `(H, W)` uint8 or None, `labels` says which values are classes.
        indices: images to go through, such as a progress bar over all of them; all by default.
        tile: side of the tiles in pixels.

    Returns:
        The places, classes without any left out.
    """
    found = [np.zeros((0, 4), np.int32)]
    for index in range(len(dataset)) if indices is None else indices:
        mask = dataset.mask(index)
        if mask is not None:
            places = class_places(mask, dataset.labels.num_classes, tile)
            found.append(np.insert(places, 1, index, axis=1))
    table = np.concatenate(found)
    table = table[np.lexsort((table[:, 1], table[:, 0]))]
    return ClassIndex(table[:, 0].astype(np.uint8), *np.ascontiguousarray(table[:, 1:].T))


def class_places(mask: np.ndarray, num_classes: int, tile: int = TILE) -> np.ndarray:
    """One place for each class in each tile of a mask.

    Args:
        mask: `(H, W)` uint8; values of `num_classes` and above are no class.
        num_classes: number of classes.
        tile: side of the tiles in pixels.

    Returns:
        `(P, 3)` int32: value, row, column.
    """
    places = []
    for top in range(0, mask.shape[0], tile):
        for left in range(0, mask.shape[1], tile):
            part = mask[top : top + tile, left : left + tile]
            counts = np.bincount(part.ravel(), minlength=num_classes)[:num_classes]
            for value in np.flatnonzero(counts).tolist():
                rows, columns = np.nonzero(part == value)
                nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
                places.append((value, top + rows[nearest], left + columns[nearest]))
    return np.array(places, np.int32).reshape(-1, 3)


def save_index(path: str | Path, index: ClassIndex) -> None:
    """Write an index as .npz, atomically."""
    with atomic_write(path) as temporary:
        np.savez(temporary, **index._asdict())


def load_index(path: str | Path) -> ClassIndex:
    """Read an index that `save_index` wrote.

    Raises:
        DataError: a file that is not one.
    """
    return ClassIndex(**read_arrays(path, ClassIndex._fields))


class ClassUniformSet(TrainingSet):
    """A training set some of whose examples are replaced by crops around an evenly drawn class.

    Whether, and by what, depends only on (seed, epoch, index), so that training resumes exactly. The draws are apart
    from the augmentation's: an example that is not replaced is the same as without this.

    Args:
        train_set: gives the examples.
        index: the places of the classes in its images.
        share: probability that an example is replaced.

    Raises:
        DataError: an index without places, or made from other images.
    """

    def __init__(self, train_set: TrainingSet, index: ClassIndex, share: float = 0.5) -> None:
        super().__init__(train_set.dataset, train_set.augment, train_set.seed)
        if not len(index.values):
            raise DataError("class-uniform sampling needs masks, found no pixel of any class in the training set")
        if index.images.max() >= len(self.dataset):
            raise DataError(
                f"the class index names image {index.images.max()}, the training set has {len(self.dataset)} images"
            )
        self.index = index
        self.share = share
        # Places of one image and class lie together; `groups` is where each such run begins, `classes` where in
        # `groups` each class does.
        pairs = index.values.astype(np.int64) * len(self.dataset) + index.images
        self._groups = np.append(np.flatnonzero(np.diff(pairs, prepend=-1)), len(pairs))
        values = index.values[self._groups[:-1]]
        self._classes = np.append(np.flatnonzero(np.diff(values.astype(int), prepend=-1)), len(values))

    def __getitem__(self, key: Key) -> Batch:
        """As `TrainingSet`, but perhaps of another image than the key names: `index` says which."""
        draw = generator_for(self.seed, *key, _STREAM).random(4)
        if draw[0] >= self.share:
            return super().__getitem__(key)
        group = _pick(self._classes, int(draw[1] * (len(self._classes) - 1)), draw[2])
        place = _pick(self._groups, group, draw[3])
        center = (int(self.index.rows[place]), int(self.index.columns[place]))
        return self.example(int(self.index.images[place]), key, center=center)


def _pick(starts: np.ndarray, run: int, draw: float) -> int:
    """One of the entries of a run, for a uniform draw in [0, 1)."""
    first, last = int(starts[run]), int(starts[run + 1])
    return first + int(draw * (last - first))
