"""Score-CAM (Wang et al., CVPR Workshops 2020): a channel weighs as much as the class scores on what it lets through.

Every channel of the last feature map, brought to image size and to 0..1, masks the image; a forward pass of the masked
image gives the channel's weight, of all classes at once. That is one pass per channel and view, thousands per image;
`channels` takes only some of them.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from maskwright.errors import RecipeError, unknown_name
from maskwright.models import create_classifier
from maskwright.settings import ClassifierSettings, SeedSettings
from maskwright.weak.seeds.cam import SeedMaps, Views
from maskwright.weak.seeds.gradcam import seed_maps
from maskwright.weak.seeds.method import BATCH_PIXELS, SeedMethod

Score = Literal["softmax", "raw", "channels"]
SCORES = ("softmax", "raw", "channels")


@torch.no_grad()
def score_cam_maps(
    network: Any,
    images: Tensor,
    features: Tensor,
    classes: Tensor,
    *,
    channels: int | None = None,
    score: Score = "softmax",
    batch_pixels: int | None = None,
) -> Tensor:
    """Score-CAM's maps `ReLU(sum_c a_c f_c)` of chosen classes; see `maskwright.weak.seeds.gradcam.ClassMaps`.

    Args:
        network: has `features(images)` and `logits(features)`.
        images: `(B, 3, H, W)`, normalised.
        features: `(B, D, h, w)`.
        classes: `(B, n)` int64; rows of negative entries mean nothing, and images without a class are not computed.
        channels: see `scorecam`.
        score: see `scorecam`.
        batch_pixels: see `scorecam`.

    Returns:
        `(B, n, h, w)` without gradient, at least float32.

    Raises:
        RecipeError: an unknown score, or no channel.
    """
    if score not in SCORES:
        raise RecipeError(unknown_name("score of scorecam", score, SCORES))
    if channels is not None and channels < 1:
        raise RecipeError(f"scorecam needs at least one channel, found channels: {channels}")
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    maps = features.new_zeros(*classes.shape, *features.shape[2:])
    shown = (classes >= 0).any(1).nonzero()[:, 0]
    if len(shown) == 0:
        return maps
    features, wanted = features[shown], classes[shown].clamp(min=0)
    if channels is not None and channels < features.shape[1]:
        # What a channel masks depends on how it varies, not on its level.
        strongest = features.var((2, 3), correction=0).topk(channels).indices
        features = features.gather(1, strongest[:, :, None, None].expand(-1, -1, *features.shape[2:]))
    limit = batch_pixels or BATCH_PIXELS.get(images.device.type, BATCH_PIXELS["cuda"])
    together = max(1, limit // (images.shape[2] * images.shape[3]))
    pairs = torch.cartesian_prod(*(torch.arange(n, device=images.device) for n in features.shape[:2]))
    scores = []
    for owner, channel in (chunk.unbind(1) for chunk in pairs.split(together)):
        masks = unit_masks(features[owner, channel], (images.shape[2], images.shape[3]))
        masked = images[shown[owner]] * masks[:, None].to(images.dtype)
        logits = network.logits(network.features(masked)).to(features.dtype)
        if score == "softmax":
            logits = logits.softmax(1)
        scores.append(logits.gather(1, wanted[owner]))
    weights = torch.cat(scores).unflatten(0, features.shape[:2])
    if score == "channels":
        weights = weights.softmax(1)
    # A channel that is the same everywhere masks nothing, so it says nothing, as in the released code.
    flat = features.flatten(2)
    weights = weights.where((flat.amax(2) > flat.amin(2))[:, :, None], 0)
    maps[shown] = torch.bmm(weights.mT, flat).relu().to(maps.dtype).unflatten(2, maps.shape[2:])
    return maps


def unit_masks(channels: Tensor, size: tuple[int, int]) -> Tensor:
    """Channels `(N, h, w)` at another size, then from 0 to 1; those that are the same everywhere are 0."""
    large = F.interpolate(channels[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
    span = high - low
    return (large - low) / span.where(span > 0, 1)


def scorecam(
    network: Any,
    views: Views,
    *,
    channels: int | None = None,
    score: Score = "softmax",
    batch_pixels: int | None = None,
) -> list[SeedMaps]:
    """Score-CAM of every image's tagged classes; the seed method `scorecam`.

    Args:
        network: has `features(images)` and `logits(features)`, in evaluation mode.
        views: of B images.
        channels: of each view, take only so many channels, those that vary most over its positions; by default all. Not
            in the paper.
        score: what a channel weighs: `softmax`, the class's share of the softmax over all classes, as in the released
            code, which gives each of K classes 1 / K of a channel that shows none of them, so that few classes need
            `raw`, the logit; `channels`, the softmax of that logit over the channels, the paper's equation.
        batch_pixels: pixels that go through the network at once; less takes less memory.

    Returns:
        One entry per image.

    Raises:
        RecipeError: an unknown score, or no channel.
    """
    return seed_maps(network, views, partial(score_cam_maps, channels=channels, score=score, batch_pixels=batch_pixels))


TRIED_CHANNELS = 16  # of a plan's trial


def fewer_channels(seeds: SeedSettings, classifier: ClassifierSettings) -> tuple[dict[str, Any], float]:
    """Options of a trial, and the share of the work that they leave: each channel is a forward pass."""
    with torch.device("meta"):
        network = create_classifier(
            backbone=classifier.backbone, num_tags=1, output_stride=classifier.output_stride, **classifier.options
        )
    channels = seeds.options.get("channels") or network.classifier.weight.shape[1]
    return {**seeds.options, "channels": TRIED_CHANNELS}, min(1.0, TRIED_CHANNELS / channels)


SCORECAM = SeedMethod(scorecam, cheap=fewer_channels)
