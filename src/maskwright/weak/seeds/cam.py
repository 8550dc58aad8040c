"""Class activation maps (Zhou et al., CVPR 2016) from a tag classifier, by forward passes alone.

The head is a bias-free 1x1 convolution whose mean over positions is the logit, so the map of class k is w_k . f at
every position, and one forward pass gives every class. Extraction follows the code of IRN (Ahn et al., CVPR 2019),
which AdvCAM and ReCAM share: at each scale the maps of an image and of its mirror are rectified, then added; scales are
resized bilinearly, then added; each class is divided by its own maximum. The original paper sees one view only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass
class Views:
    """What a seed method sees of B images of one size; made by `maskwright.weak.seeds.extract.make_views`.

    Args:
        images: per scale, normalised images `(2B, 3, h, w)`, all B and then their mirrors, or `(B, 3, h, w)` without.
        scales: the factor of each entry of `images`.
        tags: per image, the tag positions that get maps, ascending.
        size: height and width at scale 1.
    """

    images: list[Tensor]
    scales: tuple[float, ...]
    tags: list[tuple[int, ...]]
    size: tuple[int, int]

    @property
    def flip(self) -> bool:
        """Whether the mirrors are there too."""
        return len(self.images[0]) == 2 * len(self.tags)


@dataclass
class SeedMaps:
    """Maps of one image's tagged classes, each in 0..1 and with a maximum just below 1, or zero everywhere.

    Args:
        keys: positions in `LabelSpace.foreground`, `(n,)` int64, ascending.
        cam: `(n, h4, w4)` at a quarter of the size that the network saw, rounded up; refinements start from it.
        high_res: `(n, H, W)` at full size; masks are made of it.
    """

    keys: Tensor
    cam: Tensor
    high_res: Tensor


def strided(length: int, stride: int) -> int:
    """Positions that a stride leaves of a length: floor((length - 1) / stride) + 1."""
    return (length - 1) // stride + 1


def class_maps(features: Tensor, weight: Tensor) -> Tensor:
    """Scores of each class at each position, not rectified; their spatial mean is the classifier's logit.

    Args:
        features: `(B, D, h, w)`.
        weight: of the head, `(K, D)` or `(K, D, 1, 1)`.

    Returns:
        `(B, K, h, w)`.
    """
    return F.conv2d(features, weight.reshape(*weight.shape[:2], 1, 1))


def merge_flip(maps: Tensor) -> Tensor:
    """Maps of images plus, turned back, the maps of their mirrors.

    Args:
        maps: `(2B, K, h, w)`, B images, then their mirrors; already rectified, since that comes before the sum.

    Returns:
        `(B, K, h, w)`.
    """
    straight, mirrored = maps.chunk(2)
    return straight + mirrored.flip(-1)


def accumulate(maps: Sequence[Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Sum over scales at a quarter of the image size and at full size.

    Full size is reached through the next multiple of 16 and a crop, as in the public code, so that maps of output
    stride 16 are enlarged by exactly 16.

    Args:
        maps: per scale `(n, h, w)`.
        size: height and width of the image.

    Returns:
        `(n, strided(H, 4), strided(W, 4))` and `(n, H, W)`.
    """
    height, width = size
    small = _resized_sum(maps, (strided(height, 4), strided(width, 4)))
    large = _resized_sum(maps, (16 * strided(height, 16), 16 * strided(width, 16)))
    return small, large[:, :height, :width]


def _resized_sum(maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    total = maps[0].new_zeros(len(maps[0]), *size)
    for scale in maps if len(total) else ():
        total += F.interpolate(scale[None], size, mode="bilinear", align_corners=False)[0]
    return total


def normalise_maps(maps: Tensor, eps: float = 1e-5) -> Tensor:
    """Each map `(n, h, w)`, not negative, divided by its own maximum plus `eps`."""
    return maps / (maps.amax((-2, -1), keepdim=True) + eps)


def tagged_maps(maps: Tensor, views: Views) -> Tensor:
    """Maps of a view's tagged classes, of mirrors turned back and added, as `finish` takes them.

    Args:
        maps: of all classes of one entry of `views.images`, not negative.
        views: of B images.

    Returns:
        `(N, h, w)`, at least float32.
    """
    images = [index for index, keys in enumerate(views.tags) for _ in keys]
    keys = [key for tagged in views.tags for key in tagged]
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
    return (merge_flip(maps) if views.flip else maps)[images, keys]


def finish(
    maps: Sequence[Tensor],
    tags: Sequence[Sequence[int]],
    size: tuple[int, int],
    normalise: Callable[[Tensor], Tensor] = normalise_maps,
) -> list[SeedMaps]:
    """Seed maps from the merged maps of each scale: `accumulate`, then to 0..1.

    Args:
        maps: per scale `(N, h, w)`, not negative: the tagged classes of the first image, then of the second, and so on.
        tags: per image, its tag positions, ascending; N in all.
        size: height and width of the images.
        normalise: brings maps `(n, h, w)` to 0..1.
    """
    cam, high_res = map(normalise, accumulate(maps, size))
    return by_image(cam, high_res, tags)


def by_image(cam: Tensor, high_res: Tensor, tags: Sequence[Sequence[int]]) -> list[SeedMaps]:
    """Maps of several images, one after the other, as one entry per image.

    Args:
        cam: `(N, h4, w4)`, the tagged classes of the first image, then of the second, and so on.
        high_res: `(N, H, W)`, the same at full size.
        tags: per image, its tag positions, ascending; N in all.
    """
    ends = np.cumsum([0, *(len(keys) for keys in tags)]).tolist()
    return [
        SeedMaps(torch.tensor(list(keys), dtype=torch.int64, device=cam.device), cam[start:end], high_res[start:end])
        for keys, (start, end) in zip(tags, pairwise(ends), strict=True)
    ]


@torch.no_grad()
def class_activation_maps(network: Any, views: Views, *, weight: Tensor | None = None) -> list[SeedMaps]:
    """Class activation maps of every image's tagged classes; the seed method `cam`.

    Classes do not meet, each is divided by its own maximum; so those that are not tagged are dropped before anything is
    resized, with the same result.

    Args:
        network: has `features(images) -> (B, D, h, w)` and `classifier.weight`.
        views: of B images.
        weight: class weight `(K, D)` in place of the classifier's, as in ReCAM's weight options.

    Returns:
        One entry per image, at least float32 also under autocast.
    """
    weight = network.classifier.weight if weight is None else weight
    maps = [tagged_maps(class_maps(network.features(view), weight).relu(), views) for view in views.images]
    return finish(maps, views.tags, views.size)
