"""Softmax cross-entropy over the pixels that carry a label."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskwright.errors import DataError
from maskwright.losses.ignore import IGNORE_INDEX, at_least_float32, check_shapes, index_labels, valid_pixels


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
    loss = F.cross_entropy(logits, labels.long(), weights, ignore_index=ignore_index, reduction="none")
    return loss, valid


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
    check_shapes(logits, labels)
    logits = at_least_float32(logits)
    valid = valid_pixels(labels, logits.shape[1], ignore_index)
    weights = _checked_weights(class_weights, logits)
    total = F.cross_entropy(logits, labels.long(), weights, ignore_index=ignore_index, reduction="sum")
    if weights is None:
        return total / valid.sum().clamp(min=1)
    mass = (weights[index_labels(labels, valid)] * valid).sum()
    return total / torch.where(mass > 0, mass, torch.ones_like(mass))


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


def _checked_weights(class_weights: Tensor | None, logits: Tensor) -> Tensor | None:
    if class_weights is None:
        return None
    if tuple(class_weights.shape) != (logits.shape[1],):
        raise DataError(f"class_weights must be ({logits.shape[1]},), found {tuple(class_weights.shape)}")
    return class_weights.to(logits)
