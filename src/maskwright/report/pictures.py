"""Masks and maps made visible: overlays, heat maps, contact sheets, and small images for a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from maskwright.data.sample import LabelSpace
from maskwright.files import atomic_write

# Darkens the background less than objects are coloured, so that what is found stands out of the photograph.
BACKGROUND_WEIGHT = 0.6

# Anchors of a perceptually even black-purple-orange-yellow ramp: brightness alone carries the value, so it reads the
# same with any colour vision and in print.
_HEAT = np.array(
    [
        (0, 0, 4),
        (40, 11, 84),
        (101, 21, 110),
        (159, 42, 99),
        (212, 72, 66),
        (245, 125, 21),
        (250, 193, 39),
        (252, 255, 164),
    ],
    np.float32,
)

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
    colours = np.array(labels.flat_palette(), np.float32).reshape(256, 3)
    weights = np.full(256, alpha, np.float32)
    if labels.background is not None:
        weights[labels.background] *= BACKGROUND_WEIGHT
    weight = weights[mask][..., None]
    return (image * (1 - weight) + colours[mask] * weight + 0.5).astype(np.uint8)


def heatmap(image: np.ndarray, score: np.ndarray) -> np.ndarray:
    """A score map over its image: the higher, the brighter and the more opaque.

    Args:
        image: `(H, W, 3)` uint8, RGB.
        score: `(h, w)` in 0..1; of any size, stretched to the image's.

    Returns:
        `(H, W, 3)` uint8, RGB.
    """
    levels = _levels(score, (image.shape[1], image.shape[0]), 256)
    colours, weights = heat_table(256)
    weight = weights[levels][..., None]
    return (image * (1 - weight) + colours[levels] * weight + 0.5).astype(np.uint8)


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


def write_picture(
    run_folder: str | Path,
    dataset: Any,
    *,
    predict: Callable[[np.ndarray], np.ndarray] | None = None,
    rows: int = 5,
    path: str | Path | None = None,
) -> Path:
    """Write a contact sheet image | tags | seed | pseudo-mask | prediction | truth of a run's training images.

    Tagged examples, spread evenly over the ranking from the worst to the best pseudo-mask; columns of which nothing
    exists are left out.

    Args:
        run_folder: the run folder.
        dataset: the split that was labelled.
        predict: image `(H, W, 3)` uint8 -> mask `(H, W)`, to fill the prediction column; else the masks in
            evaluation/predictions, where the names occur.
        rows: number of examples.
        path: where to; default picture.png in the run folder.

    Returns:
        The path written.
    """
    from maskwright.report.gallery import rank_training_images, read_maps, stored_mask
    from maskwright.report.run import read_run

    run, labels = read_run(run_folder), dataset.labels
    ranking = [item for item in rank_training_images(run, dataset) if dataset.tags(item.index)]
    chosen = [ranking[i] for i in spread(len(ranking), rows)]
    table: list[list[Cell]] = []
    for item in chosen:
        sample = dataset[item.index]
        maps = read_maps(run.folder / "seeds" / "maps", sample.name)
        pseudo = stored_mask(run.folder / "pseudo_masks" / "SegmentationClass", sample.name)
        if predict is not None:
            guess: np.ndarray | None = np.asarray(predict(sample.image))
        else:
            guess = stored_mask(run.folder / "evaluation" / "predictions", sample.name)
        masks = [pseudo, guess, sample.mask]
        score = None if maps is None else maps[1].max(axis=0)
        tags = [(labels.names[value], labels.palette[value]) for value in sample.tags or ()]
        table.append(
            [
                sample.image,
                tags,
                None if score is None else heatmap(sample.image, score),
                *(None if mask is None else overlay(sample.image, mask, labels) for mask in masks),
            ]
        )
    titles = ["image", "tags", "seed", "pseudo-mask", "prediction", "truth"]
    kept = [c for c in range(len(titles)) if any(not _empty(row[c]) for row in table)]
    sheet = strip([[row[c] for c in kept] for row in table], [titles[c] for c in kept])
    path = Path(path) if path else run.folder / "picture.png"
    with atomic_write(path) as temporary:
        sheet.save(temporary, optimize=True)
    return path


def spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` different places of `0..count-1`, evenly spaced, both ends among them."""
    if count <= 0 or wanted <= 0:
        return []
    return sorted({round(place) for place in np.linspace(0, count - 1, min(wanted, count)).tolist()})


def photo_uri(image: np.ndarray, side: int) -> str:
    """An image as a JPEG data URI, its long side at most `side` pixels."""
    picture = Image.fromarray(image)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return _uri(picture, "jpeg", quality=80, optimize=True)


def mask_uri(mask: np.ndarray, labels: LabelSpace, side: int, *, opaque: bool = False) -> str:
    """A mask as a palette PNG data URI to be laid over its photograph.

    Args:
        mask: `(H, W)` label values.
        labels: names and colours.
        side: the long side is at most this, in pixels.
        opaque: the background hides what is below; else it only darkens it.
    """
    picture = Image.fromarray(np.ascontiguousarray(mask, np.uint8))
    picture = picture.resize(_within(picture.size, side), Image.Resampling.NEAREST)
    indexed = Image.frombytes("P", picture.size, picture.tobytes())
    indexed.putpalette(labels.flat_palette())
    options: dict[str, Any] = {}
    if labels.background is not None and not opaque:
        weights = [255] * 256
        weights[labels.background] = round(255 * BACKGROUND_WEIGHT)
        options["transparency"] = bytes(weights)
    return _uri(indexed, "png", optimize=True, **options)


def heat_uri(score: np.ndarray, size: tuple[int, int], side: int) -> str:
    """A score map `(h, w)` in 0..1 as a palette PNG data URI to be laid over a photograph of `size` (width, height)."""
    levels = _levels(score, _within(size, side), 48)
    colours, weights = heat_table(48)
    picture = Image.frombytes("P", (levels.shape[1], levels.shape[0]), levels.tobytes())
    picture.putpalette(colours.round().astype(np.uint8).tobytes())
    return _uri(picture, "png", optimize=True, transparency=(weights * 255).round().astype(np.uint8).tobytes())


def heat_table(levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Colours `(levels, 3)` in 0..255 and weights `(levels,)` in 0..1 of the heat ramp."""
    at = np.linspace(0, 1, levels)
    anchors = np.linspace(0, 1, len(_HEAT))
    colours = np.stack([np.interp(at, anchors, _HEAT[:, channel]) for channel in range(3)], axis=1)
    return colours.astype(np.float32), (0.4 + 0.35 * at).astype(np.float32)


def _levels(score: np.ndarray, size: tuple[int, int], levels: int) -> np.ndarray:
    picture = Image.fromarray(np.nan_to_num(np.asarray(score, np.float32)))
    stretched = np.asarray(picture.resize(size, Image.Resampling.BILINEAR))
    return (stretched.clip(0, 1) * (levels - 1) + 0.5).astype(np.uint8)


def _within(size: tuple[int, int], side: int) -> tuple[int, int]:
    factor = min(1.0, side / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _fit(cell: Cell, height: int) -> Image.Image | Sequence[tuple[str, tuple[int, int, int]]] | None:
    if not isinstance(cell, np.ndarray):
        return cell
    picture = Image.fromarray(cell)
    factor = min(height / picture.height, 1.5 * height / picture.width)
    return picture.resize(
        (max(1, round(picture.width * factor)), max(1, round(picture.height * factor))), Image.Resampling.LANCZOS
    )


def _empty(cell: Cell) -> bool:
    return cell is None or len(cell) == 0


def _uri(picture: Image.Image, kind: str, **options: Any) -> str:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
