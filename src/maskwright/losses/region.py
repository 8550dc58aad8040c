"""Losses that weigh pixels by confidence or score whole regions: focal, Dice, Lovasz-softmax.

Written here because no light library has them with ignored pixels: torchvision's focal loss is per-class sigmoid, and
those of larger packages bring a model zoo along.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from maskwright.errors import DataError, RecipeError
from maskwright.losses.cross_entropy import cross_entropy, cross_entropy_map
from maskwright.losses.ignore import IGNORE_INDEX, at_least_float32, check_shapes, index_labels, valid_pixels

Scope = Literal["batch", "image"]


def focal_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    gamma: float = 2.0,
    ignore_index: int = IGNORE_INDEX,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Focal loss (Lin et al., ICCV 2017) in its softmax form: mean of `(1 - p)^gamma * -log p`, p of the true class.

    Args:
        logits: `(B, C, H, W)`; float16 and bfloat16 are computed in float32.
        labels: `(B, H, W)`, values `0..C-1` or `ignore_index`.
        gamma: 0 gives cross-entropy; the larger, the less easy pixels matter.
        ignore_index: value of pixels without a label.
        class_weights: `(C,)`, not negative (the paper's alpha); the mean is weighted as in `cross_entropy`.

    Returns:
        A scalar, not negative; a graph-connected 0 where no pixel counts.

    Raises:
        DataError: shapes that do not fit, or labels out of range (CPU).
        RecipeError: a negative gamma.
    """
    if not gamma >= 0:
        raise RecipeError(f"focal loss needs gamma >= 0, found {gamma}")
    losses, valid = cross_entropy_map(logits, labels, ignore_index=ignore_index)
    # 1 - p without cancellation; kept above 0 because a power below 1 has no slope there.
    missing = (-torch.expm1(-losses)).clamp(min=torch.finfo(losses.dtype).tiny)
    focal = missing**gamma * losses
    weights = valid.to(losses.dtype)
    if class_weights is not None:
        if tuple(class_weights.shape) != (logits.shape[1],):
            raise DataError(f"class_weights must be ({logits.shape[1]},), found {tuple(class_weights.shape)}")
        weights = weights * class_weights.to(losses)[index_labels(labels, valid)]
    mass = weights.sum()
    return (focal * weights).sum() / torch.where(mass > 0, mass, torch.ones_like(mass))


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
    _check_scope(scope)
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


def lovasz_softmax_loss(
    logits: Tensor, labels: Tensor, *, scope: Scope = "batch", ignore_index: int = IGNORE_INDEX
) -> Tensor:
    """Lovasz-softmax loss (Berman et al., CVPR 2018): the convex extension of `1 - IoU`, averaged over the classes that
    occur.

    Errors `|y - p|` of a class, sorted, are weighted by what each adds to the Jaccard loss. The loss is linear in the
    errors wherever their order stays, so the weights are found without a graph.

    Args:
        logits: `(B, C, H, W)`; float16 and bfloat16 are computed in float32.
        labels: `(B, H, W)`, values `0..C-1` or `ignore_index`.
        scope: "batch" scores all images at once; "image" each, and averages the images with a valid pixel.
        ignore_index: value of pixels without a label.

    Returns:
        A scalar in 0..1; a graph-connected 0 where no pixel is valid.

    Raises:
        DataError: shapes that do not fit, or labels out of range (CPU).
        RecipeError: an unknown scope.
    """
    _check_scope(scope)
    check_shapes(logits, labels)
    valid = valid_pixels(labels, logits.shape[1], ignore_index)
    probabilities = at_least_float32(logits).softmax(1).movedim(1, 0)
    rows = [slice(None)] if scope == "batch" else [slice(number, number + 1) for number in range(len(labels))]
    losses = []
    for row in rows:
        kept = valid[row]
        truth = labels[row][kept].long()
        if len(truth):
            losses.append(_lovasz(probabilities[:, row][:, kept], truth))
    return torch.stack(losses).mean() if losses else probabilities[:0].sum()


def _lovasz(probabilities: Tensor, truth: Tensor) -> Tensor:
    """Loss of probabilities `(C, n)` against labels `(n,)`."""
    with torch.no_grad():
        slopes = torch.zeros_like(probabilities)
        present = truth.unique().tolist()
        constant = probabilities.new_zeros(())
        for value in present:
            mine = truth == value
            errors = torch.where(mine, 1 - probabilities[value], probabilities[value])
            order = errors.argsort(descending=True)
            hits = mine[order].cumsum(0).double()
            position = torch.arange(1, len(truth) + 1, dtype=torch.float64, device=truth.device)
            jaccard = 1 - (hits[-1] - hits) / (hits[-1] + position - hits)
            weights = torch.empty_like(errors)
            weights[order] = jaccard.diff(prepend=jaccard.new_zeros(1)).to(errors.dtype)
            constant = constant + (weights * mine).sum()
            slopes[value] = torch.where(mine, -weights, weights)
    return (constant + (slopes * probabilities).sum()) / len(present)


class Focal(nn.Module):
    """Module form of `focal_loss`.

    Args:
        gamma: 0 gives cross-entropy.
        ignore_index: value of pixels without a label.
        class_weights: one number per class, not negative.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        *,
        gamma: float = 2.0,
        ignore_index: int = IGNORE_INDEX,
        class_weights: Sequence[float] | Tensor | None = None,
    ) -> None:
        super().__init__()
        self.gamma, self.ignore_index = gamma, ignore_index
        weights = None if class_weights is None else torch.as_tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return focal_loss(
            logits, labels, gamma=self.gamma, ignore_index=self.ignore_index, class_weights=self.class_weights
        )


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
        _check_scope(scope)
        self.scope: Scope = scope
        self.smooth, self.cross_entropy, self.ignore_index = smooth, cross_entropy, ignore_index

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        loss = dice_loss(logits, labels, scope=self.scope, smooth=self.smooth, ignore_index=self.ignore_index)
        return _with_cross_entropy(loss, logits, labels, self)


class LovaszSoftmax(nn.Module):
    """Module form of `lovasz_softmax_loss`, on request with cross-entropy.

    Args:
        scope: "batch" or "image".
        cross_entropy: weight of the cross-entropy that is added.
        ignore_index: value of pixels without a label.
    """

    def __init__(self, *, scope: Scope = "batch", cross_entropy: float = 0.0, ignore_index: int = IGNORE_INDEX) -> None:
        super().__init__()
        _check_scope(scope)
        self.scope: Scope = scope
        self.cross_entropy, self.ignore_index = cross_entropy, ignore_index

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        loss = lovasz_softmax_loss(logits, labels, scope=self.scope, ignore_index=self.ignore_index)
        return _with_cross_entropy(loss, logits, labels, self)


def _with_cross_entropy(loss: Tensor, logits: Tensor, labels: Tensor, settings: Dice | LovaszSoftmax) -> Tensor:
    if settings.cross_entropy == 0:
        return loss
    return loss + settings.cross_entropy * cross_entropy(logits, labels, ignore_index=settings.ignore_index)


def _check_scope(scope: str) -> None:
    if scope not in ("batch", "image"):
        raise RecipeError(f"scope must be 'batch' or 'image', found {scope!r}")
