"""The network `edam`: a tag classifier with a layer of class masks that is trained with attention over a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from maskwright.data.augment import normalise
from maskwright.data.dataset import Dataset
from maskwright.models import ImageTagClassifier
from maskwright.settings import PaperTagTraining, Recipe
from maskwright.weak.networks.classifier import fit_tags, next_network, part_groups
from maskwright.weak.networks.edam import CollaborativeAttention, activation_masks, edam_maps
from maskwright.weak.networks.network import Network
from maskwright.weak.networks.recam import first_head_loss
from maskwright.weak.networks.seam_training import PAPER_SEAM
from maskwright.weak.seeds.method import SeedMethod


class EDAMSettings(PaperTagTraining):
    """EDAM: masks of the classes as a layer, learned with attention among the images of a batch.

    Our sources do not say how it is trained: defaults of `train` are SEAM's.
    """

    paper = PAPER_SEAM

    width: int = Field(64, gt=0, description="channels of the attention")
    heads: int = Field(4, gt=0, description="heads of the attention of each class")
    grid: int = Field(
        16, gt=0, description="largest number of rows and columns of tokens per image; all positions in the paper"
    )


def build_attention(settings: EDAMSettings, network: ImageTagClassifier) -> CollaborativeAttention:
    """The attention over a batch that the network is trained with.

    Raises:
        RecipeError: a width that the heads do not divide.
    """
    return CollaborativeAttention(
        network.backbone.channels[-1],
        network.num_tags,
        width=settings.width,
        heads=settings.heads,
        grid=settings.grid,
    )


def check_attention(settings: EDAMSettings, network: ImageTagClassifier) -> None:
    """Refuse settings of an attention that cannot be.

    Raises:
        RecipeError: as `build_attention`.
    """
    build_attention(settings, network)


def train_edam(
    recipe: Recipe,
    settings: EDAMSettings,
    start: Path | None,
    train: Dataset,
    val: Dataset,
    folder: Path,
    device: torch.device,
) -> dict[str, Any]:
    """Train backbone and masks through the attention; resumes where it was stopped.

    The plain head, which EDAM does not have, learns beside it from features without gradient: the method is not
    touched, and the network gives tag logits and class activation maps as all others do.

    Args:
        recipe: `classifier`, `seeds.size` and `random_seed` are read.
        settings: of the network.
        start: `model.safetensors` of the network before it, or None.
        train: dataset with tags.
        val: dataset whose tags, where known, give the average precision of the plain head that is logged.
        folder: gets `log.jsonl`, `state.pt` and `model.safetensors`, which `load_classifier` reads.
        device: where to train.

    Returns:
        What `fit` returns.

    Raises:
        RecipeError: a backbone, an option or weights that cannot be had, or a width that the heads do not divide.
        DataError: no image has a tag, or `start` holds another model than the recipe's classifier.
    """
    network = next_network(recipe, start, len(train.labels.foreground), **EDAM.parts(settings))
    attention = build_attention(settings, network)
    mean, std = network.mean, network.std

    def step(runner: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        features = runner(normalise(batch["image"], mean, std), features=True)
        masked = first_head_loss(attention(features, activation_masks(network, features)), batch["tags"], "bce")
        plain = first_head_loss(network.logits(features.detach()), batch["tags"], "bce")
        return masked + plain, {"masked": masked.detach(), "tags": plain.detach()}

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
            new=[network.classifier, network.edam, network.feature_pcm, attention],
        ),
        title="edam",
        trainable_extra=[attention],
    )


EDAM = Network(
    "train the layer of discriminative activation (EDAM)",
    EDAMSettings,
    train_edam,
    maps=SeedMethod(edam_maps, needs=lambda seeds: ("edam",)),
    parts=lambda settings: {"edam": True},
    check=check_attention,
)
