"""ReCAM (Chen et al., CVPR 2022): a converged tag classifier is trained on together with a second head.

The second head sees one class at a time: the features under the soft mask of a class that the image shows, averaged,
must be told to be that class, with a softmax over all classes. Features of a class are `mean_u M[k,u] f[:,u]`, which is
a product of matrices: nothing of images x classes x channels x positions is ever held. Nothing is detached, so the loss
reaches the first head and the features through the masks as well, their maximum included. As in the released code the
mean goes over all positions, not divided by the mask's sum, and an image without tags counts in the batch's mean.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from maskwright.weak.seeds.cam import SeedMaps, Views, class_activation_maps
from maskwright.weak.seeds.classes import NO_CLASS, network_weight, positive_classes

# Called with the classifier, normalised images `(B, 3, H, W)`, their features `(B, D, h, w)` and tags `(B, K)`;
# gives soft masks `(B, K, h, w)` in 0..1.
SoftMasks = Callable[[Any, Tensor, Tensor, Tensor], Tensor]


def soft_masks(features: Tensor, weight: Tensor, classes: Tensor, eps: float = 1e-5) -> Tensor:
    """Class activation maps of chosen classes, each divided by its own maximum plus `eps` (also differentiated).

    Args:
        features: `(B, D, h, w)`, or `(B, D, positions)` as everywhere here.
        weight: of the first head, `(K, D)` or `(K, D, 1, 1)`.
        classes: per image, `(B, n)` int64; rows of negative entries mean nothing.

    Returns:
        `(B, n, h, w)` in 0..1, at least float32 also under autocast.
    """
    chosen = weight.flatten(1)[classes.clamp(min=0)]
    scores = torch.bmm(chosen, features.flatten(2)).relu()
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return (scores / (scores.amax(2, keepdim=True) + eps)).unflatten(2, features.shape[2:])


def class_features(features: Tensor, masks: Tensor) -> Tensor:
    """Mean over all positions of the features under each mask, by one batched product.

    Args:
        features: `(B, D, h, w)`.
        masks: `(B, n, h, w)`, of any seed method that gives soft masks in 0..1.

    Returns:
        `(B, n, D)`.
    """
    flat = features.flatten(2)
    means = (masks.flatten(2) / flat.shape[2]).to(features.dtype)
    return torch.bmm(flat, means.mT).mT  # in this order the gradient is laid out as the features are


def sce_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Softmax cross-entropy of each class's own logits: mean over an image's classes, then over the images.

    Args:
        logits: `(B, n, K)`, row k of an image from the features of its class `classes[k]` alone.
        classes: `(B, n)` int64, negative where there is none; an image without any adds 0 and counts.

    Returns:
        A scalar, at least float32.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = F.cross_entropy(logits.mT, classes, ignore_index=NO_CLASS, reduction="none")
    return (losses.sum(1) / (classes >= 0).sum(1).clamp(min=1)).mean()


def recam_loss(
    features: Tensor, w1: Tensor, w2: Tensor, tags: Tensor, lam: float = 1.0, *, masks: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """`L_bce(GAP(W1 f)) + lam * L_sce(W2 f_k)`.

    Args:
        features: `(B, D, h, w)`.
        w1: of the first head, `(K, D)` or `(K, D, 1, 1)`.
        w2: of the second head, of the same shape.
        tags: `(B, K)` float, 1 where an image shows a class.
        lam: weight of the second head's loss; 1 on VOC and 0.1 on COCO in the paper.
        masks: `(B, K, h, w)` soft masks of another seed method, such as Grad-CAM, Score-CAM, AdvCAM, EPS or EDAM, taken
            in place of the first head's activation maps; detached or not, as the method has it.

    Returns:
        The loss, and its parts for the log: `tags`, `sce` and `second_accuracy`, the share of class features that the
        second head tells rightly.
    """
    classes = positive_classes(tags)
    # Flat once for all, since gradients of one tensor are added up in place, those of two views of it are not.
    flat = features.flatten(2)
    if masks is None:
        chosen = soft_masks(flat, w1, classes)
    else:
        chosen = masks.flatten(2).gather(1, classes.clamp(min=0)[:, :, None].expand(-1, -1, flat.shape[2]))
    # The plain mean of the features is the mean under a mask of ones: they are read, and get a gradient, once for both.
    whole = chosen.new_ones(len(chosen), 1, flat.shape[2])
    means = class_features(flat, torch.cat([whole, chosen], 1))
    logits, second = means[:, 0] @ w1.flatten(1).mT, means[:, 1:] @ w2.flatten(1).mT
    bce = F.multilabel_soft_margin_loss(logits.to(torch.promote_types(logits.dtype, torch.float32)), tags)
    sce = sce_loss(second, classes)
    right = (second.detach().argmax(2) == classes).sum() / (classes >= 0).sum().clamp(min=1)
    return bce + lam * sce, {"tags": bce.detach(), "sce": sce.detach(), "second_accuracy": right}


def first_head_loss(logits: Tensor, tags: Tensor, kind: str) -> Tensor:
    """The loss of a classifier with one head: binary cross-entropy, or the ablations of ReCAM's study that replace it.

    Args:
        logits: `(B, K)`.
        tags: `(B, K)` float.
        kind: `bce`, the multi-label soft margin: mean over images and classes. `sce`: softmax cross-entropy, averaged
            over an image's classes. `sce_single`: `sce` for images of exactly one class, `bce` for all others.

    Returns:
        A scalar, at least float32; the mean over all images, of which those without tags add 0 under `sce`.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if kind == "bce":
        return F.multilabel_soft_margin_loss(logits, tags)
    counts = tags.sum(1)
    sce = -(tags * logits.log_softmax(1)).sum(1) / counts.clamp(min=1)
    if kind == "sce":
        return sce.mean()
    return torch.where(counts == 1, sce, F.multilabel_soft_margin_loss(logits, tags, reduction="none")).mean()


def recam_maps(network: Any, views: Views, *, weight: str = "product") -> list[SeedMaps]:
    """Class activation maps with one of ReCAM's class weights; the seed method `recam`.

    Args:
        network: has `features`, `classifier.weight` and `recam_head.weight`.
        views: of B images.
        weight: see `class_weight`; `product` as in the released code, on maps that are never negative.

    Returns:
        One entry per image.

    Raises:
        RecipeError: as `network_weight`.
    """
    return class_activation_maps(network, views, weight=network_weight(network, weight))
