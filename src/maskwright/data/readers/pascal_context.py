"""PASCAL Context (Mottaghi et al., CVPR 2014): the 59 frequent classes of scenes in VOC 2010's images, or 60."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np

from maskwright.data.finding import Complain, refuse
from maskwright.data.images import ImageSet
from maskwright.data.readers.official import (
    Part,
    choose_part,
    complain_incomplete,
    complain_unlisted,
    files_in,
    need,
    official_labels,
    official_set,
    read_name_list,
)
from maskwright.errors import DataError
from maskwright.settings import DataSettings

# Name -> number among the 459 labels of labels.txt. Both are in alphabetical order; the converted PNG masks count
# these names from 1 in this order.
CLASSES = {
    "aeroplane": 2, "bag": 9, "bed": 18, "bedclothes": 19, "bench": 22, "bicycle": 23, "bird": 25, "boat": 31,
    "book": 33, "bottle": 34, "building": 44, "bus": 45, "cabinet": 46, "car": 59, "cat": 65, "ceiling": 68,
    "chair": 72, "cloth": 80, "computer": 85, "cow": 98, "cup": 104, "curtain": 105, "dog": 113, "door": 115,
    "fence": 144, "floor": 158, "flower": 159, "food": 162, "grass": 187, "ground": 189, "horse": 207,
    "keyboard": 220, "light": 232, "motorbike": 258, "mountain": 259, "mouse": 260, "person": 284, "plate": 295,
    "platform": 296, "pottedplant": 308, "road": 324, "rock": 326, "sheep": 347, "shelves": 349, "sidewalk": 354,
    "sign": 355, "sky": 360, "snow": 366, "sofa": 368, "table": 397, "track": 415, "train": 416, "tree": 420,
    "truck": 424, "tvmonitor": 427, "wall": 440, "water": 445, "window": 454, "wood": 458,
}  # fmt: skip
ALL_LABELS = 459
OPTIONS = ("classes",)

# Converted masks (PNG), or the published ones (.mat); the first folder that is there is read.
MASK_FOLDERS = ("SegmentationClassContext", "trainval")
LIST_FOLDERS = ("ImageSets/SegmentationContext", "ImageSets/Main")
_IMAGES, _MASKS = "VOCtrainval_03-May-2010.tar", "trainval.tar.gz of PASCAL Context"
_TRAIN = Part("train", 4998, "JPEGImages", MASK_FOLDERS[1], f"{_IMAGES} and {_MASKS}")
_VAL = Part("val", 5105, "JPEGImages", MASK_FOLDERS[1], f"{_IMAGES} and {_MASKS}")
SPLITS = {"train": (_TRAIN,), "val": (_VAL,), "trainval": (_TRAIN, _VAL)}


class MatMasks(ImageSet):
    """Masks in MATLAB files, read with SciPy."""

    def label_values(self, index: int) -> np.ndarray | None:
        path = self.masks[index]
        if path is None:
            return None
        numbers = read_mat(path, "LabelMap")
        if numbers.size and numbers.max() > ALL_LABELS:
            raise DataError(f"{path}: LabelMap holds {numbers.max()}. Expected 0 to {ALL_LABELS}, as in labels.txt")
        assert self.label_map is not None
        table = np.array([self.label_map[number] for number in range(ALL_LABELS + 1)], np.uint8)
        return table[numbers]


def read_mat(path: str | Path, name: str) -> np.ndarray:
    """One array of a MATLAB file (version 5 to 7.2).

    Raises:
        DataError: no SciPy, a file that it cannot read, or no such array in it.
    """
    try:
        loadmat = importlib.import_module("scipy.io").loadmat
    except ImportError:
        raise DataError(f"{path} is a MATLAB file, which needs SciPy. Fix: pip install scipy") from None
    try:
        arrays = loadmat(str(path), variable_names=[name])
    except (OSError, ValueError, TypeError, NotImplementedError) as error:
        raise DataError(f"{path} cannot be read as a MATLAB file ({error}). Fix: unpack it again") from error
    if name not in arrays:
        raise DataError(f"{path} has no array {name}. Fix: unpack the published file again")
    return np.asarray(arrays[name])


def open_pascal_context(settings: DataSettings, split: str, complain: Complain = refuse) -> ImageSet:
    """One split of PASCAL Context, in the folder of VOC 2010.

    `JPEGImages/NAME.jpg`, with masks either as published, `trainval/NAME.mat` (459 labels; needs SciPy), or converted,
    `SegmentationClassContext/NAME.png` (1 to 59 in alphabetical order, 0 for the rest; masks in another order need
    `data.label_map`). Splits are those of VOC 2010, `ImageSets/SegmentationContext/SPLIT.txt` or
    `ImageSets/Main/SPLIT.txt`. The root is the folder VOC2010, or the VOCdevkit that holds it.

    The 59 classes leave the rest of the pixels out; `data.options.classes=60` makes them the background, value 0.

    Args:
        settings: see `maskwright.data.readers.folder.open_folder`; classes and masks are the set's own.
        split: `train`, `val`, `trainval`.
        complain: what to do with findings; by default errors are raised.

    Raises:
        DataError: an unknown split, missing folders or lists, images without masks, or .mat masks without SciPy.
    """
    wanted = settings.options.get("classes", len(CLASSES))
    if wanted not in (len(CLASSES), len(CLASSES) + 1):
        raise DataError(f"PASCAL Context has 59 classes, or 60 with background, found data.options.classes={wanted}")
    with_background = wanted == len(CLASSES) + 1
    labels = official_labels(
        settings,
        "pascal_context",
        ["background", *CLASSES] if with_background else list(CLASSES),
        background=0 if with_background else None,
        options=OPTIONS,
    )
    root = Path(settings.root)
    if (root / "VOC2010").is_dir():
        root = root / "VOC2010"
    parts = choose_part("pascal_context", split, SPLITS)
    what = f"the {split} split of PASCAL Context"
    folder = next((name for name in MASK_FOLDERS if (root / name).is_dir()), MASK_FOLDERS[1])
    need(root, {"JPEGImages": _IMAGES, folder: _MASKS}, what)
    converted = folder == MASK_FOLDERS[0]
    all_images = files_in(root / "JPEGImages", "")
    all_masks = (
        files_in(root / folder, "")
        if converted
        else {path.stem: str(path) for path in sorted((root / folder).glob("*.mat"))}
    )
    images: dict[str, str] = {}
    for part in parts:
        lists = [root / place / f"{part.name}.txt" for place in LIST_FOLDERS]
        path = next((path for path in lists if path.is_file()), lists[-1])
        need(root, {str(path.relative_to(root)): _IMAGES}, what)
        listed = list(dict.fromkeys(Path(line.split()[0]).stem for line in read_name_list(path)))
        found = {name: all_images[name] for name in complain_unlisted(complain, listed, all_images, "JPEGImages")}
        masks = {name: all_masks[name] for name in found if name in all_masks}
        expected = Part(part.name, part.count, part.images, folder, part.archives)
        complain_incomplete(complain, expected, found, masks, what=f"{part.name} of PASCAL Context")
        images |= found
    rest = 0 if with_background else settings.ignore_index
    first = int(with_background)
    if converted:
        label_map = {0: rest, **{number: number - 1 + first for number in range(1, len(CLASSES) + 1)}}
    else:
        values = {number: value + first for value, number in enumerate(CLASSES.values())}
        label_map = {number: values.get(number, rest) for number in range(ALL_LABELS + 1)}
        if settings.label_map is not None:
            raise DataError("layout pascal_context: data.label_map is for PNG masks, found .mat. Fix: leave it out")
    return official_set(
        settings,
        split,
        "pascal_context",
        labels,
        images,
        all_masks,
        label_map,
        complain,
        expected=sum(part.count for part in parts),
        source={"masks": str(root / folder), "classes": f"pascal_context, {wanted}"},
        kind=ImageSet if converted else MatMasks,
    )
