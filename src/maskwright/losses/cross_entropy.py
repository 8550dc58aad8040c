"""Softmax cross-entropy over the pixels that carry a label.

The gradient is made in the memory that holds the log-probabilities, and class-last logits stay class-last: torch's own
form holds three maps of all classes where this one holds one, and copies class-last logits first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from maskwright.errors import DataError
from maskwright.losses.ignore import IGNORE_INDEX, at_least_float32, check_shapes, index_labels, valid_pixels
from maskwright.losses.resizing import resize_labels


def cross_entropy_map(
    logits: Tensor, labels: Tensor, *, ignore_index: int = IGNORE_INDEX, class_weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every pixel, for losses that weigh or select pixels.

    Args:
        logits: `(B, C, H, W)`; float16 and bfloat16 are computed in float32.
        labels: `(B, H, W)`, values `0..C-1` or `ignore_index`.
        ignore_index: value of pixels without a label.
        class_weights: `(C,)`, factor on the loss of each class's pixels.

    Returns:
        Loss `(B, H, W)`, 0 at ignored pixels, and the bool mask `(B, H, W)` of valid pixels.

    Raises:
        DataError: shapes that do not fit, or labels out of range (CPU).
    """
    check_shapes(logits, labels)
    logits = at_least_float32(logits)
    valid = valid_pixels(labels, logits.shape[1], ignore_index)
    weights = _checked_weights(class_weights, logits)
    index = index_labels(labels, valid)
    loss = _pixel_losses(logits, index, valid)
    return loss if weights is None else loss * weights[index], valid


def cross_entropy(
    logits: Tensor, labels: Tensor, *, ignore_index: int = IGNORE_INDEX, class_weights: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy over the valid pixels.

    With class weights it is the weighted mean `sum(w[y] * loss) / sum(w[y])`, as in `torch.nn.CrossEntropyLoss`, so
    that multiplying all weights by a number changes nothing. Without any valid pixel (or with none of positive weight)
    it is a zero that still belongs to the graph, where torch's mean is NaN.

    Args:
        logits: `(B, C, H, W)`; float16 and bfloat16 are computed in float32.
        labels: `(B, H, W)`, values `0..C-1` or `ignore_index`.
        ignore_index: value of pixels without a label.
        class_weights: `(C,)`, not negative.

    Returns:
        A scalar, not negative.

    Raises:
        DataError: shapes that do not fit, or labels out of range (CPU).
    """
    losses, valid = cross_entropy_map(logits, labels, ignore_index=ignore_index, class_weights=class_weights)
    if class_weights is None:
        return losses.sum() / valid.sum().clamp(min=1)
    mass = (class_weights.to(losses)[index_labels(labels, valid)] * valid).sum()
    return losses.sum() / torch.where(mass > 0, mass, torch.ones_like(mass))


def weighted_mean(
    losses: Tensor, counted: Tensor, index: Tensor, class_weights: Tensor | None, logits: Tensor
) -> Tensor:
    """Mean loss over some pixels, weighted by their classes as in `cross_entropy`; 0 with a graph where none counts.

    Args:
        losses: `(B, H, W)`, not weighted.
        counted: `(B, H, W)` bool.
        index: `(B, H, W)` int64, a class everywhere.
        class_weights: `(C,)`, not negative; None for 1.
        logits: `(B, C, H, W)`, which the losses are of.

    Raises:
        DataError: weights for another number of classes.
    """
    weights = counted.to(losses.dtype)
    if class_weights is not None:
        _checked_weights(class_weights, logits)
        weights = weights * class_weights.to(losses)[index]
    mass = weights.sum()
    return (losses * weights).sum() / torch.where(mass > 0, mass, torch.ones_like(mass))


class CrossEntropy(nn.Module):
    """Module form of `cross_entropy`.

    Args:
        ignore_index: value of pixels without a label.
        class_weights: one number per class, not negative.
    """

    class_weights: Tensor | None

    def __init__(
        self, *, ignore_index: int = IGNORE_INDEX, class_weights: Sequence[float] | Tensor | None = None
    ) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        weights = None if class_weights is None else torch.as_tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits, labels, ignore_index=self.ignore_index, class_weights=self.class_weights)


class NearestCrossEntropy(nn.Module):
    """Cross-entropy on a coarse map, of labels reduced to its size by the nearest pixel: what CPP pooling replaces.

    Args:
        ignore_index: value of pixels without a label.
    """

    def __init__(self, *, ignore_index: int = IGNORE_INDEX) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        reduced = resize_labels(labels, (logits.shape[2], logits.shape[3]))
        return cross_entropy(logits, reduced, ignore_index=self.ignore_index)


def _pixel_losses(logits: Tensor, index: Tensor, valid: Tensor) -> Tensor:
    """Losses `(B, H, W)`, 0 where not valid, of logits `(B, C, H, W)` and classes `(B, H, W)`."""
    if torch.compiler.is_compiling():
        return F.cross_entropy(logits, index, reduction="none").masked_fill(~valid, 0)
    return _CrossEntropyMap.apply(logits, index, valid)


class _CrossEntropyMap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, index: Tensor, valid: Tensor) -> Tensor:
        last = logits.is_contiguous(memory_format=torch.channels_last) and not logits.is_contiguous()
        ctx.dim = -1 if last else 1
        log_probabilities = (logits.movedim(1, -1) if last else logits).log_softmax(ctx.dim)
        ctx.save_for_backward(log_probabilities, index, valid)
        return (
            log_probabilities.gather(ctx.dim, index.unsqueeze(ctx.dim)).squeeze(ctx.dim).neg_().masked_fill_(~valid, 0)
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        log_probabilities, index, valid = ctx.saved_tensors
        scale = gradient.masked_fill(~valid, 0).unsqueeze(ctx.dim)
        # What was saved may be overwritten unless the graph is to be gone through once more.
        result = log_probabilities.exp() if _graph_is_kept() else log_probabilities.exp_()
        result.mul_(scale).scatter_add_(ctx.dim, index.unsqueeze(ctx.dim), -scale)
        return result.movedim(-1, 1) if ctx.dim == -1 else result, None, None


def _graph_is_kept() -> bool:
    """Whether the backward pass that runs now was asked to retain its graph; True where torch does not say."""
    ask = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return ask is None or ask()


def _checked_weights(class_weights: Tensor | None, logits: Tensor) -> Tensor | None:
    if class_weights is None:
        return None
    if tuple(class_weights.shape) != (logits.shape[1],):
        raise DataError(f"class_weights must be ({logits.shape[1]},), found {tuple(class_weights.shape)}")
    return class_weights.to(logits)
