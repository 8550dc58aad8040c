"""The network `seam`: a tag classifier whose maps agree over scales, and PCM that refines them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskwright.data.augment import normalise
from maskwright.models.pcm import resize_aligned
from maskwright.settings import Recipe
from maskwright.weak.networks.classifier import fit_tags, next_network, part_groups
from maskwright.weak.networks.seam import seam_loss


def train_seam(
    recipe: Recipe, start: Path | None, train: Any, val: Any, folder: Path, device: torch.device
) -> dict[str, Any]:
    """Train trunk, head and PCM on an image and its small version; resumes where it was stopped.

    Args:
        recipe: `seam`, `classifier`, `seeds.size` and `seed` are read.
        start: `model.safetensors` of the network before it, or None.
        train: dataset with tags.
        val: dataset whose tags, where known, give the average precision that is logged.
        folder: gets `log.jsonl`, `state.pt` and `model.safetensors`, which `load_classifier` reads.
        device: where to train.

    Returns:
        What `fit` returns.

    Raises:
        DataError: no image has a tag, or `start` holds another model than the recipe's classifier.
        RecipeError: a backbone, an option or weights that cannot be had, or features that are refined by PCM already.
    """
    settings = recipe.seam.train
    network = next_network(recipe, start, len(train.labels.foreground), pcm="cam")
    mean, std = network.mean, network.std

    def step(runner: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        images = normalise(batch["image"], mean, std)
        height, width = images.shape[2:]
        small = max(1, int(height * recipe.seam.scale)), max(1, int(width * recipe.seam.scale))
        pairs = runner([images, resize_aligned(images, small)], refined=True)
        return seam_loss(pairs, [(height, width), small], batch["tags"])

    return fit_tags(
        network,
        step,
        recipe,
        settings,
        train,
        val,
        folder,
        device,
        parameter_groups=part_groups(settings, old=[network.backbone], new=[network.classifier, network.pcm]),
        title="seam",
    )
