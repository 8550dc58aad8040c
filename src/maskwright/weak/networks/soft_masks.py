"""Soft masks for ReCAM in place of the first head's activation maps, by the name of the method that they come from.

As ReCAM's own, each mask is divided by its maximum, and the loss reaches features and head through those that are made
of gradients; with the plain head Grad-CAM's are ReCAM's own. Score-CAM's and AdvCAM's are constants. Only classes that
an image shows are computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from maskwright.models import ImageTagClassifier
from maskwright.weak.networks.edam import edam_class_maps
from maskwright.weak.networks.eps import eps_class_maps
from maskwright.weak.networks.recam import SoftMasks
from maskwright.weak.seeds.advcam import summed_maps
from maskwright.weak.seeds.cam import normalise_maps
from maskwright.weak.seeds.classes import positive_classes
from maskwright.weak.seeds.gradcam import ClassMaps, grad_cam_maps, grad_cam_plus_plus_maps
from maskwright.weak.seeds.layercam import layer_cam_maps
from maskwright.weak.seeds.scorecam import score_cam_maps


def masks_by(class_maps: ClassMaps) -> SoftMasks:
    """Soft masks by a method that gives the maps of chosen classes."""

    def masks(network: ImageTagClassifier, images: Tensor, features: Tensor, tags: Tensor) -> Tensor:
        classes = positive_classes(tags)
        return _spread(class_maps(network, images, features, classes)[classes >= 0], classes, tags.shape[1])

    return masks


def score_cam_masks(
    network: ImageTagClassifier, images: Tensor, features: Tensor, tags: Tensor, *, channels: int | None = 16
) -> Tensor:
    """Soft masks by Score-CAM.

    Args:
        network: the classifier in training.
        images: `(B, 3, H, W)`, normalised.
        features: `(B, D, h, w)` of them.
        tags: `(B, K)`.
        channels: as for `scorecam`; each is one more forward pass per image and step, so the default is few (ours).

    Returns:
        `(B, K, h, w)` in 0..1, without gradient; 0 for classes that an image does not show.
    """
    classes = positive_classes(tags)
    with _evaluating(network):
        maps = score_cam_maps(network, images, features.detach(), classes, channels=channels)
    return _spread(maps[classes >= 0], classes, tags.shape[1])


def advcam_masks(
    network: ImageTagClassifier, images: Tensor, features: Tensor, tags: Tensor, *, steps: int = 2
) -> Tensor:
    """Soft masks by AdvCAM in its released form, from the images as they are, without mirrors.

    Args:
        network: the classifier in training.
        images: `(B, 3, H, W)`, normalised.
        features: `(B, D, h, w)` of them; only their shape is read.
        tags: `(B, K)`.
        steps: each is one more pass forward and backward per class and training step, so the default is few (ours).

    Returns:
        `(B, K, h, w)` in 0..1, without gradient; 0 for classes that an image does not show.
    """
    classes = positive_classes(tags)
    owners, columns = (classes >= 0).nonzero(as_tuple=True)
    keys = classes[owners, columns]
    maps = [features.new_zeros(0, *features.shape[2:])]
    with _evaluating(network):
        for some, wanted in zip(owners.split(len(images)), keys.split(len(images)), strict=True):
            if len(some):
                maps.append(summed_maps(network, images[None, some], wanted, steps=steps, form="released"))
    return _spread(torch.cat(maps), classes, tags.shape[1])


def _spread(maps: Tensor, classes: Tensor, num_tags: int) -> Tensor:
    """Unit masks `(B, K, h, w)` from the maps `(P, h, w)` of the classes that there are, image by image."""
    owners = (classes >= 0).nonzero(as_tuple=True)[0]
    unit = normalise_maps(maps.to(torch.promote_types(maps.dtype, torch.float32)))
    masks = unit.new_zeros(len(classes), num_tags, *maps.shape[1:])
    return masks.index_put((owners, classes[classes >= 0]), unit)


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Neither dropout nor running statistics while masks are made; each module is left as it was."""
    training = [module for module in network.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


# None: the first head's activation maps, which ReCAM makes itself.
SOFT_MASKS: dict[str, SoftMasks | None] = {
    "advcam": advcam_masks,
    "cam": None,
    "edam": masks_by(edam_class_maps),
    "eps": masks_by(eps_class_maps),
    "gradcam": masks_by(grad_cam_maps),
    "gradcam++": masks_by(grad_cam_plus_plus_maps),
    "layercam": masks_by(layer_cam_maps),
    "scorecam": score_cam_masks,
}
