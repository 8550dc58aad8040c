"""Class names, the background and the colours of a folder of images: one `LabelSpace` for all its splits."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from PIL import Image

from maskwright.data.mask_values import guess_last_value
from maskwright.data.masks import DECODE_ERRORS
from maskwright.data.sample import LabelSpace
from maskwright.data.tags import TagTable
from maskwright.errors import DataError, unknown_name
from maskwright.settings import DataSettings

VOC_CLASSES = (
    "background",
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


def label_space(
    settings: DataSettings,
    layout: str,
    images: Mapping[str, str],
    masks: Mapping[str, str] | None,
    table: TagTable | None,
) -> tuple[LabelSpace, str]:
    """The label space of a set, the same in all its splits, and where its class names come from, in words.

    Args:
        settings: see `maskwright.data.readers.folder.open_folder`, which also states the order of the rules.
        layout: "voc" or "folder".
        images: name -> path of every image.
        masks: name -> path of every mask; None where the set has no mask folder.
        table: tags as read; None where there are none.

    Raises:
        DataError: a class file that is missing or not as described, a background that is no class, or nothing that
            tells the classes.
    """
    root = Path(settings.root)
    if isinstance(settings.classes, list):
        names, source = [str(name) for name in settings.classes], "settings"
    elif settings.classes is not None:
        path = resolve(root, settings.classes)
        names, source = read_classes(path), str(path)
    elif (root / "classes.txt").is_file():
        names, source = read_classes(root / "classes.txt"), str(root / "classes.txt")
    elif layout == "voc" and _looks_like_voc(root, images):
        names, source = list(VOC_CLASSES), "PASCAL VOC"
    elif masks is None and table is not None:
        names, source = table.names, table.source
    elif masks:
        paths = tuple(masks.values())
        changed = max(os.stat(path).st_mtime_ns for path in paths)
        last = _highest_value(paths, changed, settings.ignore_index, _frozen(settings.label_map))
        names, source = [f"class_{value}" for value in range(last + 1)], "highest value in the masks"
    else:
        raise DataError(
            f"{root} has neither masks nor tags nor class names, so there is nothing to learn. Expected masks/, "
            "a tag file or classes. Fix: give tags=FILE, masks=FOLDER, or classes=FILE"
        )
    choose = masks is None and table is not None
    names, background = _with_background(settings, names, choose)
    palette = _file_palette(masks, len(names)) if masks else ()
    return LabelSpace(tuple(names), background, settings.ignore_index, palette), source


def _with_background(settings: DataSettings, names: list[str], choose: bool) -> tuple[list[str], int | None]:
    """Class names and the value of the background; `choose`: no mask fixes the values, so one may be added in front."""
    wanted = settings.background
    if wanted is None or (isinstance(wanted, str) and wanted.lower() == "none"):
        return names, None
    if isinstance(wanted, int):
        return names, wanted
    if wanted == "auto":
        known = [value for value, name in enumerate(names) if name.strip("_ ").lower() == "background"]
        if known or not choose:
            return names, known[0] if known else None
        return ["background", *names], 0
    if wanted in names:
        return names, names.index(wanted)
    if choose:
        return [wanted, *names], 0
    raise DataError(f"background: {unknown_name('class', wanted, names)}")


def read_classes(path: Path) -> list[str]:
    """Class names, one per line; the line number from 0 is the value.

    Raises:
        DataError: missing or empty file, or an empty line between names.
    """
    if not path.is_file():
        raise DataError(f"classes {path} does not exist. Expected a text file with one class name per line")
    names = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().splitlines()]
    if not names or "" in names:
        where = f"line {names.index('') + 1} is empty" if names else "the file is empty"
        raise DataError(
            f"classes {path}: {where}. Expected one class name per line, the line number from 0 is the value"
        )
    return names


def _looks_like_voc(root: Path, images: Mapping[str, str]) -> bool:
    if re.fullmatch(r"VOC20\d\d", root.resolve().name, re.IGNORECASE):
        return True
    return all(re.fullmatch(r"20(0[7-9]|1[0-2])_\d{6}", name) for name in images)


@lru_cache(maxsize=8)
def _highest_value(
    paths: tuple[str, ...], changed: int, ignore_index: int, label_map: tuple[tuple[int, int], ...] | None
) -> int:
    """`guess_last_value`, once for the splits of a set.

    `changed` (the time of the latest change, in nanoseconds) makes the cache forget masks that were written again.
    """
    return guess_last_value(paths, dict(label_map) if label_map is not None else None, ignore_index)


def _frozen(label_map: dict[int, int] | None) -> tuple[tuple[int, int], ...] | None:
    return None if label_map is None else tuple(sorted(label_map.items()))


def _file_palette(masks: Mapping[str, str], count: int) -> tuple[tuple[int, int, int], ...]:
    """Colours of the first mask's palette, where it tells all classes apart; else none, which gives VOC's."""
    try:
        with Image.open(next(iter(masks.values()))) as picture:
            flat = (picture.getpalette("RGB") or []) if picture.mode == "P" else []
    except DECODE_ERRORS:
        return ()
    colours = tuple((red, green, blue) for red, green, blue in zip(*[iter(flat[: 3 * count])] * 3))
    return colours if len(set(colours)) == count else ()


def resolve(root: Path, name: str) -> Path:
    """A path as a person typed it: absolute, else below root, else from the working folder.

    What nobody typed, such as the folder `masks`, is looked for below root alone.
    """
    return root / name if (root / name).exists() or not Path(name).exists() else Path(name)
