"""Class-probability-preserving (CPP) pooling of label maps and its KL loss (SeeThroughNet, CVPR 2022).

A label map is reduced by counting: each cell holds, for every class, the share of its pixels with that label, so thin
and small things keep the share that they have. Picking one pixel per cell loses them. Counts are exact integers and are
made without a one-hot map: by a compiled kernel that reads each label once on the CPU, else by one histogram.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from maskwright.errors import DataError, RecipeError
from maskwright.losses.ignore import IGNORE_INDEX, at_least_float32, check_shapes, valid_pixels

Policy = Literal["ceil", "floor", "adaptive"]
POLICIES = ("ceil", "floor", "adaptive")
IGNORE_MODES = ("channel", "renormalise")


class PooledLabels(NamedTuple):
    """Pooled truth: `probabilities` `(B, C + 1 or C, h, w)`, cells summing to 1 or 0; `valid` `(B, h, w)` in 0..1."""

    probabilities: Tensor
    valid: Tensor


def cell_counts(
    labels: Tensor,
    num_classes: int,
    *,
    stride: int | None = None,
    size: tuple[int, int] | None = None,
    policy: Policy = "ceil",
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    """Pixels of each class in each cell.

    Args:
        labels: `(B, H, W)` integer, values `0..C-1` or `ignore_index`.
        num_classes: C.
        stride: side of a cell in pixels, for the policies "ceil" (`ceil(H / stride)` rows of cells, the last of them
            partial) and "floor" (the remainder is left out).
        size: `(h, w)`, for the policy "adaptive": cell i covers rows `floor(i H / h)` to `ceil((i + 1) H / h) - 1`, as
            in adaptive average pooling; cells overlap by at most one row.
        policy: "ceil", "floor" or "adaptive".
        ignore_index: value of pixels without a label; they are counted in the last channel.

    Returns:
        `(B, C + 1, h, w)` int32, class-last in memory.

    Raises:
        DataError: labels of another shape or range.
        RecipeError: unknown policy, or a stride or size that does not go with it.
    """
    if labels.ndim != 3 or labels.is_floating_point():
        raise DataError(f"labels must be integer (B, H, W), found {tuple(labels.shape)} {labels.dtype}")
    height, width = labels.shape[1:]
    rows = _edges(height, stride, None if size is None else size[0], policy)
    columns = _edges(width, stride, None if size is None else size[1], policy)
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        counts = _counts_cpu(labels, num_classes, _borders(rows), _borders(columns), ignore_index)
    else:
        counts = _counts_anywhere(labels, num_classes, _borders(rows), _borders(columns), ignore_index)
    return _join(_join(counts, rows, 1), columns, 2).permute(0, 3, 1, 2)


def pool_labels(
    labels: Tensor,
    num_classes: int,
    *,
    stride: int | None = None,
    size: tuple[int, int] | None = None,
    policy: Policy | None = None,
    ignore: Literal["channel", "renormalise"] = "channel",
    ignore_index: int = IGNORE_INDEX,
    dtype: torch.dtype = torch.float32,
) -> PooledLabels:
    """Share of each class in each cell (the paper's CPP pooling).

    Args:
        labels: `(B, H, W)` integer, values `0..C-1` or `ignore_index`.
        num_classes: C.
        stride: side of a cell; or
        size: `(h, w)` of the result, whatever the size of the labels.
        policy: see `cell_counts`; default "ceil" with a stride, "adaptive" with a size.
        ignore: "channel" (the paper) counts ignored pixels as one class more, the last; "renormalise" divides by the
            valid pixels of the cell, and leaves a cell without any at 0.
        ignore_index: value of pixels without a label.
        dtype: of the result.

    Returns:
        Probabilities `(B, C + 1, h, w)` or `(B, C, h, w)`, and the valid share of each cell `(B, h, w)`.

    Raises:
        DataError: labels of another shape or range.
        RecipeError: unknown ignore mode or policy, or not exactly one of stride and size.
    """
    if (stride is None) == (size is None):
        raise RecipeError(f"pool_labels takes either stride or size, found stride={stride}, size={size}")
    chosen: Policy = policy or ("ceil" if size is None else "adaptive")
    counts = cell_counts(labels, num_classes, stride=stride, size=size, policy=chosen, ignore_index=ignore_index)
    return probabilities(counts, ignore=ignore, dtype=dtype)


def pool_to(labels: Tensor, size: tuple[int, int], num_classes: int, **arguments) -> PooledLabels:
    """`pool_labels` to a given size, for a head that asks for its own: cells of the adaptive policy."""
    return pool_labels(labels, num_classes, size=size, **arguments)


def probabilities(
    counts: Tensor, *, ignore: Literal["channel", "renormalise"] = "channel", dtype: torch.dtype = torch.float32
) -> PooledLabels:
    """Shares from counts `(B, C + 1, h, w)` whose last channel counts ignored pixels; see `pool_labels`.

    Raises:
        RecipeError: unknown ignore mode.
    """
    if ignore not in IGNORE_MODES:
        raise RecipeError(f"ignore must be one of {', '.join(IGNORE_MODES)}, found {ignore!r}")
    area = counts.sum(1, keepdim=True)
    labelled = area - counts[:, -1:]
    whole = area.clamp(min=1).to(dtype)
    valid = labelled[:, 0] / whole[:, 0]
    if ignore == "channel":
        return PooledLabels(counts / whole, valid)
    return PooledLabels(counts[:, :-1] / labelled.clamp(min=1).to(dtype), valid)


def count_pyramid(
    labels: Tensor,
    num_classes: int,
    strides: Sequence[int],
    *,
    policy: Literal["ceil", "floor"] = "ceil",
    ignore_index: int = IGNORE_INDEX,
) -> dict[int, Tensor]:
    """Counts at several strides, each from the next finer one where that divides it: the pixels are read once.

    Args:
        labels: `(B, H, W)` integer.
        num_classes: C.
        strides: sides of the cells in pixels.
        policy: "ceil" or "floor".
        ignore_index: value of pixels without a label.

    Returns:
        stride -> counts `(B, C + 1, h, w)` int32, equal to `cell_counts` at that stride.

    Raises:
        DataError: labels of another shape or range.
        RecipeError: no stride, or a policy that has none.
    """
    if not strides or policy not in ("ceil", "floor"):
        raise RecipeError(f"count_pyramid needs strides and policy ceil or floor, found {strides} and {policy!r}")
    found: dict[int, Tensor] = {}
    for stride in sorted(set(strides)):
        finer = max((known for known in found if stride % known == 0), default=None)
        if finer is None:
            found[stride] = cell_counts(labels, num_classes, stride=stride, policy=policy, ignore_index=ignore_index)
        else:
            rows, columns = (_cells(side, stride, policy) for side in labels.shape[1:])
            found[stride] = _sum_blocks(found[finer], stride // finer, rows, columns)
    return found


def cpp_loss_map(logits: Tensor, target: Tensor) -> Tensor:
    """KL divergence of the prediction from the pooled truth, per cell: `sum_k q_k (log q_k - log p_k)`.

    The direction is KL(q || p): q holds exact zeros, so the other one is infinite. Its gradient is `p - q`, that of
    soft-label cross-entropy, and it reaches 0 at a perfect fit.

    Args:
        logits: `(B, K, h, w)`; half precision is computed in float32.
        target: pooled truth q `(B, K, h, w)`, no gradient.

    Returns:
        `(B, h, w)`, not negative.

    Raises:
        DataError: shapes that differ.
    """
    if logits.shape != target.shape:
        raise DataError(
            f"auxiliary logits must be {tuple(target.shape)} as the pooled labels, found {tuple(logits.shape)}; the "
            "head needs one channel per class, and one more for ignored pixels in mode 'channel'"
        )
    logits = at_least_float32(logits)
    target = target.to(logits.dtype)
    return (torch.xlogy(target, target) - target * logits.log_softmax(1)).sum(1)


def cpp_loss(logits: Tensor, pooled: PooledLabels, *, weighting: Literal["all", "fraction", "cells"] = "all") -> Tensor:
    """Mean KL divergence over the cells (the paper's auxiliary loss, equation 2).

    Args:
        logits: `(B, K, h, w)`.
        pooled: truth from `pool_labels`, K channels.
        weighting: "all" means every cell alike (the paper, with ignored pixels as a channel); "fraction" weights a cell
            with its valid share, so that a pixel and not a cell is the unit (for mode "renormalise"); "cells" means
            every cell with a valid pixel alike.

    Returns:
        A scalar; a graph-connected 0 where no cell counts.

    Raises:
        DataError: shapes that differ.
        RecipeError: unknown weighting.
    """
    divergence = cpp_loss_map(logits, pooled.probabilities)
    if weighting == "all":
        return divergence.mean()
    if weighting not in ("fraction", "cells"):
        raise RecipeError(f"weighting must be all, fraction or cells, found {weighting!r}")
    weights = pooled.valid if weighting == "fraction" else pooled.valid > 0
    weights = weights.to(divergence.dtype)
    total = weights.sum()
    return (divergence * weights).sum() / torch.where(total > 0, total, torch.ones_like(total))


class CPPLoss(nn.Module):
    """CPP loss of an auxiliary head against full-size labels; the cells are those of the head's own grid.

    Args:
        ignore: "channel" (the paper: the head predicts C + 1 channels, the last for ignored pixels, and learns where
            nothing is labelled) or "renormalise" (the head predicts C channels and ignored pixels never matter).
        ignore_index: value of pixels without a label.
        num_classes: C; where it is given, the head's channels say which mode is meant, and `ignore` is not read.

    Raises:
        RecipeError: unknown ignore mode.
    """

    def __init__(
        self,
        *,
        ignore: Literal["channel", "renormalise"] = "channel",
        ignore_index: int = IGNORE_INDEX,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        if ignore not in IGNORE_MODES:
            raise RecipeError(f"ignore must be one of {', '.join(IGNORE_MODES)}, found {ignore!r}")
        self.ignore: Literal["channel", "renormalise"] = ignore
        self.ignore_index = ignore_index
        self.num_classes = num_classes

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """A scalar from logits `(B, K, h, w)` and labels `(B, H, W)`.

        Raises:
            DataError: shapes that do not go together, or labels out of range.
        """
        check_shapes(logits, labels, same_size=False)
        if labels.shape[1] < logits.shape[2] or labels.shape[2] < logits.shape[3]:
            raise DataError(
                f"labels must be at least as large as the auxiliary logits {tuple(logits.shape[2:])}, "
                f"found {tuple(labels.shape[1:])}"
            )
        ignore = self.ignore
        if self.num_classes is not None:
            if logits.shape[1] - self.num_classes not in (0, 1):
                raise DataError(
                    f"auxiliary logits must have {self.num_classes} channels, one per class, or one more for ignored "
                    f"pixels, found {logits.shape[1]}"
                )
            ignore = "channel" if logits.shape[1] > self.num_classes else "renormalise"
        channel = ignore == "channel"
        num_classes = logits.shape[1] - channel
        height, width = logits.shape[2:]
        stride = math.ceil(labels.shape[1] / height)
        fits = [math.ceil(side / stride) for side in labels.shape[1:]] == [height, width]
        where = {"stride": stride} if fits else {"size": (height, width)}
        with torch.no_grad():
            # In the prediction's precision: a third in float32 would cost a float64 loss half its digits.
            dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
            pooled = pool_labels(
                labels, num_classes, ignore=ignore, ignore_index=self.ignore_index, dtype=dtype, **where
            )
        return cpp_loss(logits, pooled, weighting="all" if channel else "fraction")


def _cells(side: int, stride: int, policy: str) -> int:
    return -(-side // stride) if policy == "ceil" else side // stride


def _edges(side: int, stride: int | None, cells: int | None, policy: str) -> list[tuple[int, int]]:
    """First and one past the last pixel of each cell along an axis."""
    if policy not in POLICIES:
        raise RecipeError(f"policy must be one of {', '.join(POLICIES)}, found {policy!r}")
    if policy == "adaptive":
        if cells is None or cells < 1:
            raise RecipeError(f"policy 'adaptive' needs a size of at least 1, found {cells}")
        return [(i * side // cells, -(-(i + 1) * side // cells)) for i in range(cells)]
    if stride is None or stride < 1:
        raise RecipeError(f"policy {policy!r} needs a stride of at least 1, found {stride}")
    return [(i * stride, min(side, (i + 1) * stride)) for i in range(_cells(side, stride, policy))]


def _borders(edges: list[tuple[int, int]]) -> list[int]:
    """Where segments start, and where the last one ends.

    Where cells overlap a pixel belongs to two of them, but to one segment.
    """
    return sorted({border for edge in edges for border in edge}) or [0]


def _counts_cpu(labels: Tensor, num_classes: int, rows: list[int], columns: list[int], ignore_index: int) -> Tensor:
    """Counts `(B, h, w, C + 1)` int32 of the segments between borders, by a compiled kernel."""
    from maskwright.losses.cpp_cpu import count_labels

    counts = torch.zeros(len(labels), len(rows) - 1, len(columns) - 1, num_classes + 1, dtype=torch.int32)
    wrong = count_labels(labels.detach().numpy(), np.array(rows), np.array(columns), ignore_index, counts.numpy())
    if wrong or rows[-1] < labels.shape[1] or columns[-1] < labels.shape[2]:
        valid_pixels(labels, num_classes, ignore_index)
    return counts


def _counts_anywhere(
    labels: Tensor, num_classes: int, rows: list[int], columns: list[int], ignore_index: int
) -> Tensor:
    """The same in plain torch: one index per pixel and one histogram."""
    channels, row_parts, column_parts = num_classes + 1, len(rows) - 1, len(columns) - 1
    ignored = ~valid_pixels(labels, num_classes, ignore_index)[:, : rows[-1], : columns[-1]]
    cells = row_parts * column_parts * channels
    kind = torch.int32 if len(labels) * cells < 2**31 else torch.int64
    index = labels[:, : rows[-1], : columns[-1]].to(kind, copy=True).masked_fill_(ignored, num_classes)
    # Axis by axis, so that no map of cell numbers as large as the labels is made.
    place = partial(torch.tensor, device=labels.device, dtype=kind)
    index += place(_numbers(rows))[:, None] * (column_parts * channels)
    index += place(_numbers(columns)) * channels
    if len(labels) > 1:
        index += place(range(len(labels)))[:, None, None] * cells
    counts = torch.bincount(index.flatten(), minlength=len(labels) * cells).to(torch.int32)
    return counts.view(len(labels), row_parts, column_parts, channels)


def _numbers(borders: list[int]) -> list[int]:
    """Number of the segment that each pixel is in."""
    return [number for number, (first, end) in enumerate(pairwise(borders)) for _ in range(first, end)]


def _join(counts: Tensor, edges: list[tuple[int, int]], axis: int) -> Tensor:
    """Cells from the segments that they cover; nothing to do where they are the same."""
    borders = sorted({border for edge in edges for border in edge})
    if not edges or len(borders) - 1 == len(edges):
        return counts
    place = {border: number for number, border in enumerate(borders)}
    sums = torch.cat([torch.zeros_like(counts.narrow(axis, 0, 1)), counts.cumsum(axis, dtype=torch.int32)], axis)
    starts = torch.tensor([place[first] for first, _ in edges], device=counts.device)
    ends = torch.tensor([place[end] for _, end in edges], device=counts.device)
    return sums.index_select(axis, ends) - sums.index_select(axis, starts)


def _sum_blocks(counts: Tensor, factor: int, rows: int, columns: int) -> Tensor:
    """Sums of `factor x factor` cells, class-last in memory; cells beyond the last are 0 or cut."""
    batch, channels, height, width = counts.shape
    counts = counts.permute(0, 2, 3, 1)
    room = (0, 0, 0, max(0, columns * factor - width), 0, max(0, rows * factor - height))
    counts = nn.functional.pad(counts, room)[:, : rows * factor, : columns * factor]
    counts = counts.reshape(batch, rows, factor, columns, factor, channels).sum((2, 4), dtype=torch.int32)
    return counts.permute(0, 3, 1, 2)
