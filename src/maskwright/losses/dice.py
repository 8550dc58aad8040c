"""Soft Dice loss: how far the predicted regions overlap with the true ones, class by class."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from maskwright.losses.ignore import IGNORE_INDEX, at_least_float32, check_shapes, index_labels, valid_pixels
from maskwright.losses.region import Scope, check_scope, with_cross_entropy


def dice_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    scope: Scope = "batch",
    smooth: float = 0.0,
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    """Soft Dice loss: mean over the classes that occur of `1 - (2 sum p y + smooth) / (sum p + sum y + smooth)`.

    Args:
        logits: `(B, C, H, W)`; float16 and bfloat16 are computed in float32.
        labels: `(B, H, W)`, values `0..C-1` or `ignore_index`.
        scope: "batch" takes the sums over all images; "image" over each, and averages the images with a valid pixel.
        smooth: pixels added to both, which softens the loss of small regions.
        ignore_index: value of pixels without a label.

    Returns:
        A scalar in 0..1; a graph-connected 0 where no pixel is valid.

    Raises:
        DataError: shapes that do not fit, or labels out of range (CPU).
        RecipeError: an unknown scope.
    """
    check_scope(scope)
    check_shapes(logits, labels)
    batch, classes = logits.shape[:2]
    valid = valid_pixels(labels, classes, ignore_index)
    probabilities = at_least_float32(logits).softmax(1).masked_fill(~valid.unsqueeze(1), 0)
    index = index_labels(labels, valid)
    true = probabilities.gather(1, index.unsqueeze(1)).flatten(1)
    # Sums of a class's pixels by their label: no one-hot map.
    group = index.flatten(1) + classes * torch.arange(batch, device=labels.device)[:, None]
    hit = true.new_zeros(batch * classes, dtype=torch.float64)
    hit = hit.index_add(0, group.flatten(), true.flatten().double()).view(batch, classes)
    size = torch.bincount(group.flatten(), valid.flatten().double(), batch * classes).view(batch, classes)
    predicted = probabilities.sum((2, 3), dtype=torch.float64)
    if scope == "batch":
        hit, size, predicted = (value.sum(0, keepdim=True) for value in (hit, size, predicted))
    there = size > 0
    total = torch.where(there, predicted + size + smooth, torch.ones_like(size))
    losses = (1 - (2 * hit + smooth) / total) * there
    per_row = losses.sum(1) / there.sum(1).clamp(min=1)
    return (per_row.sum() / there.any(1).sum().clamp(min=1)).to(probabilities.dtype)


class Dice(nn.Module):
    """Module form of `dice_loss`, on request with cross-entropy, which it is usually trained together with.

    Args:
        scope: "batch" or "image".
        smooth: pixels added to both sides of the fraction.
        cross_entropy: weight of the cross-entropy that is added.
        ignore_index: value of pixels without a label.
    """

    def __init__(
        self,
        *,
        scope: Scope = "batch",
        smooth: float = 0.0,
        cross_entropy: float = 0.0,
        ignore_index: int = IGNORE_INDEX,
    ) -> None:
        super().__init__()
        check_scope(scope)
        self.scope: Scope = scope
        self.smooth, self.cross_entropy, self.ignore_index = smooth, cross_entropy, ignore_index

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        loss = dice_loss(logits, labels, scope=self.scope, smooth=self.smooth, ignore_index=self.ignore_index)
        return with_cross_entropy(loss, logits, labels, self.cross_entropy, self.ignore_index)
