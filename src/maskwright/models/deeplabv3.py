"""DeepLabV3 (Chen et al., arXiv 1706.05587): atrous spatial pyramid pooling on the coarsest feature map, no decoder."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from maskwright.models.backbone import Backbone
from maskwright.models.base import SegmentationModel
from maskwright.models.deeplabv3plus import ASPP, aspp_rates
from maskwright.models.layers import initialise, initialise_classifier


class DeepLabV3(SegmentationModel):
    """DeepLabV3 on any backbone.

    Args:
        backbone: gives the feature maps; the paper trains at output stride 16 and evaluates at 8.
        num_classes: channels of the logits.
        channels: width of the pyramid.
        rates: dilations of the pyramid; by default the paper's for the backbone's output stride.
        separable: depthwise separable 3x3 convolutions, which are lighter; not in the paper.
        dropout: probability at the end of the pyramid; several ports use 0.1.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        channels: int = 256,
        rates: Sequence[int] | None = None,
        separable: bool = False,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(backbone, num_classes)
        backbone.use_only([len(backbone.strides) - 1])
        rates = rates or aspp_rates(backbone.strides[-1])
        self.aspp = ASPP(backbone.channels[-1], channels, rates, separable=separable, dropout=dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        initialise(self.aspp)
        initialise_classifier(self.classifier)

    def head(self, features: list[Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        """Logits `(B, num_classes, h, w)` at the resolution of the coarsest feature map."""
        return {"logits": self.classifier(self.aspp(features[-1]))}
