"""Pictures, views of them, and classifiers that are small but have maps, for the tests of seed methods."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn

from maskwright.models import create_classifier
from maskwright.weak import make_views
from maskwright.weak.seeds.cam import Views

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NUM_TAGS = 3
SCALES = (1.0, 0.5)

# One of each kind: convolutions that end in a ReLU, other ones, a transformer whose features may be negative, and the
# two that are our own.
BACKBONES: dict[str, dict[str, Any]] = {
    "resnet10t": {},
    "convnext_atto": {},
    "swin_tiny_patch4_window7_224": {"depths": (1, 1, 1, 1), "embed_dim": 16, "num_heads": (1, 2, 4, 8)},
    "resnet38": {"width": 1 / 16},
    "vgg16": {"width": 1 / 16},
}


def picture(seed: int = 0, size: tuple[int, int] = (32, 48)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def halves() -> np.ndarray:
    """A picture whose left half is light and whose right half is dark, `(64, 128, 3)`."""
    pixels = np.random.default_rng(0).integers(0, 60, (64, 128, 3), dtype=np.uint8)
    pixels[:, :64] += 150
    return pixels


def views_of(images, tags, scales=SCALES, flip=True, dtype=torch.float32, device="cpu") -> Views:
    views = make_views(images, tags, mean=MEAN, std=STD, scales=scales, flip=flip, device=device)
    views.images = [view.to(dtype) for view in views.images]
    return views


@cache
def trained_like(backbone: str, num_tags: int = NUM_TAGS, **parts: Any) -> nn.Module:
    """A classifier whose maps are not empty: its head agrees with the mean of what the backbone gives."""
    torch.manual_seed(0)
    network = create_classifier(
        backbone=backbone,
        num_tags=num_tags,
        output_stride=None,
        **{"recam_head": True, **parts},
        **BACKBONES.get(backbone, {}),
    ).eval()
    with torch.no_grad():
        usual = network.features(views_of([picture()], [()], (1.0,)).images[0]).mean((0, 2, 3))
        for head in (network.classifier, network.recam_head):
            head.weight.add_(0.05 * (usual / usual.norm())[None, :, None, None])
    return network


@cache
def signed_like(backbone: str, **parts: Any) -> nn.Module:
    """A classifier of two tags whose raw maps of `halves()` are 1 in one half and -1 in the other, at every scale."""
    network = copy.deepcopy(trained_like(backbone, 2, **parts))
    features, evidence = [], []
    with torch.no_grad():
        for view in views_of([halves()], [()]).images:
            found = network.features(view)  # of the picture and of its mirror image
            half = torch.where(torch.arange(found.shape[3]) < found.shape[3] / 2, 1.0, -1.0)
            features.append(found.permute(0, 2, 3, 1).flatten(0, 2))
            evidence.append(torch.stack([half, -half])[:, None].expand(-1, found.shape[2], -1).flatten())
        # More channels than positions: there are weights that give exactly this.
        weight = (torch.linalg.pinv(torch.cat(features).double()) @ torch.cat(evidence).double()).float()
        for head in (network.classifier, network.recam_head):
            head.weight.copy_(torch.stack([weight, -weight])[:, :, None, None])
    return network
