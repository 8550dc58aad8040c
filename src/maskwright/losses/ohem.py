"""Online hard example mining: cross-entropy over the hard pixels alone (as in HRNet's training code)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from maskwright.errors import RecipeError
from maskwright.losses.cross_entropy import cross_entropy_map, weighted_mean
from maskwright.losses.ignore import IGNORE_INDEX, index_labels


def ohem_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    threshold: float = 0.7,
    min_kept: int | float = 0.0625,
    ignore_index: int = IGNORE_INDEX,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Mean cross-entropy of the hard pixels of a batch.

    A pixel is hard where the probability of its true class is at most `threshold`. Where fewer than `min_kept` are, the
    hardest `min_kept` are taken instead, and with them all that are exactly as hard as the last of them, so that the
    order of pixels never matters. (The released code leaves those out; where all pixels are alike it has none left.)

    Args:
        logits: `(B, C, H, W)`; float16 and bfloat16 are computed in float32.
        labels: `(B, H, W)`, values `0..C-1` or `ignore_index`.
        threshold: probability, 0 to 1; 1 keeps every pixel.
        min_kept: pixels of the batch that are kept at least: a count, or below 1 a share of the valid ones.
        ignore_index: value of pixels without a label.
        class_weights: `(C,)`, not negative; they weigh the kept pixels, and do not change which these are.

    Returns:
        A scalar, `sum(w[y] * loss) / sum(w[y])` over the kept pixels; a graph-connected 0 where no pixel is valid.

    Raises:
        DataError: shapes that do not fit, or labels out of range (CPU).
        RecipeError: threshold or min_kept out of range.
    """
    _check(threshold, min_kept)
    losses, valid = cross_entropy_map(logits, labels, ignore_index=ignore_index)
    kept = hard_pixels(losses.detach(), valid, threshold=threshold, min_kept=min_kept)
    return weighted_mean(losses, kept, index_labels(labels, valid), class_weights, logits)


@torch.no_grad()
def hard_pixels(losses: Tensor, valid: Tensor, *, threshold: float, min_kept: int | float) -> Tensor:
    """Which pixels are hard, without a sort of all of them.

    Args:
        losses: cross-entropies of any shape.
        valid: bool, the same shape.
        threshold: see `ohem_cross_entropy`.
        min_kept: the same.

    Returns:
        Bool, the same shape, false where not valid.
    """
    bound = -math.log(threshold) if threshold > 0 else math.inf
    hard = valid & (losses >= bound)
    valid_count = int(valid.sum())
    wanted = math.ceil(min_kept * valid_count) if min_kept < 1 else min(int(min_kept), valid_count)
    if wanted == 0 or int(hard.sum()) >= wanted:
        return hard
    ranked = losses.masked_fill(~valid, -math.inf).flatten()
    least = ranked.topk(wanted, sorted=False).values.min()
    return valid & (losses >= least)


class OHEM(nn.Module):
    """Module form of `ohem_cross_entropy`.

    Args:
        threshold: probability of the true class up to which a pixel is hard.
        min_kept: pixels of the batch that are kept at least: a count (HRNet: 131072), or below 1 a share.
        ignore_index: value of pixels without a label.
        class_weights: one number per class, not negative.

    Raises:
        RecipeError: threshold or min_kept out of range.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        *,
        threshold: float = 0.7,
        min_kept: int | float = 0.0625,
        ignore_index: int = IGNORE_INDEX,
        class_weights: Sequence[float] | Tensor | None = None,
    ) -> None:
        super().__init__()
        _check(threshold, min_kept)
        self.threshold, self.min_kept, self.ignore_index = threshold, min_kept, ignore_index
        weights = None if class_weights is None else torch.as_tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return ohem_cross_entropy(
            logits,
            labels,
            threshold=self.threshold,
            min_kept=self.min_kept,
            ignore_index=self.ignore_index,
            class_weights=self.class_weights,
        )


def _check(threshold: float, min_kept: float) -> None:
    if not 0 <= threshold <= 1:
        raise RecipeError(f"ohem needs a probability as threshold, 0 to 1, found {threshold}")
    if not min_kept >= 0 or (min_kept >= 1 and min_kept != int(min_kept)):
        raise RecipeError(f"ohem's min_kept must be a count of pixels, or a share below 1, found {min_kept}")
