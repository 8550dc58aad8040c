"""DeepLabV2 (Chen et al., TPAMI 2018): summed atrous branches, run on three sizes of the image, fused by the maximum.

To train as the paper does, labels go to each map's size and the four losses are added:

    model: {name: deeplabv2, backbone: resnet101, output_stride: 8, options: {freeze_norm: true}}
    loss: {resize: labels, auxiliary: {scale: 1.0}}
    train: {lr: 0.0025, backbone_lr: 0.1, bias_lr: 2.0, weight_decay: 0.0005, decay_norm_and_bias: false,
            freeze_batchnorm: true}

which gives the backbone 2.5e-4, the pyramid's weights 10 and its biases 20 times that, these without decay.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from maskwright.errors import RecipeError
from maskwright.models.backbone import Backbone
from maskwright.models.base import SegmentationModel
from maskwright.models.layers import initialise_classifier, resize


class SummedASPP(nn.Module):
    """Sum of dilated 3x3 convolutions straight to the classes.

    Args:
        in_channels: channels of the input.
        num_classes: channels of the output.
        rates: dilation of each branch.
    """

    def __init__(self, in_channels: int, num_classes: int, rates: Sequence[int] = (6, 12, 18, 24)) -> None:
        super().__init__()
        branches = [nn.Conv2d(in_channels, num_classes, 3, padding=rate, dilation=rate) for rate in rates]
        for branch in branches:
            initialise_classifier(branch)
        self.branches = nn.ModuleList(branches)

    def forward(self, features: Tensor) -> Tensor:
        """`(B, in_channels, h, w)` to logits `(B, num_classes, h, w)`."""
        first, *others = self.branches
        logits = first(features)
        for branch in others:
            logits = logits + branch(features)
        return logits


def _scaled(images: Tensor, scale: float) -> Tensor:
    """Images at a factor of their size, each side at least one pixel.

    Given as a factor, not as a size: the pixels are where the factor says, also where the size was rounded.
    """
    if int(min(images.shape[-2:]) * scale) >= 1:
        return F.interpolate(images, scale_factor=scale, mode="bilinear")
    return resize(images, tuple(max(1, int(side * scale)) for side in images.shape[-2:]))


class DeepLabV2(SegmentationModel):
    """DeepLabV2 on any backbone, with shared weights on several sizes of the image.

    Its outputs are "logits", the largest value of each class over the sizes, at the resolution of the image's own, and
    "scale.1", "scale.0.75", "scale.0.5": the logits of each size at its own resolution. Prediction uses the same sizes.

    The paper's ResNet-101 has the stride of a block on its first 1x1 convolution and a max-pool that rounds up; timm's
    has neither, so weights of that network do not fit exactly.

    Args:
        backbone: gives the feature maps; the paper's has output stride 8.
        num_classes: channels of the logits.
        scales: factors on the image's size, 1 among them; `[1]` for one size only.
        rates: dilations of the pyramid.
        freeze_norm: weight and bias of the backbone's batch normalisation are not trained, as in the paper; together
            with `train.freeze_batchnorm`, and with a pre-trained backbone.

    Raises:
        RecipeError: no scale 1, or a scale that is not above 0.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        scales: Sequence[float] = (1, 0.75, 0.5),
        rates: Sequence[int] = (6, 12, 18, 24),
        freeze_norm: bool = False,
    ) -> None:
        super().__init__(backbone, num_classes)
        if 1 not in scales or min(scales) <= 0:
            raise RecipeError(f"scales of deeplabv2 must be above 0 and hold 1, found {list(scales)}")
        self.scales = [1.0, *(float(scale) for scale in scales if scale != 1)]
        backbone.use_only([len(backbone.strides) - 1])
        self.aspp = SummedASPP(backbone.channels[-1], num_classes, rates)
        if freeze_norm:
            for layer in backbone.modules():
                if isinstance(layer, _BatchNorm):
                    layer.requires_grad_(False)

    def head(self, features: list[Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        """Logits `(B, num_classes, h, w)` of one size, at the resolution of the coarsest feature map."""
        return {"logits": self.aspp(features[-1])}

    def outputs(self, images: Tensor, *, auxiliary: bool = False) -> dict[str, Tensor]:
        """The fused logits and those of every size, each at its own resolution.

        Args:
            images: `(B, 3, H, W)`, normalised.
            auxiliary: also the outputs of the auxiliary heads, on the image's own size.
        """
        outputs: dict[str, Tensor] = {}
        found: dict[str, Tensor] = {}
        for scale in self.scales:
            scaled = images if scale == 1 else _scaled(images, scale)
            features = self.backbone(scaled)
            logits = self.head(features, (scaled.shape[-2], scaled.shape[-1]))["logits"]
            if scale == 1:
                outputs["logits"] = logits
                if auxiliary:
                    found = self.with_auxiliary({}, features)
            else:
                outputs["logits"] = torch.maximum(outputs["logits"], resize(logits, outputs["logits"].shape[-2:]))
            outputs[f"scale.{scale:g}"] = logits
        return {**outputs, **found}
