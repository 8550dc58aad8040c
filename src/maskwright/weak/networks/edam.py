"""EDAM (Wu et al., CVPR 2021): masks of the classes as a layer of the classifier, learned with attention over a batch.

The layer of discriminative activation, one 1x1 convolution, gives every position a share of each class and of the
background. A class's share times the features is all that the class is told by: what the images of a batch have in
common there is brought together by self-attention, one for each class, which training alone needs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskwright.errors import RecipeError
from maskwright.weak.seeds.cam import SeedMaps, Views, finish, tagged_maps


def activation_masks(network: Any, features: Tensor) -> Tensor:
    """Share of every class and of the background, last: absolute scores divided by their length (paper, section 3.2).

    Args:
        network: an `ImageTagClassifier` with the layer.
        features: `(B, D, h, w)`.

    Returns:
        `(B, K + 1, h, w)` in 0..1, squares summing to 1 at each position; at least float32.

    Raises:
        RecipeError: the network has no such layer.
    """
    if network.edam is None:
        raise RecipeError("these masks need EDAM's layer, found a network without; train it with networks=[edam]")
    scores = network.edam(features)
    return F.normalize(scores.to(torch.promote_types(scores.dtype, torch.float32)).abs(), dim=1)


class CollaborativeAttention(nn.Module):
    """Tag logits of a batch, each class from what its masks leave of the features in all images (section 3.3).

    Unlike the paper, which has one token for every position, masked features are averaged over a grid first; positions
    tell queries and keys apart, not values; and tokens are added to what they attend to, since otherwise all images of
    a batch begin with the same logits.

    Args:
        channels: D, of the features.
        num_tags: K.
        width: channels that the features are reduced to.
        heads: of each class's attention.
        grid: rows and columns of tokens at most.
    """

    def __init__(self, channels: int, num_tags: int, *, width: int = 64, heads: int = 4, grid: int = 16) -> None:
        super().__init__()
        if width % heads or width % 4:
            raise RecipeError(f"edam.width={width} must be a multiple of edam.heads={heads} and of 4")
        self.heads, self.grid = heads, grid
        self.reduce = nn.Conv2d(channels, width, 1, bias=False)
        self.project = nn.Parameter(torch.randn(num_tags, width, 3 * width) * width**-0.5)
        self.score = nn.Parameter(torch.randn(num_tags, width, 1) * width**-0.5)
        self.bias = nn.Parameter(torch.zeros(num_tags))

    def forward(self, features: Tensor, masks: Tensor) -> Tensor:
        """Tag logits.

        Args:
            features: `(B, D, h, w)`.
            masks: as `activation_masks` gives them; the background's is not read.

        Returns:
            `(B, K)`, at least float32.
        """
        reduced = self.reduce(features)
        count, tags = len(masks), masks.shape[1] - 1
        size = min(self.grid, masks.shape[2]), min(self.grid, masks.shape[3])
        # A mask is one number for all channels, so that features may be reduced before they are masked.
        masked = (masks[:, :-1, None] * reduced[:, None]).flatten(0, 1)
        cells = F.adaptive_avg_pool2d(masked, size).view(count, tags, -1, size[0] * size[1])
        tokens = cells.permute(1, 0, 3, 2).flatten(1, 2)  # (K, B * cells, width)
        where = positions(count, size, tokens.shape[2], tokens.device).to(tokens.dtype)
        query, key = torch.bmm(tokens + where, self.project[..., : -tokens.shape[2]]).chunk(2, 2)
        value = torch.bmm(tokens, self.project[..., -tokens.shape[2] :])
        query, key, value = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (query, key, value))
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        means = (tokens + attended).unflatten(1, (count, -1)).mean(2)  # (K, B, width)
        logits = torch.bmm(means, self.score)[..., 0].mT + self.bias
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


def positions(images: int, size: tuple[int, int], width: int, device: torch.device | str | None = None) -> Tensor:
    """Sines and cosines of a token's place in its image, and of its image's place in the batch.

    Args:
        images: B.
        size: rows and columns of tokens in each.
        width: of the tokens, a multiple of 4.
        device: where they are wanted.

    Returns:
        `(B * rows * columns, width)`.
    """
    place = torch.arange(images * size[0] * size[1], device=device)
    cells = size[0] * size[1]
    rates = 10000 ** (-torch.arange(width // 4, device=device) / (width // 4))
    angles = torch.cat([(place % cells)[:, None] * rates, (place // cells)[:, None] * rates], 1)
    return torch.cat([angles.sin(), angles.cos()], 1)


def edam_class_maps(network: Any, images: Tensor, features: Tensor, classes: Tensor) -> Tensor:
    """Shares of chosen classes, for ReCAM's soft masks; see `maskwright.weak.seeds.gradcam.ClassMaps`.

    Raises:
        RecipeError: as `activation_masks`.
    """
    masks = activation_masks(network, features)
    return masks.gather(1, classes.clamp(min=0)[:, :, None, None].expand(-1, -1, *masks.shape[2:]))


@torch.no_grad()
def edam_maps(network: Any, views: Views) -> list[SeedMaps]:
    """Each tagged class's share of every position, summed over scales and mirrors; the seed method `edam`.

    Args:
        network: an `ImageTagClassifier` with EDAM's layer.
        views: of B images.

    Returns:
        One entry per image.

    Raises:
        RecipeError: as `activation_masks`.
    """
    maps = [tagged_maps(activation_masks(network, network.features(view))[:, :-1], views) for view in views.images]
    return finish(maps, views.tags, views.size)
