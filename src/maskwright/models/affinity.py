"""AffinityNet: features that are alike where two positions belong together (Ahn and Kwak, CVPR 2018).

The affinity of two positions is `exp(-mean |f_i - f_j|)` over channels; the loss and the walk that use it are in
`maskwright.weak.refine`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskwright.engine.checkpoint import load_model
from maskwright.errors import RecipeError
from maskwright.models.backbone import Backbone
from maskwright.models.backbones import create_backbone

WIDTHS = (64, 128, 256)  # of what is taken of the backbone's last three feature maps


class AffinityNet(nn.Module):
    """Convolutions of one position each on the last three feature maps of a backbone, which is trained on.

    As published on a ResNet-38, whose last three maps have stride 8. Of any other backbone coarser maps are enlarged
    bilinearly to the finest of the three.

    Args:
        backbone: with at least three feature maps.

    Raises:
        RecipeError: it has fewer.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        if len(backbone.strides) < len(WIDTHS):
            raise RecipeError(
                f"AffinityNet needs a backbone with {len(WIDTHS)} feature maps, {backbone.name} has "
                f"{len(backbone.strides)}; take a ResNet"
            )
        backbone.use_only([-3, -2, -1])
        self.backbone = backbone
        self.taps = nn.ModuleList(
            nn.Conv2d(channels, width, 1, bias=False) for channels, width in zip(backbone.channels[-3:], WIDTHS)
        )
        self.merge = nn.Conv2d(sum(WIDTHS), sum(WIDTHS), 1, bias=False)
        for tap in self.taps:
            nn.init.kaiming_normal_(tap.weight)  # type: ignore[arg-type]
        nn.init.xavier_uniform_(self.merge.weight, gain=4)

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean that images are normalised with, one number per channel, 0 to 1."""
        return self.backbone.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation that images are normalised with, one number per channel, 0 to 1."""
        return self.backbone.std

    def forward(self, images: Tensor) -> Tensor:
        """Features `(B, 448, h, w)` of normalised images `(B, 3, H, W)`, at the stride of the last map but two."""
        maps = self.backbone(images)[-3:]
        size = maps[0].shape[-2:]
        found = [F.elu(tap(features)) for tap, features in zip(self.taps, maps, strict=True)]
        found = [
            features
            if features.shape[-2:] == size
            else F.interpolate(features, size, mode="bilinear", align_corners=False)
            for features in found
        ]
        return F.elu(self.merge(torch.cat(found, 1)))


def create_affinity(
    *,
    backbone: str = "resnet50",
    pretrained: bool | str = False,
    output_stride: int | None = 16,
    dilate: bool = False,
    **options: Any,
) -> AffinityNet:
    """An AffinityNet with new layers.

    Args:
        backbone: as for `create_backbone`.
        pretrained: as for `create_backbone`.
        output_stride: as for `create_backbone`.
        dilate: dilation instead of the strides that are taken away.
        options: passed to `create_backbone`.

    Raises:
        RecipeError: as `create_backbone` and `AffinityNet`.
    """
    return AffinityNet(
        create_backbone(backbone, pretrained=pretrained, output_stride=output_stride, dilate=dilate, **options)
    )


def load_affinity(path: str | Path) -> AffinityNet:
    """A trained AffinityNet from the file that training wrote, in evaluation mode, on the CPU.

    Args:
        path: `model.safetensors` of an AffinityNet.

    Raises:
        DataError: as `load_model`.
    """

    def create(made: dict[str, Any]) -> AffinityNet:
        return create_affinity(backbone=made["backbone"], output_stride=made["output_stride"], **made["options"])

    return load_model(path, "affinity", create)[0]
