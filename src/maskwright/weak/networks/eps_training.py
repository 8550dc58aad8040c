"""The network `eps`: a tag classifier with a background whose maps explain saliency maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskwright.data.augment import normalise
from maskwright.settings import Recipe
from maskwright.weak.networks.classifier import batch_saliency, check_saliency, fit_tags, next_network, part_groups
from maskwright.weak.networks.eps import eps_loss
from maskwright.weak.networks.recam import first_head_loss


def train_eps(
    recipe: Recipe, start: Path | None, train: Any, val: Any, folder: Path, device: torch.device
) -> dict[str, Any]:
    """Train trunk, head and background on tags and saliency maps; resumes where it was stopped.

    Args:
        recipe: `eps`, `classifier`, `seeds.size` and `seed` are read.
        start: `model.safetensors` of the network before it, or None.
        train: dataset with tags and saliency maps.
        val: dataset whose tags, where known, give the average precision that is logged.
        folder: gets `log.jsonl`, `state.pt` and `model.safetensors`, which `load_classifier` reads.
        device: where to train.

    Returns:
        What `fit` returns.

    Raises:
        RecipeError: there are no saliency maps, or a backbone, an option or weights cannot be had.
        DataError: no image has a tag, some have no saliency map, or `start` holds another model than the recipe's
            classifier.
    """
    settings = recipe.eps
    check_saliency(train, "networks=[eps]")
    network = next_network(recipe, start, len(train.labels.foreground), background=True)
    mean, std = network.mean, network.std

    def step(runner: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        maps = runner(normalise(batch["image"], mean, std), maps=True)
        tag_loss = first_head_loss(maps[:, :-1].mean((2, 3)), batch["tags"], "bce")
        saliency = eps_loss(
            maps, batch_saliency(batch), batch["tags"], threshold=settings.threshold, blend=settings.blend
        )
        loss = tag_loss + settings.weight * saliency
        return loss, {"tags": tag_loss.detach(), "saliency": saliency.detach()}

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
            old=[network.backbone],
            new=[network.classifier, network.background, network.feature_pcm],
        ),
        title="eps",
    )
