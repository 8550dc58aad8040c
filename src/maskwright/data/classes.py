"""Class names, the background and the colours of a folder of images: one `LabelSpace` for all its splits."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from PIL import Image

from maskwright.data.folders import IMAGE_FOLDERS, described, subfolders
from maskwright.data.mask_values import guess_last_value
from maskwright.data.masks import DECODE_ERRORS
from maskwright.data.names import normal, plain, spelled
from maskwright.data.sample import LabelSpace
from maskwright.data.tables.grid import read_text
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
        names, source = [normal(str(name)) for name in settings.classes], "settings"
    elif settings.classes is not None:
        path = resolve(root, settings.classes)
        names, source = read_classes(path), str(path)
    elif (found := _class_file(root, bool(masks))) is not None:
        names, source = read_classes(found), str(found)
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
        inside = subfolders(root)
        nested = len(inside) == 1 and plain(inside[0].name) not in IMAGE_FOLDERS
        fix = f"data={inside[0]}, the only folder there, " if nested else ""
        raise DataError(
            f"{root} has neither masks nor tags nor class names, so there is nothing to learn; {described(root)}. "
            f"Expected masks/, a table of tags that names the images, or classes. Fix: give {fix}tags=FILE, "
            "masks=FOLDER, or classes=FILE"
        )
    choose = masks is None and table is not None
    names, background = _with_background(settings, names, choose)
    palette = _file_palette(masks, len(names)) if masks else ()
    return LabelSpace(tuple(names), background, settings.ignore_index, palette), source


def _with_background(settings: DataSettings, names: list[str], choose: bool) -> tuple[list[str], int | None]:
    """Class names and the value of the background; `choose`: no mask fixes the values, so one may be added in front."""
    wanted = settings.background
    if isinstance(wanted, str):
        wanted = normal(wanted)
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
    """Class names, one per line; the line number from 0 is the value. Or a CSV table of values and names.

    Raises:
        DataError: missing or empty file, an empty line between names, or a value that has no name.
    """
    if not path.is_file():
        raise DataError(f"classes {path} does not exist. Expected a text file with one class name per line")
    text = read_text(path)[0]
    numbered = _numbered(text) if path.suffix.lower() == ".csv" else {}
    if numbered:
        lacking = sorted(set(range(max(numbered) + 1)) - set(numbered))
        if lacking:
            raise DataError(
                f"classes {path}: value {lacking[0]} has no name. Expected one for each of 0 to {max(numbered)}"
            )
        return [numbered[value] for value in sorted(numbered)]
    names = [normal(line.strip()) for line in text.rstrip().splitlines()]
    if not names or "" in names:
        where = f"line {names.index('') + 1} is empty" if names else "the file is empty"
        raise DataError(
            f"classes {path}: {where}. Expected one class name per line, the line number from 0 is the value"
        )
    return names


def _class_file(root: Path, with_masks: bool) -> Path | None:
    """The file of class names in a folder, or beside the masks of a split as Roboflow writes it; None without."""
    if (root / "classes.txt").is_file():
        return root / "classes.txt"
    if not with_masks:
        return None
    names = [root / "class_names.txt", *(folder / "_classes.csv" for folder in (root, *subfolders(root)))]
    return next(
        (path for path in names if path.is_file() and (path.suffix == ".txt" or _numbered(read_text(path)[0]))), None
    )


def _numbered(text: str) -> dict[int, str]:
    """Class names by their values from a table `Pixel Value, Class`; empty where it is no such table."""
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if len(row) == 2]
    if rows and not rows[0][0].isdigit():
        rows = rows[1:]
    return {int(value): normal(name) for value, name in rows if value.isdigit() and name}


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
    """A path as a person typed it, in any Unicode form and capitals: absolute, else below root, else from the working
    folder.

    What nobody typed, such as the folder `masks`, is looked for below root alone.
    """
    inside, outside = spelled(root / name), spelled(Path(name))
    return inside if inside.exists() or not outside.exists() else outside
