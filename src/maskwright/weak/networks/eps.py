"""EPS (Lee et al., CVPR 2021): the maps of the tagged classes together must explain a saliency map.

Maps of all classes and of the background, last, go through a softmax. What the classes say to be foreground, and what
the background leaves over, each estimate the saliency map. A class that lies outside of what is salient (a rail, water)
counts as background.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from maskwright.weak.seeds.cam import SeedMaps, Views, finish, tagged_maps
from maskwright.weak.seeds.classes import network_weight

EPS = 1e-4


def class_shares(maps: Tensor) -> Tensor:
    """Softmax over the channels of maps `(B, C, h, w)`, at least float32."""
    return maps.to(torch.promote_types(maps.dtype, torch.float32)).softmax(1)


def saliency_estimates(shares: Tensor, saliency: Tensor, tags: Tensor, threshold: float = 0.5) -> tuple[Tensor, Tensor]:
    """Two estimates of a saliency map: sum of the foreground classes, and 1 - background (eqs. 2 and 3).

    A tagged class is foreground where more than `threshold` of its own positions, those with a share above one half,
    are salient; else it is added to the background. Classes without a tag are in neither.

    Args:
        shares: of all classes and of the background, `(B, K + 1, h, w)` in 0..1.
        saliency: `(B, 1, h, w)` in 0..1.
        tags: `(B, K)`, above 0 where an image shows a class.
        threshold: tau, in 0..1.

    Returns:
        Each `(B, 1, h, w)`.
    """
    own = shares[:, :-1].detach().round()
    overlap = (own * saliency.round()).sum((2, 3)) / (own.sum((2, 3)) + EPS)
    tagged = tags > 0
    foreground = tagged & (overlap > threshold)
    behind = F.pad(tagged & ~foreground, (0, 1), value=True)

    def total(chosen: Tensor, values: Tensor) -> Tensor:
        return (values * chosen[:, :, None, None]).sum(1, keepdim=True)

    return total(foreground, shares[:, :-1]), 1 - total(behind, shares)


def eps_loss(maps: Tensor, saliency: Tensor, tags: Tensor, *, threshold: float = 0.5, blend: float = 0.5) -> Tensor:
    """L_sal: mean squared distance of the blended estimates from the saliency map.

    Args:
        maps: of all classes and of the background, last, `(B, K + 1, h, w)`, before any ReLU.
        saliency: `(B, 1, H, W)` in 0..1, of any size; the nearest pixel of each position is taken.
        tags: `(B, K)`, above 0 where an image shows a class.
        threshold: see `saliency_estimates`.
        blend: lambda, the weight of the foreground's estimate; that of the background has the rest.

    Returns:
        A scalar, at least float32.
    """
    shares = class_shares(maps)
    wanted = F.interpolate(saliency, maps.shape[2:], mode="nearest").to(shares.dtype)
    foreground, not_background = saliency_estimates(shares, wanted, tags, threshold)
    return F.mse_loss(blend * foreground + (1 - blend) * not_background, wanted)


def eps_class_maps(network: Any, images: Tensor, features: Tensor, classes: Tensor) -> Tensor:
    """Shares of chosen classes, for ReCAM's soft masks; see `maskwright.weak.seeds.gradcam.ClassMaps`.

    Raises:
        RecipeError: the network has no background.
    """
    shares = class_shares(F.conv2d(features, network.head_weight()))
    return shares.gather(1, classes.clamp(min=0)[:, :, None, None].expand(-1, -1, *shares.shape[2:]))


@torch.no_grad()
def eps_maps(network: Any, views: Views, *, weight: str = "w1") -> list[SeedMaps]:
    """Each tagged class's share of every position, summed over scales and mirrors; the seed method `eps`.

    Args:
        network: an `ImageTagClassifier` with a background.
        views: of B images.
        weight: class weight of the maps; other than `w1` where ReCAM went on from EPS.

    Returns:
        One entry per image.

    Raises:
        RecipeError: the network has no background, or as `network_weight`.
    """
    chosen = network.head_weight(network_weight(network, weight))
    maps = [tagged_maps(class_shares(network.maps(view, chosen))[:, :-1], views) for view in views.images]
    return finish(maps, views.tags, views.size)
