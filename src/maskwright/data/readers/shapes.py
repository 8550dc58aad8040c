"""What annotation tools export: outlines, boxes, strokes and run lengths, painted as masks when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw

from maskwright.data.images import ImageSet
from maskwright.data.readers.polygons import paint_polygon, to_grid
from maskwright.data.sample import LabelSpace

Kind = Literal["polygon", "box", "mask", "line", "points"]
AREAS: tuple[Kind, ...] = ("polygon", "mask")  # what says of every pixel of an object that it is one
IGNORED = "__ignore__"  # the label of pixels that carry none, in exports to tools that know no such thing
STROKE = 3  # pixels; tools give lines and points no width
CORNERS = 64  # of an ellipse: less than a pixel beside it up to a radius of 800
NO_POINTS = np.zeros((0, 2))
NO_RUNS = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Shape:
    """One annotation in an image.

    Args:
        label: class name.
        kind: what was drawn.
        where: which annotation it is, for messages, as in "polygon 3".
        points: `(n, 2)` float64, x and y in pixels; empty for a mask.
        window: top, left, height and width in pixels of what `runs` describe.
        runs: lengths of runs outside, inside, outside, ... along the rows of the window; they add up to its size.
        down: the runs go down the columns instead, as COCO's do.
    """

    label: str
    kind: Kind
    where: str
    points: np.ndarray = field(default_factory=lambda: NO_POINTS)
    window: tuple[int, int, int, int] = (0, 0, 0, 0)
    runs: np.ndarray = field(default_factory=lambda: NO_RUNS)
    down: bool = False


@dataclass
class Annotated:
    """What a tool's file says of one image.

    Args:
        image: as the file names it.
        where: in which file and entry, for messages.
        size: height and width as the file has it; None where it says nothing.
        shapes: in the order of painting, later over earlier.
        tags: names of classes said to be in the image, besides those of its shapes.
        looked_at: somebody says that there is nothing but this; otherwise nothing may mean that nobody began yet.
        part: the split that the tool put it in; "" where it has none.
        also: other names that the image's file may have.
        relative: the file says no size, and points are in parts of the image's sides.
        damaged: an annotation of it could not be read, so that its mask would lack something.
        file: that says all this, where the tool has one for each image.
    """

    image: str
    where: str
    size: tuple[int, int] | None = None
    shapes: list[Shape] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    looked_at: bool = False
    part: str = ""
    also: tuple[str, ...] = ()
    damaged: bool = False
    file: str = ""
    relative: bool = False

    def names(self) -> Iterator[str]:
        """Class names in the order of the file, repeated."""
        yield from (shape.label for shape in self.shapes)
        yield from self.tags


@dataclass(frozen=True)
class Painting:
    """How shapes become a mask.

    Args:
        values: class name -> label value.
        kinds: what is painted.
        outside: value of pixels that no shape covers.
        ignore_index: value of pixels within a box that is not painted: something of the object is there, but not
            everywhere.
    """

    values: dict[str, int]
    kinds: tuple[Kind, ...]
    outside: int
    ignore_index: int

    def paints(self, annotated: Annotated) -> bool:
        """Whether any shape of an image is painted."""
        return any(shape.kind in self.kinds for shape in annotated.shapes)

    def paint(self, annotated: Annotated, size: tuple[int, int]) -> np.ndarray:
        """The mask `(H, W)` uint8 of one image."""
        mask = np.full(size, self.outside, np.uint8)
        if "box" not in self.kinds:
            for shape in annotated.shapes:
                if shape.kind == "box":
                    paint_shape(mask, shape, self.ignore_index)
        for shape in annotated.shapes:
            if shape.kind in self.kinds:
                # A label that is no class is an error; the data check goes on behind it.
                paint_shape(mask, shape, self.values.get(shape.label, self.ignore_index))
        return mask


class ShapeSet(ImageSet):
    """Images whose masks are painted from what a tool's file says of them.

    Args:
        labels: what mask values and tags mean.
        annotated: of each image.
        sizes: height and width of each image that has a mask.
        painting: how.
        fields: as for `ImageSet`; `masks` has the annotation file of each image that has a mask.
    """

    def __init__(
        self,
        labels: LabelSpace,
        annotated: Sequence[Annotated],
        sizes: Sequence[tuple[int, int] | None],
        painting: Painting,
        **fields: Any,
    ) -> None:
        super().__init__(labels, **fields)
        self.annotated = list(annotated)
        self.sizes = list(sizes)
        self.painting = painting

    def label_values(self, index: int) -> np.ndarray | None:
        size = self.sizes[index]
        if self.masks[index] is None or size is None:
            return None
        return self.painting.paint(self.annotated[index], size)


def paint_shape(mask: np.ndarray, shape: Shape, value: int) -> None:
    """Set the pixels of a shape: outlines by COCO's rule, see `polygons.paint_polygon`; lines and points with a width.

    Args:
        mask: `(H, W)` uint8, changed in place.
        shape: one without a problem, see `problem_of`.
        value: what to write.
    """
    if shape.kind == "mask":
        top, left, height, width = shape.window
        flat = np.repeat(np.arange(len(shape.runs)) % 2 == 1, shape.runs)
        inside = flat.reshape(width, height).T if shape.down else flat.reshape(height, width)
        mask[top : top + height, left : left + width][inside] = value
    elif shape.kind in ("polygon", "box"):
        paint_polygon(mask, to_grid(shape.points), value)
    else:
        picture = Image.fromarray(mask)
        draw = ImageDraw.Draw(picture)
        corners = [(float(x), float(y)) for x, y in shape.points]
        if shape.kind == "line" and len(corners) > 1:
            draw.line(corners, fill=value, width=STROKE)
        else:
            reach = STROKE // 2
            for x, y in corners:
                draw.rectangle((int(x) - reach, int(y) - reach, int(x) + reach, int(y) + reach), fill=value)
        mask[:] = np.asarray(picture)


def problem_of(shape: Shape, size: tuple[int, int]) -> str | None:
    """What makes a shape impossible to paint on an image of a size, in words; None where nothing does."""
    height, width = size
    if shape.kind == "mask":
        top, left, tall, wide = shape.window
        if shape.down and (tall, wide) != size:  # COCO's runs are of the whole image
            return f"has runs of the size {[tall, wide]}, its image is {[*size]} (height, width)"
        if min(top, left) < 0 or min(tall, wide) < 1 or top + tall > height or left + wide > width:
            return f"covers {wide}x{tall} pixels from ({left}, {top}), the image has {width}x{height}"
        if (shape.runs < 0).any():
            return "has a run of negative length"
        total = sum(shape.runs.tolist())  # as Python's numbers, which do not wrap around
        if total != tall * wide:
            return f"has runs of {total} pixels together, {wide}x{tall} are {tall * wide}"
        return None
    fewest = {"polygon": 3, "box": 4, "line": 1, "points": 1}[shape.kind]
    if len(shape.points) < fewest:
        return f"has {len(shape.points)} points, {fewest} are needed"
    if not np.isfinite(shape.points).all():
        return "has a coordinate that is no number"
    # What a tool lets a hand draw is at most a little outside; far away, the outline would take forever to walk.
    far = max(height, width)
    if (shape.points < -far).any() or (shape.points > np.array([width, height]) + far).any():
        x, y = shape.points[np.abs(shape.points - np.array([width, height]) / 2).max(axis=1).argmax()]
        return f"has a point at ({x:g}, {y:g}), far outside of the {width}x{height} pixels"
    return None


def box_corners(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """`(4, 2)` corners of an upright box."""
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float64)


def ellipse_corners(x: float, y: float, across: float, down: float) -> np.ndarray:
    """Corners `(n, 2)` of an upright ellipse around (x, y) with two radii."""
    angle = np.arange(CORNERS) * (2 * np.pi / CORNERS)
    return np.stack([x + across * np.cos(angle), y + down * np.sin(angle)], axis=1)


def turned(points: np.ndarray, degrees: float, x: float, y: float) -> np.ndarray:
    """Points `(n, 2)` turned clockwise, as one sees it, around (x, y)."""
    if not degrees:
        return points
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return (points - (x, y)) @ turn + (x, y)
