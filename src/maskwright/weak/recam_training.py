"""The stage `recam`: from a converged tag classifier to one with ReCAM's second head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskwright.config import Recipe
from maskwright.data.augment import normalise
from maskwright.errors import RecipeError
from maskwright.models import ImageTagClassifier
from maskwright.weak.classifier import fit_tags, next_network, part_groups
from maskwright.weak.recam import recam_loss

# Called with the classifier, normalised images `(B, 3, H, W)`, their features `(B, D, h, w)` and tags `(B, K)`;
# gives soft masks `(B, K, h, w)` in 0..1.
SoftMasks = Callable[[ImageTagClassifier, Tensor, Tensor, Tensor], Tensor]


def train_recam(
    recipe: Recipe,
    start: str | Path | None,
    train: Any,
    val: Any,
    folder: Path,
    device: torch.device,
    *,
    masks: SoftMasks | None = None,
) -> dict[str, Any]:
    """Train backbone, first head and a new second head on `L_bce + lam * L_sce`; resumes where it was stopped.

    Args:
        recipe: `recam`, `classifier`, `seeds.size` and `seed` are read.
        start: `model.safetensors` of the trained network before it.
        train: dataset with tags.
        val: dataset whose tags, where known, give the average precision of the first head that is logged.
        folder: gets `log.jsonl`, `state.pt` and `model.safetensors`, which `load_classifier` reads; the second head is
            `recam_head.weight` in it.
        device: where to train.
        masks: gives the soft masks of another seed method, in place of the classifier's activation maps.

    Returns:
        What `fit` returns.

    Raises:
        RecipeError: there is no trained network to go on from.
        DataError: no image has a tag, or the file holds another model than the recipe's classifier.
    """
    if start is None:
        raise RecipeError("recam goes on from a trained network; write networks=[classifier, recam]")
    settings, lam = recipe.recam.train, recipe.recam.lam
    network = next_network(recipe, start, len(train.labels.foreground), recam_head=True)
    second = network.recam_head
    assert second is not None
    mean, std = network.mean, network.std

    def step(runner: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        images = normalise(batch["image"], mean, std)
        features = runner(images, features=True)
        chosen = None if masks is None else masks(network, images, features, batch["tags"])
        return recam_loss(features, network.classifier.weight, second.weight, batch["tags"], lam, masks=chosen)

    # A background or a PCM on maps is not in the loss and stays as it is.
    pcm = network.pcm if network.pcm is not None and network.pcm.kind == "features" else None
    return fit_tags(
        network,
        step,
        recipe,
        settings,
        train,
        val,
        folder,
        device,
        parameter_groups=part_groups(settings, old=[network.backbone, network.classifier, pcm], new=[second]),
        title="recam",
    )
