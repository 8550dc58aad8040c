"""Ultralytics' folders: `data.yaml`, and polygons in `labels/` or PNG in the folder that `masks_dir` names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from maskwright.data.classes import read_classes
from maskwright.data.finding import Complain, Finding, Level, number_of, refuse
from maskwright.data.folders import files_in, files_of, find_masks, text_head
from maskwright.data.images import ImageSet, image_size, list_images
from maskwright.data.names import normal, spelled
from maskwright.data.readers.annotated import Export, annotated_set, image_folder
from maskwright.data.readers.folder import open_folder
from maskwright.data.readers.shapes import Annotated, Shape, box_corners
from maskwright.data.tables.cells import is_number
from maskwright.data.tables.grid import read_text
from maskwright.data.tags import UPLOAD
from maskwright.errors import DataError
from maskwright.settings import DataSettings

LISTED, DARKNET = "classes.txt", "obj.names"  # names of classes, a line each; the second beside `obj_train_data/`
PLACES = {"train": "obj_train_data", "val": ["obj_val_data", "obj_valid_data"], "test": "obj_test_data"}
LOOKED_AT = 1 << 12  # bytes at the beginning of a file
NAMES = re.compile(rb"^(names|nc)\s*:", re.MULTILINE)
SPLITS = {"train": ("train",), "val": ("val", "validation", "valid"), "test": ("test",)}


def yolo_file(root: Path) -> Path | None:
    """The YAML file in a folder that names classes and folders of images; None where there is none."""
    for path in files_of(root, ".yaml", ".yml"):
        fields = _fields(path)
        if fields is None and NAMES.search(text_head(path, LOOKED_AT)):
            return path  # whoever opens it says what is wrong
        if {"names", "nc"} & set(fields or ()) and {"train", "val", "validation", "test"} & set(fields or ()):
            return path
    if (root / DARKNET).is_file():
        return root / DARKNET
    folder = spelled(root / "labels")
    if not (root / LISTED).is_file() or not folder.is_dir() or find_masks(root, root / "masks", any_name=True):
        return None
    heads = (text_head(path, LOOKED_AT) for path in files_in(folder) if path.suffix.lower() == ".txt")
    row = next((head.splitlines()[0].split() for head in heads if head), [])
    return root / LISTED if len(row) > 4 and all(is_number(word.decode(errors="replace")) for word in row) else None


def open_yolo(settings: DataSettings, split: str, complain: Complain = refuse) -> ImageSet:
    """One split of a folder in the form of Ultralytics.

    `data.yaml` has `names`, and for each split a folder of images, several, or a list of them; or `classes.txt` has the
    names, as Label Studio exports them, or `obj.names`, as CVAT's YOLO 1.1 does. With `masks_dir` (or a folder `masks`)
    masks are PNG whose values are the classes, 255 ignored, `label_mapping` applied. Without, `labels/NAME.txt` in the
    place of `images/NAME.jpg` has a row for each polygon, `class x y x y ...` in parts of the image's sides: smaller
    ones are painted over larger ones, background is put before the classes, an image without a file or rows shows none
    of the classes. A row of five numbers is a box: within it, what nothing else covers is ignored.

    Args:
        settings: see `data.readers.annotated.annotated_set`; with masks see `data.readers.folder.open_folder`.
        split: which images.
        complain: what to do with findings; by default errors are raised.

    Raises:
        DataError: no such file, one that is not as described, damaged rows, or as the two named.
    """
    root = Path(settings.root)
    path = yolo_file(root) if root.is_dir() else None
    if path is None:
        raise DataError(f"{root} has no YAML file with names, train and val. Expected data.yaml of a YOLO data set")
    fields = {"names": read_classes(path), **PLACES} if path.name in (LISTED, DARKNET) else _fields(path)
    if fields is None:
        raise DataError(f"{path} is not YAML. Expected names, and folders of images as train and val")
    names = _names(path, fields)
    folders = _folders(root, fields)
    masks = fields.get("masks_dir") or ("masks" if (root / "masks").is_dir() else None)
    if isinstance(masks, str):
        return _open_masks(settings, split, complain, names, folders, masks, fields.get("label_mapping"))
    export = Export("yolo", [path], classes=names)
    folder = image_folder(settings)
    images, _ = list_images(folder)
    labels = _label_files(root)
    every = len(labels)
    plain = {_plain_name(key): key for key in labels}
    for name, image in images.items():
        inside = Path(image).relative_to(root) if Path(image).is_relative_to(root) else Path(image)
        part = next((part for place, part in folders.items() if place in (inside, *inside.parents)), "")
        key = _key(_beside(inside, "labels"))
        label = labels.pop(key, None) or labels.pop(plain.get(key, key), None)
        export.annotated.append(_row(name, part, image, label, export))
    left = [str(labels[key]) for key in labels if "labels" in key.split("/")[:-1]]
    if left:
        what = f"{number_of(len(left), 'label file')} without an image"
        level: Level = "warning" if len(labels) < every else "error"
        export.notes.append(Finding(level, what, left, len(left), fix="add the images", kind="label-no-image"))
    return annotated_set(settings, split, export, complain)


def _label_files(root: Path) -> dict[str, Path]:
    """Text files below a folder by their paths in small letters, as they are looked for."""
    return {_key(path.relative_to(root)): path for path in files_in(root) if path.suffix.lower() == ".txt"}


def _key(path: Path) -> str:
    return normal(path.as_posix()).casefold()


def _plain_name(key: str) -> str:
    """Without what Label Studio puts before the name of an image in its storage, or of an upload."""
    folder, slash, name = key.rpartition("/")
    return f"{folder}{slash}{UPLOAD.sub('', name.removeprefix('?d='))}"


def _row(name: str, part: str, image: str, label: Path | None, export: Export) -> Annotated:
    row = Annotated(name, image, looked_at=True, part=part)
    if label is None:
        return row
    row.where = row.file = str(label)
    try:
        height, width = image_size(image)
        lines = label.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        export.damaged.append(f"{label} is no text")
        row.damaged = True
        return row
    except DataError:
        return row  # whoever reads the image says so
    sized: list[tuple[float, Shape]] = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                shape = _shape(line.split(), export.classes, f"line {number}", width, height)
                sized.append((_area(shape.points), shape))
            except ValueError as error:
                export.damaged.append(f"{label}, line {number} {error}")
                row.damaged = True
    row.shapes = [shape for _, shape in sorted(sized, key=lambda pair: -pair[0])]
    return row


def _shape(words: list[str], names: list[str], where: str, width: int, height: int) -> Shape:
    """The shape that a row describes.

    Raises:
        ValueError: it describes none; the message says why.
    """
    try:
        number, *parts = map(float, words)
    except ValueError:
        raise ValueError(f"has something that is no number: {' '.join(words)[:60]!r}") from None
    if number not in range(len(names)):
        raise ValueError(f"has the class {words[0]}, expected 0 to {len(names) - 1}")
    label, side = names[int(number)], np.array([width, height], np.float64)
    if len(parts) == 4:
        x, y, across, down = parts
        corners = box_corners(x - across / 2, y - down / 2, x + across / 2, y + down / 2) * side
        return Shape(label, "box", where, corners)
    if len(parts) % 2 or len(parts) < 6:
        raise ValueError(f"has {len(parts)} numbers behind the class, expected pairs, three at least")
    return Shape(label, "polygon", where, np.array(parts).reshape(-1, 2) * side)


def _area(points: np.ndarray) -> float:
    x, y = points.T
    with np.errstate(over="ignore", invalid="ignore"):  # whoever checks the shape names such points
        area = abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2
    return area if np.isfinite(area) else 0.0


def _open_masks(
    settings: DataSettings,
    split: str,
    complain: Complain,
    names: list[str],
    folders: Mapping[Path, str],
    masks: str,
    mapping: Any,
) -> ImageSet:
    changed: dict[str, Any] = {"masks": settings.masks or masks}
    if settings.classes is None:
        changed["classes"] = names
    if settings.label_map is None and isinstance(mapping, dict):
        to = {int(key): 255 if value in (None, "ignore_label") else int(value) for key, value in mapping.items()}
        changed["label_map"] = {value: to.get(value, value) for value in range(256)}
    place = next((place for place, part in folders.items() if part == split), None)
    if place is not None and place.parts[:1] == ("images",) and len(place.parts) > 1:
        split = "/".join(place.parts[1:])
    return open_folder(settings.model_copy(update=changed), split, complain)


def _beside(image: Path, folder: str) -> Path:
    """The label file of an image: `folder` takes the place of the last `images` in its path, else it lies beside."""
    parts = list(image.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index].casefold() == "images":
            parts[index] = folder
            break
    return Path(*parts).with_suffix(".txt")


def _fields(path: Path) -> dict[str, Any] | None:
    """What a YAML file says; None where it is none."""
    try:
        found = yaml.safe_load(read_text(path)[0])
    except (yaml.YAMLError, DataError, OSError, RecursionError):
        return None
    return found if isinstance(found, dict) else {}


def _names(path: Path, fields: Mapping[str, Any]) -> list[str]:
    """Class names in the order of their numbers.

    Raises:
        DataError: they are no list, or a number is missing.
    """
    names = fields.get("names")
    if names is None and isinstance(fields.get("nc"), int):
        names = [f"class_{number}" for number in range(fields["nc"])]
    if isinstance(names, dict):
        numbered = {int(key): name for key, name in names.items() if str(key).isdecimal()}
        if set(numbered) == set(range(len(names))):
            names = [numbered[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DataError(f"{path}: names are {str(names)[:80]}. Expected a list, or a name for each number from 0")
    return [str(name) for name in names]


def _folders(root: Path, fields: Mapping[str, Any]) -> dict[Path, str]:
    """Folders of images, or images that are listed in a file, below the root, each with its split; what leads out of it
    is left out, and what two splits share is the first one's."""
    found: dict[Path, str] = {}
    for split, keys in SPLITS.items():
        given: Any = next((fields[key] for key in keys if fields.get(key)), [])
        for text in given if isinstance(given, list) else [given]:
            place = _below(root, fields.get("path"), str(text))
            if place is not None and (root / place).is_file():
                listed = read_text(root / place)[0].splitlines()
                places = [_below(root, fields.get("path"), line.strip()) for line in listed if line.strip()]
                found |= {one: split for one in places if one is not None and one not in found}
            elif place is not None:
                found.setdefault(place, split)
    return found


def _below(root: Path, base: Any, text: str) -> Path | None:
    """What a path in the file leads to below the root; None where nothing is there."""
    bases = [root / base, root] if isinstance(base, str) and base else [root]
    # Roboflow writes ../train/images for what lies below the file itself.
    for one in [base / form for base in bases for form in (text, text.replace("\\", "/").removeprefix("../"))]:
        place = spelled(one).resolve()
        if place.exists() and place != root.resolve() and place.is_relative_to(root.resolve()):
            return place.relative_to(root.resolve())
    return None
