"""PSPNet (Zhao et al., CVPR 2017): means over 1, 4, 9 and 36 parts of the image beside each position's features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from maskwright.models.backbone import Backbone
from maskwright.models.base import SegmentationModel
from maskwright.models.deeplabv3plus import ImagePooling
from maskwright.models.layers import ConvBNReLU, initialise, initialise_classifier


class PyramidPooling(nn.Module):
    """Means over grids of cells, each reduced by a 1x1 convolution, beside the features; then a 3x3 convolution.

    Args:
        in_channels: channels of the input.
        branch_channels: channels of every grid.
        out_channels: channels of the output.
        grids: cells per side.
    """

    def __init__(
        self, in_channels: int, branch_channels: int, out_channels: int, grids: Sequence[int] = (1, 2, 3, 6)
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(ImagePooling(in_channels, branch_channels, cells) for cells in grids)
        self.project = ConvBNReLU(in_channels + len(grids) * branch_channels, out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """`(B, in_channels, h, w)` to `(B, out_channels, h, w)`."""
        return self.project(torch.cat([features, *(branch(features) for branch in self.branches)], 1))


class PSPNet(SegmentationModel):
    """PSPNet on any backbone; the paper's has output stride 8.

    An auxiliary head on the stage before the last is part of it ("aux.-2", in the paper with weight 0.4).

    Args:
        backbone: gives the feature maps.
        num_classes: channels of the logits.
        channels: width after pooling; each grid has a quarter of the features' width, as in the paper.
        grids: cells per side.
        dropout: probability before the classifier.
    """

    own_auxiliary: ClassVar[Mapping[str, Sequence[int]]] = {"aux": [-2]}

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        channels: int = 512,
        grids: Sequence[int] = (1, 2, 3, 6),
        dropout: float = 0.1,
    ) -> None:
        super().__init__(backbone, num_classes)
        backbone.use_only([len(backbone.strides) - 1])
        width = backbone.channels[-1]
        self.pooling = PyramidPooling(width, max(1, width // 4), channels, grids)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        initialise(self.pooling)
        initialise_classifier(self.classifier)

    def head(self, features: list[Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        """Logits `(B, num_classes, h, w)` at the resolution of the coarsest feature map."""
        return {"logits": self.classifier(self.dropout(self.pooling(features[-1])))}
