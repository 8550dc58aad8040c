"""A fully convolutional network (Long, Shelhamer, Darrell, CVPR 2015) of today: one 3x3 layer and a classifier."""

from __future__ import annotations

import torch
from torch import Tensor

from maskwright.models.auxiliary import FCNHead
from maskwright.models.backbone import Backbone
from maskwright.models.base import SegmentationModel
from maskwright.models.layers import resize


class FCN(SegmentationModel):
    """The plainest segmenter: 3x3 convolution, normalisation, ReLU, dropout and a 1x1 classifier.

    Args:
        backbone: gives the feature maps.
        num_classes: channels of the logits.
        channels: width of the head.
        fuse: the head reads the last `fuse` maps of stride 4 or more, brought to the finest of them and concatenated
            (HRNet's own head does so with all four); 1: the coarsest alone.
        dropout: probability before the classifier.
    """

    def __init__(
        self, backbone: Backbone, num_classes: int, *, channels: int = 256, fuse: int = 1, dropout: float = 0.1
    ) -> None:
        super().__init__(backbone, num_classes)
        self.levels = stages(backbone)[-fuse:]
        backbone.use_only(self.levels)
        width = sum(backbone.channels[level] for level in self.levels)
        self.classifier = FCNHead(width, channels, num_classes, dropout=dropout)

    def head(self, features: list[Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        """Logits `(B, num_classes, h, w)` at the resolution of the finest map that is read."""
        finest = features[self.levels[0]].shape[-2:]
        return {"logits": self.classifier(torch.cat([resize(features[level], finest) for level in self.levels], 1))}


def stages(backbone: Backbone) -> list[int]:
    """Indices of the feature maps of stride 4 or more: a network's stages, without its stem."""
    return [index for index, stride in enumerate(backbone.strides) if stride >= 4] or [len(backbone.strides) - 1]
