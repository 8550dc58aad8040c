"""Views of a data set: some of its images, other masks, other saliency maps, fewer classes, no masks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from maskwright.data.classes import resolve
from maskwright.data.finding import refuse
from maskwright.data.images import list_images, read_saliency
from maskwright.data.masks import read_labels
from maskwright.data.readers.folder import saliency_paths
from maskwright.data.saliency import DETECTORS
from maskwright.data.sample import LabelSpace, Sample
from maskwright.errors import DataError, unknown_name
from maskwright.files import read_json
from maskwright.settings import DataSettings

if TYPE_CHECKING:
    from maskwright.data.dataset import Dataset, Paths


class Subset:
    """Some examples of a data set, in the order of `indices`."""

    def __init__(self, dataset: Dataset, indices: Sequence[int]) -> None:
        self.dataset = dataset
        self.indices = [int(index) for index in indices]
        self.labels = dataset.labels
        self.names = [dataset.names[index] for index in self.indices]
        self.source = {**dataset.source, "count": len(self.indices), "subset_of": len(dataset)}
        self.images, self.masks, self.saliency = map(self._chosen, (dataset.images, dataset.masks, dataset.saliency))
        self.tags_from_masks, self.label_map = dataset.tags_from_masks, dataset.label_map

    def _chosen(self, paths: Paths) -> Paths:
        return None if paths is None else [paths[index] for index in self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[self.indices[index]]

    def get(self, index: int, with_mask: bool = True) -> Sample:
        return self.dataset.get(self.indices[index], with_mask)

    def mask(self, index: int) -> np.ndarray | None:
        """The mask `(H, W)` of one image, without decoding the image; None where there is none."""
        return self.dataset.mask(self.indices[index])

    def tags(self, index: int) -> tuple[int, ...] | None:
        return self.dataset.tags(self.indices[index])

    def has_mask(self, index: int) -> bool:
        return self.dataset.has_mask(self.indices[index])

    def size(self, index: int) -> tuple[int, int]:
        return self.dataset.size(self.indices[index])


class View:
    """Every image of a data set; what a view does not change is the set's."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.labels, self.names, self.source = dataset.labels, dataset.names, dataset.source
        self.images, self.masks, self.saliency = dataset.images, dataset.masks, dataset.saliency
        self.tags_from_masks, self.label_map = dataset.tags_from_masks, dataset.label_map

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        return self.get(index)

    def get(self, index: int, with_mask: bool = True) -> Sample:
        return self.dataset.get(index, with_mask)

    def mask(self, index: int) -> np.ndarray | None:
        """The mask `(H, W)` of one image, without decoding the image; None where there is none."""
        return self.dataset.mask(index)

    def tags(self, index: int) -> tuple[int, ...] | None:
        return self.dataset.tags(index)

    def has_mask(self, index: int) -> bool:
        return self.dataset.has_mask(index)

    def size(self, index: int) -> tuple[int, int]:
        return self.dataset.size(index)


class WithMasks(View):
    """A data set whose masks come from a folder, but for those that may be real; see `with_masks`."""

    def __init__(self, dataset: Dataset, folder: Path, real: Collection[str], real_everywhere: bool) -> None:
        super().__init__(dataset)
        found, _ = list_images(folder)
        chosen = set(real)
        self.real = [
            (real_everywhere or name in chosen) and dataset.has_mask(index) for index, name in enumerate(self.names)
        ]
        self.pseudo_masks = [None if real else found.get(name) for real, name in zip(self.real, self.names)]
        self.masks = self.pseudo_masks
        self.source = {
            **dataset.source,
            "pseudo_masks": str(folder),
            "pseudo_mask_count": sum(path is not None for path in self.pseudo_masks),
            "real_mask_count": sum(self.real),
        }

    def get(self, index: int, with_mask: bool = True) -> Sample:
        if self.real[index] or not with_mask:
            return self.dataset.get(index, with_mask)
        sample = self.dataset.get(index, with_mask=False)
        mask = self._pseudo_mask(index, sample.image.shape[:2])
        return Sample(sample.name, sample.image, mask, sample.tags, sample.saliency)

    def mask(self, index: int) -> np.ndarray | None:
        """The mask `(H, W)` of one image, without decoding the image; None where there is none."""
        return self.dataset.mask(index) if self.real[index] else self._pseudo_mask(index, self.size(index))

    def _pseudo_mask(self, index: int, size: tuple[int, ...]) -> np.ndarray | None:
        path = self.pseudo_masks[index]
        if path is None:
            return None
        mask = read_labels(path, self.labels)
        if mask.shape != size:
            raise DataError(
                f"{path}: pseudo-mask is {mask.shape}, its image {size} (height, width). "
                "Fix: make the pseudo-masks again from these images"
            )
        return mask

    def has_mask(self, index: int) -> bool:
        return self.real[index] or self.pseudo_masks[index] is not None


class WithSaliency(View):
    """A data set whose saliency maps come from files that its reader does not know, or from a detector."""

    def __init__(self, dataset: Dataset, saliency: Sequence[str | None] | None, detector: str | None) -> None:
        super().__init__(dataset)
        self.saliency, self.detector = saliency, detector

    def get(self, index: int, with_mask: bool = True) -> Sample:
        sample = self.dataset.get(index, with_mask)
        return Sample(sample.name, sample.image, sample.mask, sample.tags, self._saliency(index, sample.image))

    def _saliency(self, index: int, image: np.ndarray) -> np.ndarray | None:
        if self.detector is not None:
            return DETECTORS[self.detector](image)
        path = None if self.saliency is None else self.saliency[index]
        return None if path is None else read_saliency(path, (image.shape[0], image.shape[1]), self.names[index])


class ObjectsOnly(View):
    """A data set whose classes are one, `object`; see `objects_only`."""

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset)
        self.labels = LabelSpace(("background", "object"))
        self.source = {**dataset.source, "classes_merged": list(dataset.labels.names)}
        values = np.full(256, self.labels.ignore_index, np.uint8)
        values[list(dataset.labels.foreground)] = 1
        values[dataset.labels.background] = 0
        self.values = values

    def get(self, index: int, with_mask: bool = True) -> Sample:
        sample = self.dataset.get(index, with_mask)
        mask = None if sample.mask is None else self.values[sample.mask]
        return Sample(sample.name, sample.image, mask, self.tags(index), sample.saliency)

    def mask(self, index: int) -> np.ndarray | None:
        """The mask `(H, W)` of one image, without decoding the image; None where there is none."""
        mask = self.dataset.mask(index)
        return None if mask is None else self.values[mask]

    def tags(self, index: int) -> tuple[int, ...] | None:
        tags = self.dataset.tags(index)
        return None if tags is None else (1,) if tags else ()


class WithoutMasks(View):
    """A data set whose mask files stay closed; see `without_masks`."""

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset)
        self.masks = None

    def get(self, index: int, with_mask: bool = True) -> Sample:
        return self.dataset.get(index, with_mask=False)

    def mask(self, index: int) -> None:
        return None

    def has_mask(self, index: int) -> bool:
        return False


def with_saliency(dataset: Dataset, settings: DataSettings) -> Dataset:
    """The same data set with the saliency maps that `settings.saliency` names, where its reader did not read them.

    Args:
        dataset: as a reader gives it; its `source` says from then on where saliency maps come from.
        settings: `saliency` is a folder of maps, or one of `maskwright.data.saliency.DETECTORS`, which then looks at
            every image when it is asked for.

    Raises:
        DataError: as `saliency_paths`.
    """
    packed = dict(dataset.source).get("saliency")  # in shards, which have the maps themselves
    if settings.saliency is None or (packed and packed.get("from") == Path(settings.saliency).name):
        return dataset
    if dataset.saliency is None:
        paths = saliency_paths(settings, dataset.names, refuse)
        detector = settings.saliency if paths is None and settings.saliency in DETECTORS else None
        if paths is None and detector is None:
            return dataset
        dataset = WithSaliency(dataset, paths, detector)
    dataset.source["saliency"] = {"from": settings.saliency}
    record = resolve(Path(settings.root), settings.saliency) / "maps.json"
    if record.is_file():  # written beside the maps by `maskwright saliency`
        dataset.source["saliency"]["made_with"] = read_json(record)
    return dataset


def objects_only(dataset: Dataset) -> ObjectsOnly:
    """The same images with masks of two values, background and object, to learn what any object looks like.

    Raises:
        DataError: no class of the set is the background.
    """
    if dataset.labels.background is None:
        raise DataError(
            f"the set has no background class among {', '.join(dataset.labels.names[:5])}, ...; everything would be an "
            "object. Give background=NAME"
        )
    return ObjectsOnly(dataset)


def subset(dataset: Dataset, indices: Sequence[int]) -> Subset:
    """The examples at `indices`, in that order."""
    return Subset(dataset, indices)


def with_masks(
    dataset: Dataset, mask_folder: str | Path, real: Collection[str] = (), real_everywhere: bool = False
) -> WithMasks:
    """The same images and tags with pseudo-masks of a folder; a ground-truth mask is used only where allowed.

    Args:
        dataset: images, tags and ground-truth masks.
        mask_folder: `NAME.png` for each image, values as in `dataset.labels`; images without one have no mask.
        real: names whose ground-truth mask, where there is one, is used.
        real_everywhere: ground-truth masks are used wherever there is one.

    Raises:
        DataError: no such folder, or names in `real` that the set does not have.
    """
    folder = Path(mask_folder)
    if not folder.is_dir():
        raise DataError(f"pseudo-masks {folder}: no such folder")
    strange = sorted(set(real) - set(dataset.names))
    if strange:
        raise DataError(
            f"{len(strange)} names whose ground-truth masks may be used are not in the data set: "
            f"{unknown_name('image', strange[0], dataset.names)}"
        )
    return WithMasks(dataset, folder, real, real_everywhere)


def without_masks(dataset: Dataset) -> WithoutMasks:
    """The same images, tags and saliency maps, for what learns from those alone: no mask is decoded."""
    return WithoutMasks(dataset)
