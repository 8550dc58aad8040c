"""The stage `recam`: from a converged tag classifier to one with ReCAM's second head."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from maskwright.data.augment import normalise
from maskwright.data.dataset import Dataset
from maskwright.errors import RecipeError, unknown_name
from maskwright.settings import PaperTagTraining, Recipe, TrainSettings
from maskwright.weak.networks.classifier import (
    batch_saliency,
    check_saliency,
    fit_tags,
    known_precision,
    next_network,
    part_groups,
)
from maskwright.weak.networks.eps import eps_loss
from maskwright.weak.networks.eps_training import EPSSettings
from maskwright.weak.networks.frozen import fit_second_head, save_fitted
from maskwright.weak.networks.network import Network, settings_of
from maskwright.weak.networks.recam import SoftMasks, recam_loss, recam_maps
from maskwright.weak.networks.soft_masks import SOFT_MASKS
from maskwright.weak.seeds.classes import weight_needs
from maskwright.weak.seeds.method import SeedMethod

# The momentum is that of the released code, which hands the weight decay over in its place.
PAPER_RECAM = {
    "epochs": 4,
    "lr": 5e-4,
    "backbone_lr": 0.1,
    "momentum": 1e-4,
    "weight_decay": 1e-4,
    "freeze_batchnorm": True,
}


class RecamSettings(PaperTagTraining):
    """ReCAM's training, which continues from the trained tag classifier; defaults of `train` are the paper's."""

    paper = PAPER_RECAM

    sce_weight: float = Field(
        1.0,
        ge=0,
        serialization_alias="lam",
        description="lambda, weight of the new head's loss; 1 on VOC, 0.1 on COCO in the paper",
    )
    soft_masks: str = Field(
        "cam",
        serialization_alias="masks",
        description="seed method of the soft masks; see `weak.networks.soft_masks.SOFT_MASKS`",
    )
    saliency_weight: float = Field(
        0.0,
        ge=0,
        serialization_alias="eps",
        description="weight of the saliency loss where networks has `eps` before recam; 1 for the paper's rows -E",
    )
    train: TrainSettings = Field(
        TrainSettings(), description="lr is the new head's rate, backbone_lr the factor on it for everything else"
    )


# What the masks or the loss of a network before are made of, which is trained on where they are in the loss.
PART_OF = {"eps": "background", "edam": "edam"}


def train_recam(
    recipe: Recipe,
    settings: RecamSettings,
    start: str | Path | None,
    train: Dataset,
    val: Dataset,
    folder: Path,
    device: torch.device,
    *,
    masks: SoftMasks | None = None,
) -> dict[str, Any]:
    """Train backbone, first head and a new second head on `L_bce + lam * L_sce`; resumes where it was stopped.

    With `recam.saliency_weight` the loss of a network `eps` continues beside it: the rows -E of the paper's table 4,
    whose code was not released; this composition of it is ours.

    Args:
        recipe: `classifier`, `seeds.size` and `random_seed` are read, and `eps` where its loss continues.
        settings: of the network.
        start: `model.safetensors` of the trained network before it.
        train: dataset with tags; with `recam.saliency_weight` also with saliency maps.
        val: dataset whose tags, where known, give the average precision of the first head that is logged.
        folder: gets `log.jsonl`, `state.pt` and `model.safetensors`, which `load_classifier` reads; the second head is
            `recam_head.weight` in it.
        device: where to train.
        masks: gives the soft masks in place of those that `recam.soft_masks` names.

    Returns:
        What `fit` returns.

    Raises:
        RecipeError: there is no trained network to go on from, it lacks what the settings need, or no such soft masks.
        DataError: no image has a tag, or the file holds another model than the recipe's classifier.
    """
    if start is None:
        raise RecipeError("recam starts from a trained network; write networks=[classifier, recam]")
    if settings.soft_masks not in SOFT_MASKS:
        raise RecipeError(unknown_name("recam.soft_masks", settings.soft_masks, SOFT_MASKS))
    masks = masks or SOFT_MASKS[settings.soft_masks]
    started = time.monotonic()
    network = next_network(recipe, start, len(train.labels.foreground), **RECAM.parts(settings))
    if settings.train.frozen:
        found = fit_second_head(network, recipe, train, folder, device)
        metrics = known_precision(network.to(device).eval(), recipe, val, device)
        return save_fitted(network, recipe, train, folder, found, metrics, started)
    second = network.recam_head
    assert second is not None
    words = soft_mask_networks(settings)
    for word in words:
        if getattr(network, PART_OF[word]) is None:
            raise RecipeError(
                f"recam.soft_masks={settings.soft_masks}, recam.saliency_weight={settings.saliency_weight} need a "
                f"network {word} before, found one without its {PART_OF[word]} layer; write networks=[{word}, recam]"
            )
    explained = settings_of(recipe, "eps", EPSSettings) if settings.saliency_weight else None
    if explained:
        check_saliency(train, "recam.saliency_weight")
    mean, std = network.mean, network.std

    def step(runner: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        images = normalise(batch["image"], mean, std)
        features, tags = runner(images, features=True), batch["tags"]
        chosen = None if masks is None else masks(network, images, features, tags)
        loss, parts = recam_loss(
            features, network.classifier.weight, second.weight, tags, settings.sce_weight, masks=chosen
        )
        if explained:
            saliency = eps_loss(
                F.conv2d(features, network.head_weight()),
                batch_saliency(batch),
                tags,
                threshold=explained.threshold,
                blend=explained.blend,
            )
            loss, parts = loss + settings.saliency_weight * saliency, {**parts, "saliency": saliency.detach()}
        return loss, parts

    # What is not in the loss, such as PCM on maps, stays as it is.
    old = [
        network.backbone,
        network.classifier,
        network.feature_pcm,
        *(getattr(network, PART_OF[word]) for word in words),
    ]
    return fit_tags(
        network,
        step,
        recipe,
        settings.train,
        train,
        val,
        folder,
        device,
        parameter_groups=part_groups(settings.train, old=old, new=[second]),
        title="recam",
    )


def soft_mask_networks(settings: RecamSettings) -> list[str]:
    """Networks before this one whose parts the soft masks or the loss are made of."""
    return [word for word in PART_OF if word == settings.soft_masks or (word == "eps" and settings.saliency_weight)]


def recam_needs(settings: RecamSettings) -> tuple[str, ...]:
    """A trained network, and of it what masks or loss are made of.

    Raises:
        RecipeError: no such soft masks.
    """
    if settings.soft_masks not in SOFT_MASKS:
        raise RecipeError(unknown_name("recam.soft_masks", settings.soft_masks, SOFT_MASKS))
    parts = [PART_OF[word] for word in soft_mask_networks(settings)]
    return ("network", *parts, *(["saliency"] if settings.saliency_weight else []))


RECAM = Network(
    "train ReCAM's second head",
    RecamSettings,
    train_recam,
    maps=SeedMethod(
        recam_maps, reads_features=True, needs=lambda seeds: weight_needs(seeds.options.get("weight", "product"))
    ),
    parts=lambda settings: {"recam_head": True},
    needs=recam_needs,
    frozen=True,
)
