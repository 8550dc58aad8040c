"""The network `l2g`: a global network that learns from the attention of a local one, see `weak.networks.l2g`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskwright.data.augment import normalise
from maskwright.errors import RecipeError
from maskwright.models import ImageTagClassifier
from maskwright.settings import Recipe
from maskwright.weak.networks.classifier import batch_saliency, check_saliency, fit_tags, next_network, part_groups
from maskwright.weak.networks.l2g import check_sampling, cut_views, draw_corners, l2g_loss


def train_l2g(
    recipe: Recipe, start: Path | None, train: Any, val: Any, folder: Path, device: torch.device
) -> dict[str, Any]:
    """Train both networks side by side and keep the global one; resumes where it was stopped, with both.

    Where nothing comes before it, the two begin from different random numbers, or from the same pre-trained trunk.

    Args:
        recipe: `l2g`, `classifier`, `seeds.size` and `seed` are read.
        start: `model.safetensors` of the network before it, from which both go on, or None.
        train: dataset with tags; for shape transfer also with saliency maps.
        val: dataset whose tags, where known, give the average precision of the global network that is logged.
        folder: gets `log.jsonl`, `state.pt` and `model.safetensors`, which `load_classifier` reads.
        device: where to train.

    Returns:
        What `fit` returns.

    Raises:
        RecipeError: shape transfer without saliency, views that cannot be, or a backbone, an option or weights that
            cannot be had.
        DataError: no image has a tag, some have no saliency map, or `start` holds another model than the recipe's
            classifier.
    """
    settings = recipe.l2g
    check_sampling(settings.sampling, settings.views)
    if settings.transfer == "shape":
        check_saliency(train, "l2g.transfer=shape")
    network, local = build_l2g(recipe, start, len(train.labels.foreground))
    stride = network.backbone.strides[-1]
    if any(side % stride for side in settings.view_size):
        raise RecipeError(
            f"l2g.view_size={list(settings.view_size)} must be multiples of {stride}, the network's stride, since maps "
            "are compared position by position"
        )
    mean, std = network.mean, network.std

    def step(runner: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        images = batch["image"]
        corners = draw_corners(
            len(images), settings.views, (images.shape[2], images.shape[3]), settings.view_size, settings.sampling
        )
        views = cut_views(images, corners, settings.view_size)
        return l2g_loss(
            runner(normalise(images, mean, std), maps=True),
            local.maps(normalise(views, mean, std)),
            batch["tags"],
            corners,
            settings.view_size,
            stride,
            saliency=batch_saliency(batch) if settings.transfer == "shape" else None,
            weight=settings.weight,
            global_classification=settings.global_classification,
            winner_takes_all=settings.winner_takes_all,
            alignment=settings.alignment,
            background=settings.background,
            threshold=settings.threshold,
            binary_saliency=settings.binary_saliency,
            attention_where_empty=settings.attention_where_empty,
        )

    return fit_tags(
        network,
        step,
        recipe,
        settings.train,
        train,
        val,
        folder,
        device,
        parameter_groups=part_groups(
            settings.train,
            old=[network.backbone, local.backbone],
            new=[network.classifier, network.background, network.feature_pcm, local.classifier, local.feature_pcm],
        ),
        title="l2g",
        # What both share is the model's.
        trainable_extra=[part for part in local.children() if part is not network.backbone],
        shuffle=settings.shuffle,
    )


def build_l2g(recipe: Recipe, start: Path | None, num_tags: int) -> tuple[ImageTagClassifier, ImageTagClassifier]:
    """The global and the local network as they are before training.

    Both have a background; that of the local one gets no gradient and stays as it is, as in the released code.

    Args:
        recipe: `l2g`, `classifier` and `seed` are read.
        start: as for `train_l2g`.
        num_tags: number of classes that an image can be tagged with.

    Raises:
        RecipeError: as `next_network`.
        DataError: as `next_network`.
    """
    parts: dict[str, Any] = {"background": True, **({"pcm": "features"} if recipe.l2g.pcm else {})}
    network = next_network(recipe, start, num_tags, **parts)
    local = next_network(recipe.model_copy(update={"seed": recipe.seed + 1}), start, num_tags, **parts)
    if recipe.l2g.shared_trunk:
        local.backbone = network.backbone
    for part in local.children():
        if part not in (local.backbone, local.classifier, local.feature_pcm):
            part.requires_grad_(False)
    return network, local
