"""COCO's JSON of anybody's own images, as Roboflow, CVAT, Label Studio and others export it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from maskwright.data.finding import Complain, refuse
from maskwright.data.folders import files_of, text_head
from maskwright.data.names import spelled
from maskwright.data.readers.annotated import PARTS, Export, anew, annotated_set, as_they_are
from maskwright.data.readers.coco_annotations import given_runs, image_sides, items, polygon_problem
from maskwright.data.readers.shapes import Annotated, Shape, ShapeSet, box_corners
from maskwright.data.tables.label_studio import image_names
from maskwright.errors import DataError
from maskwright.settings import DataSettings

INSTANCES = "instances"
ROBOFLOW = "_annotations.coco.json"
LOOKED_AT = 1 << 16  # bytes at either end of a file
ONE = {"images": "image", "annotations": "annotation", "categories": "category"}
KEYS = tuple(ONE)


def coco_files(root: Path) -> list[Path]:
    """JSON files in a folder, in its folder `annotations` or beside the images of a split, that look like COCO's."""
    inside = [*root.glob(f"*/{ROBOFLOW}"), *files_of(spelled(root / "annotations"), ".json")]
    # Beside instances lie captions, key points and areas of the same images, as COCO itself and datumaro write them.
    instances = {path.parent for path in inside if path.name.startswith(INSTANCES)}
    inside = [path for path in inside if path.parent not in instances or path.name.startswith(INSTANCES)]
    there = [*inside, *files_of(root, ".json")]
    return [path for path in sorted(there) if _is_coco(path)]


def open_coco_json(settings: DataSettings, split: str, complain: Complain = refuse) -> ShapeSet:
    """One split of images with annotations in COCO's JSON.

    Any name of file, in the root or in `annotations/`; or one `_annotations.coco.json` in each split's folder. Splits
    are what the files are called after (`instances_val2017.json`, `valid/`), else those of a plain folder. Polygons and
    both forms of run-length codes are painted in file order, later over earlier. Crowds are painted as their class,
    below all else: CVAT and datumaro call every mask one, and what really is one has a known class as well. Within a
    box without an outline what nothing else covers is ignored. An image without annotations shows none of the classes.
    Classes are the categories by their ids, background in front; a category without annotations that is but the
    supercategory of others is none.

    Args:
        settings: see `data.readers.annotated.annotated_set`.
        split: which images.
        complain: what to do with findings; by default errors are raised.

    Raises:
        DataError: no such file, one that is not JSON, damaged annotations, or as `annotated_set`.
    """
    root = Path(settings.root)
    files = coco_files(root) if root.is_dir() else []
    if not files:
        raise DataError(f"{root} has no COCO JSON. Expected images, annotations and categories in one file")
    export = _read_all(str(root), as_they_are(files))
    if not export.annotated:
        what = "; ".join(export.damaged[:3]) or f"{files[0]} has no images"
        raise DataError(f"{what}. Expected COCO's images, annotations and categories")
    return annotated_set(settings, split, anew(export), complain)


@lru_cache(maxsize=2)
def _read_all(root: str, files: tuple[tuple[str, int, int], ...]) -> Export:
    """What the files say, once for the splits of a set; times of change make the cache forget files that changed."""
    export = Export("coco_json", [Path(path) for path, *_ in files])
    categories: dict[str, tuple[int, str]] = {}
    for path in export.files:
        _read(path, Path(root), export, categories)
    used = {name for row in export.annotated for name in row.names()}
    above = {supercategory for _, supercategory in categories.values()}
    ordered = sorted(categories, key=lambda name: categories[name][0])
    export.classes = [name for name in ordered if name in used or name not in above]
    return export


def _is_coco(path: Path) -> bool:
    head = text_head(path, LOOKED_AT)
    with open(path, "rb") as stream:
        stream.seek(max(LOOKED_AT, path.stat().st_size - LOOKED_AT))
        tail = stream.read()
    found = sum(f'"{key}"'.encode() in head + tail for key in KEYS)
    return head[:1] == b"{" and found >= 2 and b'"shapes"' not in head


def _part(path: Path) -> str:
    """The split that a file is of, by its name or its folder's; "" where they name none."""
    name = path.parent.name if path.name == ROBOFLOW else path.stem
    words = re.split(r"[^a-z]+", name.lower())
    return next((part for part, known in PARTS.items() if set(known) & set(words)), "")


def _read(path: Path, root: Path, export: Export, categories: dict[str, tuple[int, str]]) -> None:
    part = _part(path)
    folder = path.parent.relative_to(root).as_posix()
    before = "" if folder in (".", "annotations") else f"{folder}/"
    if folder == "annotations" and part:
        before = f"{path.stem.rpartition('_')[2]}/"
    rows: dict[Any, Annotated] = {}
    names: dict[Any, str] = {}
    drawn: list[tuple[Any, Any, list[Shape], bool]] = []
    for key, item in items(str(path), KEYS):
        where = f"{path}: {ONE[key]} {item.get('id') if isinstance(item, dict) else item}"
        try:
            if key == "categories":
                names[item["id"]] = str(item["name"])
                categories.setdefault(str(item["name"]), (int(item["id"]), str(item.get("supercategory", ""))))
            elif key == "images":
                row = Annotated(f"{before}{_text(item['file_name'])}", where, looked_at=True, part=part)
                # Label Studio's converter writes names as its tasks have them.
                row.also, row.file = (item["file_name"], *image_names(item["file_name"])), str(path)
                if item.get("height") is not None or item.get("width") is not None:
                    row.size = image_sides(item)
                if item["id"] in rows:
                    raise ValueError(f"has the id of {rows[item['id']].image}")
                rows[item["id"]] = row
            else:
                shapes = _shapes(item)
                drawn.append((item["image_id"], _number(item["category_id"]), shapes, bool(item.get("iscrowd"))))
        except KeyError as error:
            export.damaged.append(f"{where} has no {error.args[0]}")
        except (TypeError, ValueError, AttributeError) as error:
            export.damaged.append(f"{where} {error}")
            if key == "annotations" and isinstance(item, dict):
                drawn.append((item.get("image_id"), None, [], False))
    for image, category, shapes, crowd in drawn:
        found = rows.get(image) if isinstance(image, int | str) else None
        if found is None:
            if category is not None:
                export.damaged.append(f"{path}: {shapes[0].where} has the image_id {image}, which is not in images")
        elif category is None:
            found.damaged = True
        elif category not in names:
            export.damaged.append(f"{path}: {shapes[0].where} has the category_id {category}, which has no name")
            found.damaged = True
        else:
            _add(found, names[category], shapes, crowd, export)
    export.annotated += rows.values()


def _add(row: Annotated, name: str, shapes: list[Shape], crowd: bool, export: Export) -> None:
    for shape in shapes:
        if shape.kind == "mask" and row.size is not None and shape.window[2:] != row.size:
            export.damaged.append(
                f"{row.where}, {shape.where} has runs of the size {list(shape.window[2:])}, its image is "
                f"{list(row.size or ())} (height, width)"
            )
            row.damaged = True
            return
    named = [Shape(name, one.kind, one.where, one.points, one.window, one.runs, one.down) for one in shapes]
    row.shapes = [*named, *row.shapes] if crowd else [*row.shapes, *named]


def _shapes(item: Mapping[str, Any]) -> list[Shape]:
    """What is drawn by one annotation, without a label.

    Raises:
        ValueError: it is damaged; the message says how.
    """
    where = f"annotation {item.get('id')}"
    given = item.get("segmentation")
    if isinstance(given, dict):
        (height, width), runs = given_runs(given)
        return [Shape("", "mask", where, window=(0, 0, height, width), runs=runs, down=True)]
    polygons = given or []
    if not isinstance(polygons, list):
        raise ValueError(f"has a segmentation of {json.dumps(given)[:40]}, expected polygons or runs")
    if polygons and not isinstance(polygons[0], list):
        polygons = [polygons]  # as some tools write a single one
    problem = next((why for polygon in polygons if (why := polygon_problem(polygon))), None)
    if problem:
        raise ValueError(problem)
    if polygons:
        return [Shape("", "polygon", where, np.array(polygon, np.float64).reshape(-1, 2)) for polygon in polygons]
    box = item.get("bbox")
    if not (isinstance(box, list) and len(box) == 4):
        raise ValueError("has neither an outline nor a box")
    left, top, across, down = (float(side) for side in box)
    return [Shape("", "box", where, box_corners(left, top, left + across, top + down))]


def _number(value: Any) -> int | str:
    if not isinstance(value, int | str):
        raise TypeError(f"has the category_id {value!r}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"has the file_name {value!r}")
    return value
