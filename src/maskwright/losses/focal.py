"""Focal loss: the more confident a pixel's right class already is, the less the pixel counts.

Written here because no light library has it with ignored pixels: torchvision's is per-class sigmoid, and those of
larger packages bring a model zoo along.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from maskwright.errors import RecipeError
from maskwright.losses.cross_entropy import cross_entropy_map, weighted_mean
from maskwright.losses.ignore import IGNORE_INDEX, index_labels


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
    index = index_labels(labels, valid)
    return weighted_mean(missing**gamma * losses, valid, index, class_weights, logits)


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
