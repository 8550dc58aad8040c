"""Masks in tar files beside a data set: what labelling in parts has written."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from maskwright.data.dataset import Dataset
from maskwright.data.masks import read_labels
from maskwright.data.sample import Sample
from maskwright.data.shards.files import Parts, read_member
from maskwright.data.shards.index import ShardIndex, read_index_alone
from maskwright.data.shards.stores import join, size_of
from maskwright.data.stored import Stored
from maskwright.data.views import View
from maskwright.errors import DataError


class WithMaskShards(View):
    """A data set whose masks are in tar files, but for those that may be real.

    Args:
        dataset: images, tags and ground-truth masks.
        place: folder or address of the tar files and their indices.
        parts: name of each, and the numbers of the images that it is of: first, and the one after the last.
        real: names whose ground-truth mask is used.

    Raises:
        DataError: a file is missing or damaged.
    """

    def __init__(
        self, dataset: Dataset, place: str, parts: Sequence[tuple[str, int, int]], real: Collection[str] = ()
    ) -> None:
        super().__init__(dataset)
        self.masks = None
        self.place, self.files = place, Parts()
        self.indices: list[ShardIndex] = []
        self.part, self.row = np.full(len(dataset), -1, np.int32), np.zeros(len(dataset), np.int32)
        for number, (part, start, stop) in enumerate(parts):
            index = read_index_alone(place, part)
            where = join(place, f"{part}.tar")
            if size_of(where) != index.entry.bytes:
                raise DataError(f"{where} is not whole; delete {part}.receipt.json beside it and label again")
            self.indices.append(index)
            rows = {name: row for row, name in enumerate(index.all_names())}
            for image in range(start, stop):
                row = rows.get(self.names[image])
                if row is not None:
                    self.part[image], self.row[image] = number, row
        chosen = set(real)
        self.real = {image for image, name in enumerate(self.names) if name in chosen} if chosen else set()
        self.source = {
            **dataset.source,
            "pseudo_masks": place,
            "pseudo_mask_count": int((self.part >= 0).sum()),
            "real_mask_count": len(self.real),
        }

    def get(self, index: int, with_mask: bool = True) -> Sample:
        if index in self.real or not with_mask:
            return self.dataset.get(index, with_mask)
        sample = self.dataset.get(index, with_mask=False)
        mask = self.mask(index)
        if mask is not None and mask.shape != sample.image.shape[:2]:
            raise DataError(
                f"{self.place}: the mask of {sample.name} is {mask.shape}, its image {sample.image.shape[:2]} (height, "
                "width). Fix: label these images again"
            )
        return Sample(sample.name, sample.image, mask, sample.tags, sample.saliency)

    def mask(self, index: int) -> np.ndarray | None:
        """The mask `(H, W)` of one image, without decoding the image; None where there is none."""
        if index in self.real:
            return self.dataset.mask(index)
        stored = self.stored("mask", index)
        return None if stored is None else read_labels(stored, self.labels)

    def has_mask(self, index: int) -> bool:
        return index in self.real or bool(self.part[index] >= 0)

    def stored(self, kind: str, index: int) -> Stored | None:
        """One file of an image: its mask, confidence or maps; None where there is none."""
        if self.part[index] < 0:
            return None
        return read_member(self.files, self.place, self.indices[self.part[index]], kind, int(self.row[index]))
