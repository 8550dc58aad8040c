"""The image-tag classifier whose head gives class activation maps (Zhou et al., CVPR 2016; IRN's and ReCAM's)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskwright.engine.checkpoint import load_model
from maskwright.errors import RecipeError, unknown_name
from maskwright.models import layers
from maskwright.models.backbone import Backbone
from maskwright.models.backbones import create_backbone
from maskwright.models.pcm import PCM, seam_input
from maskwright.models.probe import is_signed


class Constants(nn.Module):
    """A constant for each class.

    Args:
        num_tags: number of classes.
    """

    def __init__(self, num_tags: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(num_tags))


def _outputs(channels: int, count: int, std: float | None = None) -> nn.Conv2d:
    layer = nn.Conv2d(channels, count, 1, bias=False)
    if std is not None:
        nn.init.normal_(layer.weight, std=std)
    return layer


# What a classifier may have beside backbone and head, in the order in which it is made; each is an attribute, None
# where it is not there. Called with the backbone, the number of tags and the kind that is asked for, True where there
# is but one.
PARTS: dict[str, Callable[[Backbone, int, Any], nn.Module]] = {
    "constant": lambda backbone, num_tags, kind: Constants(num_tags),
    "recam_head": lambda backbone, num_tags, kind: _outputs(backbone.channels[-1], num_tags),
    "background": lambda backbone, num_tags, kind: _outputs(backbone.channels[-1], 1, std=0.01),
    "edam": lambda backbone, num_tags, kind: _outputs(backbone.channels[-1], num_tags + 1),
    "pcm": lambda backbone, num_tags, kind: PCM(backbone.channels[-3:-1], kind, image_channels=len(backbone.mean)),
}


class ImageTagClassifier(nn.Module):
    """Tag logits z_k = GAP(w_k . f): a 1x1 convolution without bias on the mean of the backbone's coarsest map.

    Because there is no bias, pooling before or after the convolution gives the same logits, and the unpooled map is the
    class activation map. Negative evidence counts: there is no ReLU before the pooling.

    Args:
        backbone: only its coarsest feature map is used, and by PCM the two before it: in ResNet-38 conv4 and conv5 (as
            in SEAM and L2G), in a ResNet-50 layer2 and layer3 (our choice).
        num_tags: number of classes that an image can be tagged with (without background).
        parts: what else it has, by names of `PARTS`; none of it is used by `forward`.
            `constant=True`: a constant in each tag logit, which is in no map; heads fitted on frozen maps have it.
            `recam_head=True`: the second head, of the same shape, that ReCAM trains.
            `background=True`: a map of the background, a 1x1 convolution with one output, for methods that train it
            (L2G, EPS).
            `edam=True`: EDAM's layer of class masks, a 1x1 convolution for all classes and the background.
            `pcm`: the pixel correlation module. `features`: the feature map is `f + PCM(f)` everywhere, as in L2G, also
            for the tag logits. `cam`: it refines the class maps in `refined_maps`, as in SEAM.

    Raises:
        RecipeError: an unknown part or kind of PCM, or PCM on a backbone with fewer than three feature maps.
    """

    constant: Constants | None
    recam_head: nn.Conv2d | None
    background: nn.Conv2d | None
    edam: nn.Conv2d | None
    pcm: PCM | None

    def __init__(
        self,
        backbone: Backbone,
        num_tags: int,
        **parts: Any,
    ) -> None:
        super().__init__()
        for name in parts.keys() - PARTS.keys():
            raise RecipeError(unknown_name("part of a tag classifier", name, PARTS))
        # PCM takes its feature maps as they are, so what only they need is not trained either.
        backbone.use_only([len(backbone.strides) - 1])
        self.backbone = backbone
        self.num_tags = num_tags
        self.classifier = nn.Conv2d(backbone.channels[-1], num_tags, 1, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.01)
        for name, make in PARTS.items():
            setattr(self, name, make(backbone, num_tags, parts[name]) if parts.get(name) else None)

    @property
    def parts(self) -> dict[str, Any]:
        """What it has beside backbone and head, as `create_classifier` takes it."""
        found = {name: getattr(self, name) for name in PARTS}
        return {name: getattr(part, "kind", True) for name, part in found.items() if part is not None}

    @property
    def signed_map(self) -> bool:
        """Whether the map that the heads read can be negative: not after a ReLU, but after a norm, SiLU or GELU."""
        return is_signed(self.backbone)

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean that images are normalised with, one number per channel, 0 to 1."""
        return self.backbone.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation that images are normalised with, one number per channel, 0 to 1."""
        return self.backbone.std

    @property
    def feature_pcm(self) -> PCM | None:
        """PCM where it is on the features, so that everything depends on it."""
        return self.pcm if self.pcm is not None and self.pcm.kind == "features" else None

    def head_weight(self, weight: Tensor | None = None) -> Tensor:
        """Weights of all classes and of the background, `(num_tags + 1, D, 1, 1)`.

        Args:
            weight: of the classes, `(num_tags, D)` or `(num_tags, D, 1, 1)`; by default the head's own.

        Raises:
            RecipeError: the network has no background.
        """
        if self.background is None:
            raise RecipeError(
                "this needs a network with a map of the background, found one without; train it with networks=[eps] or "
                "networks=[l2g]"
            )
        weight = self.classifier.weight if weight is None else weight
        return torch.cat([weight.reshape(*weight.shape[:2], 1, 1), self.background.weight])

    def features(self, images: Tensor) -> Tensor:
        """The feature map `(B, D, h, w)` that the heads read, of normalised images `(B, 3, H, W)`."""
        found = self.backbone(images)
        pcm = self.feature_pcm
        return found[-1] if pcm is None else found[-1] + pcm(found[-1], images, found[-3:-1])

    def logits(self, features: Tensor) -> Tensor:
        """Tag logits `(B, num_tags)` of a feature map `(B, D, h, w)`."""
        found = self.classifier(features.mean((2, 3), keepdim=True)).flatten(1)
        return found if self.constant is None else found + self.constant.bias.to(found.dtype)

    def maps(self, images: Tensor, weight: Tensor | None = None) -> Tensor:
        """Score of every class at every position, before any ReLU, and last of the background where it has a map.

        Where PCM is on the features, it is the heads on `features(images)`, but with PCM after the heads: both are
        linear, so the result is the same, and K + 1 maps go through PCM instead of D.

        Args:
            images: `(B, 3, H, W)`, normalised.
            weight: of all maps that are wanted, `(C, D, 1, 1)`; by default those of the heads.

        Returns:
            `(B, num_tags, h, w)` or `(B, num_tags + 1, h, w)`, or `(B, C, h, w)`.
        """
        if weight is None:
            weight = self.classifier.weight if self.background is None else self.head_weight()
        found = self.backbone(images)
        maps, pcm = F.conv2d(found[-1], weight), self.feature_pcm
        return maps if pcm is None else maps + pcm(maps, images, found[-3:-1])

    def refined_maps(self, images: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Class maps, and what PCM makes of them as in SEAM; only PCM gets a gradient through the latter.

        Args:
            images: `(B, 3, H, W)`, normalised.
            weight: as for `class_maps`.

        Returns:
            `(B, num_tags, h, w)` before any ReLU, and `(B, num_tags + 1, h, w)` in 0..1, the background last.

        Raises:
            RecipeError: the network has no PCM for maps.
        """
        if self.pcm is None or self.pcm.kind != "cam":
            raise RecipeError("refined maps need a network with PCM on its maps; train it with networks=[seam]")
        found = self.backbone(images)
        maps = self.class_maps(found[-1], weight)
        return maps, self.pcm(seam_input(maps), images, found[-3:-1])

    def forward(
        self, images: Tensor | Sequence[Tensor], *, features: bool = False, maps: bool = False, refined: bool = False
    ) -> Any:
        """Tag logits, or what losses need instead; wrapped networks must be called, not reached into.

        Args:
            images: `(B, 3, H, W)`, normalised; or several, which gives a list: a wrapped network is called once a step.
            features: give the feature map, as `features`.
            maps: give the maps, as `maps`.
            refined: give the maps before and after PCM, as `refined_maps`.

        Returns:
            `(B, num_tags)`, or what the method of that name gives.
        """
        if not isinstance(images, Tensor):
            return [self(view, features=features, maps=maps, refined=refined) for view in images]
        if maps:
            return self.maps(images)
        if refined:
            return self.refined_maps(images)
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
    pooled: bool = True,
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
        pooled: as for `create_backbone`; class activation maps are defined on the map that is pooled. False: on timm's
            last feature map, as in older model files.
        options: parts of `ImageTagClassifier`, such as `recam_head=True`; all else is passed to `create_backbone`.

    Raises:
        RecipeError: as `create_backbone` and `ImageTagClassifier`; or a stem or stages to be frozen in a backbone where
            they are not known.
    """
    parts = {name: options.pop(name) for name in PARTS if name in options}
    if output_stride == 8 and not dilate and "resnet" in backbone:
        options.setdefault("dilations", (1, 1, 2, 2))
    trunk = create_backbone(
        backbone,
        pretrained=pretrained,
        output_stride=output_stride,
        in_channels=in_channels,
        dilate=dilate,
        pooled=pooled,
        **options,
    )
    if freeze_stem or (freeze_stem is None and pretrained and layers.has_stem(trunk)):
        layers.freeze_stem(trunk)
    if stop_grad_after_layer2:
        layers.freeze_stages(trunk, stride=8)
    return ImageTagClassifier(trunk, num_tags, **parts)


def map_of(made: dict[str, Any]) -> dict[str, bool]:
    """What a model file's description says of the map that the heads read, as `create_classifier` takes it."""
    return {"pooled": made.get("pooled", False) is True}  # nothing, where it is older than the choice


def load_classifier(path: str | Path) -> ImageTagClassifier:
    """A trained classifier from the file that training wrote, in evaluation mode, on the CPU.

    Args:
        path: `model.safetensors` of a classifier.

    Raises:
        DataError: as `load_model`.
    """

    def create(made: dict[str, Any]) -> ImageTagClassifier:
        return create_classifier(
            backbone=made["backbone"],
            num_tags=made["num_tags"],
            output_stride=made["output_stride"],
            **{**made["options"], **{name: made[name] for name in PARTS if name in made}, **map_of(made)},
        )

    return load_model(path, "classifier", create)[0]
