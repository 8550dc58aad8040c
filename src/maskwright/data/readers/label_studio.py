"""Label Studio's exports as JSON, JSON-MIN and CSV: brush, polygons, rectangles, ellipses, key points, choices."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from maskwright.data.brush import decode_brush
from maskwright.data.finding import ASSUMED, Complain, Finding, refuse
from maskwright.data.folders import files_of
from maskwright.data.plain_xml import parse_xml
from maskwright.data.provenance import changed_since_export
from maskwright.data.readers.annotated import Export, annotated_set
from maskwright.data.readers.shapes import Annotated, Shape, ShapeSet, box_corners, ellipse_corners, turned
from maskwright.data.tables.label_studio import Task, image_tags, is_tasks, read_tasks, region_labels
from maskwright.errors import DataError
from maskwright.settings import DataSettings

TRIED = 50  # files of a folder that may be one of another tool, with a JSON file for each image
LARGEST = 1 << 28  # pixels of an image; of more no mask is made, whatever a file says


@dataclass
class _Drawn:
    """A task and its regions; what is wrong with them, how many have several labels, types that are not read."""

    task: Task
    row: Annotated
    damaged: list[str] = field(default_factory=list)
    several: int = 0
    kinds: list[str] = field(default_factory=list)


def task_files(root: Path) -> list[Path]:
    """JSON files in a folder that begin as exports of tasks do, where there is none, tables; where the first few do
    not, none is expected to."""
    for suffixes in ((".json",), (".csv", ".tsv")):
        found: list[Path] = []
        for number, path in enumerate(files_of(root, *suffixes)):
            if is_tasks(path):
                found.append(path)
            elif number >= TRIED and not found:
                break
        if found:
            return found
    return []


def open_label_studio(settings: DataSettings, split: str, complain: Complain = refuse) -> ShapeSet:
    """One split of a project of Label Studio, exported as JSON, JSON-MIN, CSV or TSV.

    The file lies in the root, whatever its name; so may the labelling configuration, as XML, which then gives the order
    of the classes; without it that is the alphabet's. Images lie in `images/` or where `data.options.images` says. They
    are found by the names in the tasks: uploads with or without the eight digits that Label Studio puts before them,
    local storage by the path in `?d=`, addresses by their path. Of several annotations of a task the last counts that
    is not cancelled; predictions do not. A region with several labels is painted as the first. Choices and taxonomy
    entries of the image are its tags, where they are about the classes that are drawn, see `image_tags`; an annotation
    that was submitted empty says that nothing is in the image.

    Args:
        settings: see `data.readers.annotated.annotated_set`.
        split: which images.
        complain: what to do with findings; by default errors are raised.

    Raises:
        DataError: no such file, one that is not as described, images that are missing, or as `annotated_set`.
    """
    root = Path(settings.root)
    files = task_files(root) if root.is_dir() else []
    # Tasks that were written for Label Studio lie beside what came back from it.
    changed = changed_since_export(root) if files else None
    if changed is not None:
        files = [path for path in files if path.name in changed] or files
    if not files:
        raise DataError(f"{root} has no list of tasks. Expected an export of Label Studio, JSON, JSON-MIN or CSV")
    export = Export("label_studio", files)
    drawn: list[_Drawn] = []
    for path in files:
        facts = path.stat()
        found, wrong, unused = _read(str(path), facts.st_mtime_ns, facts.st_size)
        drawn += found
        export.damaged += wrong
        if unused:
            what = f"columns left out: {', '.join(unused)}"
            export.notes.append(Finding("info", what, [str(path)], kind=ASSUMED))
    tasks = [one.task for one in drawn]
    tags, wrong, left = image_tags(tasks, all_controls=settings.classes is not None)
    export.damaged += wrong
    if left:
        what = f"choices that are no classes, since none of them is drawn: {', '.join(left)}"
        fix = "if they are, give data.classes with all classes"
        export.notes.append(Finding("warning", what, [str(files[0])], len(left), fix=fix, kind="choices-left-out"))
    # What was read is kept for other splits and stages, so that it is not changed here.
    export.annotated = [replace(one.row, tags=[*chosen, *one.row.tags]) for one, chosen in zip(drawn, tags)]
    several, left_out = sum(one.several for one in drawn), Counter(kind for one in drawn for kind in one.kinds)
    export.damaged += [what for one in drawn for what in one.damaged]
    used = {name for row in export.annotated for name in row.names()}
    export.classes = list(dict.fromkeys([*_configured(root, export, used), *sorted(used)]))
    if left_out:
        what = "regions left out: " + ", ".join(f"{count} {kind}" for kind, count in left_out.items())
        export.notes.append(Finding("warning", what, [str(files[0])], left_out.total(), kind="shape-kind"))
    if several:
        what = f"{several} regions with several labels, painted as the first of them"
        export.notes.append(Finding("warning", what, [str(files[0])], several, kind="region-labels"))
    return annotated_set(settings, split, export, complain)


def _configured(root: Path, export: Export, used: set[str]) -> list[str]:
    """Labels, and choices that are used, of a labelling configuration in the folder, in its order; their colours go to
    the export."""
    names: list[str] = []
    inside = False

    def start(name: str, given: dict[str, str]) -> None:
        nonlocal inside
        inside = inside or name == "View"
        value = given.get("value")
        if inside and value and (name == "Label" or (name == "Choice" and value in used)):
            names.append(value)
            colour = re.fullmatch("#([0-9a-fA-F]{6})", given.get("background", ""))
            if colour:
                number = int(colour[1], 16)
                export.colours[value] = (number >> 16, number >> 8 & 255, number & 255)

    for path in files_of(root, ".xml"):
        inside = False
        try:
            parse_xml(path, start)
        except DataError as error:
            export.notes.append(Finding("warning", f"left out: {error}", [str(path)], kind="config-unreadable"))
    return names


@lru_cache(maxsize=4)
def _read(path: str, changed: int, length: int) -> tuple[list[_Drawn], list[str], list[str]]:
    """The tasks of a file with their regions, what is wrong with others, and columns that were left out; `changed` and
    `length` make the cache forget a file that was replaced."""
    tasks, wrong, unused = read_tasks(Path(path))
    drawn = []
    for task in tasks:
        drawn.append(_drawn(task))
        for result in task.results or []:
            if isinstance(result.get("value"), dict) and "rle" in result["value"]:
                result["value"]["rle"] = ()  # a list of numbers takes much more memory than the runs
    return drawn, wrong, unused


def _drawn(task: Task) -> _Drawn:
    """The regions of a task."""
    results = task.results or []
    row = Annotated(task.names[0], task.where, also=tuple(task.names[1:]), looked_at=task.results is not None)
    found = _Drawn(task, row)
    # Labels that are chosen apart from the shape are results of their own with its id.
    labels: dict[str, list[str]] = {}
    for result in results:
        if result.get("id") is not None:
            known = labels.setdefault(str(result["id"]), [])
            known += [name for name in region_labels(result) if name not in known]
    # Without any size the percents are of the image itself, whose file is known later.
    row.relative = not any({"original_height", "original_width"} & set(result) for result in results)
    done: list[tuple[str, dict[str, Any]]] = []
    for number, result in enumerate(results, start=1):
        value = result.get("value")
        identity = str(number if result.get("id") is None else result["id"])
        names = region_labels(result) or labels.get(identity, [])
        if not isinstance(value, dict) or not names:
            continue
        where = f"region {identity} ({names[0]})"
        if not {"x", "points", "rle"} & set(value):
            found.kinds.append(str(result.get("type", "of no type")))
            continue
        drawn = {key: part for key, part in value.items() if not key.endswith("labels")}
        if (identity, drawn) in done:
            continue
        done.append((identity, drawn))
        if value.get("rle") == []:
            continue  # a brush whose every stroke was erased
        try:
            upright = "rle" not in value and not value.get("rotation")
            height, width = (1, 1) if row.relative and upright else _size(result, row)
            shape = _shape(names[0], where, value, height, width)
        except (DataError, KeyError, TypeError, ValueError, OverflowError) as error:
            said = f"has no {error.args[0]}" if isinstance(error, KeyError) else str(error)
            found.damaged.append(f"{row.where}, {where}: {said}")
            row.damaged = True
            continue
        row.shapes.append(shape)
        row.tags += names[1:]
        found.several += len(names) > 1
    return found


def _size(result: Mapping[str, Any], row: Annotated) -> tuple[int, int]:
    """Height and width that a region was drawn on; all of an image must agree."""
    height, width = result["original_height"], result["original_width"]
    if not (isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0):
        raise DataError(f"original size {width}x{height} is no size")
    if result.get("image_rotation"):
        raise DataError(f"was drawn on the image turned by {result['image_rotation']} degrees, which is not read")
    if height * width > LARGEST:
        raise DataError(f"original size {width}x{height} is larger than any image that is read")
    if row.size not in (None, (height, width)):
        assert row.size is not None
        raise DataError(f"original size {width}x{height}, other regions have {row.size[1]}x{row.size[0]}")
    row.size = height, width
    return row.size


def _shape(label: str, where: str, value: Mapping[str, Any], height: int, width: int) -> Shape:
    """A region in pixels; all but the brush is given in percent of the image."""
    scale = np.array([width, height]) / 100
    if "rle" in value:
        inside = decode_brush(value["rle"], height, width)
        return Shape(label, "mask", where, window=(0, 0, height, width), runs=runs_of(inside))
    if "points" in value:
        points = np.array(value["points"], np.float64)
        if points.ndim != 2 or points.shape[1] != 2:
            raise DataError("points are not pairs of numbers")
        closed = value.get("closed", True)
        return Shape(label, "polygon" if closed else "line", where, points * scale)
    left, top = np.array([value["x"], value["y"]], np.float64) * scale
    degrees = float(value.get("rotation", 0))
    if "radiusX" in value:
        across, down = np.array([value["radiusX"], value["radiusY"]], np.float64) * scale
        return Shape(label, "polygon", where, turned(ellipse_corners(left, top, across, down), degrees, left, top))
    if "height" in value:
        right, bottom = np.array([value["width"], value["height"]], np.float64) * scale + (left, top)
        return Shape(label, "box", where, turned(box_corners(left, top, right, bottom), degrees, left, top))
    return Shape(label, "points", where, np.array([[left, top]]))


def runs_of(inside: np.ndarray) -> np.ndarray:
    """Lengths of the runs outside, inside, outside, ... of a mask `(H, W)` bool, along its rows."""
    flat = np.concatenate([[False], inside.ravel()])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], changes, [inside.size]]))
