"""Grad-CAM (Selvaraju et al., ICCV 2017) and Grad-CAM++ (Chattopadhay et al., WACV 2018) at the last feature map.

Maps of this kind weigh the channels by what the gradient of a tag logit with respect to the feature map says, so they
suit any network with `features(images)` and `logits(features)`, whatever lies between the two; only that part is
differentiated. Gradients here are those of the logit times the number of positions. Within one view this is a constant,
which the maximum takes out; over several scales it keeps a small view, whose positions each matter more to the mean,
from weighing more. With the head of `ImageTagClassifier`, a mean and a bias-free linear layer, the gradient of class k
is then w_k at every position: no backward pass is needed, and Grad-CAM is CAM.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from maskwright.models import ImageTagClassifier
from maskwright.weak.seeds.cam import SeedMaps, Views, finish, merge_flip
from maskwright.weak.seeds.classes import NO_CLASS

# Called with the network, images `(B, 3, H, W)`, their features `(B, D, h, w)` and classes `(B, n)`, of which negative
# ones mean nothing; gives maps `(B, n, h, w)`, not negative, at least float32.
ClassMaps = Callable[[Any, Tensor, Tensor, Tensor], Tensor]


def seed_maps(network: Any, views: Views, class_maps: ClassMaps) -> list[SeedMaps]:
    """Seed maps by any method that gives the maps of chosen classes from one view.

    Args:
        network: has `features(images) -> (B, D, h, w)`.
        views: of B images.
        class_maps: the method.

    Returns:
        One entry per image.
    """
    classes = class_table(views.tags, views.images[0].device)
    rows = classes.repeat(2, 1) if views.flip else classes
    maps = []
    with torch.no_grad():
        for images in views.images:
            found = class_maps(network, images, network.features(images), rows)
            maps.append((merge_flip(found) if views.flip else found)[classes >= 0])
    return finish(maps, views.tags, views.size)


def class_table(tags: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """The tag positions of each image as `(B, n)` int64, filled up with -1; n may be 0."""
    width = max(map(len, tags), default=0)
    rows = [[*keys, *[NO_CLASS] * (width - len(keys))] for keys in tags]
    return torch.tensor(rows, dtype=torch.int64, device=device).reshape(len(tags), width)


def linear_head(network: Any) -> Tensor | None:
    """The weight `(K, D)` of a head that is known to be a mean and a bias-free linear layer, or None."""
    known = getattr(type(network), "logits", None) is ImageTagClassifier.logits
    return network.classifier.weight.flatten(1) if known else None


def class_gradients(network: Any, features: Tensor, classes: Tensor) -> Iterator[Tensor]:
    """Gradient of each column's tag logits with respect to the features, times the number of positions.

    Images do not meet in the head, so one backward pass through it serves a class of every image.

    Args:
        network: has `logits(features) -> (B, K)`.
        features: `(B, D, h, w)`.
        classes: `(B, n)` int64; rows of negative entries mean nothing.

    Yields:
        n times `(B, D, h, w)`; where gradients are on, they can be differentiated themselves.
    """
    training = torch.is_grad_enabled()
    if not (training and features.requires_grad):
        features = features.detach().requires_grad_()
    positions = features.shape[2] * features.shape[3]
    with torch.enable_grad():
        logits = network.logits(features)
        for column in classes.clamp(min=0).unbind(1):
            # Multiplied before, not after: in half precision the mean's gradient would vanish.
            chosen = torch.zeros_like(logits).scatter(1, column[:, None], float(positions))
            (gradient,) = torch.autograd.grad(logits, features, chosen, retain_graph=True, create_graph=training)
            yield gradient


def gradient_maps(
    network: Any, features: Tensor, classes: Tensor, channel_weights: Callable[[Tensor], Tensor]
) -> Tensor:
    """`ReLU(sum_c a_c f_c)` with weights made of gradients.

    Args:
        network: has `logits(features)`.
        features: `(B, D, h, w)`.
        classes: `(B, n)` int64; rows of negative entries mean nothing.
        channel_weights: from gradients `(B, m, D, p)` to weights `(B, m, D, q)`, where p and q are the number of
            positions, or 1 where all positions are alike.

    Returns:
        `(B, n, h, w)`, at least float32.
    """
    head = linear_head(network)
    flat = features.flatten(2)
    if head is not None:
        found = [_weighted(flat, channel_weights(head[classes.clamp(min=0)][..., None]))]
    else:
        gradients = class_gradients(network, features, classes)
        found = [_weighted(flat, channel_weights(gradient.flatten(2)[:, None])) for gradient in gradients]
    maps = torch.cat(found, 1) if found else flat.new_zeros(len(flat), 0, flat.shape[2])
    return maps.relu().to(torch.promote_types(maps.dtype, torch.float32)).unflatten(2, features.shape[2:])


def _weighted(flat: Tensor, weights: Tensor) -> Tensor:
    """Sum over the channels of features `(B, D, P)` times weights `(B, m, D, 1 or P)`: `(B, m, P)`."""
    if weights.shape[3] == 1:
        return torch.bmm(weights[..., 0], flat)
    return (weights * flat[:, None]).sum(2)


def grad_cam_maps(network: Any, images: Tensor, features: Tensor, classes: Tensor) -> Tensor:
    """Grad-CAM's maps (eqs. 1 and 2): channels weigh as much as the mean of their gradient; see `ClassMaps`."""
    return gradient_maps(network, features, classes, lambda gradient: gradient.mean(3, keepdim=True))


def grad_cam_plus_plus_maps(network: Any, images: Tensor, features: Tensor, classes: Tensor) -> Tensor:
    """Grad-CAM++'s maps: `a_c = sum_u ReLU(g) g^2 / (2 g^2 + g^3 sum_u' f)` with the gradient g at u (eqs. 5, 19).

    The paper differentiates exp(logit); that common factor is left out, since within a view it means nothing, and over
    views it would leave the most certain one alone. The sum counts what is positive of the features: the paper's are
    rectified, and those of a transformer could make the denominator zero.
    """
    activity = features.relu().mean((2, 3))[:, None, :, None]

    def channel_weights(gradient: Tensor) -> Tensor:
        positive = gradient.relu()
        # With the factor of positions that `class_gradients` has, sums become means.
        return (positive / (2 + positive * activity)).mean(3, keepdim=True)

    return gradient_maps(network, features, classes, channel_weights)


def gradcam(network: Any, views: Views) -> list[SeedMaps]:
    """Grad-CAM of every image's tagged classes; the seed method `gradcam`.

    Args:
        network: has `features(images)` and `logits(features)`, in evaluation mode.
        views: of B images.

    Returns:
        One entry per image.
    """
    return seed_maps(network, views, grad_cam_maps)


def gradcam_plus_plus(network: Any, views: Views) -> list[SeedMaps]:
    """Grad-CAM++ of every image's tagged classes; the seed method `gradcam++`.

    Args:
        network: has `features(images)` and `logits(features)`, in evaluation mode.
        views: of B images.

    Returns:
        One entry per image.
    """
    return seed_maps(network, views, grad_cam_plus_plus_maps)
