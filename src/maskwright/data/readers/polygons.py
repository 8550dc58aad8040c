"""Outlines and runs of COCO annotations painted as pixels, the same ones as the official tools give."""

from __future__ import annotations

import numpy as np

UPSAMPLING = 5


def to_grid(points: np.ndarray) -> np.ndarray:
    """Corners in pixels -> on the fine grid that outlines are walked on, `UPSAMPLING` steps to a pixel.

    Args:
        points: `(n, 2)` float64, x and y.

    Returns:
        `(n, 2)` int32.
    """
    return (points * UPSAMPLING + 0.5).astype(np.int32)


def paint_polygon(mask: np.ndarray, corners: np.ndarray, value: int) -> None:
    """Set the pixels inside a polygon, by the rule of COCO's mask API.

    The outline is walked on a grid of fifths of a pixel; a pixel belongs to the polygon where a walk down its column,
    at the middle of the pixel, has crossed the outline an odd number of times. Pixel for pixel as `rleFrPoly` of the
    official `maskApi.c`, which this states as array operations.

    Args:
        mask: `(H, W)` uint8, changed in place.
        corners: `(n, 2)` int, x and y as `to_grid` gives them; the last is joined to the first.
        value: what to write.
    """
    height, width = mask.shape
    x, y = _walk(corners.astype(np.int64))
    before, after = x[:-1], x[1:]
    step = np.flatnonzero(before != after)
    column = np.minimum(before[step], after[step]) - UPSAMPLING // 2
    row = np.minimum(y[step], y[step + 1])
    inside = (column % UPSAMPLING == 0) & (column >= 0) & (column <= (width - 1) * UPSAMPLING)
    column = column[inside] // UPSAMPLING
    row = np.clip((row[inside] + UPSAMPLING // 2) // UPSAMPLING, 0, height)
    if not len(column):
        return
    left, top = column.min(), row.min()
    across, down = column.max() - left + 1, row.max() - top
    # Every column is crossed an even number of times, so that a crossing below its end may count at the next one's top.
    crossings = np.bincount((column - left) * down + row - top, minlength=across * down + 1)[: across * down]
    odd = (np.cumsum(crossings) & 1).astype(bool).reshape(across, down)
    mask[top : top + down, left : left + across][odd.T] = value


def paint_runs(mask: np.ndarray, counts: np.ndarray, value: int) -> None:
    """Set the pixels of an uncompressed run-length code: outside, inside, outside, ... down the columns.

    Args:
        mask: `(H, W)` uint8, changed in place.
        counts: lengths of the runs; they add up to H * W.
        value: what to write.
    """
    height, width = mask.shape
    inside = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height)
    mask[inside.T] = value


def _walk(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every grid point on the way around, both ends of each side included."""
    start, end = corners, np.roll(corners, -1, axis=0)
    wide = np.abs(end - start)
    count = wide.max(axis=1) + 1
    along = np.where(wide[:, 0] >= wide[:, 1], 0, 1)
    side = np.arange(len(corners))
    # A side is walked from its lower end and rounded there, whichever way it is passed.
    backward = start[side, along] > end[side, along]
    low, high = np.where(backward[:, None], end, start), np.where(backward[:, None], start, end)
    run = np.maximum(count - 1, 1)
    slope = (high[side, 1 - along] - low[side, 1 - along]) / run
    each = np.repeat(side, count)
    place = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    place = np.where(backward[each], count[each] - 1 - place, place)
    main = low[side, along][each] + place
    other = (low[side, 1 - along][each] + slope[each] * place + 0.5).astype(np.int64)
    upright = along[each] == 1
    return np.where(upright, other, main), np.where(upright, main, other)
