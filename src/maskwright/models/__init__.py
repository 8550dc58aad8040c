"""Segmenters and image-tag classifiers by name: `create_model`, `create_backbone`, `create_classifier`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from maskwright.errors import RecipeError, unknown_name
from maskwright.models.backbone import Backbone
from maskwright.models.backbones import BACKBONES, create_backbone
from maskwright.models.base import SegmentationModel
from maskwright.models.classifier import ImageTagClassifier, create_classifier
from maskwright.models.deeplabv2 import DeepLabV2
from maskwright.models.deeplabv3 import DeepLabV3
from maskwright.models.deeplabv3plus import DeepLabV3Plus
from maskwright.models.dupsampling import DUpsampling
from maskwright.models.fcn import FCN
from maskwright.models.light import Light, Linear
from maskwright.models.multiscale_attention import HierarchicalAttention
from maskwright.models.ocr import OCRNet
from maskwright.models.operations import multiply_adds
from maskwright.models.pretrained import refuse_sources
from maskwright.models.pspnet import PSPNet
from maskwright.models.resnet38 import resnet38
from maskwright.models.seethrough import SeeThroughNet
from maskwright.models.upernet import UperNet
from maskwright.models.vgg16 import vgg16

__all__ = [
    "BACKBONES",
    "MODELS",
    "Backbone",
    "ImageTagClassifier",
    "SegmentationModel",
    "create_backbone",
    "create_classifier",
    "create_model",
    "list_models",
    "multiply_adds",
]

BACKBONES.update(resnet38=resnet38, vgg16=vgg16)

# Called as MODELS[name](backbone, num_classes, **options).
MODELS: dict[str, Callable[..., SegmentationModel]] = {
    "deeplabv2": DeepLabV2,
    "deeplabv3": DeepLabV3,
    "deeplabv3plus": DeepLabV3Plus,
    "dupsampling": DUpsampling,
    "fcn": FCN,
    "light": Light,
    "linear": Linear,
    "hmsa": HierarchicalAttention,
    "ocrnet": OCRNet,
    "pspnet": PSPNet,
    "seethrough": SeeThroughNet,
    "upernet": UperNet,
}


def list_models() -> list[str]:
    """Names that `create_model` takes."""
    return sorted(MODELS)


def create_model(
    name: str,
    *,
    backbone: str = "resnet18",
    num_classes: int,
    output_stride: int | None = None,
    pretrained: bool | str = False,
    in_channels: int = 3,
    backbone_options: dict[str, Any] | None = None,
    auxiliary: Mapping[str, Sequence[int]] | None = None,
    auxiliary_options: dict[str, Any] | None = None,
    **options: Any,
) -> SegmentationModel:
    """A segmenter by name.

    Args:
        name: one of `list_models()`.
        backbone: as for `create_backbone`.
        num_classes: channels of the logits.
        output_stride: stride of the backbone's coarsest feature map; None keeps the backbone's own.
        pretrained: weights of the backbone, as for `create_backbone`.
        in_channels: channels of the images.
        backbone_options: what else `create_backbone` takes, e.g. `{"drop_path_rate": 0.1}`.
        auxiliary: heads for training on feature maps of the backbone, e.g. `{"aux": [16], "cpp": [8, 16]}`; see
            `AuxiliaryHeads`. None: those that the model's paper has; `{}`: none.
        auxiliary_options: what else `AuxiliaryHeads` takes, e.g. `{"channels": 512}`.
        options: what the model itself takes, e.g. `decoder_channels=128` for deeplabv3plus.

    Raises:
        RecipeError: unknown model, backbone or option (the message names the nearest), or an output stride or weights
            that cannot be had.

    Example:
        >>> model = create_model("deeplabv3plus", backbone="resnet18", num_classes=21, output_stride=16)
        >>> model(torch.zeros(2, 3, 65, 97)).shape
        torch.Size([2, 21, 65, 97])
    """
    if name not in MODELS:
        raise RecipeError(unknown_name("model", name, MODELS))
    known = inspect.signature(MODELS[name]).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        for key in options:
            if key not in known:
                own = [option for option in known if option not in ("backbone", "num_classes")]
                raise RecipeError(
                    unknown_name(f"option of {name}", key, [*own, "backbone_options", "auxiliary", "auxiliary_options"])
                )
    refuse_sources(backbone_options or {})  # `pretrained` among them would be given twice
    network = create_backbone(
        backbone,
        pretrained=pretrained,
        output_stride=output_stride,
        in_channels=in_channels,
        **(backbone_options or {}),
    )
    model = MODELS[name](network, num_classes, **options)
    try:
        model.add_auxiliary(model.own_auxiliary if auxiliary is None else auxiliary, **(auxiliary_options or {}))
    except TypeError as error:
        raise RecipeError(f"auxiliary_options={auxiliary_options}: {error}") from error
    return model
