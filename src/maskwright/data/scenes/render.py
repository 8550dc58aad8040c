"""Turns an arranged scene into a picture: shadows, colours, textures, relief, reflections, and a camera's faults."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from maskwright.data.scenes.drawing import Thing
from maskwright.data.scenes.places import Place, noise, paint_place, texture


def render(place: Place, things: list[Thing], shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """The picture (H, W, 3) uint8."""
    h, w = shape
    canvas, haze = paint_place(place, h, w, rng)
    soft = rng.uniform(0.1, 0.5)
    for thing in things:
        _shadow(canvas, thing, place, soft, rng)
        _paint_thing(canvas, thing, place, haze, min(shape), rng)
    return _expose(canvas, rng)


def _shadow(canvas: np.ndarray, thing: Thing, place: Place, soft: float, rng: np.random.Generator) -> None:
    """A soft patch on the ground, away from the light. Nothing under what flies."""
    if thing.depth == 0.0:
        return
    h, w = canvas.shape[:2]
    half = max(thing.drawing.shadow * thing.height, 2.0)
    if thing.name == "train":
        half = (thing.box[2] - thing.box[0]) / 2
    flat = max(0.11 * min(half, thing.height), 1.5)
    cx = (thing.box[0] + thing.box[2]) / 2 if thing.name == "train" else thing.x - place.light * 0.35 * half
    left, right = max(0, int(cx - 1.5 * half)), min(w, int(cx + 1.5 * half) + 1)
    top, bottom = max(0, int(thing.y - 2.5 * flat)), min(h, int(thing.y + 2.5 * flat) + 1)
    if right - left < 2 or bottom - top < 2:
        return
    dx = (np.arange(left, right, dtype=np.float32) - cx) / half
    dy = (np.arange(top, bottom, dtype=np.float32) - thing.y) / flat
    near = dx[None] ** 2 + dy[:, None] ** 2
    dark = np.clip(1.6 - near, 0, 1) * np.float32(0.62 - 0.5 * soft)
    canvas[top:bottom, left:right] *= (1 - dark)[..., None]


def _paint_thing(
    canvas: np.ndarray, thing: Thing, place: Place, haze: np.ndarray, unit: int, rng: np.random.Generator
) -> None:
    """Colours, texture, relief and edges of one thing, blended over what is behind it."""
    d = thing.drawing
    left, top, right, bottom = thing.box
    h, w = bottom - top, right - left
    rgb = thing.colours()
    rough = thing.rough.astype(np.float32) * np.float32(1 / 255)
    relief = Image.fromarray(np.ascontiguousarray(thing.relief))
    radius = min(max(0.05 * thing.height, 0.7), 5.0)
    bump = np.asarray(relief.filter(ImageFilter.GaussianBlur(radius)), np.float32) * (1 / 255)
    slope = np.zeros((h, w), np.float32)
    slope[:, 1:-1] = (bump[:, :-2] - bump[:, 2:]) * np.float32(-place.light)
    slope[1:-1] += (bump[2:] - bump[:-2]) * np.float32(0.8)
    height = (np.arange(top, bottom, dtype=np.float32) - thing.y) / thing.height  # -1 at the top, 0 at the foot
    shade = 0.98 + 0.14 * np.clip(-height, 0, 1)[:, None] + slope * np.float32(radius * 0.55)
    grain = texture("fur" if d.fur else "fine", h, w, rng, 128 / unit)
    shade += rough * grain * np.float32(0.13 if d.fur else 0.05)
    rgb *= shade[..., None]
    if d.second is not None:
        marks = texture("coarse", h, w, rng, 128 / unit * rng.uniform(0.7, 1.4)) * 1.6 + rng.uniform(-1.2, 0.6)
        share = np.clip(marks, 0, 0.85) * np.clip(rough * 2 - 1, 0, 1)
        rgb += share[..., None] * (np.asarray(d.second, np.float32) * shade[..., None] - rgb)
    far = np.float32(np.clip(0.32 - 0.8 * (thing.depth - place.horizon), 0, 0.22)) if thing.depth else np.float32(0.05)
    if place.kind != "room":
        rgb += (haze - rgb) * far
    alpha = thing.cover.astype(np.float32)[..., None] * np.float32(1 / 255)
    if thing.afloat:
        shore = round(place.shore * canvas.shape[0]) if place.kind == "beach" else None
        _reflect(canvas[:shore], thing, rgb, alpha, unit, rng)
    window = canvas[top:bottom, left:right]
    window += (rgb - window) * alpha


def _reflect(
    canvas: np.ndarray, thing: Thing, rgb: np.ndarray, alpha: np.ndarray, unit: int, rng: np.random.Generator
) -> None:
    """The thing upside down in the water, broken by waves and fading with distance."""
    left, top, right, _ = thing.box
    line = int(thing.y)
    rows = min(line - top, canvas.shape[0] - line, rgb.shape[0])
    if rows < 2:
        return
    source = np.arange(line - top - 1, line - top - 1 - rows, -1)
    source = source[(source >= 0) & (source < rgb.shape[0])]
    waves = noise("waves")[(np.arange(len(source)) * 3 + int(rng.integers(256))) % 256, 0]
    shift = np.round(waves * unit / 90).astype(int)
    columns = np.clip(np.arange(right - left) + shift[:, None], 0, right - left - 1)
    fade = (np.linspace(0.55, 0.05, len(source), dtype=np.float32))[:, None, None]
    share = alpha[source[:, None], columns] * fade
    window = canvas[line : line + len(source), left:right]
    window += (rgb[source[:, None], columns] * np.float32(0.8) - window) * share


def _expose(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What the camera does: light and colour cast, vignette, slight blur, sensor noise."""
    h, w = canvas.shape[:2]
    gain = rng.uniform(0.82, 1.14) * (1 + rng.normal(0, 0.035, 3))
    y = np.linspace(-1, 1, h, dtype=np.float32)
    x = np.linspace(-1, 1, w, dtype=np.float32)
    canvas *= (1 - rng.uniform(0.02, 0.12) * (y[:, None] ** 2 + x**2))[..., None]
    contrast = rng.uniform(0.86, 1.12)
    canvas *= (gain * contrast).astype(np.float32)
    canvas += np.float32(118 * (1 - contrast))
    blur = rng.random()
    if blur < 0.45:
        image = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
        canvas = np.asarray(image.filter(ImageFilter.BoxBlur(min(h, w) / 128 * (0.3 + blur)))).astype(np.float32)
    level = rng.uniform(0.8, 3.6)
    canvas += texture("film", h, w, rng) * np.float32(level)
    return canvas.clip(0, 255).astype(np.uint8)
