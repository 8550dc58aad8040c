"""labelme's and X-AnyLabeling's JSON, a file for each image: polygons, rectangles, circles, masks; flags as tags."""

from __future__ import annotations

import base64
import io
import os
import posixpath
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskwright.data.finding import Complain, refuse
from maskwright.data.folders import files_of, text_head
from maskwright.data.masks import DECODE_ERRORS
from maskwright.data.readers.annotated import Export, anew, annotated_set, as_they_are
from maskwright.data.readers.shapes import AREAS, Annotated, Kind, Shape, ShapeSet, box_corners, ellipse_corners
from maskwright.data.runs import runs_of
from maskwright.data.tables.grid import read_text
from maskwright.errors import DataError
from maskwright.files import read_json
from maskwright.settings import DataSettings

LOOKED_AT = 1 << 13  # bytes at either end of a file
FEW = 3  # files of a folder that are looked at to know what it is
BACKGROUND = "_background_"  # how labelme's own list of labels calls it
LINES: dict[str, Kind] = {"line": "line", "linestrip": "line", "point": "points", "points": "points"}
AREA_WORDS = ("polygon", "rectangle", "rotation", "circle", "mask")


def labelme_files(root: Path) -> list[Path]:
    """JSON files below a folder that are labelme's, or empty, as what was cut off."""
    found: list[Path] = []
    for folder, inside, _ in os.walk(root):
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        found += [path for path in files_of(Path(folder), ".json") if not path.stat().st_size or _is_labelme(path)]
    return found


def has_labelme(root: Path) -> bool:
    """Whether a folder, or one in it, has such files; a few are looked at."""
    folders = [root, *sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))]
    return any(_is_labelme(path) for folder in folders for path in files_of(folder, ".json")[:FEW])


def open_labelme(settings: DataSettings, split: str, complain: Complain = refuse) -> ShapeSet:
    """One split of a folder with labelme's JSON beside the images, or in another folder of the root.

    Shapes are painted in file order, later over earlier: polygons, rectangles, circles and masks as areas; lines and
    points with `data.options.partial`. A flag of the image that is set is a tag. An image without a file is not
    labelled; a file without shapes says that nothing is there. Classes are in the order of `labels.txt`, else of the
    alphabet, background in front.

    Args:
        settings: see `data.readers.annotated.annotated_set`.
        split: which images.
        complain: what to do with findings; by default errors are raised.

    Raises:
        DataError: no such file, a damaged one, or as `annotated_set`.
    """
    root = Path(settings.root)
    files = labelme_files(root) if root.is_dir() else []
    if not files:
        raise DataError(f"{root} has no JSON of labelme. Expected a file with shapes for each image")
    export = _read_all(str(root), as_they_are(files))
    return annotated_set(settings, split, anew(export), complain)


@lru_cache(maxsize=2)
def _read_all(root: str, files: tuple[tuple[str, int, int], ...]) -> Export:
    """What the files say, once for the splits of a set; times of change make the cache forget files that changed."""
    export = Export("labelme", [Path(path) for path, *_ in files])
    for path in export.files:
        export.annotated.append(_row(path, Path(root), export))
    listed = Path(root, "labels.txt")
    names = read_text(listed)[0].splitlines() if listed.is_file() else []
    used = sorted({name for row in export.annotated for name in row.names()})
    renamed = ("background" if name.strip() == BACKGROUND else name.strip() for name in [*names, *used])
    export.classes = [name for name in dict.fromkeys(renamed) if name]
    return export


def _is_labelme(path: Path) -> bool:
    head = text_head(path, LOOKED_AT)
    with open(path, "rb") as stream:  # where keys are in the order of the alphabet, the image's data stand first
        stream.seek(max(LOOKED_AT, path.stat().st_size - LOOKED_AT))
        found = head + stream.read()
    return head[:1] == b"{" and b'"shapes"' in found and b'"annotations"' not in found


def _row(path: Path, root: Path, export: Export) -> Annotated:
    folder = path.parent.relative_to(root).as_posix()
    row = Annotated(posixpath.join(folder, path.stem), str(path), looked_at=True, file=str(path))
    try:
        record = read_json(path)
        if not isinstance(record, dict):
            raise DataError("no object with shapes")
    except (ValueError, RecursionError) as error:  # DataError is a ValueError
        export.damaged.append(f"{path} cannot be read ({error})")
        row.damaged = True
        return row
    image = record.get("imagePath")
    if isinstance(image, str) and image:
        beside = posixpath.normpath(posixpath.join(folder, image.replace("\\", "/")))
        row.image, row.also = beside, (row.image,)
    height, width = record.get("imageHeight"), record.get("imageWidth")
    if type(height) is int and type(width) is int:
        row.size = height, width
    flags = record.get("flags")
    row.tags = [str(name) for name, there in flags.items() if there is True] if isinstance(flags, dict) else []
    shapes = record.get("shapes")
    for number, given in enumerate(shapes if isinstance(shapes, list) else [], start=1):
        name = given.get("label") if isinstance(given, dict) else None
        where = f"shape {number} ({name})"
        try:
            if not isinstance(name, str) or not name:
                raise ValueError("has no label")
            row.shapes.append(_shape("background" if name == BACKGROUND else name, where, given))
        except (ValueError, TypeError, KeyError, IndexError) as error:
            said = f"has no {error.args[0]}" if isinstance(error, KeyError) else str(error)
            export.damaged.append(f"{path}, {where} {said}")
            row.damaged = True
    return row


def _shape(label: str, where: str, given: Mapping[str, Any]) -> Shape:
    """One shape.

    Raises:
        ValueError: it is damaged, or of a kind that labelme does not have; the message says why.
        KeyError: it lacks a field.
    """
    kind = given.get("shape_type") or "polygon"
    points = np.array(given["points"], np.float64)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"has points of the shape {points.shape}, expected pairs x, y")
    if kind in LINES:
        return Shape(label, LINES[kind], where, points)
    if kind not in AREA_WORDS:
        raise ValueError(f"is a {kind}, expected one of {', '.join([*AREA_WORDS, *LINES])}")
    if kind == "mask":
        return _mask(label, where, points, given["mask"])
    if kind == "circle":
        (x, y), edge = points[0], points[1]
        radius = float(np.hypot(*(edge - points[0])))
        return Shape(label, AREAS[0], where, ellipse_corners(float(x), float(y), radius, radius))
    if kind == "rectangle" and len(points) == 2:
        points = box_corners(*points.min(0).tolist(), *points.max(0).tolist())
    return Shape(label, AREAS[0], where, points)


def _mask(label: str, where: str, points: np.ndarray, encoded: str) -> Shape:
    """A mask in a box whose corners are its first and its last pixel."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(encoded, validate=True))) as picture:
            inside = np.array(picture.convert("L")) > 0
    except DECODE_ERRORS as error:
        raise ValueError(f"has a mask that is no picture ({error})") from None
    if not np.isfinite(points).all():
        raise ValueError("has a coordinate that is no number")
    left, top = (int(side) for side in points.min(0))
    return Shape(label, "mask", where, window=(top, left, *inside.shape), runs=runs_of(inside.T))
