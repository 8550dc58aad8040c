"""CVAT's "CVAT for images 1.1": `annotations.xml` with polygons, masks, boxes, ellipses, lines, points and tags."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from maskwright.data.finding import Complain, Finding, number_of, refuse
from maskwright.data.folders import files_of, text_head
from maskwright.data.names import spelled
from maskwright.data.plain_xml import parse_xml
from maskwright.data.readers.annotated import Export, annotated_set
from maskwright.data.readers.shapes import Annotated, Shape, ShapeSet, box_corners, ellipse_corners, turned
from maskwright.errors import DataError
from maskwright.settings import DataSettings

FILE = "annotations.xml"
LOOKED_AT = 1 << 10  # bytes at the beginning of a file
OTHER_SHAPES = ("cuboid", "skeleton")


class _Reader:
    """Takes the elements of one file as they come, so that no more than one image of it is in memory as XML."""

    def __init__(self, path: Path, export: Export) -> None:
        self.path, self.export = path, export
        self.open: list[str] = []
        self.text = ""
        self.image: Annotated | None = None
        self.orders: list[float] = []
        self.label = ""
        self.left_out: dict[str, int] = {}
        self.tracks = 0
        self.count = 0

    def read(self) -> None:
        try:
            parse_xml(self.path, self._start, self._end, self._characters)
        except DataError as error:
            self.export.damaged.append(f"{self.path}: {error}")

    def _characters(self, text: str) -> None:
        self.text += text

    def _start(self, name: str, given: dict[str, str]) -> None:
        if not self.open and name != "annotations":
            raise DataError(f"begins with <{name}>, expected <annotations>")
        self.open.append(name)
        self.text = ""
        if name == "track":
            self.tracks += 1
        elif name == "image":
            self._begin_image(given)
        elif self.image is not None and len(self.open) == 3:
            self.count += 1
            self._shape(name, given)

    def _begin_image(self, given: dict[str, str]) -> None:
        name = given.get("name", "")
        where = f"{self.path}: image {name or given.get('id', '')}"
        self.orders, self.count = [], 0
        self.image = Annotated(name, where, part=given.get("subset", ""))
        try:
            self.image.size = int(given["height"]), int(given["width"])
        except (KeyError, ValueError):
            self._damaged(f"{where} has no width and height")

    def _shape(self, name: str, given: dict[str, str]) -> None:
        assert self.image is not None
        where = f"{name} {self.count} ({given.get('label', 'no label')})"
        try:
            label = given["label"]
            if name == "tag":
                self.image.tags.append(label)
            elif name in SHAPES:
                order = float(given.get("z_order", 0))
                self.image.shapes.append(SHAPES[name](label, where, given))
                self.orders.append(order)
            elif name in OTHER_SHAPES:
                self.left_out[name] = self.left_out.get(name, 0) + 1
        except KeyError as error:
            self._damaged(f"{self.image.where}, {where} has no {error.args[0]}")
        except (ValueError, OverflowError) as error:
            self._damaged(f"{self.image.where}, {where}: {error}")

    def _damaged(self, what: str) -> None:
        assert self.image is not None
        self.export.damaged.append(what)
        self.image.damaged = True

    def _end(self, name: str) -> None:
        self.open.pop()
        if name == "image" and self.image is not None:
            order = np.argsort(np.array(self.orders, np.float64), kind="stable")
            self.image.shapes = [self.image.shapes[index] for index in order]
            self.export.annotated.append(self.image)
            self.image = None
        elif self.open[-2:] == ["labels", "label"] and name in ("name", "color"):
            self._class(name, self.text.strip())
        self.text = ""

    def _class(self, name: str, text: str) -> None:
        if name == "name":
            self.label = text
            if text not in self.export.classes:
                self.export.classes.append(text)
        elif len(text) == 7 and text.startswith("#"):
            try:
                value = int(text[1:], 16)
            except ValueError:
                return  # a colour is for looking at only
            self.export.colours[self.label] = (value >> 16, value >> 8 & 255, value & 255)


def open_cvat_images(settings: DataSettings, split: str, complain: Complain = refuse) -> ShapeSet:
    """One split of an export of CVAT, "CVAT for images 1.1".

    `annotations.xml` of a task, a job or a project; or several folders that have one each, side by side. Images lie in
    `images/`, or where `data.options.images` says. Classes are the labels of the tasks in their order, background in
    front. Shapes are painted in the order of `z_order`; ellipses count as polygons. Tags of images are read as tags,
    attributes are not. Subsets of a project (`Train`, `Validation`, `Test`) are the splits `train`, `val` and `test`.

    Args:
        settings: see `data.readers.annotated.annotated_set`.
        split: which images.
        complain: what to do with findings; by default errors are raised.

    Raises:
        DataError: no such file, a damaged one, tracks of a video, images that are missing, or as `annotated_set`.
    """
    root = Path(settings.root)
    files = annotation_files(root)
    if not files:
        raise DataError(f"{root} has no {FILE}. Expected an export of CVAT, CVAT for images 1.1")
    export = Export("cvat_images", files)
    for path in files:
        facts = path.stat()
        part, notes = _read(path, facts.st_mtime_ns, facts.st_size)
        images = f"{path.parent.name}/images" if (path.parent / "images").is_dir() else path.parent.name
        place = "" if path.parent == root else f"{images}/"
        # What was read is kept for other splits and stages, so that it is not changed here.
        stem = "" if path.name.casefold() == FILE else path.stem
        export.annotated += [replace(row, image=f"{place}{row.image}", part=row.part or stem) for row in part.annotated]
        export.classes += [name for name in part.classes if name not in export.classes]
        export.colours = {**part.colours, **export.colours}
        export.damaged += part.damaged
        export.notes += notes
    if not export.annotated:
        for note in export.notes:
            complain(note)
        what = "; ".join(export.damaged[:3]) or f"{files[0]} has no image"
        raise DataError(f"{what}. Expected an export of CVAT, CVAT for images 1.1")
    return annotated_set(settings, split, export, complain)


@lru_cache(maxsize=4)
def _read(path: Path, changed: int, length: int) -> tuple[Export, list[Finding]]:
    """What one file says; `changed` and `length` make the cache forget a file that was replaced."""
    reader = _Reader(path, Export("cvat_images", [path]))
    reader.read()
    return reader.export, _notes(reader)


def annotation_files(root: Path) -> list[Path]:
    """The annotation file of a folder, else those of the folders in it, else those of other names, as datumaro writes
    one for each split."""
    own = spelled(root / FILE)
    if own.is_file():
        return [own]
    return sorted(root.glob(f"*/{FILE}")) or [
        path for path in files_of(root, ".xml") if b"<annotations" in text_head(path, LOOKED_AT)
    ]


def _notes(reader: _Reader) -> list[Finding]:
    found = []
    file = str(reader.path)
    if reader.tracks:
        what = f"{number_of(reader.tracks, 'track')} of a video"
        fix = "export the task as CVAT for images 1.1, which has a shape for every frame"
        found.append(Finding("error", what, [file], reader.tracks, expected="images", fix=fix, kind="cvat-video"))
    if reader.left_out:
        what = "shapes left out: " + ", ".join(f"{count} {name}" for name, count in reader.left_out.items())
        found.append(Finding("warning", what, [file], sum(reader.left_out.values()), kind="shape-kind"))
    return found


def _numbers(given: Mapping[str, str], *names: str) -> list[float]:
    return [float(given[name]) for name in names]


def _points(given: Mapping[str, str]) -> np.ndarray:
    pairs = [pair.split(",") for pair in given["points"].split(";")]
    odd = next((pair for pair in pairs if len(pair) != 2), None)
    if odd is not None:
        raise ValueError(f"{','.join(odd)[:60]!r} is not a point x,y")
    return np.array([[float(x), float(y)] for x, y in pairs])


def _polygon(label: str, where: str, given: Mapping[str, str]) -> Shape:
    return Shape(label, "polygon", where, _points(given))


def _line(label: str, where: str, given: Mapping[str, str]) -> Shape:
    return Shape(label, "line", where, _points(given))


def _dots(label: str, where: str, given: Mapping[str, str]) -> Shape:
    return Shape(label, "points", where, _points(given))


def _box(label: str, where: str, given: Mapping[str, str]) -> Shape:
    left, top, right, bottom = _numbers(given, "xtl", "ytl", "xbr", "ybr")
    corners = turned(
        box_corners(left, top, right, bottom), float(given.get("rotation", 0)), (left + right) / 2, (top + bottom) / 2
    )
    return Shape(label, "box", where, corners)


def _ellipse(label: str, where: str, given: Mapping[str, str]) -> Shape:
    x, y, across, down = _numbers(given, "cx", "cy", "rx", "ry")
    corners = turned(ellipse_corners(x, y, across, down), float(given.get("rotation", 0)), x, y)
    return Shape(label, "polygon", where, corners)


def _mask(label: str, where: str, given: Mapping[str, str]) -> Shape:
    top, left, height, width = (int(given[name]) for name in ("top", "left", "height", "width"))
    runs = np.array([int(run) for run in given["rle"].split(",")], np.int64)
    return Shape(label, "mask", where, window=(top, left, height, width), runs=runs)


SHAPES: dict[str, Callable[[str, str, Mapping[str, str]], Shape]] = {
    "polygon": _polygon,
    "box": _box,
    "ellipse": _ellipse,
    "mask": _mask,
    "polyline": _line,
    "points": _dots,
}
