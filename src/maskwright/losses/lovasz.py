"""Lovasz-softmax loss: a convex extension of the intersection over union, class by class."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from maskwright.losses.ignore import IGNORE_INDEX, at_least_float32, check_shapes, valid_pixels
from maskwright.losses.region import Scope, check_scope, with_cross_entropy


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
    check_scope(scope)
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


class LovaszSoftmax(nn.Module):
    """Module form of `lovasz_softmax_loss`, on request with cross-entropy.

    Args:
        scope: "batch" or "image".
        cross_entropy: weight of the cross-entropy that is added.
        ignore_index: value of pixels without a label.
    """

    def __init__(self, *, scope: Scope = "batch", cross_entropy: float = 0.0, ignore_index: int = IGNORE_INDEX) -> None:
        super().__init__()
        check_scope(scope)
        self.scope: Scope = scope
        self.cross_entropy, self.ignore_index = cross_entropy, ignore_index

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        loss = lovasz_softmax_loss(logits, labels, scope=self.scope, ignore_index=self.ignore_index)
        return with_cross_entropy(loss, logits, labels, self.cross_entropy, self.ignore_index)
