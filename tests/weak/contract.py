"""Pictures, views of them, and classifiers that are small but have maps, for the tests of seed methods."""

from __future__ import annotations

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
