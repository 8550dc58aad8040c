"""LayerCAM (Jiang et al., TIP 2021) at the last feature map: every position weighs its channels by its own gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from maskwright.weak.seeds.cam import SeedMaps, Views
from maskwright.weak.seeds.gradcam import gradient_maps, seed_maps


def layer_cam_maps(network: Any, images: Tensor, features: Tensor, classes: Tensor) -> Tensor:
    """LayerCAM's maps `ReLU(sum_c ReLU(g_c) f_c)` (eqs. 6 to 8); see `maskwright.weak.seeds.gradcam.ClassMaps`."""
    return gradient_maps(network, features, classes, torch.relu)


def layercam(network: Any, views: Views) -> list[SeedMaps]:
    """LayerCAM of every image's tagged classes; the seed method `layercam`.

    With a head that is a mean and a linear layer it is CAM without the negative weights.

    Args:
        network: has `features(images)` and `logits(features)`, in evaluation mode.
        views: of B images.

    Returns:
        One entry per image.
    """
    return seed_maps(network, views, layer_cam_maps)
