"""What every segmenter is: a backbone, a head, and the way from head resolution to labels at image size."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from maskwright.config import TrainSettings
from maskwright.models.backbones import Backbone
from maskwright.models.layers import resize

# Parameters with more than one axis that are no weights of a linear map, so weight decay does not suit them either.
POSITION_TABLES = ("pos_embed", "cls_token", "reg_token", "relative_position_bias_table")


class SegmentationModel(nn.Module):
    """Base of every segmenter; a subclass implements `head`.

    Args:
        backbone: gives the feature maps.
        num_classes: channels of the logits.
    """

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_classes = num_classes

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean that images are normalised with, one number per channel, 0 to 1."""
        return self.backbone.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation that images are normalised with, one number per channel, 0 to 1."""
        return self.backbone.std

    def head(self, features: list[Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        """Outputs at the head's own resolution.

        Args:
            features: the backbone's maps `(B, C_i, h_i, w_i)`, fine to coarse.
            size: height and width of the image.

        Returns:
            "logits" `(B, num_classes, h, w)` and whatever auxiliary outputs the model has.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement head(features, size)")

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Every output, "logits" at the head's own resolution.

        Args:
            images: `(B, 3, H, W)`, normalised.
        """
        return self.head(self.backbone(images), (images.shape[-2], images.shape[-1]))

    def forward(self, images: Tensor, *, auxiliary: bool = False, upsample: bool = True) -> Tensor | dict[str, Tensor]:
        """Logits of every class at every pixel.

        Args:
            images: `(B, 3, H, W)`, normalised.
            auxiliary: also give the auxiliary outputs, in a dictionary.
            upsample: bring the logits to image size; otherwise they stay at the head's own resolution.

        Returns:
            Logits `(B, num_classes, H, W)`, or with `auxiliary` a dictionary that holds them as "logits".
        """
        outputs = self.outputs(images)
        if upsample:
            outputs["logits"] = resize(outputs["logits"], images.shape[-2:])
        return outputs if auxiliary else outputs["logits"]

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Label of every pixel: the arg-max of `forward`, without its full-size logits.

        Args:
            images: `(B, 3, H, W)`, normalised.

        Returns:
            Labels `(B, H, W)` int64.
        """
        return resize_argmax(self.outputs(images)["logits"], (images.shape[-2], images.shape[-1]))


def resize_argmax(logits: Tensor, size: tuple[int, int], *, classes_at_once: int = 4) -> Tensor:
    """`resize(logits, size).argmax(1)` with memory for a few classes instead of all of them.

    Bilinear resizing treats each class by itself, so a running maximum over groups of classes gives the same labels,
    ties included.

    Args:
        logits: `(B, C, h, w)`.
        size: height and width of the labels.
        classes_at_once: classes whose full-size logits exist at the same time.

    Returns:
        Labels `(B, H, W)` int64, 0 to C - 1.
    """
    logits = logits.contiguous()
    best, labels = resize(logits[:, :classes_at_once], size).max(1)
    for first in range(classes_at_once, logits.shape[1], classes_at_once):
        value, label = resize(logits[:, first : first + classes_at_once], size).max(1)
        better = value > best
        best = torch.where(better, value, best)
        labels = torch.where(better, label + first, labels)
    return labels


def parameter_groups(model: nn.Module, settings: TrainSettings) -> list[dict[str, Any]]:
    """Groups for the optimiser: own learning rates for backbone and biases, weight decay where it is wanted.

    Args:
        model: has a `backbone`; every other parameter counts as head.
        settings: `lr`, `backbone_lr`, `bias_lr`, `weight_decay` and `decay_norm_and_bias` are read.

    Returns:
        Dictionaries with "params", "lr", "weight_decay" and "name"; frozen parameters are left out.
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        in_backbone = name.startswith("backbone.")
        last = name.rpartition(".")[2]
        is_bias = last == "bias"
        decayed = settings.decay_norm_and_bias or (parameter.ndim > 1 and last not in POSITION_TABLES)
        key = f"{'backbone' if in_backbone else 'head'}{' bias' if is_bias else ''}{'' if decayed else ' no decay'}"
        group = groups.setdefault(
            key,
            {
                "name": key,
                "params": [],
                "lr": settings.lr
                * (settings.backbone_lr if in_backbone else 1.0)
                * (settings.bias_lr if is_bias else 1.0),
                "weight_decay": settings.weight_decay if decayed else 0.0,
            },
        )
        group["params"].append(parameter)
    return list(groups.values())
