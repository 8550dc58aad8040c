"""A planted set: rectangles of one colour each, and trunks of which every value is known, for tests of seed maps.

A class is a colour, and the background is black, white or both. One trunk has a channel for each colour, after a ReLU;
the other mixes them into channels of either sign, as a norm or a SiLU leaves them. Heads are at the optimum of their
losses, so that nothing depends on how long something was trained: what a weight or a method loses here, it loses alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskwright.data.sample import LabelSpace
from maskwright.metrics import ConfusionMatrix
from maskwright.models import ImageTagClassifier
from maskwright.models.backbone import Backbone
from maskwright.weak import make_views
from maskwright.weak.labels import sweep_row, threshold_counts
from maskwright.weak.networks.recam import class_features, first_head_loss, sce_loss, soft_masks
from maskwright.weak.seeds.cam import SeedMaps, Views
from maskwright.weak.seeds.classes import positive_classes

# The corners of the colour cube; black and white are the background's.
COLOURS = np.array(list(product((0, 255), repeat=3)), np.uint8)
CLASSES = {"blue": 1, "green": 2, "cyan": 3, "red": 4, "magenta": 5, "yellow": 6}
BLACK, WHITE = 0, 7
LABELS = LabelSpace(("background", *CLASSES))
THRESHOLDS = np.arange(0.05, 0.96, 0.05)
MIDDLE = (0.5, 0.5, 0.5)  # mean and deviation that take colours to -1 and 1


class Planted(NamedTuple):
    """An image `(H, W, 3)` uint8, its mask `(H, W)` of `LABELS`, and its tags as positions in the foreground."""

    image: np.ndarray
    mask: np.ndarray
    tags: tuple[int, ...]


def planted(count: int = 64, size: tuple[int, int] = (64, 96), seed: int = 0) -> list[Planted]:
    """Images with one to three rectangles, each of another class; later ones cover earlier ones."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        image = np.empty((*size, 3), np.uint8)
        mask = np.zeros(size, np.uint8)
        image[:] = COLOURS[rng.choice([BLACK, WHITE])]
        image[rng.integers(size[0]) :] = COLOURS[rng.choice([BLACK, WHITE])]
        for value in 1 + rng.choice(len(CLASSES), rng.integers(1, 4), replace=False):
            height, width = rng.integers(8, 25, 2)
            top, left = rng.integers(size[0] - height + 1), rng.integers(size[1] - width + 1)
            where = (slice(top, top + height), slice(left, left + width))
            image[where], mask[where] = COLOURS[list(CLASSES.values())[value - 1]], value
        found.append(Planted(image, mask, tuple(int(value) - 1 for value in np.unique(mask) if value)))
    return found


class PlantedTrunk(Backbone):
    """Maps of strides 1, 2 and 4: how much of each colour there is at a position, 0 to 1.

    Args:
        signed: the last map is a fixed mixture of that instead, `(B, 32, h, w)`, with values of either sign.
    """

    def __init__(self, signed: bool = False) -> None:
        colours = torch.from_numpy(COLOURS).float() / 127.5 - 1
        count = len(colours)
        mixture = np.random.default_rng(0).standard_normal((32, count)) if signed else np.eye(count)
        super().__init__("planted", [count, count, len(mixture)], [1, 2, 4], MIDDLE, MIDDLE)
        self.signed = signed
        # A corner of the cube is 3 in its own direction and at most 1 in that of another.
        self.detect, self.mix = nn.Conv2d(3, count, 1), nn.Conv2d(count, len(mixture), 1, bias=False)
        with torch.no_grad():
            self.detect.weight.copy_(colours[:, :, None, None])
            self.detect.bias.fill_(-2.0)
            self.mix.weight.copy_(torch.from_numpy(mixture).float()[:, :, None, None])

    def forward(self, images: Tensor) -> list[Tensor]:
        pooled = [images, *(F.avg_pool2d(images, stride, ceil_mode=True) for stride in self.strides[1:])]
        maps = [self.detect(image).relu() for image in pooled]
        mixed = self.mix(maps[-1])
        return [*maps[:-1], mixed if self.signed else mixed.relu()]


def fitted(examples: Sequence[Planted], *, signed: bool = False, decay: float = 1e-5) -> ImageTagClassifier:
    """A tag classifier on a planted trunk with both of ReCAM's heads, each at the optimum of its loss.

    Args:
        examples: to learn from.
        signed: see `PlantedTrunk`.
        decay: times the squared weights is added to either loss; without, there is no optimum.
    """
    network = ImageTagClassifier(PlantedTrunk(signed), len(CLASSES), recam_head=True).eval()
    views = views_of(examples, flip=False)
    tags = torch.zeros(len(examples), len(CLASSES))
    for row, example in zip(tags, examples, strict=True):
        row[list(example.tags)] = 1
    with torch.no_grad():
        features = network.features(views.images[0])
    means, classes = features.mean((2, 3)), positive_classes(tags)
    w1 = _optimum(lambda w: first_head_loss(means @ w.mT, tags, "bce") + decay * w.square().sum(), network)
    under = class_features(features, soft_masks(features, w1, classes))
    w2 = _optimum(lambda w: sce_loss(under @ w.mT, classes) + decay * w.square().sum(), network)
    with torch.no_grad():
        network.classifier.weight.copy_(w1[:, :, None, None])
        network.get_parameter("recam_head.weight").copy_(w2[:, :, None, None])
    return network


def _optimum(loss: Callable[[Tensor], Tensor], network: ImageTagClassifier) -> Tensor:
    weight = torch.zeros(network.classifier.weight.shape[:2], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(weight)
        value.backward()
        return value

    optimizer.step(closure)
    return weight.detach()


def views_of(examples: Sequence[Planted], *, flip: bool = True) -> Views:
    """What a seed method sees of the images, at scale 1."""
    images, tags = [example.image for example in examples], [example.tags for example in examples]
    return make_views(images, tags, mean=MIDDLE, std=MIDDLE, scales=(1.0,), flip=flip)


def best_miou(
    network: ImageTagClassifier, examples: Sequence[Planted], maps: Callable[..., list[SeedMaps]], **options: Any
) -> float:
    """mIoU of a method's seeds at the best threshold."""
    counts = sum(
        threshold_counts(found.high_res.numpy(), found.keys.numpy(), example.mask, THRESHOLDS, LABELS)
        for example, found in zip(examples, maps(network, views_of(examples), **options), strict=True)
    )
    rows = zip(THRESHOLDS, counts, strict=True)
    return max(sweep_row(threshold, ConfusionMatrix.from_matrix(matrix, LABELS))["miou"] for threshold, matrix in rows)
