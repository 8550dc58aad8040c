"""What labels lose when they are brought to a coarse grid: nearest pixel, majority, and CPP pooling side by side.

The figure of SeeThroughNet's CPP pooling on one's own masks: a class of which no cell is left is never taught at that
stride. CPP pooling keeps the share of each class in each cell, so that it loses none.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from maskwright.data import Dataset, open_dataset
from maskwright.data.provenance import against
from maskwright.data.sample import LabelSpace
from maskwright.engine.progress import track
from maskwright.errors import DataError, RecipeError
from maskwright.files import atomic_write, write_json
from maskwright.losses.cpp import pool_labels
from maskwright.losses.resizing import resize_labels
from maskwright.report.pictures import overlay, strip
from maskwright.settings import DataSettings
from maskwright.studies.ceiling import ratios_of

WAYS = {"nearest": "nearest pixel", "majority": "majority", "shares": "CPP pooling"}
MIXED = 0.75  # weight of the colours over the photograph
ROW = 150  # height of a picture, in pixels


def coarse(labels: Tensor, num_classes: int, ratio: int, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Labels `(H, W)` on a grid of cells of `ratio` pixels.

    Returns:
        The label of the pixel nearest to each cell's middle `(h, w)`, and the share of each class in each cell
        `(C, h, w)`, 0 where no pixel of it has a label.
    """
    shares = pool_labels(labels[None], num_classes, stride=ratio, ignore="renormalise", ignore_index=ignore_index)[0]
    return resize_labels(labels[None], (shares.shape[2], shares.shape[3]))[0], shares[0]


def lost(labels: Tensor, num_classes: int, ratio: int, ignore_index: int) -> dict[str, set[int]]:
    """Classes of a mask `(H, W)` that have no cell on the grid, by way."""
    nearest, shares = coarse(labels, num_classes, ratio, ignore_index)
    there = set(labels[labels != ignore_index].unique().tolist())
    known = shares.sum(0) > 0
    kept = {
        "nearest": set(nearest.unique().tolist()),
        "majority": set(shares.argmax(0)[known].unique().tolist()),
        "shares": set(torch.nonzero((shares > 0).flatten(1).any(1)).flatten().tolist()),
    }
    return {way: there - found for way, found in kept.items()}


def pooling(
    data: DataSettings, *, ratio: int | str | Sequence[int] = (8, 16, 32), images: int = 4, out: str | None = None
) -> list[str]:
    """Count the classes that each way loses on the masks of the evaluation split, and show where.

    Args:
        data: the set; masks of `val` are looked at.
        ratio: one or several sides of a cell, in pixels.
        images: how many are shown: those that lose most classes by the nearest pixel.
        out: folder for `pooling.json` and `pooling.png`; default `runs/pooling-<data>`.

    Returns:
        A table as lines of text.

    Raises:
        DataError: masks that cannot be used, or none.
        RecipeError: ratios or a number of images that cannot be.
    """
    ratios = ratios_of(ratio)
    if images < 1:
        raise RecipeError(f"images must be at least 1, found {images}")
    judged = open_dataset(data, data.val)
    labels = judged.labels
    masked = [index for index in range(len(judged)) if judged.has_mask(index)]
    if not masked:
        raise DataError(f"no image of split {data.val!r} has a mask; choose another with split=")
    missing = {side: {way: np.zeros(labels.num_classes, np.int64) for way in WAYS} for side in ratios}
    there, by_image = np.zeros(labels.num_classes, np.int64), {}
    for index in track(masked, title="pooling masks"):
        mask = torch.from_numpy(np.ascontiguousarray(judged.mask(index)))
        there[mask[mask != labels.ignore_index].unique().long().numpy()] += 1
        by_image[index] = 0
        for side in ratios:
            for way, classes in lost(mask, labels.num_classes, side, labels.ignore_index).items():
                missing[side][way][sorted(classes)] += 1
                by_image[index] += len(classes) if way == "nearest" else 0
    folder = Path(out or f"runs/pooling-{Path(data.root).name or 'data'}")
    counts = {str(side): {way: int(found.sum()) for way, found in ways.items()} for side, ways in missing.items()}
    result: dict[str, Any] = {
        "data": data.model_dump(mode="json"),
        "split": data.val,
        "masks": len(masked),
        "classes_in_images": int(there.sum()),
        "lost": counts,
        "lost_by_class": {
            str(side): {way: dict(zip(labels.names, found.tolist())) for way, found in ways.items()}
            for side, ways in missing.items()
        },
    }
    write_json(folder / "pooling.json", result)
    worst = sorted(by_image, key=lambda index: (-by_image[index], index))[:images]
    with atomic_write(folder / "pooling.png") as temporary:
        picture(judged, worst, ratios).save(temporary)
    said = against(judged.source)
    return [*table(result), *([f"measured {said}"] if said else []), f"written to {folder}"]


def table(result: dict[str, Any]) -> list[str]:
    """The counts as lines."""
    total = result["classes_in_images"]
    lines = [
        f"classes that no cell of the grid is left of, of {total} in the {result['masks']} masks of split "
        f"{result['split']} (a class counts once an image)",
        f"{'':<16}" + "".join(f"{f'cells of {ratio}':>16}" for ratio in result["lost"]),
    ]
    for way, name in WAYS.items():
        cells = [f"{ways[way]} ({100 * ways[way] / max(1, total):.1f} %)" for ways in result["lost"].values()]
        lines.append(f"{name:<16}" + "".join(f"{cell:>16}" for cell in cells))
    return lines


def picture(dataset: Dataset, indices: Sequence[int], ratios: Sequence[int]) -> Image.Image:
    """Photograph, mask, and the grid of each way but the majority at each ratio; one row an image."""
    labels, rows = dataset.labels, []
    for index in indices:
        sample = dataset[index]
        image, drawn = sample.image, np.ascontiguousarray(sample.mask)
        mask = torch.from_numpy(drawn)
        cells = [image, overlay(image, drawn, labels)]
        for side in ratios:
            nearest, shares = coarse(mask, labels.num_classes, side, labels.ignore_index)
            enlarged = np.kron(nearest.numpy(), np.ones((side, side), np.uint8))[: mask.shape[0], : mask.shape[1]]
            cells += [overlay(image, enlarged, labels), mixed(image, shares.numpy(), side, labels)]
        rows.append(cells)
    titles = [title for side in ratios for title in (f"nearest, {side} px", f"CPP, {side} px")]
    return strip(rows, ["image", "mask", *titles], height=ROW)


def mixed(image: np.ndarray, shares: np.ndarray, ratio: int, labels: LabelSpace) -> np.ndarray:
    """Colours of the classes of each cell, mixed by their shares, over the photograph.

    Args:
        image: `(H, W, 3)` uint8.
        shares: `(C, h, w)`.
        ratio: side of a cell.
        labels: colours.

    Returns:
        `(H, W, 3)` uint8.
    """
    colours = np.array(labels.flat_palette(), np.float32).reshape(256, 3)
    cells = np.tensordot(shares.transpose(1, 2, 0), colours[: labels.num_classes], 1)
    cells[shares.sum(0) == 0] = colours[labels.ignore_index]
    large = cells.repeat(ratio, 0).repeat(ratio, 1)[: image.shape[0], : image.shape[1]]
    return (image * (1 - MIXED) + large * MIXED + 0.5).astype(np.uint8)
