"""The best mIoU that upsampling allows (mIoU*): ground truth through a coarse grid and back, by each upsampling.

The experiment of DUpsampling (Tian et al., CVPR 2019) without a network: what a perfect one would say on the coarse
grid is computed from the ground truth. For bilinear upsampling that is the share of each class in each cell, one number
for each class; for DUpsampling the coordinates of the cell in a basis fitted to the training masks, usually many more
numbers. The paper trains an autoencoder in their place, so its numbers are not the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskwright.data import Dataset, open_dataset
from maskwright.data.provenance import against
from maskwright.data.sample import LabelSpace
from maskwright.errors import DataError, RecipeError
from maskwright.files import atomic_write, write_json
from maskwright.losses.cpp import pool_labels
from maskwright.metrics import ConfusionMatrix
from maskwright.models.base import resize_argmax
from maskwright.models.dupsampling import compress_labels, dupsample_argmax
from maskwright.models.dupsampling_fit import LabelBasis, fit_label_basis, label_patches, masks_of
from maskwright.settings import DataSettings

ROWS_SHOWN = 20
NAMES = {"bilinear": "bilinear", "dupsampling": "DUpsampling"}


def through_basis(
    labels: torch.Tensor, weight: torch.Tensor, num_classes: int, ratio: int, ignore_index: int
) -> torch.Tensor:
    """Labels `(B, H, W)` after `v -> W W^T v` and arg-max, uint8; ignored pixels are zero vectors on the way in."""
    coordinates = compress_labels(labels, weight, num_classes, ratio, ignore_index=ignore_index)
    found = dupsample_argmax(coordinates, weight, num_classes, ratio)
    return found[:, : labels.shape[1], : labels.shape[2]]


def through_bilinear(labels: torch.Tensor, num_classes: int, ratio: int, ignore_index: int) -> torch.Tensor:
    """Labels `(B, H, W)` after taking the share of each class in each cell, bilinear upsampling and arg-max, int64."""
    shares = pool_labels(labels, num_classes, stride=ratio, ignore="renormalise", ignore_index=ignore_index)[0]
    size = (shares.shape[2] * ratio, shares.shape[3] * ratio)
    return resize_argmax(shares, size)[:, : labels.shape[1], : labels.shape[2]]


def measure_ceiling(
    judged: Dataset, bases: Sequence[LabelBasis], title: str = "evaluating"
) -> dict[int, dict[str, dict[str, Any]]]:
    """Scores of both kinds of upsampling for each basis's ratio.

    Args:
        judged: its masks go through the grid and are what the result is scored against.
        bases: one for each ratio.
        title: for the progress line.

    Returns:
        ratio -> "bilinear" and "dupsampling" -> `ConfusionMatrix.scores()`.

    Raises:
        DataError: no mask to evaluate on.
    """
    labels = judged.labels
    if not any(judged.has_mask(index) for index in range(len(judged))):
        raise DataError("no image of the split to evaluate on has a mask; choose another with split=")
    counts = {basis.ratio: {name: ConfusionMatrix(labels) for name in NAMES} for basis in bases}
    weights = [torch.from_numpy(basis.weight).float() for basis in bases]
    for mask in masks_of(judged, title):
        truth = torch.from_numpy(np.ascontiguousarray(mask))[None]
        for basis, weight in zip(bases, weights, strict=True):
            where = (labels.num_classes, basis.ratio, labels.ignore_index)
            counts[basis.ratio]["bilinear"].update(through_bilinear(truth, *where), truth)
            counts[basis.ratio]["dupsampling"].update(through_basis(truth, weight, *where), truth)
    return {
        ratio: {name: matrix.scores() for name, matrix in by_name.items()} for ratio, by_name in sorted(counts.items())
    }


def ceiling(
    data: DataSettings,
    *,
    ratio: int | str | Sequence[int] = (8, 16, 32),
    dim: int = 256,
    max_patches: int = 50_000,
    out: str | None = None,
) -> list[str]:
    """Fit a basis per ratio to the training split, evaluate both kinds of upsampling on the validation split.

    Args:
        data: the set; `train` is fitted to, `val` is evaluated on.
        ratio: one or several output strides.
        dim: dimensions of the basis; fewer where a cell has fewer.
        max_patches: the most cells of several classes that each basis is fitted to.
        out: folder for `ceiling.json`, `ceiling.png` and `label_basis-<ratio>.npz`, which a model can take as
            `label_basis`; default `runs/ceiling-<data>`.

    Returns:
        A table as lines of text.

    Raises:
        DataError: masks that cannot be used, or none.
        RecipeError: ratios, dimensions or a count of patches that cannot be.
    """
    ratios = ratios_of(ratio)
    if dim < 1:
        raise RecipeError(f"dim must be at least 1, found {dim}")
    fitted, judged = open_dataset(data, data.train), open_dataset(data, data.val)
    labels = fitted.labels
    folder = Path(out or f"runs/ceiling-{Path(data.root).name or 'data'}")
    bases = []
    for side in ratios:
        masks = masks_of(fitted, f"reading masks, ratio {side}")
        found = label_patches(
            masks, side, labels.num_classes, ignore_index=labels.ignore_index, max_patches=max_patches
        )
        bases.append(fit_label_basis(found, min(dim, found.rows)))
        bases[-1].save(folder / f"label_basis-{side}.npz")
    scores = measure_ceiling(judged, bases)
    result = {
        "data": data.model_dump(mode="json"),
        "fitted": {"split": data.train, "masks": sum(fitted.has_mask(index) for index in range(len(fitted)))},
        "judged": {"split": data.val, "masks": sum(judged.has_mask(index) for index in range(len(judged)))},
        "ratios": {
            str(basis.ratio): {
                "dim": basis.weight.shape[1],
                "cells": basis.patches,
                "error_per_cell": basis.error,
                **scores[basis.ratio],
            }
            for basis in bases
        },
    }
    write_json(folder / "ceiling.json", result)
    with atomic_write(folder / "ceiling.png") as temporary:
        plot(scores, labels, temporary)
    said = against(judged.source)
    return [*table(result, labels), *([f"measured {said}"] if said else []), f"written to {folder}"]


def table(result: dict[str, Any], labels: LabelSpace) -> list[str]:
    """The result as lines; the classes that bilinear upsampling loses most of come first."""
    by_ratio = result["ratios"]
    dims = sorted({entry["dim"] for entry in by_ratio.values()})
    lines = [
        f"mIoU*, the most that upsampling alone allows, on {result['judged']['masks']} masks of split "
        f"{result['judged']['split']}",
        f"per cell: bilinear {labels.num_classes} numbers, DUpsampling "
        f"{' to '.join(map(str, dims[:: max(1, len(dims) - 1)]))}; its basis is fitted to "
        f"{result['fitted']['masks']} masks of split {result['fitted']['split']}",
        "",
        f"{'':<22}" + "".join(f"{'ratio ' + ratio:>24}" for ratio in by_ratio),
        f"{'class':<22}" + f"{'bilinear':>12}{'DUpsampling':>12}" * len(by_ratio),
    ]
    order = _by_loss({int(ratio): entry for ratio, entry in by_ratio.items()}, labels)
    for name in order[:ROWS_SHOWN]:
        cells = [entry[kind]["per_class"][name]["iou"] for entry in by_ratio.values() for kind in NAMES]
        lines.append(f"{name[:21]:<22}" + "".join(f"{_number(cell):>12}" for cell in cells))
    if len(order) > ROWS_SHOWN:
        lines.append(f"... and {len(order) - ROWS_SHOWN} more classes, in ceiling.json")
    means = [entry[kind]["miou"] for entry in by_ratio.values() for kind in NAMES]
    lines.append(f"{'mIoU*':<22}" + "".join(f"{_number(mean):>12}" for mean in means))
    return lines


def plot(scores: dict[int, dict[str, dict[str, Any]]], labels: LabelSpace, path: Path) -> None:
    """Left, mIoU* by ratio; right, each class at the largest ratio; one picture."""
    from matplotlib.figure import Figure

    ratios, largest = list(scores), max(scores)
    order = _by_loss(scores, labels)[:ROWS_SHOWN][::-1]
    colours = {"bilinear": "#c2571a", "dupsampling": "#1f6fb2"}
    figure = Figure(figsize=(10, max(3.6, 1.6 + 0.24 * len(order))), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.3))
    for kind, name in NAMES.items():
        means = [100 * scores[ratio][kind]["miou"] for ratio in ratios]
        marker = "o" if kind == "dupsampling" else "s"
        left.plot(range(len(ratios)), means, marker=marker, color=colours[kind], label=name)
        for place, mean in enumerate(means):
            above = (7, "bottom") if kind == "dupsampling" else (-7, "top")
            left.annotate(
                f"{mean:.1f}", (place, mean), (0, above[0]), textcoords="offset points", ha="center", va=above[1]
            )
        shares = [100 * scores[largest][kind]["per_class"][name]["iou"] for name in order]
        right.plot(shares, range(len(order)), marker, color=colours[kind])
    left.set_xticks(range(len(ratios)), [str(ratio) for ratio in ratios])
    left.set(xlabel="ratio (pixels per cell side)", ylabel="mIoU* (%)", title="Ceiling of the upsampling")
    left.margins(x=0.15, y=0.2)
    left.set_ylim(top=min(104, left.get_ylim()[1]))
    left.legend(frameon=False, loc="lower left")
    bilinear, ours = ([scores[largest][kind]["per_class"][name]["iou"] * 100 for name in order] for kind in NAMES)
    right.hlines(range(len(order)), bilinear, ours, color="0.7", zorder=1)
    right.set_yticks(range(len(order)), order)
    right.set(xlabel="IoU (%)", title=f"By class at ratio {largest}", xlim=(-3, 103))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.92", zorder=-1)
        axes.set_axisbelow(True)
    figure.savefig(path, dpi=130)


def _by_loss(scores: dict[int, dict[str, Any]], labels: LabelSpace) -> list[str]:
    """Classes that occur, those that bilinear upsampling by the largest ratio loses most of first."""
    per_class = scores[max(scores)]["bilinear"]["per_class"]
    present = [name for name in labels.names if per_class[name]["pixels"]]
    return sorted(present, key=lambda name: per_class[name]["iou"])


def ratios_of(given: int | str | Sequence[int]) -> list[int]:
    """Ratios from `16`, `[8, 16]` or `8,16`, ascending.

    Raises:
        RecipeError: anything else.
    """
    parts = given.split(",") if isinstance(given, str) else [given] if isinstance(given, int) else list(given)
    if not parts or not all(str(part).strip().isdigit() and int(part) > 0 for part in parts):
        raise RecipeError(f"ratio must be one or more output strides, e.g. ratio=16 or ratio=8,16,32, found {given!r}")
    return sorted({int(part) for part in parts})


def _number(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
