"""The network `seam`: a tag classifier whose maps agree over scales, and PCM that refines them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from maskwright.data.augment import normalise
from maskwright.data.dataset import Dataset
from maskwright.models.pcm import resize_aligned
from maskwright.settings import PaperTagTraining, Recipe
from maskwright.weak.networks.classifier import fit_tags, next_network, part_groups
from maskwright.weak.networks.network import Network
from maskwright.weak.networks.seam import seam_loss, seam_maps
from maskwright.weak.seeds.classes import weight_needs
from maskwright.weak.seeds.method import SeedMethod

# As the released code has it: weights of the backbone at 0.01, its biases at twice that, new layers at ten times these.
PAPER_SEAM: dict[str, Any] = {
    "epochs": 8,
    "batch_size": 8,
    "lr": 0.1,
    "backbone_lr": 0.1,
    "bias_lr": 2.0,
    "momentum": 5e-4,
    "weight_decay": 5e-4,
    "decay_norm_and_bias": False,
    "freeze_batchnorm": True,
    "augment": {"long_side": (448, 768), "crop": (448, 448), "flip": 0.5, "color_jitter": 0.3, "hue": 0.1},
}


class SEAMSettings(PaperTagTraining):
    """SEAM: class activation maps that agree over scales, refined by PCM; defaults of `train` are the paper's.

    The paper's backbone is a ResNet-38 of stride 8; any other can be used.
    """

    paper = PAPER_SEAM

    scale: float = Field(0.3, gt=0, lt=1, description="size of the second branch's image as a share of the first's")


def train_seam(
    recipe: Recipe,
    settings: SEAMSettings,
    start: Path | None,
    train: Dataset,
    val: Dataset,
    folder: Path,
    device: torch.device,
) -> dict[str, Any]:
    """Train backbone, head and PCM on an image and its small version; resumes where it was stopped.

    Args:
        recipe: `classifier`, `seeds.size` and `random_seed` are read.
        settings: of the network.
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
    network = next_network(recipe, start, len(train.labels.foreground), **SEAM.parts(settings))
    mean, std = network.mean, network.std

    def step(runner: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        images = normalise(batch["image"], mean, std)
        height, width = images.shape[2:]
        small = max(1, int(height * settings.scale)), max(1, int(width * settings.scale))
        pairs = runner([images, resize_aligned(images, small)], refined=True)
        return seam_loss(pairs, [(height, width), small], batch["tags"])

    return fit_tags(
        network,
        step,
        recipe,
        settings.train,
        train,
        val,
        folder,
        device,
        parameter_groups=part_groups(settings.train, old=[network.backbone], new=[network.classifier, network.pcm]),
        title="seam",
    )


SEAM = Network(
    "train SEAM's two branches",
    SEAMSettings,
    train_seam,
    maps=SeedMethod(seam_maps, needs=lambda seeds: ("pcm=cam", *weight_needs(seeds.options.get("weight")))),
    parts=lambda settings: {"pcm": "cam"},
)
