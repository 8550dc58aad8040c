"""The pixel correlation module of SEAM (Wang et al., CVPR 2020, section 3.3), as SEAM and as L2G use it.

Each position takes the mean of a map over all positions, weighted by how alike their low-level embeddings are. The
affinities of h x w positions to each other are `(hw)^2` numbers: they are made in blocks of columns, and made again for
the gradient, so that memory stays bounded whatever the size of the maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from maskwright.errors import RecipeError, unknown_name

KINDS = ("features", "cam")
WIDTHS = (64, 128)  # channels of the two low-level maps in the embedding
LARGEST = 2**25  # affinities held at a time
EPS = 1e-5


def pcm(maps: Tensor, embedding: Tensor, chunk: int | None = None) -> Tensor:
    """Maps times affinities: `out_j = sum_i M_i A_ij / (sum_i A_ij + 1e-5)` with `A_ij = relu(cos(e_i, e_j))`.

    Args:
        maps: `(B, C, h, w)`, of any values.
        embedding: `(B, E, h, w)`, of any length at each position.
        chunk: positions j whose new values are computed at a time, with `B * h * w * chunk` affinities; by default as
            many as make 2^25. The result does not depend on it, and neither does the gradient.

    Returns:
        `(B, C, h, w)`, at least float32 also under autocast. Products are made in the embedding's type.
    """
    count = maps.shape[2] * maps.shape[3]
    chunk = chunk or max(1, LARGEST // (len(maps) * count))
    wide = embedding.flatten(2).to(torch.promote_types(embedding.dtype, torch.float32))
    # Both factors carry a share of 1 / count, so that half precision neither overflows nor loses small affinities.
    unit = (wide * (count**-0.25 / (wide.norm(dim=1, keepdim=True) + EPS))).to(embedding.dtype)
    # The row of ones gives the sums of the columns in the same product.
    values = torch.cat([maps.flatten(2), maps.new_ones(len(maps), 1, count)], 1).to(unit.dtype) * count**-0.5
    blocks = unit.split(chunk, 2)
    if len(blocks) > 1 and torch.is_grad_enabled() and (values.requires_grad or unit.requires_grad):
        found = [
            checkpoint(_attend, values, unit, block, use_reentrant=False, preserve_rng_state=False) for block in blocks
        ]
    else:
        found = [_attend(values, unit, block) for block in blocks]
    return torch.cat(found, 2).view(maps.shape)


def _attend(values: Tensor, unit: Tensor, block: Tensor) -> Tensor:
    affinities = torch.bmm(unit.mT, block).relu_()
    sums = torch.bmm(values, affinities)
    sums = sums.to(torch.promote_types(sums.dtype, torch.float32))
    return sums[:, :-1] / (sums[:, -1:] + EPS / unit.shape[2])


def seam_input(maps: Tensor) -> Tensor:
    """What SEAM refines: each map divided by its maximum, only the highest class of a position, and a background.

    Args:
        maps: of the classes, `(B, K, h, w)`, before any ReLU; no gradient goes back.

    Returns:
        `(B, K + 1, h, w)` in 0..1; the last is 1 - the highest of the others.
    """
    positive = maps.detach().relu()
    positive = positive.to(torch.promote_types(positive.dtype, torch.float32))
    unit = (positive - EPS).relu() / (positive.amax((2, 3), keepdim=True) + EPS)
    best = unit.amax(1, keepdim=True)
    return torch.cat([unit.masked_fill(unit < best, 0), 1 - best], 1)


def resize_aligned(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear resize of `(B, C, h, w)` where corners stay corners; unchanged where the size fits."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=True)


class PCM(nn.Module):
    """Refines maps by an embedding of the image and of two low-level feature maps, which it does not train.

    Args:
        channels: of the two feature maps.
        kind: `cam`, as in SEAM: for maps of classes, the low-level maps rectified. `features`, as in L2G: for the
            features that the classes are told from, nothing rectified.
        image_channels: channels of the image.
        chunk: as for `pcm`.

    Raises:
        RecipeError: another kind, or a number of feature maps other than two.
    """

    def __init__(
        self,
        channels: Sequence[int],
        kind: Literal["features", "cam"],
        *,
        image_channels: int = 3,
        chunk: int | None = None,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise RecipeError(unknown_name("kind of PCM", str(kind), KINDS))
        if len(channels) != len(WIDTHS):
            raise RecipeError(
                f"PCM needs {len(WIDTHS)} feature maps below the last, found {len(channels)}; take another backbone"
            )
        self.kind, self.chunk = kind, chunk
        low = [nn.Conv2d(count, width, 1, bias=False) for count, width in zip(channels, WIDTHS, strict=True)]
        self.low = nn.ModuleList(low)
        self.embed = nn.Conv2d(image_channels + sum(WIDTHS), sum(WIDTHS), 1, bias=False)
        for layer in low:
            nn.init.kaiming_normal_(layer.weight)
        nn.init.xavier_uniform_(self.embed.weight, gain=4)

    def forward(self, maps: Tensor, images: Tensor, low: Sequence[Tensor]) -> Tensor:
        """Refined maps.

        Args:
            maps: `(B, C, h, w)`.
            images: `(B, 3, H, W)`, normalised.
            low: the two feature maps, of any size.

        Returns:
            `(B, C, h, w)`.
        """
        size = maps.shape[2:]
        parts = [layer(resize_aligned(taken.detach(), size)) for layer, taken in zip(self.low, low, strict=True)]
        if self.kind == "cam":
            parts = [part.relu() for part in parts]
        return pcm(maps, self.embed(torch.cat([resize_aligned(images, size), *parts], 1)), self.chunk)
