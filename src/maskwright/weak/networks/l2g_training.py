"""The network `l2g`: a global network that learns from the attention of a local one, see `weak.networks.l2g`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from maskwright.data.augment import normalise
from maskwright.data.dataset import Dataset
from maskwright.errors import RecipeError
from maskwright.models import ImageTagClassifier
from maskwright.settings import PaperTagTraining, Recipe
from maskwright.weak.networks.classifier import batch_saliency, check_saliency, fit_tags, next_network, part_groups
from maskwright.weak.networks.l2g import check_sampling, cut_views, draw_corners, l2g_loss, l2g_maps
from maskwright.weak.networks.network import Network
from maskwright.weak.seeds.method import SeedMethod

# The released code's on VOC: weights of the backbone at 1e-3, its biases at twice that, new layers at ten times these.
PAPER_L2G: dict[str, Any] = {
    "epochs": 10,
    "batch_size": 3,
    "lr": 0.01,
    "backbone_lr": 0.1,
    "bias_lr": 2.0,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 5e-4,
    "schedule": "step",
    "freeze_batchnorm": True,
    "augment": {"short_side": (512, 512), "crop": (448, 448), "flip": 0.0, "color_jitter": 0.3, "hue": 0.1},
}

# Where the paper is not what its code does.
PAPER_FORM: dict[str, Any] = {
    "views": 4,
    "sampling": "random",
    "winner_takes_all": False,
    "alignment": "crop",
    "background": "none",
    "threshold": 0.1,
    "binary_saliency": True,
    "attention_where_empty": True,
}


class L2GSettings(PaperTagTraining):
    """L2G: a global network learns from the attention of a local one on views of the image; one of them is kept.

    Where attention is transferred, defaults are those of the paper's text: the code has the local background among the
    targets, which no loss trains, so that a random projection takes positions from the classes. With saliency they are
    the released code's on VOC, but for the order of the images, which it does not shuffle. On COCO the code has
    `views: 4, sampling: corners, background: continuous, threshold: 0.1, weight: 30` and trains otherwise. PCM, which
    the code has and the text does not, starts from random numbers; what it alone is worth was not measured.

    The paper's backbone is a ResNet-38 of stride 8; any other can be used. Defaults of `train` are the code's on VOC;
    its lr is that of the heads and of PCM.
    """

    paper = PAPER_L2G

    # Defaults of fields are the code's and stay so: what a run leaves out of its fingerprint is what they say.
    @model_validator(mode="before")
    @classmethod
    def _form(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        transferred = "paper" if values.get("transfer", "attention") == "attention" else "code"
        values = {"form": transferred, "pcm": False, **values}
        return {**PAPER_FORM, **values} if values["form"] == "paper" else values

    @model_validator(mode="after")
    def _views_fit(self) -> L2GSettings:
        whole = self.train.augment.crop or self.train.augment.resize
        if whole is not None and any(view > side for view, side in zip(self.view_size, whole, strict=True)):
            raise ValueError(
                f"view_size={list(self.view_size)} does not fit into the images of {list(whole)} pixels that "
                "train.augment gives"
            )
        return self

    form: Literal["code", "paper"] = Field(
        "code",
        description="defaults of all settings of l2g: those of the released code or of the paper; by itself paper with "
        "transfer=attention, code with shape",
    )
    views: int = Field(6, gt=0, description="local views of each image; 4 in the paper")
    sampling: Literal["random", "corners", "corners_random", "uniform"] = Field(
        "corners_random",
        description="where the local views lie; random in the paper; see `weak.networks.l2g.draw_corners`",
    )
    winner_takes_all: bool = Field(True, description="only the highest class attends to a position; not in the paper")
    alignment: Literal["roi", "crop"] = Field(
        "roi",
        description="of global maps with a view; roi: align, then softmax; crop: softmax, then cut out (paper)",
    )
    background: Literal["binary", "continuous", "none"] = Field(
        "binary", description="target of the background with saliency; none: without background, as in the paper"
    )
    threshold: float = Field(0.001, ge=0, lt=1, description="attention above it takes the saliency's shape; paper 0.1")
    binary_saliency: bool = Field(False, description="saliency is cut at one half, as in the paper")
    attention_where_empty: bool = Field(
        False, description="attention is the target of a view without any saliency, as in the paper"
    )
    view_size: tuple[int, int] = Field((320, 320), description="height and width of a local view, in pixels")
    transfer: Literal["attention", "shape"] = Field(
        "attention", description="what is learned from local views; shape needs saliency maps"
    )
    weight: float = Field(10.0, gt=0, description="weight of the transfer's loss; 30 in the code on COCO")
    global_classification: float = Field(
        0.0, ge=0, description="weight of a tag loss on the global network; harmful in the paper"
    )
    shared_backbone: bool = Field(
        False, serialization_alias="shared_trunk", description="one backbone for both networks, which have a head each"
    )
    pcm: bool = Field(
        True,
        description="pixel correlation module (PCM) on the features of both networks, as in the code; by itself false",
    )
    shuffle: bool = Field(True, description="false: images always in the order of the data set, as in the code")
    keep: Literal["global", "local"] = Field(
        "global", description="which network the maps are taken of; local: the tag classifier on views, for comparison"
    )


def train_l2g(
    recipe: Recipe,
    settings: L2GSettings,
    start: Path | None,
    train: Dataset,
    val: Dataset,
    folder: Path,
    device: torch.device,
) -> dict[str, Any]:
    """Train both networks side by side and keep one, by default the global; resumes where it was stopped, with both.

    Which one is kept changes nothing of the training.

    Without a network before it, the two start from different random numbers, or the same pre-trained backbone.

    Args:
        recipe: `classifier`, `seeds.size` and `random_seed` are read.
        settings: of the network.
        start: `model.safetensors` of the network before it, from which both go on, or None.
        train: dataset with tags; for shape transfer also with saliency maps.
        val: dataset whose tags, where known, give the average precision of the kept network that is logged.
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
    if settings.transfer == "shape":
        check_saliency(train, "l2g.transfer=shape")
    network, local = build_l2g(recipe, settings, start, len(train.labels.foreground))
    check_views(settings, network)
    stride = network.backbone.strides[-1]
    mean, std = network.mean, network.std
    kept, other = (local, network) if settings.keep == "local" else (network, local)

    def step(runner: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        images = batch["image"]
        on_images, on_views = (network, runner) if kept is local else (runner, local)
        corners = draw_corners(
            len(images), settings.views, (images.shape[2], images.shape[3]), settings.view_size, settings.sampling
        )
        views = cut_views(images, corners, settings.view_size)
        return l2g_loss(
            on_images(normalise(images, mean, std), maps=True),
            on_views(normalise(views, mean, std), maps=True),
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
        kept,
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
        trainable_extra=[part for part in other.children() if part is not kept.backbone],
        shuffle=settings.shuffle,
    )


def check_views(settings: L2GSettings, network: ImageTagClassifier) -> None:
    """Refuse views that cannot be.

    Raises:
        RecipeError: not as many as the sampling takes, or of a size that the network's stride does not divide.
    """
    check_sampling(settings.sampling, settings.views)
    stride = network.backbone.strides[-1]
    if any(side % stride for side in settings.view_size):
        raise RecipeError(
            f"l2g.view_size={list(settings.view_size)} must be multiples of {stride}, the network's stride, since maps "
            "are compared position by position"
        )


def build_l2g(
    recipe: Recipe, settings: L2GSettings, start: Path | None, num_tags: int
) -> tuple[ImageTagClassifier, ImageTagClassifier]:
    """The global and the local network as they are before training.

    Both have a background; that of the local one gets no gradient and stays as it is, as in the released code.

    Args:
        recipe: `classifier` and `random_seed` are read.
        settings: of the network.
        start: as for `train_l2g`.
        num_tags: number of classes that an image can be tagged with.

    Raises:
        RecipeError: as `next_network`.
        DataError: as `next_network`.
    """
    parts = L2G.parts(settings)
    network = next_network(recipe, start, num_tags, **parts)
    local = next_network(recipe.model_copy(update={"random_seed": recipe.random_seed + 1}), start, num_tags, **parts)
    if settings.shared_backbone:
        local.backbone = network.backbone
    for which, backgrounds in ((network, [network.background]), (local, [])):
        for part in which.children():
            if part not in (which.backbone, which.classifier, which.feature_pcm, *backgrounds):
                part.requires_grad_(False)
    return network, local


def smaller_views(settings: L2GSettings, whole: tuple[int, int], small: tuple[int, int], stride: int) -> dict[str, Any]:
    """Views that are the same share of a trial's examples as of a run's, in steps of the stride."""
    sides = [view * new / old for view, new, old in zip(settings.view_size, small, whole, strict=True)]
    return {"view_size": tuple(max(1, round(side / stride)) * stride for side in sides)}


def l2g_needs(settings: L2GSettings) -> tuple[str, ...]:
    """Saliency maps, where shapes are transferred.

    Raises:
        RecipeError: as `check_sampling`.
    """
    check_sampling(settings.sampling, settings.views)
    return ("saliency",) if settings.transfer == "shape" else ()


L2G = Network(
    "train L2G's global network from a local one",
    L2GSettings,
    train_l2g,
    maps=SeedMethod(l2g_maps),
    parts=lambda settings: {"background": True, **({"pcm": "features"} if settings.pcm else {})},
    needs=l2g_needs,
    check=check_views,
    shrink=smaller_views,
)
