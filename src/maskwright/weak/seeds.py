"""Label maps from seed maps, and what every threshold would have given.

A constant plane at the threshold stands for the background; a pixel gets the class of its highest plane. Ties go to the
background, then to the first class. Planes are compared in float32 (or wider, if the maps are).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskwright.data.sample import LabelSpace
from maskwright.engine.progress import track
from maskwright.errors import DataError
from maskwright.metrics import ConfusionMatrix
from maskwright.weak.extract import load_maps


def best_two(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The highest map at each pixel, which it is, and the second highest.

    Args:
        maps: `(n, H, W)`, n at least 1.

    Returns:
        Highest value and its index (the first, where several are equal), and the second highest value (0 where there is
        one map only), `(H, W)` each.
    """
    maps = wide(maps)
    best, winner = maps[0].copy(), np.zeros(maps.shape[1:], np.uint8)
    second = np.zeros_like(best)
    # Plane by plane: n is small, and every plane is read once.
    for index in range(1, len(maps)):
        plane = maps[index]
        np.maximum(second, np.minimum(best, plane), out=second)
        winner[plane > best] = index
        np.maximum(best, plane, out=best)
    return best, winner, second


def wide(maps: np.ndarray) -> np.ndarray:
    """At least float32, in which maps and thresholds are compared."""
    return maps.astype(np.promote_types(maps.dtype, np.float32), copy=False)


def seed_labels(
    high_res: np.ndarray,
    keys: Sequence[int] | np.ndarray,
    threshold: float,
    background: int | None,
    foreground: Sequence[int],
    ignore_index: int = 255,
) -> np.ndarray:
    """Label values from the maps of one image.

    Args:
        high_res: `(n, H, W)`, not negative.
        keys: tag position of each map, `(n,)`.
        threshold: score of the background; without a background class it has no effect.
        background: value of the background class, or None: every pixel then gets one of the tagged classes.
        foreground: label value of each tag position.
        ignore_index: value where nothing can be said: no map and no background class.

    Returns:
        `(H, W)` uint8.
    """
    return labels_and_confidence(high_res, keys, threshold, background, foreground, ignore_index)[0]


def labels_and_confidence(
    high_res: np.ndarray,
    keys: Sequence[int] | np.ndarray,
    threshold: float,
    background: int | None,
    foreground: Sequence[int],
    ignore_index: int = 255,
) -> tuple[np.ndarray, np.ndarray]:
    """`seed_labels`, and how clearly each label won.

    Confidence is the margin between the two highest planes, the background's included, as a share of the largest margin
    that the label could have: (highest - next) / (1 - threshold) for a class, (threshold - highest) / threshold for the
    background, highest - next without a background class. 0 is a tie; 1 is a class at full score with no rival, or a
    background pixel where every map is zero. An image without maps is background with confidence 1, or, without a
    background class, ignored with confidence 0.

    Args:
        high_res: see `seed_labels`, as for the others.
        keys: tag position of each map.
        threshold: score of the background.
        background: value of the background class, or None.
        foreground: label value of each tag position.
        ignore_index: value where nothing can be said.

    Returns:
        Labels `(H, W)` uint8 and confidence `(H, W)` in 0..1.
    """
    if len(high_res) == 0:
        value, sure = (ignore_index, 0.0) if background is None else (background, 1.0)
        return np.full(high_res.shape[1:], value, np.uint8), np.full(high_res.shape[1:], sure, np.float32)
    best, winner, second = best_two(high_res)
    labels = np.asarray(foreground, np.uint8)[np.asarray(keys)][winner]
    if background is None:
        return labels, np.clip(best - second, 0, 1)
    plane = best.dtype.type(threshold)
    is_background = best <= plane
    labels[is_background] = background
    tiny = np.finfo(best.dtype).tiny
    confidence = (best - np.maximum(second, plane)) / max(1 - plane, tiny)
    confidence[is_background] = (plane - best[is_background]) / max(plane, tiny)
    return labels, np.clip(confidence, 0, 1)


def threshold_counts(
    high_res: np.ndarray,
    keys: Sequence[int] | np.ndarray,
    truth: np.ndarray,
    thresholds: np.ndarray,
    labels: LabelSpace,
) -> np.ndarray:
    """Confusion counts of one image's `seed_labels` at every threshold, for the price of one.

    Which map is highest does not depend on the threshold, so pixels are counted once, by truth, winner, and the number
    of thresholds that lie below the winner's score; cumulative sums give the rest. Exact.

    Args:
        high_res: `(n, H, W)`, not negative.
        keys: tag position of each map, `(n,)`.
        truth: `(H, W)` label values.
        thresholds: `(T,)`, ascending.
        labels: classes.

    Returns:
        `(T, C, C)` int64, rows are the truth.

    Raises:
        DataError: maps and truth differ in size, or the truth holds values that are no class.
    """
    if high_res.shape[1:] != truth.shape:
        raise DataError(
            f"maps are {high_res.shape[1:]} and the mask is {truth.shape}; the maps must be at the size of the mask"
        )
    classes, steps = labels.num_classes, len(thresholds)
    if len(high_res) == 0 or labels.background is None:
        confusion = ConfusionMatrix(labels)
        found = seed_labels(high_res, keys, 0, labels.background, labels.foreground, labels.ignore_index)
        confusion.update(found, np.where(found == labels.ignore_index, found, truth))
        return np.repeat(confusion.matrix.numpy()[None], steps, 0)
    best, winner, _ = best_two(high_res)
    below = np.searchsorted(thresholds.astype(best.dtype), best.ravel(), side="left")
    combined = winner.ravel().astype(np.int64) * (steps + 1) + below
    columns = len(keys) * (steps + 1)
    counts = _joint_counts(truth.ravel(), combined, labels, columns).reshape(classes, len(keys), steps + 1)
    # A pixel is foreground at threshold t where more than t thresholds lie below its score.
    foreground = counts[..., ::-1].cumsum(-1)[..., ::-1][..., 1:]
    result = np.zeros((steps, classes, classes), np.int64)
    result[:, :, np.asarray(labels.foreground)[np.asarray(keys)]] = foreground.transpose(2, 0, 1)
    result[:, :, labels.background] = counts.sum((1, 2))[None] - foreground.sum(1).T
    return result


def _joint_counts(truth: np.ndarray, column: np.ndarray, labels: LabelSpace, columns: int) -> np.ndarray:
    """Counts `(C, columns)` over pixels whose truth is not ignored."""
    rows = max(256, labels.num_classes)
    counts = np.bincount(truth.astype(np.int64) * columns + column, minlength=rows * columns).reshape(-1, columns)
    beyond = counts[labels.num_classes :].sum(1)
    if 0 <= labels.ignore_index - labels.num_classes < len(beyond):
        beyond[labels.ignore_index - labels.num_classes] = 0
    if beyond.any():
        wrong = ", ".join(f"{labels.num_classes + value} ({beyond[value]} pixels)" for value in np.flatnonzero(beyond))
        raise DataError(
            f"truth holds values that are no class: {wrong}; expected 0..{labels.num_classes - 1} or "
            f"{labels.ignore_index} (ignored)"
        )
    return counts[: labels.num_classes]


def sweep(dataset: Any, folder: str | Path, thresholds: Sequence[float]) -> list[dict[str, Any]]:
    """Score the seed masks of a whole set at every threshold, in one pass over the maps.

    Images without a true mask, or of which nobody said what they show, are left out.

    Args:
        dataset: masks and tags.
        folder: of `NAME.npz` maps.
        thresholds: in any order.

    Returns:
        Per threshold, ascending: `threshold`, `miou`, the mean `fp` and `fn` of the foreground classes (shares of the
        union, AdvCAM's report), `background_fp`, `background_fn`, and `background_share`, the part of the pixels called
        foreground that is background in truth (ReCAM's). None where undefined; an empty list without any true mask.

    Raises:
        DataError: a tagged image has no maps, or maps and masks do not fit.
    """
    labels: LabelSpace = dataset.labels
    ascending = np.unique(np.asarray(thresholds, np.float64))
    total = np.zeros((len(ascending), labels.num_classes, labels.num_classes), np.int64)
    judged = [index for index in range(len(dataset)) if dataset.has_mask(index) and dataset.tags(index) is not None]
    for index in track(judged, title="threshold sweep"):
        keys, maps = load_maps(folder, dataset.names[index])
        try:
            total += threshold_counts(maps, keys, dataset[index].mask, ascending, labels)
        except DataError as error:
            raise DataError(f"{dataset.names[index]}: {error}") from None
    if not judged:
        return []
    return [_sweep_row(threshold, ConfusionMatrix.from_matrix(m, labels)) for threshold, m in zip(ascending, total)]


def _sweep_row(threshold: float, confusion: ConfusionMatrix) -> dict[str, Any]:
    scores = confusion.scores()
    row = {"threshold": round(float(threshold), 10), "miou": scores["miou"]}
    if confusion.background is None:
        return {**row, "fp": None, "fn": None}
    background = scores["per_class"][confusion.names[confusion.background]]
    foreground = scores["foreground"]
    return {
        **row,
        "fp": foreground["fp_rate"],
        "fn": foreground["fn_rate"],
        "background_fp": background["fp_rate"],
        "background_fn": background["fn_rate"],
        "background_share": foreground["background_share"],
    }
