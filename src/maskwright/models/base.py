"""What every segmenter is: a backbone, a head, and the way from head resolution to labels at image size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from maskwright.data.dataset import Dataset
from maskwright.models.auxiliary import AuxiliaryHeads
from maskwright.models.backbone import Backbone
from maskwright.models.layers import resize
from maskwright.settings import TrainSettings

# Parameters with more than one axis that are no weights of a linear map, so weight decay does not suit them either.
POSITION_TABLES = ("pos_embed", "cls_token", "reg_token", "relative_position_bias_table")
# Parameters that weight decay would pull to a value that means nothing.
NEVER_DECAYED = ("log_temperature",)


class SegmentationModel(nn.Module):
    """Base of every segmenter; a subclass implements `head`.

    Args:
        backbone: gives the feature maps.
        num_classes: channels of the logits.
    """

    # Auxiliary heads that `create_model` adds where none are asked for; see `AuxiliaryHeads`.
    own_auxiliary: ClassVar[Mapping[str, Sequence[int]]] = {}

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_classes = num_classes
        self.auxiliary_heads: AuxiliaryHeads | None = None

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

    def add_auxiliary(self, heads: Mapping[str, Sequence[int]], **options: Any) -> None:
        """Put auxiliary heads on feature maps of the backbone, in place of those that were there.

        Args:
            heads: kind of head -> feature maps, as `AuxiliaryHeads` takes it.
            options: what else `AuxiliaryHeads` takes.

        Raises:
            RecipeError: an unknown kind of head, or a map that the backbone does not have.
        """
        self.auxiliary_heads = AuxiliaryHeads(self.backbone, self.num_classes, heads, **options) if heads else None

    def outputs(self, images: Tensor, *, auxiliary: bool = False) -> dict[str, Tensor]:
        """Every output of the head, "logits" at the head's own resolution.

        Args:
            images: `(B, 3, H, W)`, normalised.
            auxiliary: also those of the auxiliary heads, which are not computed otherwise.
        """
        return self.from_features(self.backbone(images), (images.shape[-2], images.shape[-1]), auxiliary=auxiliary)

    def from_features(
        self, features: list[Tensor], size: tuple[int, int], *, auxiliary: bool = False
    ) -> dict[str, Tensor]:
        """As `outputs`, of maps that the backbone gave before.

        Args:
            features: the backbone's maps, fine to coarse; None in the place of one that no head reads.
            size: height and width of the image.
            auxiliary: as for `outputs`.
        """
        outputs = self.head(features, size)
        return self.with_auxiliary(outputs, features) if auxiliary else outputs

    def with_auxiliary(self, outputs: dict[str, Tensor], features: list[Tensor]) -> dict[str, Tensor]:
        """The outputs and those of the auxiliary heads; for models that have their own `outputs`."""
        return outputs if self.auxiliary_heads is None else {**outputs, **self.auxiliary_heads(features)}

    def forward(
        self,
        images: Tensor | list[Tensor],
        *,
        auxiliary: bool = False,
        upsample: bool = True,
        size: tuple[int, int] | None = None,
    ) -> Tensor | dict[str, Tensor]:
        """Logits of every class at every pixel.

        Args:
            images: `(B, 3, H, W)`, normalised; or maps of the backbone, as for `from_features`, with `size`.
            auxiliary: also give the auxiliary outputs, in a dictionary.
            upsample: bring the logits to image size; otherwise they stay at the head's own resolution.
            size: height and width of the images, where maps are given in their place.

        Returns:
            Logits `(B, num_classes, H, W)`, or with `auxiliary` a dictionary that holds them as "logits".
        """
        if isinstance(images, Tensor):
            size = (images.shape[-2], images.shape[-1])
            outputs = self.outputs(images, auxiliary=auxiliary)
        else:
            assert size is not None
            outputs = self.from_features(images, size, auxiliary=auxiliary)
        if upsample:
            outputs["logits"] = resize(outputs["logits"], size)
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

    def prepare(self, dataset: Dataset, folder: Path) -> None:
        """Take from the training set what the model starts with; called by all processes, before training or resuming.

        Args:
            dataset: the training set.
            folder: of the training; what takes long to make is kept there for a resumed run.
        """


@torch.no_grad()
def resize_argmax(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """`resize(logits, size).argmax(1)` with one class at image size at a time instead of all of them.

    Bilinear resizing treats each class by itself, so a running maximum gives the same labels, ties included. It is also
    faster, because a maximum over planes reads memory in order.

    Args:
        logits: `(B, C, h, w)`; half precision is resized and compared in float32.
        size: height and width of the labels.

    Returns:
        Labels `(B, H, W)` int64, 0 to C - 1.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).contiguous()
    best = resize(logits[:, :1], size)[:, 0].clone()
    labels = torch.zeros(best.shape, dtype=torch.uint8 if logits.shape[1] <= 256 else torch.int32, device=best.device)
    for value in range(1, logits.shape[1]):
        score = resize(logits[:, value : value + 1], size)[:, 0]
        # Values ascend, so the last class to win is the largest: maxima of bytes, faster than writing under a mask.
        wins = (score > best).view(torch.uint8)
        torch.maximum(labels, wins.to(labels.dtype).mul_(value), out=labels)
        torch.maximum(best, score, out=best)
    return labels.long()


def parameter_groups(model: nn.Module, settings: TrainSettings) -> list[dict[str, Any]]:
    """Groups for the optimiser: own learning rates for backbone and biases, weight decay where it is wanted.

    Args:
        model: has a `backbone`; every other parameter counts as head.
        settings: `lr`, `backbone_lr`, `bias_lr`, `weight_decay` and `decay_norm_and_bias` are read.

    Returns:
        Dictionaries with "params", "lr", "weight_decay" and "name"; frozen parameters are left out. A backbone with
        `backbone_lr` 0 is frozen here, so that no gradient is computed for it.
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        in_backbone = name.startswith("backbone.")
        if in_backbone and settings.backbone_lr == 0:
            parameter.requires_grad_(False)
        if not parameter.requires_grad:
            continue
        last = name.rpartition(".")[2]
        is_bias = last == "bias"
        decayed = last not in NEVER_DECAYED and (
            settings.decay_norm_and_bias or (parameter.ndim > 1 and last not in POSITION_TABLES)
        )
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
