"""Label maps from seed maps, and what every threshold would have given.

A constant plane at the threshold stands for the background; a pixel gets the class of its highest plane. Ties go to the
background, then to the first class. Planes are compared in float32 (or wider, if the maps are).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskwright.data.dataset import Dataset
from maskwright.data.sample import LabelSpace
from maskwright.engine.progress import track
from maskwright.errors import DataError
from maskwright.metrics import ConfusionMatrix
from maskwright.weak.seeds.extract import load_maps


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
    labels = winner_labels(best, winner, keys, threshold, background, foreground)
    if background is None:
        return labels, np.clip(best - second, 0, 1)
    plane = best.dtype.type(threshold)
    is_background = best <= plane
    tiny = np.finfo(best.dtype).tiny
    confidence = (best - np.maximum(second, plane)) / max(1 - plane, tiny)
    confidence[is_background] = (plane - best[is_background]) / max(plane, tiny)
    return labels, np.clip(confidence, 0, 1)


def winner_labels(
    best: np.ndarray,
    winner: np.ndarray,
    keys: Sequence[int] | np.ndarray,
    threshold: float,
    background: int | None,
    foreground: Sequence[int],
) -> np.ndarray:
    """Label values `(H, W)` uint8 from the first two of `best_two`; the rest as for `seed_labels`."""
    labels = np.asarray(foreground, np.uint8)[np.asarray(keys)][winner]
    if background is not None:
        labels[best <= best.dtype.type(threshold)] = background
    return labels


def threshold_counts(
    high_res: np.ndarray,
    keys: Sequence[int] | np.ndarray,
    truth: np.ndarray,
    thresholds: np.ndarray,
    labels: LabelSpace,
) -> np.ndarray:
    """Confusion counts of one image's `seed_labels` at every threshold, for the price of one.

    Which map is highest does not depend on the threshold, so pixels are counted once, by label, winner, and the number
    of thresholds that lie below the winner's score; cumulative sums give the rest. Exact.

    Args:
        high_res: `(n, H, W)`, not negative.
        keys: tag position of each map, `(n,)`.
        truth: `(H, W)` label values.
        thresholds: `(T,)`, ascending.
        labels: classes.

    Returns:
        `(T, C, C)` int64, rows are the ground truth.

    Raises:
        DataError: maps and ground truth differ in size, or it holds values that are no class.
    """
    if high_res.shape[1:] != truth.shape:
        raise DataError(
            f"maps are {high_res.shape[1:]} and the mask is {truth.shape}; the maps must be at the size of the mask"
        )
    best, winner = best_two(high_res)[:2] if len(high_res) else (None, None)
    above, total = count_above(best, winner, len(keys), truth, thresholds, labels)
    result = np.zeros((len(thresholds), labels.num_classes, labels.num_classes), np.int64)
    add_confusion(result, above, total, keys, labels)
    return result


def count_above(
    best: np.ndarray | None,
    winner: np.ndarray | None,
    count: int,
    truth: np.ndarray | None,
    thresholds: np.ndarray,
    labels: LabelSpace,
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of one image where a map is the highest and above each threshold, by label, from one count of them.

    Args:
        best: the first of `best_two`, `(H, W)`; None without maps.
        winner: the second of `best_two`; None without maps.
        count: number of maps, n.
        truth: `(H, W)` label values, or None: all pixels are one row then.
        thresholds: `(T,)`, ascending; without a background class they have no effect.
        labels: classes.

    Returns:
        `(256, n, T)` int64, and all pixels by label `(256,)`; without ground truth `(1, n, T)` and `(1,)`.

    Raises:
        DataError: the ground truth holds values that are no class.
    """
    rows, steps = (1, len(thresholds)) if truth is None else (256, len(thresholds))
    if truth is not None:
        total = np.bincount(truth.ravel(), minlength=rows)
        _check_truth(total, labels)
    if best is None or winner is None:
        total = np.zeros(rows, np.int64) if truth is None else total
        return np.zeros((rows, 0, steps), np.int64), total
    column = winner.ravel().astype(np.int64) * (steps + 1)
    if labels.background is None:
        column += steps
    else:
        column += np.searchsorted(thresholds.astype(best.dtype), best.ravel(), side="left")
    if truth is None:
        total = np.array([best.size])
    else:
        column += truth.ravel().astype(np.int64) * (count * (steps + 1))
    counts = np.bincount(column, minlength=rows * count * (steps + 1)).reshape(rows, count, steps + 1)
    # A pixel is foreground at threshold t where more than t thresholds lie below its score.
    return counts[..., ::-1].cumsum(-1)[..., ::-1][..., 1:], total


def add_confusion(
    result: np.ndarray, above: np.ndarray, total: np.ndarray, keys: Sequence[int] | np.ndarray, labels: LabelSpace
) -> None:
    """Add what `count_above` found with ground truth to confusion counts.

    Args:
        result: `(T, C, C)` int64, rows are the ground truth; changed in place.
        above: as `count_above` gives it.
        total: as `count_above` gives it.
        keys: tag position of each map, `(n,)`.
        labels: classes.
    """
    above, total = above[: labels.num_classes], total[: labels.num_classes]
    result[:, :, np.asarray(labels.foreground)[np.asarray(keys, np.int64)]] += above.transpose(2, 0, 1)
    if labels.background is not None:
        result[:, :, labels.background] += total - above.sum(1).T


def _check_truth(total: np.ndarray, labels: LabelSpace) -> None:
    """Refuse ground truth that holds values `(256,)` which are neither a class nor ignored."""
    beyond = total.copy()
    beyond[: labels.num_classes] = 0
    if 0 <= labels.ignore_index < len(beyond):
        beyond[labels.ignore_index] = 0
    if beyond.any():
        wrong = ", ".join(f"{value} ({beyond[value]} pixels)" for value in np.flatnonzero(beyond))
        raise DataError(
            f"ground truth holds values that are no class: {wrong}; expected 0..{labels.num_classes - 1} or "
            f"{labels.ignore_index} (ignored)"
        )


def sweep(dataset: Dataset, folder: str | Path, thresholds: Sequence[float]) -> list[dict[str, Any]]:
    """Score the seed masks of a whole set at every threshold, in one pass over the maps.

    Images without ground truth, or of which nobody said what they show, are left out.

    Args:
        dataset: masks and tags.
        folder: of `NAME.npz` maps.
        thresholds: in any order.

    Returns:
        Per threshold, ascending: `threshold`, `miou`, the mean `fp` and `fn` of the foreground classes (shares of the
        union, AdvCAM's report), `background_fp`, `background_fn`, and `background_share`, the part of the pixels called
        foreground that is background in ground truth (ReCAM's). None where undefined; an empty list without any.

    Raises:
        DataError: a tagged image has no maps, or maps and masks do not fit.
    """
    labels: LabelSpace = dataset.labels
    ascending = np.unique(np.asarray(thresholds, np.float64))
    total = np.zeros((len(ascending), labels.num_classes, labels.num_classes), np.int64)
    judged = [index for index in range(len(dataset)) if dataset.has_mask(index) and dataset.tags(index) is not None]
    for index in track(judged, title="threshold sweep"):
        keys, maps = load_maps(folder, dataset.names[index])
        truth = dataset.mask(index)
        assert truth is not None
        try:
            total += threshold_counts(maps, keys, truth, ascending, labels)
        except DataError as error:
            raise DataError(f"{dataset.names[index]}: {error}") from None
    if not judged:
        return []
    return [sweep_row(threshold, ConfusionMatrix.from_matrix(m, labels)) for threshold, m in zip(ascending, total)]


def sweep_row(threshold: float, confusion: ConfusionMatrix) -> dict[str, Any]:
    """What `sweep` says of one threshold."""
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
