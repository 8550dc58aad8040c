"""The network `eps`: a tag classifier with a background whose maps explain saliency maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from maskwright.data.augment import normalise
from maskwright.data.dataset import Dataset
from maskwright.settings import PaperTagTraining, Recipe
from maskwright.weak.networks.classifier import batch_saliency, check_saliency, fit_tags, next_network, part_groups
from maskwright.weak.networks.eps import eps_loss, eps_maps
from maskwright.weak.networks.network import Network
from maskwright.weak.networks.recam import first_head_loss
from maskwright.weak.networks.seam_training import PAPER_SEAM
from maskwright.weak.seeds.classes import weight_needs
from maskwright.weak.seeds.method import SeedMethod

# Steps and sizes are the released code's on VOC (the paper has 20k steps); where no source says, as SEAM.
PAPER_EPS: dict[str, Any] = {
    **{key: value for key, value in PAPER_SEAM.items() if key != "epochs"},
    "steps": 10000,
    "augment": {**PAPER_SEAM["augment"], "long_side": (256, 512)},
}


class EPSSettings(PaperTagTraining):
    """EPS: the maps of tagged classes together must explain a saliency map; needs `data.saliency`.

    The paper's backbone is a ResNet-38 of stride 8; any other can be used. Its masks are made with a threshold of
    0.20. Defaults of `train` are the code's on VOC.
    """

    paper = PAPER_EPS

    weight: float = Field(1.0, ge=0, description="weight of the saliency loss")
    threshold: float = Field(
        0.5, ge=0, le=1, description="share of a class's map that is salient, above which the class is foreground"
    )
    blend: float = Field(
        0.5,
        ge=0,
        le=1,
        description="weight of the saliency that foreground maps give; the background map has the rest",
    )


def train_eps(
    recipe: Recipe,
    settings: EPSSettings,
    start: Path | None,
    train: Dataset,
    val: Dataset,
    folder: Path,
    device: torch.device,
) -> dict[str, Any]:
    """Train backbone, head and background on tags and saliency maps; resumes where it was stopped.

    Args:
        recipe: `classifier`, `seeds.size` and `random_seed` are read.
        settings: of the network.
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
    check_saliency(train, "networks=[eps]")
    network = next_network(recipe, start, len(train.labels.foreground), **EPS.parts(settings))
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


EPS = Network(
    "train on tags and saliency (EPS)",
    EPSSettings,
    train_eps,
    maps=SeedMethod(eps_maps, needs=lambda seeds: ("background", *weight_needs(seeds.options.get("weight")))),
    parts=lambda settings: {"background": True},
    needs=lambda settings: ("saliency",),
)
