"""The image-tag classifier whose head gives class activation maps (Zhou et al., CVPR 2016; IRN's and ReCAM's)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from maskwright.errors import DataError
from maskwright.models import layers
from maskwright.models.backbones import Backbone, create_backbone

# What a classifier may have beside backbone and head; each is an attribute, None where it is not there.
PARTS = ("recam_head", "background")


class ImageTagClassifier(nn.Module):
    """Tag logits z_k = GAP(w_k . f): a 1x1 convolution without bias on the mean of the last feature map.

    Because there is no bias, pooling before or after the convolution gives the same logits, and the unpooled map is the
    class activation map. Negative evidence counts: there is no ReLU before the pooling.

    Args:
        backbone: only its coarsest feature map is used.
        num_tags: number of classes that an image can be tagged with (without background).
        recam_head: also have the second head, of the same shape, that ReCAM trains; `forward` does not use it.
        background: also have a map of the background, a 1x1 convolution with one output, for methods that train it
            (L2G, EPS); tag logits do not use it.
    """

    def __init__(
        self, backbone: Backbone, num_tags: int, *, recam_head: bool = False, background: bool = False
    ) -> None:
        super().__init__()
        backbone.use_only([len(backbone.strides) - 1])
        self.backbone = backbone
        self.num_tags = num_tags
        self.classifier = nn.Conv2d(backbone.channels[-1], num_tags, 1, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.01)
        self.recam_head = nn.Conv2d(backbone.channels[-1], num_tags, 1, bias=False) if recam_head else None
        self.background = nn.Conv2d(backbone.channels[-1], 1, 1, bias=False) if background else None
        if self.background is not None:
            nn.init.normal_(self.background.weight, std=0.01)

    @property
    def parts(self) -> dict[str, Any]:
        """What it has beside backbone and head, as `create_classifier` takes it."""
        return {name: True for name in PARTS if getattr(self, name) is not None}

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean that images are normalised with, one number per channel, 0 to 1."""
        return self.backbone.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation that images are normalised with, one number per channel, 0 to 1."""
        return self.backbone.std

    def features(self, images: Tensor) -> Tensor:
        """The last feature map `(B, D, h, w)` of normalised images `(B, 3, H, W)`."""
        return self.backbone(images)[-1]

    def logits(self, features: Tensor) -> Tensor:
        """Tag logits `(B, num_tags)` of a feature map `(B, D, h, w)`."""
        return self.classifier(features.mean((2, 3), keepdim=True)).flatten(1)

    def forward(self, images: Tensor, *, features: bool = False) -> Tensor:
        """Tag logits.

        Args:
            images: `(B, 3, H, W)`, normalised.
            features: give the feature map instead, for losses on it; wrapped networks must be called, not reached into.

        Returns:
            `(B, num_tags)`, or `(B, D, h, w)`.
        """
        found = self.features(images)
        return found if features else self.logits(found)

    def class_maps(self, features: Tensor, weight: Tensor | None = None) -> Tensor:
        """Score of every class at every position, before any ReLU.

        Args:
            features: what `features` gives, `(B, D, h, w)`.
            weight: `(num_tags, D)` or `(num_tags, D, 1, 1)`; by default the head's own.

        Returns:
            `(B, num_tags, h, w)`.
        """
        if weight is None:
            weight = self.classifier.weight
        return F.conv2d(features, weight.reshape(*weight.shape[:2], 1, 1))


def create_classifier(
    *,
    backbone: str = "resnet50",
    num_tags: int,
    pretrained: bool | str = False,
    output_stride: int | None = 16,
    in_channels: int = 3,
    dilate: bool = False,
    freeze_stem: bool | None = None,
    stop_grad_after_layer2: bool = False,
    recam_head: bool = False,
    background: bool = False,
    **options: Any,
) -> ImageTagClassifier:
    """An image-tag classifier on a new backbone, by default the ResNet-50 of the image-tag papers.

    Args:
        backbone: as for `create_backbone`.
        num_tags: number of classes that an image can be tagged with.
        pretrained: as for `create_backbone`.
        output_stride: 16 takes the stride of the last stage away without dilation. 8 does so for two stages and, in
            ResNets, dilates all but their first blocks by 2, unless `dilate` or `dilations` says otherwise.
        in_channels: channels of the images.
        dilate: dilation instead of the strides that are taken away, as segmenters have it.
        freeze_stem: the stem keeps its weights, as in the papers; by default where they are pre-trained.
        stop_grad_after_layer2: nothing up to and including stride 8 is trained, as in IRN's released code (AdvCAM's and
            ReCAM's train it).
        recam_head: see `ImageTagClassifier`.
        background: see `ImageTagClassifier`.
        options: passed to `create_backbone`.

    Raises:
        RecipeError: as `create_backbone`; or a stem or stages to be frozen in a backbone where they are not known.
    """
    if output_stride == 8 and not dilate and "resnet" in backbone:
        options.setdefault("dilations", (1, 1, 2, 2))
    trunk = create_backbone(
        backbone,
        pretrained=pretrained,
        output_stride=output_stride,
        in_channels=in_channels,
        dilate=dilate,
        **options,
    )
    if freeze_stem or (freeze_stem is None and pretrained and layers.has_stem(trunk)):
        layers.freeze_stem(trunk)
    if stop_grad_after_layer2:
        layers.freeze_stages(trunk, stride=8)
    return ImageTagClassifier(trunk, num_tags, recam_head=recam_head, background=background)


def load_classifier(path: str | Path) -> ImageTagClassifier:
    """A trained classifier from the file that training wrote, in evaluation mode, on the CPU.

    Args:
        path: `model.safetensors` of a classifier.

    Raises:
        DataError: no such file, or it holds another kind of model.
    """
    from maskwright.engine.checkpoint import load_into, load_metadata, load_weights

    metadata = load_metadata(path)
    if metadata.get("kind") != "classifier":
        raise DataError(f"{path} holds a {metadata.get('kind')}, expected a classifier")
    made = metadata["model"]
    model = create_classifier(
        backbone=made["backbone"],
        num_tags=made["num_tags"],
        output_stride=made["output_stride"],
        **{name: made[name] for name in PARTS if name in made},
        **made.get("options", {}),
    )
    load_into(model, load_weights(path), path)
    return model.eval()
