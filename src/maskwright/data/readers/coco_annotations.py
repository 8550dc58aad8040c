"""COCO's instance annotations as arrays, read in pieces; what is damaged is left out and named."""

from __future__ import annotations

import json
import math
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from maskwright.data.finding import Finding, number_of
from maskwright.data.readers.polygons import UPSAMPLING, paint_polygon, paint_runs, to_grid
from maskwright.data.runs import counts_of
from maskwright.errors import DataError

CHUNK = 1 << 22  # characters of the annotation file in memory at once
MOST_PIXELS = 1 << 28  # of an image
FARTHEST = float(1 << 20)  # pixels: no image is as wide, and outlines to there would take forever to walk
_SPACE = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True)
class Annotations:
    """The sound instances of one annotation file, crowds left out, as arrays: about 100 MB for train2014.

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
        findings: what is left out, and why.
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
    findings: tuple[Finding, ...]

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


def polygon_problem(numbers: Any) -> str | None:
    """What makes a list of x, y, x, y, ... no polygon, in words; None where nothing does."""
    try:
        total = float(sum(numbers))
    except (TypeError, OverflowError):
        return "has a polygon that is no list of numbers"
    if len(numbers) % 2:
        return f"has a polygon of {len(numbers)} numbers, expected pairs"
    if len(numbers) < 6:
        return f"has a polygon of {len(numbers) // 2} corners, 3 are needed"
    if not math.isfinite(total) or min(numbers) < -FARTHEST or max(numbers) > FARTHEST:
        return "has a polygon with a coordinate that is no number of pixels"
    return None


def given_runs(segmentation: dict[str, Any]) -> tuple[tuple[int, int], np.ndarray]:
    """Height and width, and the lengths `(n,)` int64 of runs down the columns, of a run-length code in either form.

    Raises:
        ValueError: it is none; the message says why, as in "has runs of 3 pixels together, 2x2 are 4".
    """
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not (isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)):
        raise ValueError(f"has runs of the size {size}, expected [height, width]")
    try:
        lengths = counts_of(counts) if isinstance(counts, str) else np.array(counts)
    except (ValueError, TypeError) as error:
        raise ValueError(f"has runs that cannot be read ({error})") from None
    height, width = size
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or ((lengths < 0) | (lengths > height * width)).any():
        raise ValueError(f"has runs that are no list of lengths of 0 to {height * width}")
    if lengths.sum() != height * width:
        raise ValueError(f"has runs of {lengths.sum()} pixels together, {width}x{height} are {height * width}")
    return (height, width), lengths.astype(np.int64)


def damage_finding(damaged: Sequence[str]) -> Finding:
    """The finding for annotations that are left out; each entry names file and annotation, and says why."""
    return Finding(
        "error",
        f"{number_of(len(damaged), 'damaged annotation')}",
        list(damaged),
        len(damaged),
        expected="polygons of x, y, x, y, ..., or runs that add up to the image's height times width",
        fix="correct or delete them, or export the annotations again",
        kind="annotation-damaged",
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
    images, kinds, identities = array("q"), array("q"), array("q")
    parts, corners, numbers = array("q", [0]), array("q", [0]), array("d")
    grid: list[np.ndarray] = []
    done = 0  # corners in `grid`; those in `numbers` wait
    runs: dict[int, np.ndarray] = {}
    run_sizes: dict[int, tuple[int, int]] = {}
    damaged: list[str] = []
    for key, item in items(path, ("images", "annotations", "categories")):
        try:
            if key == "categories":
                categories[item["id"]] = str(item["name"])
            elif key == "images":
                row_of[item["id"]] = len(files)
                files.append(item["file_name"])
                sizes.append(image_sides(item))
            elif not item.get("iscrowd", 0):
                shape = item["segmentation"]
                # One array first: an entry is taken whole or not at all.
                image, kind, identity = array("q", (item["image_id"], item["category_id"], item["id"]))
                coded = given_runs(shape) if isinstance(shape, dict) else None
                polygons = [] if coded else shape
                problem = next((why for polygon in polygons if (why := polygon_problem(polygon))), None)
                if problem:
                    raise ValueError(problem)
                if coded:
                    run_sizes[len(images)], runs[len(images)] = coded
                for known, one in ((images, image), (kinds, kind), (identities, identity)):
                    known.append(one)
                for polygon in polygons:
                    numbers.extend(polygon)
                    corners.append(done + len(numbers) // 2)
                parts.append(len(corners) - 1)
                if len(numbers) > CHUNK // 4:
                    grid.append(_corners(numbers))
                    done, numbers = done + len(grid[-1]), array("d")
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            what = f"{type(error).__name__}: {error}"
            if key != "annotations":
                raise DataError(
                    f"{path}: an entry of {key} is not as expected ({what}): {str(item)[:200]}. "
                    "Expected COCO's instance annotations"
                ) from error
            damaged.append(f"{path}: annotation {str(item)[:80]} is not as expected ({what})")
        except ValueError as error:
            damaged.append(f"{path}: annotation {item.get('id')} {error}")
    if not files or not categories:
        raise DataError(f"{path} has no {'images' if not files else 'categories'}. Expected instance annotations")
    values = {identity: value for value, identity in enumerate(sorted(categories), start=1)}
    sound = np.ones(len(images), bool)
    for name, found, allowed in (("image_id", images, row_of), ("category_id", kinds, values)):
        for instance, identity in enumerate(found):
            if identity not in allowed:
                sound[instance] = False
                damaged.append(
                    f"{path}: annotation {identities[instance]} has the {name} {identity}, which the file does not "
                    "describe"
                )
    rows = np.array([row_of.get(identity, 0) for identity in images], np.int64)
    grid.append(_corners(numbers))
    points = np.concatenate(grid)
    for instance, size in run_sizes.items():
        if sound[instance] and size != sizes[rows[instance]]:
            sound[instance] = False
            damaged.append(
                f"{path}: annotation {identities[instance]} has runs of the size {[*size]}, its image "
                f"{files[rows[instance]]} is {[*sizes[rows[instance]]]} (height, width)"
            )
    for instance in _far_outside(points, np.array(parts), np.array(corners), np.array(sizes)[rows]):
        sound[instance] = False
        damaged.append(f"{path}: annotation {identities[instance]} has a corner far outside of its image")
    order = np.argsort(rows, kind="stable")
    return Annotations(
        tuple(categories[identity] for identity in sorted(categories)),
        tuple(files),
        np.array(sizes, np.int32),
        order[sound[order]],
        np.concatenate([[0], np.cumsum(np.bincount(rows[sound], minlength=len(files)))]),
        np.array([values.get(identity, 0) for identity in kinds], np.uint8),
        np.array(parts),
        np.array(corners),
        points,
        runs,
        (damage_finding(damaged),) if damaged else (),
    )


def image_sides(item: dict[str, Any]) -> tuple[int, int]:
    """Height and width of an entry of `images`.

    Raises:
        TypeError: there are none that an image can have.
    """
    height, width = item["height"], item["width"]
    if not (type(height) is int and type(width) is int and 0 < height * width <= MOST_PIXELS and height > 0):
        raise TypeError(f"height {height!r}, width {width!r}")
    return height, width


def _far_outside(points: np.ndarray, parts: np.ndarray, corners: np.ndarray, sizes: np.ndarray) -> list[int]:
    """Instances with a corner farther outside of their image than the image is wide and high.

    Args:
        points: `(N, 2)` corners on the grid.
        parts: `(A + 1,)` where the polygons of each instance begin.
        corners: `(P + 1,)` where the corners of each polygon begin.
        sizes: `(A, 2)` height and width of each instance's image.
    """
    if not len(points):
        return []
    instance = np.repeat(np.arange(len(parts) - 1), np.diff(parts))
    farthest = np.maximum.reduceat(np.abs(points.astype(np.int64)).max(axis=1), corners[:-1])
    limit = 2 * UPSAMPLING * sizes.max(axis=1)[instance]
    return np.unique(instance[farthest > limit]).tolist()


def _corners(numbers: array) -> np.ndarray:
    """x, y, x, y, ... -> `(n, 2)` corners on the grid, in 16 bits where they fit."""
    grid = to_grid(np.frombuffer(numbers, np.float64).reshape(-1, 2))
    return grid.astype(np.int16) if np.abs(grid).max(initial=0) < 2**15 else grid


def items(path: str, keys: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """The elements of some lists of a JSON object, one at a time; no more than a piece of the file is in memory.

    Raises:
        DataError: not a JSON object, or cut short.
    """
    decoder = json.JSONDecoder()
    text, position, finished = "", 0, False
    with open(path, encoding="utf-8-sig") as stream:

        def more() -> None:
            nonlocal text, position, finished
            try:
                piece = stream.read(max(CHUNK, len(text) - position))
            except UnicodeDecodeError as error:
                raise DataError(f"{path} is not UTF-8 text ({error}). Fix: export it again") from error
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
                except (RecursionError, ValueError) as error:  # nested without end, or a number without end
                    raise DataError(f"{path} is not COCO's JSON: {error}. Fix: export it again") from error
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
