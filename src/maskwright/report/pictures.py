"""Masks and maps made visible: overlays, heat maps, contact sheets, and small images for a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from maskwright.data.decode import as_rgb
from maskwright.data.pictures import heat_levels, heat_table
from maskwright.data.sample import LabelSpace

# Darkens the background less than objects are coloured, so that what is found stands out of the photograph.
BACKGROUND_WEIGHT = 0.6


Cell = np.ndarray | Sequence[tuple[str, tuple[int, int, int]]] | None


def overlay(image: np.ndarray, mask: np.ndarray, labels: LabelSpace, alpha: float = 0.65) -> np.ndarray:
    """A mask painted over its image.

    Args:
        image: `(H, W, 3)` uint8, RGB.
        mask: `(H, W)` label values; pixels of `labels.ignore_index` become light grey.
        labels: names and colours.
        alpha: weight of the colour, 0 (image only) to 1 (mask only); the background's is lower.

    Returns:
        `(H, W, 3)` uint8, RGB.
    """
    image = as_rgb(image)
    colours = np.array(labels.flat_palette(), np.float32).reshape(256, 3)
    weights = np.full(256, alpha, np.float32)
    if labels.background is not None:
        weights[labels.background] *= BACKGROUND_WEIGHT
    weight = weights[mask][..., None]
    return (image * (1 - weight) + colours[mask] * weight + 0.5).astype(np.uint8)


def strip(rows: Sequence[Sequence[Cell]], titles: Sequence[str] = (), *, height: int = 180) -> Image.Image:
    """A contact sheet: one line of pictures per example, with column titles.

    Args:
        rows: per example its cells: an image `(H, W, 3)` uint8, a list of (text, colour) to be written one below the
            other, or None for an empty place.
        titles: one per column.
        height: of a row, in pixels.

    Returns:
        The sheet, RGB on white; columns are as wide as their widest picture.
    """
    gap, text_width = 10, 128
    pictures = [[_fit(cell, height) for cell in row] for row in rows]
    count = max((len(row) for row in rows), default=0)
    widths = []
    for column in range(count):
        cells = [row[column] for row in pictures if column < len(row)]
        widths.append(max((cell.width if isinstance(cell, Image.Image) else text_width for cell in cells), default=0))
    top = gap + (30 if titles else 0)
    sheet = Image.new(
        "RGB", (gap + sum(width + gap for width in widths), top + len(rows) * (height + gap)), (255, 255, 255)
    )
    draw = ImageDraw.Draw(sheet)
    font, small = ImageFont.load_default(19), ImageFont.load_default(17)
    lefts = [gap + sum(width + gap for width in widths[:column]) for column in range(count)]
    for left, width, title in zip(lefts, widths, titles):
        draw.text((left + width / 2, gap + 10), title, fill=(32, 36, 44), font=font, anchor="mm")
    for number, row in enumerate(pictures):
        y = top + number * (height + gap)
        for left, width, cell in zip(lefts, widths, row):
            if isinstance(cell, Image.Image):
                sheet.paste(cell, (left + (width - cell.width) // 2, y + (height - cell.height) // 2))
                continue
            for line, (text, colour) in enumerate(cell or ()):
                middle = y + height / 2 + 26 * (line - (len(cell or ()) - 1) / 2)
                draw.rounded_rectangle(
                    (left + 2, middle - 7, left + 16, middle + 7), 3, fill=tuple(colour), outline=(120, 124, 132)
                )
                draw.text((left + 24, middle), text, fill=(32, 36, 44), font=small, anchor="lm")
    return sheet


def spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` different places of `0..count-1`, evenly spaced, both ends among them."""
    if count <= 0 or wanted <= 0:
        return []
    return sorted({round(place) for place in np.linspace(0, count - 1, min(wanted, count)).tolist()})


def photo_uri(image: np.ndarray, side: int, *, quality: int = 80) -> str:
    """An image as a JPEG data URI, its long side at most `side` pixels."""
    picture = Image.fromarray(as_rgb(image))
    picture = picture.resize(within(picture.size, side), Image.Resampling.LANCZOS)
    return _uri(picture, "jpeg", quality=quality, optimize=True)


def nearest(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Label values `(H, W)` at another size (width, height), without mixing them."""
    picture = Image.fromarray(np.ascontiguousarray(mask, np.uint8))
    return np.asarray(picture.resize(size, Image.Resampling.NEAREST))


def mask_uri(mask: np.ndarray, labels: LabelSpace, side: int, *, opaque: bool = False) -> str:
    """A mask as a palette PNG data URI to be laid over its photograph.

    Args:
        mask: `(H, W)` label values.
        labels: names and colours.
        side: the long side is at most this, in pixels.
        opaque: the background hides what is below; else it only darkens it.
    """
    small = nearest(mask, within((mask.shape[1], mask.shape[0]), side))
    indexed = Image.frombytes("P", (small.shape[1], small.shape[0]), small.tobytes())
    indexed.putpalette(labels.flat_palette())
    options: dict[str, Any] = {}
    if labels.background is not None and not opaque:
        weights = [255] * 256
        weights[labels.background] = round(255 * BACKGROUND_WEIGHT)
        options["transparency"] = bytes(weights)
    return _uri(indexed, "png", optimize=True, **options)


def heat_uri(score: np.ndarray, size: tuple[int, int], side: int) -> str:
    """A score map `(h, w)` in 0..1 as a palette PNG data URI to be laid over a photograph of `size` (width, height)."""
    levels = heat_levels(score, within(size, side), 48)
    colours, weights = heat_table(48)
    picture = Image.frombytes("P", (levels.shape[1], levels.shape[0]), levels.tobytes())
    picture.putpalette(colours.round().astype(np.uint8).tobytes())
    return _uri(picture, "png", optimize=True, transparency=(weights * 255).round().astype(np.uint8).tobytes())


def within(size: tuple[int, int], side: int) -> tuple[int, int]:
    """A size (width, height) whose long side is at most `side`, of the same proportions."""
    factor = min(1.0, side / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _fit(cell: Cell, height: int) -> Image.Image | Sequence[tuple[str, tuple[int, int, int]]] | None:
    if not isinstance(cell, np.ndarray):
        return cell
    picture = Image.fromarray(as_rgb(cell))
    factor = min(height / picture.height, 1.5 * height / picture.width)
    return picture.resize(
        (max(1, round(picture.width * factor)), max(1, round(picture.height * factor))), Image.Resampling.LANCZOS
    )


def is_empty(cell: Cell) -> bool:
    return cell is None or len(cell) == 0


def _uri(picture: Image.Image, kind: str, **options: Any) -> str:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
