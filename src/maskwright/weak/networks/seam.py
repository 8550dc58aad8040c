"""SEAM's losses and maps (Wang et al., CVPR 2020): class activation maps that agree over scales, refined by PCM.

A small version of an image must have the same maps as the image, and each must look like what PCM makes of the other.
Only classes that an image shows have a part in that, so only their maps are ever enlarged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from maskwright.models.pcm import resize_aligned
from maskwright.weak.seeds.cam import SeedMaps, Views, finish, tagged_maps
from maskwright.weak.seeds.classes import NO_CLASS, network_weight, positive_classes

EPS = 1e-5
LARGEST_SHARE = 0.2  # of all channels and positions, over which the cross regularisation is a mean


def max_norm(maps: Tensor) -> Tensor:
    """Each map without its negative values, stretched to 0..1: `relu(p - min - 1e-5) / (max - min + 1e-5)`.

    Args:
        maps: `(..., h, w)`.
    """
    positive = maps.relu()
    least, most = positive.amin((-2, -1), keepdim=True), positive.amax((-2, -1), keepdim=True)
    return (positive - least - EPS).relu() / (most - least + EPS)


def enlarged_mean(maps: Tensor, size: Sequence[int]) -> Tensor:
    """The mean of `resize_aligned(maps, size)`, without making it.

    Args:
        maps: `(B, K, h, w)`.
        size: height and width.

    Returns:
        `(B, K)`.
    """
    made: dict[str, Any] = {"dtype": maps.dtype, "device": maps.device}
    rows, columns = (
        F.interpolate(torch.eye(count, **made)[None], int(length), mode="linear", align_corners=True)
        for count, length in zip(maps.shape[2:], size, strict=True)
    )
    return (maps * torch.outer(rows[0].mean(1), columns[0].mean(1))).sum((2, 3))


def minimum_loss(refined: Tensor) -> Tensor:
    """L_min: the mean of the smallest quarter of the positions' highest refined map, so that some background is left.

    Args:
        refined: of the classes that each image shows, 0 for others, `(B, n, h, w)` in 0..1; n at least 1.
    """
    best = refined.amax(1).flatten(1).relu()
    return best.topk(max(1, best.shape[1] // 4), 1, largest=False, sorted=False)[0].mean()


def equivariance_loss(first: Tensor, second: Tensor, num_tags: int) -> Tensor:
    """L_er: the mean difference of the two branches' maps over images, classes and positions.

    Args:
        first: of the classes that each image shows, 0 for others, `(B, n, h, w)` in 0..1.
        second: of the same shape.
        num_tags: K, number of all classes; those that are left out differ by nothing and count in the mean.
    """
    return (first - second).abs().mean() * first.shape[1] / num_tags


def cross_loss(target: Tensor, refined: Tensor, num_tags: int) -> Tensor:
    """One half of L_ecr: refined maps must look like the other branch's maps, where they differ most.

    Args:
        target: of the classes that each image shows, `(B, n, h, w)` in 0..1; no gradient goes back. Only the highest
            of a position counts; the background is 1 - the highest.
        refined: the same classes and then the background, `(B, n + 1, h, w)`.
        num_tags: K, number of all classes; the mean is over the largest fifth of K + 1 channels, of which those that
            are left out differ by nothing.
    """
    target = target.detach()
    best = target.amax(1, keepdim=True)
    wanted = torch.cat([target.masked_fill(target != best, 0), 1 - best], 1)
    differences = (wanted - refined).abs().flatten(1)
    count = int((num_tags + 1) * refined[0, 0].numel() * LARGEST_SHARE)
    if count < differences.shape[1]:
        differences = differences.topk(max(1, count), 1, sorted=False)[0]
    return (differences.sum(1) / max(1, count)).mean()


def seam_loss(
    pairs: Sequence[tuple[Tensor, Tensor]], sizes: Sequence[tuple[int, int]], tags: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """SEAM's loss, as the released code has it: `L_cls + L_min`, each the mean of two branches, `+ L_er + L_ecr`.

    Everything is measured on maps at image size, enlarged with aligned corners, but for L_er and L_ecr, which the first
    branch's maps are brought down for to the second branch's size.

    Args:
        pairs: of the image and of its small version, what `ImageTagClassifier.refined_maps` gives: `(B, K, h, w)` and
            `(B, K + 1, h, w)`, the background last.
        sizes: height and width of the image and of its small version.
        tags: `(B, K)` float, 1 where an image shows a class.

    Returns:
        The loss, at least float32, and its parts for the log: `tags`, `minimum`, `equivariance`, `cross`.
    """
    num_tags = tags.shape[1]
    classes = positive_classes(tags)
    if classes.shape[1] == 0:
        classes = classes.new_full((len(classes), 1), NO_CLASS)
    shown = (classes >= 0)[:, :, None, None]
    with_background = F.pad(shown, (0, 0, 0, 0, 0, 1), value=True)
    places = F.pad(classes.clamp(min=0), (0, 1), value=num_tags)
    small = sizes[1]
    tag_losses, minima, found = [], [], []
    for (maps, refined), size in zip(pairs, sizes, strict=True):
        maps, refined = (value.to(torch.promote_types(value.dtype, torch.float32)) for value in (maps, refined))
        tag_losses.append(F.multilabel_soft_margin_loss(enlarged_mean(maps, size), tags))
        maps = resize_aligned(_take(maps, places[:, :-1]), size)
        refined = resize_aligned(_take(refined, places), size)
        minima.append(minimum_loss(refined[:, :-1] * shown))
        found.append(
            (resize_aligned(max_norm(maps), small) * shown, resize_aligned(max_norm(refined), small) * with_background)
        )
    (first, first_refined), (second, second_refined) = found
    tag_loss, minimum = torch.stack(tag_losses).mean(), torch.stack(minima).mean()
    equivariance = equivariance_loss(first, second, num_tags)
    cross = cross_loss(second, first_refined, num_tags) + cross_loss(first, second_refined, num_tags)
    parts = {"tags": tag_loss, "minimum": minimum, "equivariance": equivariance, "cross": cross}
    return tag_loss + minimum + equivariance + cross, {name: value.detach() for name, value in parts.items()}


def _take(maps: Tensor, places: Tensor) -> Tensor:
    """Each image's own choice of channels: `(B, C, h, w)` and `(B, n)` to `(B, n, h, w)`."""
    return maps.gather(1, places[:, :, None, None].expand(-1, -1, *maps.shape[2:]))


@torch.no_grad()
def seam_maps(network: Any, views: Views, *, weight: str = "w1") -> list[SeedMaps]:
    """Refined maps of every image's tagged classes, summed over scales and mirrors and stretched to 0..1.

    The seed method `seam`. The released code enlarges to each view's size first; here each view goes straight to the
    image's.

    Args:
        network: an `ImageTagClassifier` with PCM on its maps.
        views: of B images.
        weight: class weight that the maps before PCM are taken with; other than `w1` where ReCAM went on from SEAM.

    Returns:
        One entry per image.

    Raises:
        RecipeError: the network has no PCM for maps, or as `network_weight`.
    """
    chosen = network_weight(network, weight)
    maps = [tagged_maps(network.refined_maps(view, chosen)[1][:, :-1], views) for view in views.images]
    return finish(maps, views.tags, views.size, normalise=max_norm)
