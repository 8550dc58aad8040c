"""Ultralytics' folders: `data.yaml`, and polygons in `labels/` or PNG in the folder that `masks_dir` names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from maskwright.data.finding import Complain, refuse
from maskwright.data.images import ImageSet, image_size, list_images
from maskwright.data.readers.annotated import Export, annotated_set, image_folder
from maskwright.data.readers.folder import open_folder
from maskwright.data.readers.shapes import Annotated, Shape, box_corners
from maskwright.errors import DataError
from maskwright.settings import DataSettings

SPLITS = {"train": ("train",), "val": ("val", "validation", "valid"), "test": ("test",)}


def yolo_file(root: Path) -> Path | None:
    """The YAML file in a folder that names classes and folders of images; None where there is none."""
    for path in sorted([*root.glob("*.yaml"), *root.glob("*.yml")]):
        fields = _fields(path)
        if {"names", "nc"} & set(fields) and {"train", "val", "validation", "test"} & set(fields):
            return path
    return None


def open_yolo(settings: DataSettings, split: str, complain: Complain = refuse) -> ImageSet:
    """One split of a folder in the form of Ultralytics.

    `data.yaml` has `names`, and a folder of images for each split. With `masks_dir` (or a folder `masks`) masks are PNG
    whose values are the classes, 255 ignored, `label_mapping` applied. Without, `labels/NAME.txt` in the place of
    `images/NAME.jpg` has a row for each polygon, `class x y x y ...` in parts of the image's sides: smaller ones are
    painted over larger ones, background is put before the classes, an image without a file or rows shows none of the
    classes. A row of five numbers is a box: within it, what nothing else covers is ignored.

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
    fields = _fields(path)
    names = _names(path, fields)
    folders = _folders(root, fields)
    masks = fields.get("masks_dir") or ("masks" if (root / "masks").is_dir() else None)
    if isinstance(masks, str):
        return _open_masks(settings, split, complain, names, folders, masks, fields.get("label_mapping"))
    export = Export("yolo", [path], classes=names)
    folder = image_folder(settings)
    images, _ = list_images(folder)
    for name, image in images.items():
        inside = Path(image).relative_to(root) if Path(image).is_relative_to(root) else Path(image)
        part = next((part for part, place in folders.items() if place in inside.parents), "")
        label = root / _beside(inside, "labels")
        export.annotated.append(_row(name, part, image, label, export))
    return annotated_set(settings, split, export, complain)


def _row(name: str, part: str, image: str, label: Path, export: Export) -> Annotated:
    row = Annotated(name, str(label), looked_at=True, part=part)
    if not label.is_file():
        return row
    row.file = str(label)
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
    folders: Mapping[str, Path],
    masks: str,
    mapping: Any,
) -> ImageSet:
    changed: dict[str, Any] = {"masks": settings.masks or masks}
    if settings.classes is None:
        changed["classes"] = names
    if settings.label_map is None and isinstance(mapping, dict):
        to = {int(key): 255 if value in (None, "ignore_label") else int(value) for key, value in mapping.items()}
        changed["label_map"] = {value: to.get(value, value) for value in range(256)}
    place = folders.get(split)
    if place is not None and place.parts[:1] == ("images",) and len(place.parts) > 1:
        split = "/".join(place.parts[1:])
    return open_folder(settings.model_copy(update=changed), split, complain)


def _beside(image: Path, folder: str) -> Path:
    """The label file of an image: `folder` takes the place of the last `images` in its path, else it lies beside."""
    parts = list(image.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = folder
            break
    return Path(*parts).with_suffix(".txt")


def _fields(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError):
        return {}
    return found if isinstance(found, dict) else {}


def _names(path: Path, fields: Mapping[str, Any]) -> list[str]:
    """Class names in the order of their numbers.

    Raises:
        DataError: they are no list, or a number is missing.
    """
    names = fields.get("names")
    if names is None and isinstance(fields.get("nc"), int):
        names = [f"class_{number}" for number in range(fields["nc"])]
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DataError(f"{path}: names are {str(names)[:80]}. Expected a list, or a name for each number from 0")
    return [str(name) for name in names]


def _folders(root: Path, fields: Mapping[str, Any]) -> dict[str, Path]:
    """The folder of each split's images below the root; one that leads out of it is none."""
    base = fields.get("path")
    bases = [root / base, root] if isinstance(base, str) and base else [root]
    found: dict[str, Path] = {}
    for split, keys in SPLITS.items():
        given = next((fields[key] for key in keys if isinstance(fields.get(key), str)), None)
        if given is None:
            continue
        # Roboflow writes ../train/images for what lies below the file itself.
        for place in [base / text for base in bases for text in (given, given.removeprefix("../"))]:
            if place.is_dir() and place.resolve().is_relative_to(root.resolve()):
                found.setdefault(split, place.resolve().relative_to(root.resolve()))
    # Where two splits share a folder it is the first one's.
    return found
