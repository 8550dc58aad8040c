"""Cross-entropy in which background and objects weigh alike, however many pixels each has."""

from __future__ import annotations

from torch import Tensor, nn

from maskwright.errors import DataError
from maskwright.losses.cross_entropy import cross_entropy_map, weighted_mean
from maskwright.losses.ignore import IGNORE_INDEX, index_labels


def balanced_cross_entropy(
    logits: Tensor, labels: Tensor, *, background: int = 0, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    """Mean of two cross-entropies: that of background pixels and that of all other pixels.

    As AdvCAM (Lee et al., CVPR 2021) trains DeepLabV2 on its masks, by its released code. Whether that adds both or
    takes their mean is not known to us; the mean has the scale of `cross_entropy`. Where there are pixels of one kind
    alone, it is the cross-entropy of these.

    Args:
        logits: `(B, C, H, W)`; float16 and bfloat16 are computed in float32.
        labels: `(B, H, W)`, values `0..C-1` or `ignore_index`.
        background: value of the background.
        ignore_index: value of pixels without a label.

    Returns:
        A scalar, not negative; a graph-connected 0 where no pixel counts.

    Raises:
        DataError: shapes that do not fit, labels out of range (CPU), or a background that is no class.
    """
    if not 0 <= background < logits.shape[1]:
        raise DataError(f"background must be one of the {logits.shape[1]} classes, found {background}")
    losses, valid = cross_entropy_map(logits, labels, ignore_index=ignore_index)
    index = index_labels(labels, valid)
    of_background, of_objects = valid & (index == background), valid & (index != background)
    kinds = of_background.any().to(losses.dtype) + of_objects.any()
    total = weighted_mean(losses, of_background, index, None, logits)
    return (total + weighted_mean(losses, of_objects, index, None, logits)) / kinds.clamp(min=1)


class BalancedCrossEntropy(nn.Module):
    """Module form of `balanced_cross_entropy`.

    Args:
        background: value of the background.
        ignore_index: value of pixels without a label.
    """

    def __init__(self, *, background: int = 0, ignore_index: int = IGNORE_INDEX) -> None:
        super().__init__()
        self.background, self.ignore_index = background, ignore_index

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return balanced_cross_entropy(logits, labels, background=self.background, ignore_index=self.ignore_index)
