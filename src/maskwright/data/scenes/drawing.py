"""How the things of `scenes` are drawn: polygons in a thing's own units, and the thing as placed in a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[float, float, float]
Point = tuple[float, float]

# Catmull-Rom weights at 4 positions within a segment: a smooth curve through its control points in one product.
_T = np.arange(4) / 4
_SPLINE = 0.5 * np.stack(
    [-(_T**3) + 2 * _T**2 - _T, 3 * _T**3 - 5 * _T**2 + 2, -3 * _T**3 + 4 * _T**2 + _T, _T**3 - _T**2], axis=1
)
_ANGLES = np.linspace(0, 2 * np.pi, 20, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
_CAP = np.linspace(0.2, 0.8, 4) * np.pi


def _curve(around: np.ndarray) -> np.ndarray:
    """Points of a spline from the 4 control points around each of its n segments, (4, n, d) -> (4 n, d)."""
    _, n, d = around.shape
    return (_SPLINE @ around.reshape(4, n * d)).reshape(4, n, d).swapaxes(0, 1).reshape(-1, d)


@dataclass
class Drawing:
    """Polygons in painting order, each with the index of its paint.

    Args:
        height: the thing's height as a fraction of the image's short side; what must be a given number of pixels wide
            (a pole) divides by it.
        flying: drawn with open wings.
        shadow: half-width of its shadow in heights.
    """

    height: float
    flying: bool = False
    shadow: float = 0.4
    polygons: list[np.ndarray] = field(default_factory=list)
    paints: list[int] = field(default_factory=list)
    colours: list[Colour] = field(default_factory=list)
    textures: list[float] = field(default_factory=list)
    reliefs: list[float] = field(default_factory=list)
    face: Point | None = None  # middle of the part that tells its class, where that is a small one
    second: Colour | None = None  # colour of the markings that the texture lays over the paints with texture
    fur: bool = False

    def paint(self, colour: Sequence[float], texture: float = 0.0, relief: float = 0.6) -> int:
        """Adds a paint: colour 0..255, share of the thing's texture it takes (0..1), how far it stands out (0..1)."""
        self.colours.append((float(colour[0]), float(colour[1]), float(colour[2])))
        self.textures.append(texture)
        self.reliefs.append(relief)
        return len(self.colours)

    def polygon(self, paint: int, points: Sequence[Point] | np.ndarray) -> None:
        self.polygons.append(np.asarray(points, float))
        self.paints.append(paint)

    def box(self, paint: int, left: float, top: float, right: float, bottom: float) -> None:
        self.polygon(paint, [(left, top), (right, top), (right, bottom), (left, bottom)])

    def ellipse(self, paint: int, x: float, y: float, rx: float, ry: float, turn: float = 0.0) -> None:
        points = _CIRCLE * (rx, ry)
        if turn:
            c, s = np.cos(turn), np.sin(turn)
            points = points @ np.array([[c, s], [-s, c]])
        self.polygon(paint, points + np.array([x, y]))

    def blob(self, paint: int, points: Sequence[Point] | np.ndarray) -> None:
        """A smooth closed outline through the points."""
        p = np.asarray(points, float)
        n = len(p)
        self.polygon(paint, _curve(p[(np.arange(n) + np.arange(-1, 3)[:, None]) % n]))

    def stroke(self, paint: int, points: Sequence[Point], widths: Sequence[float] | float) -> None:
        """A smooth line through the points with the given full widths and round ends."""
        p = np.empty((len(points), 3))
        p[:, :2] = points
        p[:, 2] = np.asarray(widths, float) / 2
        around = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
        n = len(p) - 1
        curve = _curve(around[np.arange(n) + np.arange(4)[:, None]])
        curve = np.concatenate([curve, p[-1:]])
        line, radius = curve[:, :2], np.maximum(curve[:, 2:], 0)
        along = np.empty_like(line)
        along[1:-1] = line[2:] - line[:-2]
        along[0], along[-1] = line[1] - line[0], line[-1] - line[-2]
        along /= np.hypot(along[:, :1], along[:, 1:]) + 1e-9
        side = np.stack([-along[:, 1], along[:, 0]], axis=1)
        cos, sin = np.cos(_CAP)[:, None], np.sin(_CAP)[:, None]
        end = line[-1] + radius[-1] * (side[-1] * cos + along[-1] * sin)
        start = line[0] - radius[0] * (side[0] * cos + along[0] * sin)
        self.polygon(paint, np.concatenate([line + radius * side, end, (line - radius * side)[::-1], start]))


@dataclass(eq=False)
class Thing:
    """One thing as placed in a picture, drawn finer than the picture's pixels.

    Args:
        x: horizontal position of its foot, pixels.
        y: vertical position of its foot, pixels.
        height: pixels.
        depth: nearer things have more; 0 for what flies.
        afloat: whether it is mirrored in water.
        face: pixel (x, y) in the middle of the part that tells its class, where that is a small one.
        outline: points of all polygons of the drawing, in pixels (N, 2).
        box: left, top, right, bottom of the window of the picture that it is in.
    """

    name: str
    drawing: Drawing
    x: float
    y: float
    height: float
    depth: float
    afloat: bool
    face: tuple[int, int] | None
    outline: np.ndarray
    box: tuple[int, int, int, int]
    finer: int = field(init=False)  # fine pixels a pixel, each way
    index: Image.Image = field(init=False)  # the paint of each fine pixel, 0 for none
    cover: np.ndarray = field(init=False)  # share of each pixel that is covered, 0..255
    rough: np.ndarray = field(init=False)  # share of texture, 0..255
    relief: np.ndarray = field(init=False)  # how far it stands out, 0..255

    def __post_init__(self) -> None:
        left, top, right, bottom = self.box
        k = self.finer = 4 if max(right - left, bottom - top) < 72 else 3
        self.index = Image.new("L", ((right - left) * k, (bottom - top) * k))
        draw = ImageDraw.Draw(self.index)
        fine = ((self.outline - (left, top)) * k - 0.5).ravel().tolist()
        start = 0
        for polygon, paint in zip(self.drawing.polygons, self.drawing.paints):
            end = start + 2 * len(polygon)
            draw.polygon(fine[start:end], fill=paint)
            start = end
        d = self.drawing
        levels = [(0.0, 0.0, 0.0), *((1.0, texture, relief) for texture, relief in zip(d.textures, d.reliefs))]
        properties = self._by_paint([round(255 * level) for three in levels for level in three])
        self.cover, self.rough, self.relief = (properties[..., k] for k in range(3))

    def _by_paint(self, palette: list[int]) -> np.ndarray:
        """Three numbers for each paint, averaged over the fine pixels of each pixel: (h, w, 3) uint8."""
        image = self.index.copy()
        image.putpalette(palette)
        return np.asarray(image.convert("RGB").reduce(self.finer))

    def colours(self) -> np.ndarray:
        """Colours in the window (h, w, 3) float32 0..255; where nothing is, that of the first paint."""
        paints = [self.drawing.colours[0], *self.drawing.colours]
        palette = [int(min(max(channel, 0), 255)) for paint in paints for channel in paint]
        return self._by_paint(palette).astype(np.float32)
