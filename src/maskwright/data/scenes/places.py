"""Where the things of `scenes` stand: sky, hills, houses, ground, water and rooms. All of it is background."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

PLACES = ("street", "meadow", "water", "beach", "rails", "room")
_PERIOD = 256  # noise repeats after so many texels


@dataclass(frozen=True)
class Place:
    """A background's geometry, in fractions of the image's height.

    Args:
        kind: one of `PLACES`.
        horizon: where the ground begins (in a room: where the floor begins).
        shore: where the sea ends, on a beach.
        track: height at which wheels stand on the rails.
        light: where light comes from, -1 (left) to 1 (right).
    """

    kind: str
    horizon: float
    shore: float
    track: float
    light: float


def choose_place(kind: str, rng: np.random.Generator) -> Place:
    low, high = {"room": (0.42, 0.62), "street": (0.36, 0.56), "water": (0.28, 0.52)}.get(kind, (0.3, 0.54))
    horizon = float(rng.uniform(low, high))
    return Place(
        kind=kind,
        horizon=horizon,
        shore=horizon + float(rng.uniform(0.08, 0.2)),
        track=min(horizon + float(rng.uniform(0.12, 0.36)), 0.9),
        light=float(rng.uniform(0.4, 1.0) * rng.choice((-1, 1))),
    )


@cache
def noise(kind: str) -> np.ndarray:
    """Value noise, mean 0, standard deviation 1, the same in every process: one tile of 256 x 256, laid 2 x 2."""
    if kind == "film":  # three channels with half of their noise in common
        grain = noise("grain")
        return np.stack([grain + 0.5 * np.roll(grain, 67 * k, (0, 1)) for k in (1, 2, 3)], axis=-1)
    cells, seed = {
        "cloud": (((4, 3), (8, 6), (16, 12), (32, 32), (64, 64)), 1),
        "coarse": (((8, 8), (16, 16), (32, 32)), 2),
        "fine": (((32, 32), (64, 64), (128, 128)), 3),
        "waves": (((24, 6), (48, 16), (96, 32), (200, 100)), 4),
        "fur": (((64, 24), (128, 48), (256, 128)), 5),
        "grain": (((256, 256),), 6),
        "leaves": (((48, 48), (96, 96), (256, 256)), 7),
    }[kind]
    rng = np.random.default_rng((20170, seed))
    tile = np.zeros((_PERIOD, _PERIOD), np.float32)
    for octave, (rows, columns) in enumerate(cells):
        grid = rng.standard_normal((rows, columns)).astype(np.float32)
        pad = np.pad(grid, 2, mode="wrap")
        box = (2 - 0.5, 2 - 0.5, columns + 2 - 0.5, rows + 2 - 0.5)
        layer = Image.fromarray(pad).resize((_PERIOD, _PERIOD), Image.Resampling.BICUBIC, box=box)
        tile += np.asarray(layer) * 0.6**octave
    tile = np.tile((tile - tile.mean()) / tile.std(), (2, 2))
    tile.setflags(write=False)
    return tile


def texture(kind: str, h: int, w: int, rng: np.random.Generator, step: float = 1.0) -> np.ndarray:
    """A window (h, w) of `noise` at a random place; `step` texels a pixel."""
    top, left = rng.integers(0, _PERIOD, 2)
    tile = noise(kind)
    if step == 1 and h <= _PERIOD and w <= _PERIOD:
        return tile[top : top + h, left : left + w]
    rows = (top + np.arange(h) * step).astype(np.int64) % _PERIOD
    columns = (left + np.arange(w) * step).astype(np.int64) % _PERIOD
    return tile[rows].take(columns, axis=1)


def _receding(kind: str, h: int, w: int, unit: int, scale: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Noise laid on a plane that recedes to the first row; it fades there, where it would only flicker."""
    t = (np.arange(h, dtype=np.float32) + 0.5) / unit
    z = 1 / (t + 0.06)
    top, left = rng.integers(0, _PERIOD, 2)
    rows = (top + z * scale[0] * 16).astype(np.int64) % _PERIOD
    across = (np.arange(w, dtype=np.float32) - w / 2) / unit
    columns = (left + across * (z * scale[1] * 16)[:, None]).astype(np.int64) % _PERIOD
    return noise(kind)[rows[:, None], columns] * np.minimum(t * 5 + 0.15, 1)[:, None]


def _mix(a: np.ndarray, b: np.ndarray, share: np.ndarray) -> np.ndarray:
    return a + (b - a) * share


_SKIES = (  # top, horizon, cloud
    ((84, 138, 205), (190, 214, 234), (246, 247, 250)),
    ((60, 112, 184), (164, 200, 230), (240, 242, 248)),
    ((150, 160, 172), (206, 210, 214), (226, 228, 232)),
    ((112, 126, 160), (244, 202, 160), (250, 222, 196)),
    ((168, 190, 210), (226, 230, 226), (250, 250, 246)),
)
_GROUNDS = {
    "street": ((104, 104, 108), (128, 124, 120), (88, 88, 92)),
    "meadow": ((96, 128, 58), (126, 140, 70), (84, 108, 60), (150, 146, 84)),
    "beach": ((214, 190, 146), (196, 172, 132), (224, 208, 176)),
    "rails": ((126, 118, 108), (110, 102, 96), (140, 130, 112)),
    "room": ((150, 108, 72), (184, 150, 112), (120, 110, 104), (136, 92, 62)),
}
_WATERS = ((46, 92, 124), (58, 110, 120), (72, 104, 132), (70, 100, 96))
_WALLS = ((204, 196, 180), (176, 188, 190), (214, 206, 200), (160, 176, 156), (196, 168, 148))


def _colour(options: tuple, rng: np.random.Generator, spread: float = 7) -> np.ndarray:
    base = np.asarray(options[rng.integers(len(options))], np.float32)
    return (base * (1 + rng.normal(0, spread / 90)) + rng.normal(0, spread / 3, 3)).astype(np.float32)


def paint_place(place: Place, h: int, w: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The empty background (h, w, 3) float32 0..255, and the colour (3,) that distance fades to."""
    unit = min(h, w)
    line = max(1, min(h - 1, round(place.horizon * h)))
    canvas = np.empty((h, w, 3), np.float32)
    if place.kind == "room":
        haze = _wall(canvas[:line], unit, rng)
    else:
        haze = _sky(canvas[:line], place, unit, rng)
    ground = canvas[line:]
    if place.kind == "water":
        _water(ground, haze, unit, rng)
    else:
        _ground(ground, place, unit, rng)
    if place.kind == "beach":
        shore = max(line + 1, round(place.shore * h))
        _water(canvas[line:shore], haze, unit, rng)
        foam = max(1, unit // 64)
        canvas[shore - foam : shore] = _mix(canvas[shore - foam : shore], np.float32(240), np.float32(0.6))
    if place.kind == "street":
        _road(canvas, place, h, w, unit, rng)
    if place.kind == "rails":
        _rails(canvas, place, h, w, unit, rng)
    return canvas, haze


def _sky(sky: np.ndarray, place: Place, unit: int, rng: np.random.Generator) -> np.ndarray:
    h, w = sky.shape[:2]
    top, low, cloud = (np.asarray(c, np.float32) for c in _SKIES[rng.integers(len(_SKIES))])
    down = np.linspace(0, 1, h, dtype=np.float32)[:, None, None]
    cover = texture("cloud", h, w, rng, 128 / unit * rng.uniform(0.6, 1.1)) * 0.45 + rng.uniform(-0.4, 0.4)
    sky[...] = _mix(top, low, down)
    sky[...] = _mix(sky, cloud, (np.clip(cover, 0, 0.9)[..., None]) * (1 - 0.4 * down))
    haze = low * 0.9 + 12
    image = Image.fromarray(sky.clip(0, 255).astype(np.uint8))
    rough = Image.new("L", (w, h))
    draw, roughness = ImageDraw.Draw(image), ImageDraw.Draw(rough)
    if place.kind == "street":
        _houses(draw, h, w, unit, haze, rng)
    else:
        _hills(draw, h, w, haze, rng)
    if place.kind in ("street", "meadow", "rails") or rng.random() < 0.3:
        _trees(draw, roughness, h, w, unit, haze, rng)
    image = image.filter(ImageFilter.BoxBlur(unit / 128 * rng.uniform(0.4, 1.5)))
    leaves = texture("leaves", h, w, rng, 128 / unit) * np.asarray(rough, np.float32) * (0.2 / 255)
    np.multiply(np.asarray(image, np.float32), (1 + leaves)[..., None], out=sky)
    return haze


def _hills(draw: ImageDraw.ImageDraw, h: int, w: int, haze: np.ndarray, rng: np.random.Generator) -> None:
    x = np.linspace(0, w, 24)
    for far in (0.75, 0.5):
        if rng.random() < 0.35:
            continue
        colour = _mix(np.asarray((70, 96, 74), np.float32) + rng.normal(0, 12, 3), haze, np.float32(far))
        ridge = sum(np.sin(x / w * f + rng.uniform(0, 6.3)) / f for f in (3.0, 7.0, 13.0))
        y = h - h * rng.uniform(0.06, 0.28) * (1 + 0.9 * np.asarray(ridge))
        draw.polygon(
            [*zip(x.tolist(), y.tolist()), (w, h), (0, h)], fill=tuple(colour.clip(0, 255).astype(int).tolist())
        )


def _houses(draw: ImageDraw.ImageDraw, h: int, w: int, unit: int, haze: np.ndarray, rng: np.random.Generator) -> None:
    x = -rng.uniform(0, 0.2) * unit
    while x < w:
        wide, tall = rng.uniform(0.16, 0.42) * unit, rng.uniform(0.35, 1.05) * h
        wall = _mix(
            _colour(((176, 148, 122), (150, 92, 74), (196, 188, 172), (128, 130, 136), (204, 178, 130)), rng),
            haze,
            np.float32(0.25),
        )
        fill = tuple(wall.clip(0, 255).astype(int).tolist())
        draw.rectangle([x, h - tall, x + wide, h], fill=fill)
        dark = tuple((wall * 0.55).clip(0, 255).astype(int).tolist())
        if rng.random() < 0.4:
            draw.polygon([(x, h - tall), (x + wide / 2, h - tall - 0.1 * unit), (x + wide, h - tall)], fill=dark)
        columns = max(2, int(wide / unit * 12))
        cell_w, cell_h = wide / columns, unit * rng.uniform(0.085, 0.12)
        for row in range(int(tall / cell_h)):
            top = h - tall + (row + 0.35) * cell_h
            for column in range(columns):
                left = x + (column + 0.28) * cell_w
                draw.rectangle([left, top, left + 0.42 * cell_w, top + 0.45 * cell_h], fill=dark)
        x += wide + (rng.uniform(0, 0.12) * unit if rng.random() < 0.4 else 0)


def _trees(
    draw: ImageDraw.ImageDraw,
    rough: ImageDraw.ImageDraw,
    h: int,
    w: int,
    unit: int,
    haze: np.ndarray,
    rng: np.random.Generator,
) -> None:
    for _ in range(rng.integers(1, 6)):
        colour = _mix(
            _colour(((58, 84, 42), (78, 98, 48), (44, 70, 52), (128, 104, 50)), rng),
            haze,
            np.float32(rng.uniform(0.05, 0.4)),
        )
        fill, trunk = (tuple((colour * f).clip(0, 255).astype(int).tolist()) for f in (1.0, 0.6))
        x, size = rng.uniform(0, w), rng.uniform(0.08, 0.24) * unit
        foot = h + 0.02 * unit
        if rng.random() < 0.6:
            foot -= size * 1.2
            draw.line([x, foot, x, h], fill=trunk, width=max(1, round(size * 0.14)))
        for _ in range(5):
            dx, dy, r = rng.uniform(-0.7, 0.7) * size, rng.uniform(-0.9, 0.1) * size, rng.uniform(0.35, 0.75) * size
            box = [x + dx - r, foot + dy - r, x + dx + r, foot + dy + r]
            draw.ellipse(box, fill=tuple(int(c * (1 - 0.25 * dy / size)) for c in fill))
            rough.ellipse(box, fill=255)


def _wall(wall: np.ndarray, unit: int, rng: np.random.Generator) -> np.ndarray:
    h, w = wall.shape[:2]
    colour = _colour(_WALLS, rng)
    image = Image.new("RGB", (w, h), tuple(colour.clip(0, 255).astype(int).tolist()))
    draw = ImageDraw.Draw(image)
    if rng.random() < 0.4:  # striped paper
        step = unit * rng.uniform(0.05, 0.1)
        stripe = tuple((colour * 0.93).clip(0, 255).astype(int).tolist())
        for k in range(int(w / step) + 1):
            draw.rectangle([k * step, 0, (k + 0.5) * step, h], fill=stripe)
    for _ in range(rng.integers(0, 3)):  # pictures and windows
        left, top = rng.uniform(0, w), rng.uniform(0, 0.4) * h
        right, bottom = left + rng.uniform(0.15, 0.35) * unit, top + rng.uniform(0.3, 0.5) * h
        inner = tuple(
            _colour(((190, 214, 232), (120, 140, 110), (160, 110, 90), (70, 80, 110)), rng)
            .clip(0, 255)
            .astype(int)
            .tolist()
        )
        draw.rectangle([left, top, right, bottom], fill=(236, 232, 224) if rng.random() < 0.5 else (84, 62, 46))
        rim = 0.015 * unit
        draw.rectangle([left + rim, top + rim, right - rim, bottom - rim], fill=inner)
    if rng.random() < 0.45:  # a sofa or a chest, out of focus
        left = rng.uniform(-0.2, 0.8) * w
        colour_b = _colour(((110, 60, 56), (70, 86, 110), (120, 112, 96), (96, 70, 50)), rng).clip(0, 255)
        draw.rounded_rectangle(
            [left, h * 0.55, left + 0.6 * unit, h * 1.3], 0.05 * unit, fill=tuple(colour_b.astype(int).tolist())
        )
        draw.rounded_rectangle(
            [left + 0.03 * unit, h * 0.78, left + 0.57 * unit, h * 1.3],
            0.04 * unit,
            fill=tuple((colour_b * 0.85).astype(int).tolist()),
        )
    image = image.filter(ImageFilter.BoxBlur(unit / 128 * rng.uniform(0.6, 1.8)))
    glow = np.linspace(rng.uniform(0.75, 1.1), rng.uniform(0.75, 1.1), w, dtype=np.float32)
    np.multiply(np.asarray(image, np.float32), glow[:, None], out=wall)
    skirting = max(1, round(0.025 * unit))
    wall[-skirting:] *= np.float32(0.8)
    return colour


def _ground(ground: np.ndarray, place: Place, unit: int, rng: np.random.Generator) -> None:
    h, w = ground.shape[:2]
    colour = _colour(_GROUNDS[place.kind], rng)
    down = np.linspace(0, 1, h, dtype=np.float32)[:, None]
    light = 1 - 0.16 * (1 - down) + rng.uniform(-0.12, 0.12) * down
    rough = {"street": 0.02, "meadow": 0.1, "beach": 0.045, "rails": 0.13, "room": 0.02}[place.kind]
    shade = light + 0.06 * _receding("coarse", h, w, unit, (0.7, 0.5), rng)
    shade = shade + rough * texture("fur" if place.kind == "meadow" else "fine", h, w, rng) * (0.3 + 0.7 * down)
    if place.kind == "room":
        t = 1 / ((np.arange(h, dtype=np.float32) + 0.5) / unit + 0.25)
        across = (np.arange(w, dtype=np.float32) / unit - rng.uniform(0.2, 0.8)) * t[:, None] * rng.uniform(2.5, 5)
        board = np.floor(across)
        shade = shade + 0.05 * np.sin(board * 12.9898) - 0.14 * ((across - board) < 0.06)
    np.multiply(shade[..., None], colour, out=ground)
    if place.kind == "meadow":
        dry = np.clip(_receding("coarse", h, w, unit, (0.9, 0.4), rng), 0, 1.5)[..., None] * 0.35
        ground += dry * (np.asarray((150, 138, 86), np.float32) - colour)


def _water(water: np.ndarray, haze: np.ndarray, unit: int, rng: np.random.Generator) -> None:
    h, w = water.shape[:2]
    colour = _colour(_WATERS, rng)
    down = np.linspace(0, 1, h, dtype=np.float32)[:, None]
    waves = _receding("waves", h, w, unit, (3.0, 0.7), rng)
    shine = 0.65 * (1 - down) ** 2 + 0.1 + 0.1 * waves
    np.copyto(water, _mix(colour, haze, shine[..., None]))
    water += np.clip(waves - 1.4, 0, 1)[..., None] * 60


def _road(canvas: np.ndarray, place: Place, h: int, w: int, unit: int, rng: np.random.Generator) -> None:
    """A pavement below the houses, kerb, and the marks of a road seen from its side or along it."""
    line = round(place.horizon * h)
    if rng.random() < 0.6:
        kerb = min(h, line + max(2, round(rng.uniform(0.05, 0.12) * unit)))
        canvas[line:kerb] = _mix(canvas[line:kerb], np.float32(176), np.float32(0.55))
        canvas[kerb - max(1, unit // 100) : kerb] *= np.float32(0.72)
        mark = round(min(h - 2, kerb + rng.uniform(0.15, 0.5) * (h - kerb)))
        thick, period = max(1, round(0.014 * unit)), rng.uniform(0.25, 0.45) * unit
        dashes = ((np.arange(w) + rng.uniform(0, period)) % period) < 0.55 * period
        canvas[mark : mark + thick, dashes] = _mix(
            canvas[mark : mark + thick, dashes], np.float32(232), np.float32(0.7)
        )
    else:
        vanish = rng.uniform(0.25, 0.75) * w
        patch = Image.new("L", (w, h - line))
        draw, deep = ImageDraw.Draw(patch), h - line
        for side in (-1, 1):
            draw.polygon(
                [
                    (vanish, 0),
                    (vanish + side * 1.0 * unit, deep),
                    (side * 4 * unit + vanish, deep),
                    (side * 4 * unit + vanish, 0),
                ],
                fill=150,
            )
        for k in range(4):
            a, b = (k + 0.2) / 4, (k + 0.65) / 4
            a, b = a * a, b * b
            draw.polygon([(vanish - a * 2, a * deep), (vanish + a * 2, a * deep),
                          (vanish + b * 0.02 * unit, b * deep),
                          (vanish - b * 0.02 * unit, b * deep)], fill=240)  # fmt: skip
        share = np.asarray(patch, np.float32)[..., None] / 255
        canvas[line:] = _mix(canvas[line:], np.float32(190), share * 0.6)


def _rails(canvas: np.ndarray, place: Place, h: int, w: int, unit: int, rng: np.random.Generator) -> None:
    """Two rails on sleepers, seen from the side."""
    top = round(place.track * h)
    gap = max(2, round(0.055 * unit))
    bottom = min(h, top + gap + max(2, unit // 42))
    period = 0.07 * unit
    sleeper = ((np.arange(w) + rng.uniform(0, period)) % period) < 0.5 * period
    canvas[top - max(1, unit // 64) : bottom, sleeper] *= np.float32(0.62)
    steel = _colour(((150, 146, 144), (128, 112, 102)), rng)
    thick = max(1, round(0.012 * unit))
    for y in (top - thick // 2, top + gap):
        if y + thick < h:
            canvas[y : y + thick] = steel
            canvas[y + thick : y + 2 * thick] *= np.float32(0.7)
