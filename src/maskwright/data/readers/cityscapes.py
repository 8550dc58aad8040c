"""Cityscapes (Cordts et al., CVPR 2016): 19 classes of street scenes, fine and coarse masks, official folders."""

from __future__ import annotations

from pathlib import Path

from maskwright.data.finding import Complain, refuse
from maskwright.data.images import ImageSet
from maskwright.data.readers.official import (
    Part,
    choose_part,
    complain_incomplete,
    files_in,
    need,
    official_labels,
    official_set,
)
from maskwright.settings import DataSettings

# Classes that are evaluated: name, id in *_labelIds.png, colour. The order is that of the training ids.
CLASSES = (
    ("road", 7, (128, 64, 128)),
    ("sidewalk", 8, (244, 35, 232)),
    ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)),
    ("fence", 13, (190, 153, 153)),
    ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)),
    ("traffic sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)),
    ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)),
    ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)),
    ("motorcycle", 32, (0, 0, 230)),
    ("bicycle", 33, (119, 11, 32)),
)
LAST_ID = 33

_IMAGES, _FINE, _COARSE = "leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip", "gtCoarse.zip"
_TRAIN = Part("train", 2975, "leftImg8bit/train", "gtFine/train", f"{_IMAGES} and {_FINE}")
_VAL = Part("val", 500, "leftImg8bit/val", "gtFine/val", f"{_IMAGES} and {_FINE}")
_EXTRA = Part(
    "train_extra", 19998, "leftImg8bit/train_extra", "gtCoarse/train_extra", f"leftImg8bit_trainextra.zip and {_COARSE}"
)
SPLITS = {
    "train": (_TRAIN,),
    "val": (_VAL,),
    "trainval": (_TRAIN, _VAL),
    "test": (Part("test", 1525, "leftImg8bit/test", None, _IMAGES),),
    "train_coarse": (Part("train", 2975, "leftImg8bit/train", "gtCoarse/train", f"{_IMAGES} and {_COARSE}"),),
    "val_coarse": (Part("val", 500, "leftImg8bit/val", "gtCoarse/val", f"{_IMAGES} and {_COARSE}"),),
    "train_extra": (_EXTRA,),
}


def label_map(ignore_index: int = 255) -> dict[int, int]:
    """Id in `*_labelIds.png` -> label value; ids that are not evaluated are ignored."""
    train_ids = {identity: value for value, (_, identity, _) in enumerate(CLASSES)}
    return {identity: train_ids.get(identity, ignore_index) for identity in range(LAST_ID + 1)}


def open_cityscapes(settings: DataSettings, split: str, complain: Complain = refuse) -> ImageSet:
    """One split of Cityscapes.

    `leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png` with `gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png`, or for the coarse
    splits `gtCoarse/SPLIT/CITY/NAME_gtCoarse_labelIds.png`. The ids are mapped here; `*_labelTrainIds.png`, which only
    the authors' scripts make, is not needed. Names are `CITY/NAME`.

    Args:
        settings: see `maskwright.data.readers.folder.open_folder`; classes and masks are the set's own.
        split: `train`, `val`, `trainval`, `test` (whose published masks are blank, so none are read), `train_coarse`,
            `val_coarse`, `train_extra` (coarse).
        complain: what to do with findings; by default errors are raised.

    Raises:
        DataError: an unknown split, missing folders, or images without masks.
    """
    palette = [colour for _, _, colour in CLASSES]
    labels = official_labels(settings, "cityscapes", [name for name, _, _ in CLASSES], palette)
    root = Path(settings.root)
    images: dict[str, str] = {}
    masks: dict[str, str] = {}
    parts = choose_part("cityscapes", split, SPLITS)
    for part in parts:
        what = f"the {split} split of Cityscapes"
        archives = part.archives.split(" and ")
        folders = [part.images, *([part.masks] if part.masks else [])]
        need(root, dict(zip(folders, archives)), what)
        found = files_in(root / part.images, "_leftImg8bit")
        found_masks = None
        if part.masks is not None:
            found_masks = files_in(root / part.masks, f"_{part.masks.split('/')[0]}_labelIds")
            masks |= found_masks
        complain_incomplete(complain, part, found, found_masks, what=f"{part.name} of Cityscapes")
        images |= found
    expected = sum(part.count for part in parts)
    return official_set(
        settings,
        split,
        "cityscapes",
        labels,
        images,
        masks,
        label_map(settings.ignore_index),
        complain,
        expected=expected,
        source={"masks": ", ".join(str(root / part.masks) for part in parts if part.masks) or None},
    )
