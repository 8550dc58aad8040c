"""NYU-Depth-v2 (Silberman et al., ECCV 2012): rooms in 40 classes (Gupta et al., CVPR 2013), as PNG or as published."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskwright.data.finding import Complain, refuse
from maskwright.data.images import ImageSet
from maskwright.data.masks import check_values
from maskwright.data.readers import official
from maskwright.data.readers.official import Part
from maskwright.data.readers.pascal_context import read_mat
from maskwright.data.sample import LabelSpace, Sample
from maskwright.data.tags import image_key
from maskwright.errors import DataError
from maskwright.settings import DataSettings

CLASSES = (
    *("wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf"),
    *("picture", "counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat"),
    *("clothes", "ceiling", "books", "refrigerator", "television", "paper", "towel", "shower curtain", "box"),
    *("whiteboard", "person", "night stand", "toilet", "sink", "lamp", "bathtub", "bag"),
    *("otherstructure", "otherfurniture", "otherprop"),
)
# Folders in use for the images and for the masks of 40 classes; the first that is there is read.
IMAGE_FOLDERS = ("image", "images", "RGB", "rgb")
MASK_FOLDERS = ("label40", "labels40", "seg40", "Label", "label", "labels")
LABELED, SPLIT_FILE, MAPPING = "nyu_depth_v2_labeled.mat", "splits.mat", "classMapping40.mat"
COUNT = 1449
_FILES = "the PNG files of the set"
_TRAIN, _TEST = Part("train", 795, "image", "label40", _FILES), Part("test", 654, "image", "label40", _FILES)
SPLITS = {
    "train": (_TRAIN,),
    "test": (_TEST,),
    "val": (_TEST,),
    "all": (_TRAIN, _TEST),
}


def open_nyu_depth(settings: DataSettings, split: str, complain: Complain = refuse) -> ImageSet | NyuLabeled:
    """One split of NYU-Depth-v2; depth is not read.

    Either PNG files: images in `image/` (or `images`, `RGB`, `rgb`), masks of the same name in `label40/` (or
    `labels40`, `seg40`, `Label`, `label`, `labels`) with 0 for unlabelled pixels, which are ignored, and 1 to 40 for
    the classes; splits are lists `train.txt` and `test.txt` of names or paths, or subfolders `train/` and `test/`.

    Or the published files: `nyu_depth_v2_labeled.mat`, `splits.mat` and `classMapping40.mat` (894 names to 40
    classes), which need h5py and SciPy. Images are then called `0001` to `1449`.

    Args:
        settings: see `maskwright.data.readers.folder.open_folder`; classes and masks are the set's own.
        split: `train`, `test`, `val` (the same as `test`: the set has no third part), `all`.
        complain: what to do with findings; by default errors are raised.

    Raises:
        DataError: an unknown split, missing folders, files, lists or libraries, or images without masks.
    """
    labels = official.official_labels(settings, "nyu_depth", CLASSES)
    parts = official.choose_part("nyu_depth", split, SPLITS)
    root = Path(settings.root)
    folders = [
        next((name for name in names if (root / name).is_dir()), None) for names in (IMAGE_FOLDERS, MASK_FOLDERS)
    ]
    if (root / LABELED).is_file() and None in folders:
        return NyuLabeled(settings, split, labels, [part.name for part in parts], complain)
    image_folder, mask_folder = (found or names[0] for found, names in zip(folders, (IMAGE_FOLDERS, MASK_FOLDERS)))
    archive = f"the PNG files of the set, or {LABELED}"
    official.need(root, {image_folder: archive, mask_folder: archive}, f"the {split} split of NYU-Depth-v2")
    all_images, masks = official.files_in(root / image_folder, ""), official.files_in(root / mask_folder, "")
    images: dict[str, str] = {}
    for part in parts:
        path = root / f"{part.name}.txt"
        inside = [name for name in all_images if name.startswith(f"{part.name}/")]
        if not path.is_file() and not inside:
            raise DataError(
                f"{root}: no list {part.name}.txt and no folder {image_folder}/{part.name}. "
                f"Expected one of them. Fix: write {part.name}.txt with one image name per line"
            )
        if path.is_file():
            listed = [_listed_name(line, all_images) for line in official.read_name_list(path)]
            inside = official.complain_unlisted(complain, list(dict.fromkeys(listed)), all_images, image_folder)
        found = {name: all_images[name] for name in inside}
        expected = Part(part.name, part.count, image_folder, mask_folder, part.archives)
        there = {name: masks[name] for name in found if name in masks}
        official.complain_incomplete(complain, expected, found, there, what=f"{part.name} of NYU-Depth-v2")
        images |= found
    label_map = {0: settings.ignore_index, **{value + 1: value for value in range(len(CLASSES))}}
    return official.official_set(
        settings,
        split,
        "nyu_depth",
        labels,
        images,
        masks,
        label_map,
        complain,
        expected=sum(part.count for part in parts),
        source={"masks": str(root / mask_folder)},
    )


class NyuLabeled:
    """The published MATLAB files; each image and mask is read from the one large file when it is asked for."""

    images = masks = saliency = label_map = None

    def __init__(
        self, settings: DataSettings, split: str, labels: LabelSpace, parts: Sequence[str], complain: Complain
    ) -> None:
        root = Path(settings.root)
        library = "the pages of NYU-Depth-v2"
        official.need(root, {SPLIT_FILE: library, MAPPING: library}, f"{LABELED} of NYU-Depth-v2")
        for key in ("saliency", "label_map"):
            if getattr(settings, key) is not None:
                raise DataError(f"data.{key} is for the PNG files of NYU-Depth-v2, found {LABELED}. Fix: leave it out")
        numbers = [read_mat(root / SPLIT_FILE, f"{part}Ndxs").ravel().astype(int) - 1 for part in parts]
        mapping = read_mat(root / MAPPING, "mapClass").ravel().astype(int)
        if mapping.size == 0 or mapping.min() < 1 or mapping.max() > len(CLASSES):
            raise DataError(f"{root / MAPPING}: mapClass must hold 1 to {len(CLASSES)} for each of the 894 names")
        self.labels = labels
        self.path = str(root / LABELED)
        self._numbers = np.concatenate(numbers).tolist()
        self._values = np.concatenate([[labels.ignore_index], mapping - 1]).astype(np.uint8)
        self._open: dict[int, Any] = {}
        shape = self._arrays()["labels"].shape
        if len(shape) != 3 or max(self._numbers) >= shape[0]:
            raise DataError(
                f"{self.path} has labels of shape {shape}, but {SPLIT_FILE} names image {max(self._numbers) + 1}. "
                f"Expected {COUNT} images. Fix: download it again, whole"
            )
        self._size = (int(shape[2]), int(shape[1]))
        self.names = [f"{number + 1:04d}" for number in self._numbers]
        self._tags, facts = official.tag_source(settings, labels, self.names, self.names, complain)
        self.tags_from_masks = isinstance(self._tags, str)
        self._derived: dict[int, tuple[int, ...]] = {}
        self.source: dict[str, Any] = {
            "root": settings.root,
            "layout": "nyu_depth",
            "split": split,
            "count": len(self.names),
            "published_count": sum(part.count for part in SPLITS[split]),
            "classes": "nyu_depth",
            "masks": self.path,
            "mask_count": len(self.names),
            **facts,
        }

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        return self.get(index)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def get(self, index: int, with_mask: bool = True) -> Sample:
        """One example; `with_mask=False` leaves the mask unread."""
        image = np.ascontiguousarray(self._arrays()["images"][self._numbers[index]].transpose(2, 1, 0))
        return Sample(self.names[index], image, self.mask(index) if with_mask else None, self.tags(index))

    def mask(self, index: int) -> np.ndarray:
        """The mask `(H, W)` uint8 of one image.

        Raises:
            DataError: a number that `classMapping40.mat` does not map.
        """
        numbers = self._arrays()["labels"][self._numbers[index]].T
        if numbers.max() >= len(self._values):
            raise DataError(f"{self.path}: {self.names[index]} has label {numbers.max()}, {MAPPING} ends before it")
        mask = self._values[numbers]
        check_values(mask, self.labels, self.path)
        return mask

    def tags(self, index: int) -> tuple[int, ...] | None:
        """Label values said to be in one image, ascending; None where nobody said."""
        if not isinstance(self._tags, str):
            return self._tags[index]
        if index not in self._derived:
            self._derived[index] = self.labels.tags_in(self.mask(index))
        return self._derived[index]

    def has_mask(self, index: int) -> bool:
        return True

    def size(self, index: int) -> tuple[int, int]:
        """`(height, width)` of one image in pixels."""
        return self._size

    def _arrays(self) -> Any:
        """The open file, one for each process, since a fork must not share it."""
        process = os.getpid()
        if process not in self._open:
            try:
                h5py = importlib.import_module("h5py")
            except ImportError:
                raise DataError(
                    f"{self.path} is a MATLAB 7.3 file, which needs h5py. Fix: pip install h5py, or give the PNG files"
                ) from None
            try:
                arrays = h5py.File(self.path, "r")
            except OSError as error:
                raise DataError(f"{self.path} cannot be read ({error}). Fix: download it again, whole") from error
            missing = [name for name in ("images", "labels") if name not in arrays]
            if missing:
                raise DataError(f"{self.path} has no {' and no '.join(missing)}. Fix: download {LABELED} again")
            self._open = {process: arrays}
        return self._open[process]


def _listed_name(line: str, images: Mapping[str, str]) -> str:
    """The image that a line names, by its whole path or by the end of it; the line itself where there is none."""
    parts = image_key(line.split()[0]).strip("/").split("/")
    ends = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((end for end in ends if end in images), line)
