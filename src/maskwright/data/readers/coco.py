"""COCO (Lin et al., ECCV 2014): masks painted from the instance annotations when they are asked for, tags without."""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from maskwright.data.finding import Complain, refuse
from maskwright.data.images import ImageSet
from maskwright.data.readers.folder import saliency_paths
from maskwright.data.readers.official import (
    Part,
    choose_part,
    complain_incomplete,
    complain_unlisted,
    files_in,
    need,
    official_labels,
    tag_source,
)
from maskwright.data.readers.polygons import paint_polygon, paint_runs, to_grid
from maskwright.data.sample import LabelSpace
from maskwright.errors import DataError
from maskwright.settings import DataSettings

COUNTS = {"train2014": 82783, "val2014": 40504, "train2017": 118287, "val2017": 5000}
OPTIONS = ("year",)
CHUNK = 1 << 22  # characters of the annotation file in memory at once
_SPACE = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True)
class Annotations:
    """The instances of one annotation file, crowds left out, as arrays: about 100 MB for train2014.

    Args:
        classes: names in the order of the raw category ids; class k has label value k + 1.
        files: file name of each image, in the order of the file.
        sizes: `(I, 2)` int32, height and width.
        order: `(A,)` instances, image by image, in file order within each.
        starts: `(I + 1,)` where each image's instances begin in `order`.
        values: `(A,)` uint8 label value of each instance.
        parts: `(A + 1,)` where the polygons of each instance begin.
        corners: `(P + 1,)` where the corners of each polygon begin.
        points: `(N, 2)` corners on the grid of `polygons.to_grid`.
        runs: instance -> lengths of its runs, where it is given so.
    """

    classes: tuple[str, ...]
    files: tuple[str, ...]
    sizes: np.ndarray
    order: np.ndarray
    starts: np.ndarray
    values: np.ndarray
    parts: np.ndarray
    corners: np.ndarray
    points: np.ndarray
    runs: dict[int, np.ndarray]

    def instances(self, image: int) -> np.ndarray:
        """The instances of one image, in file order."""
        return self.order[self.starts[image] : self.starts[image + 1]]

    def tags(self, image: int) -> tuple[int, ...]:
        """Label values of the instances of one image, ascending; nothing is painted for this."""
        return tuple(np.unique(self.values[self.instances(image)]).tolist())

    def paint(self, image: int) -> np.ndarray:
        """The mask `(H, W)` uint8 of one image: instance by instance, a later one over an earlier one."""
        mask = np.zeros(self.sizes[image], np.uint8)
        for instance in self.instances(image).tolist():
            value = int(self.values[instance])
            if instance in self.runs:
                paint_runs(mask, self.runs[instance], value)
            for part in range(self.parts[instance], self.parts[instance + 1]):
                paint_polygon(mask, self.points[self.corners[part] : self.corners[part + 1]], value)
        return mask


class CocoSet(ImageSet):
    """Images whose masks are painted from their annotations."""

    def __init__(self, labels: LabelSpace, annotations: Annotations, rows: Sequence[int], **fields: Any) -> None:
        super().__init__(labels, **fields)
        self.annotations = annotations
        self.rows = list(rows)

    def label_values(self, index: int) -> np.ndarray:
        return self.annotations.paint(self.rows[index])


def open_coco(settings: DataSettings, split: str, complain: Complain = refuse) -> CocoSet:
    """One split of COCO 2014 with semantic masks of its 80 classes and background.

    `train2014/`, `val2014/` (in the root or in `images/`) and `annotations/instances_{train,val}2014.json`. As in the
    papers on weak supervision: instances are painted in file order, later over earlier, crowds are left out, raw ids
    (1 to 90 with gaps) become 1 to 80, the rest is background, nothing is ignored. An image without annotations is all
    background and has the tags `()`. Pixels are those of the official tools, see `polygons.paint_polygon`.

    Tags come from the annotations, including instances that others hide; `tags=masks` takes the painted pixels instead.
    The annotation file is read once per process, in pieces.

    Args:
        settings: see `data.readers.folder.open_folder`; classes and masks are the set's own. `options.year`: 2014,
            or 2017, which has the same form.
        split: `train`, `val`, or a folder's name such as `train2014`.
        complain: what to do with findings; by default errors are raised.

    Raises:
        DataError: an unknown split, missing folders or images, or an annotation file that is not as described.
    """
    year = settings.options.get("year", 2014)
    if year not in (2014, 2017):
        raise DataError(f"data.options.year must be 2014 or 2017, found {year}")
    root = Path(settings.root)
    base = root if (root / f"train{year}").is_dir() or (root / f"val{year}").is_dir() else root / "images"
    place = "" if base == root else "images/"
    known = {name: (_part(name, place),) for name in COUNTS}
    known |= {"train": known[f"train{year}"], "val": known[f"val{year}"]}
    (part,) = choose_part("coco", split, known)
    official_labels(settings, "coco", ("background",), background=0, options=OPTIONS)
    if settings.label_map is not None:
        raise DataError("layout coco paints its own masks, found data.label_map. Fix: leave it out")
    images_archive, masks_archive = part.archives.split(" and ")
    assert part.masks is not None
    need(root, {part.images: images_archive, part.masks: masks_archive}, f"the {split} split of COCO")
    path = root / part.masks
    facts = path.stat()
    annotations = read_annotations(str(path), facts.st_mtime_ns, facts.st_size)
    labels = LabelSpace(("background", *annotations.classes), 0, settings.ignore_index)
    found = files_in(root / part.images, "")
    stems = [Path(file).stem for file in annotations.files]
    there = set(complain_unlisted(complain, stems, found, part.images))
    rows = sorted((row for row, stem in enumerate(stems) if stem in there), key=stems.__getitem__)
    names = [stems[row] for row in rows]
    if not names:
        raise DataError(f"{path} names no image that is in {part.images}. Expected {part.count}")
    complain_incomplete(complain, part, names, None, what=f"{part.name} of COCO")
    tags, tag_facts = tag_source(settings, labels, names, names, complain)
    if settings.tags is None:
        tags, tag_facts = [annotations.tags(row) for row in rows], {"tag_source": f"instances in {path}"}
    return CocoSet(
        labels,
        annotations,
        rows,
        names=names,
        images=[found[name] for name in names],
        masks=[str(path)] * len(names),
        tags=tags,
        saliency=saliency_paths(settings, names, complain),
        source={
            "root": settings.root,
            "layout": "coco",
            "split": split,
            "count": len(names),
            "published_count": part.count,
            "classes": str(path),
            "masks": f"painted from {path}",
            "mask_count": len(names),
            **tag_facts,
        },
    )


@lru_cache(maxsize=2)
def read_annotations(path: str, changed: int, length: int) -> Annotations:
    """The instances of an annotation file; `changed` and `length` make the cache forget a file that was replaced.

    Raises:
        DataError: not JSON, or not COCO's instance annotations.
    """
    categories: dict[int, str] = {}
    files: list[str] = []
    sizes: list[tuple[int, int]] = []
    row_of: dict[int, int] = {}
    images, kinds = array("q"), array("q")
    parts, corners, numbers = array("q", [0]), array("q", [0]), array("d")
    grid: list[np.ndarray] = []
    done = 0  # corners in `grid`; those in `numbers` wait
    runs: dict[int, np.ndarray] = {}
    for key, item in _items(path, ("images", "annotations", "categories")):
        try:
            if key == "categories":
                categories[item["id"]] = str(item["name"])
            elif key == "images":
                row_of[item["id"]] = len(files)
                files.append(item["file_name"])
                sizes.append((item["height"], item["width"]))
            elif not item.get("iscrowd", 0):
                shape = item["segmentation"]
                images.append(item["image_id"])
                kinds.append(item["category_id"])
                if isinstance(shape, dict):
                    if not isinstance(shape["counts"], list):
                        raise DataError(
                            f"{path}: annotation {item['id']} has compressed runs. Expected polygons or lists"
                        )
                    runs[len(images) - 1] = np.array(shape["counts"], np.int64)
                    shape = []
                for polygon in shape:
                    numbers.extend(polygon)
                    corners.append(done + len(numbers) // 2)
                parts.append(len(corners) - 1)
                if len(numbers) > CHUNK // 4:
                    grid.append(_corners(numbers))
                    done, numbers = done + len(grid[-1]), array("d")
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{path}: an entry of {key} is not as expected ({type(error).__name__}: {error}): {str(item)[:200]}. "
                "Expected COCO's instance annotations"
            ) from error
    if not files or not categories:
        raise DataError(f"{path} has no {'images' if not files else 'categories'}. Expected instance annotations")
    values = {identity: value for value, identity in enumerate(sorted(categories), start=1)}
    for name, found, allowed in (("image_id", images, row_of), ("category_id", kinds, values)):
        unknown = set(found) - set(allowed)
        if unknown:
            raise DataError(f"{path}: annotations have the {name} {min(unknown)}, which the file does not describe")
    rows = np.array([row_of[identity] for identity in images], np.int64)
    grid.append(_corners(numbers))
    return Annotations(
        tuple(categories[identity] for identity in sorted(categories)),
        tuple(files),
        np.array(sizes, np.int32),
        np.argsort(rows, kind="stable"),
        np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(files)))]),
        np.array([values[identity] for identity in kinds], np.uint8),
        np.array(parts),
        np.array(corners),
        np.concatenate(grid),
        runs,
    )


def _corners(numbers: array) -> np.ndarray:
    """x, y, x, y, ... -> `(n, 2)` corners on the grid, in 16 bits where they fit."""
    grid = to_grid(np.frombuffer(numbers, np.float64).reshape(-1, 2))
    return grid.astype(np.int16) if np.abs(grid).max(initial=0) < 2**15 else grid


def _part(name: str, place: str) -> Part:
    kind, year = name[:-4], name[-4:]
    archives = f"{name}.zip and annotations_trainval{year}.zip"
    return Part(name, COUNTS[name], place + name, f"annotations/instances_{kind}{year}.json", archives)


def _items(path: str, keys: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """The elements of some lists of a JSON object, one at a time; no more than a piece of the file is in memory.

    Raises:
        DataError: not a JSON object, or cut short.
    """
    decoder = json.JSONDecoder()
    text, position, finished = "", 0, False
    with open(path, encoding="utf-8") as stream:

        def more() -> None:
            nonlocal text, position, finished
            piece = stream.read(max(CHUNK, len(text) - position))
            text, position, finished = text[position:] + piece, 0, not piece

        def peek() -> str:
            nonlocal position
            while True:
                match = _SPACE.match(text, position)
                position = match.end() if match else position
                if position < len(text):
                    return text[position]
                if finished:
                    raise DataError(f"{path} is not valid JSON: it ends too early. Fix: unpack it again")
                more()

        def take(expected: str) -> str:
            nonlocal position
            found = peek()
            if found not in expected:
                raise DataError(f"{path} is not COCO's JSON: found {found!r}. Expected one of {expected}")
            position += 1
            return found

        def value() -> Any:
            nonlocal position
            peek()
            while True:
                try:
                    item, end = decoder.raw_decode(text, position)
                    if end < len(text) or finished:
                        position = end
                        return item
                except json.JSONDecodeError as error:
                    if finished:
                        raise DataError(f"{path} is not valid JSON: {error.msg}. Fix: unpack it again") from error
                more()

        take("{")
        while True:
            key = value()
            take(":")
            if key in keys and peek() == "[":
                take("[")
                if peek() == "]":
                    take("]")
                else:
                    yield key, value()
                    while take(",]") == ",":
                        yield key, value()
            else:
                value()
            if take(",}") == "}":
                return
