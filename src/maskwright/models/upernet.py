"""UperNet (Xiao et al., ECCV 2018): pyramid pooling on the coarsest stage, then a feature pyramid over all stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from maskwright.models.backbone import Backbone
from maskwright.models.base import SegmentationModel
from maskwright.models.fcn import stages
from maskwright.models.layers import ConvBNReLU, initialise, initialise_classifier, resize
from maskwright.models.pspnet import PyramidPooling


class UperNet(SegmentationModel):
    """UperNet on any backbone: the stages of stride 4 or more, fused at the finest of them.

    An auxiliary head on the stage before the last (stride 16) is part of it: "aux.-2", usually with weight 0.4 and
    512 channels, 256 with Swin (`auxiliary_options={"channels": 512}`).

    A plain vision transformer's maps have one stride; they are fused as they are, without the scaling layers that some
    give it.

    Args:
        backbone: gives the feature maps.
        num_classes: channels of the logits.
        channels: width of the pyramid.
        grids: cells per side of the pooling.
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
        self.levels = stages(backbone)
        backbone.use_only(self.levels)
        *finer, coarsest = (backbone.channels[level] for level in self.levels)
        self.pooling = PyramidPooling(coarsest, channels, channels, grids)
        self.laterals = nn.ModuleList(ConvBNReLU(width, channels, 1) for width in finer)
        self.smooth = nn.ModuleList(ConvBNReLU(channels, channels) for _ in finer)
        self.fuse = ConvBNReLU(len(self.levels) * channels, channels)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        for part in (self.pooling, self.laterals, self.smooth, self.fuse):
            initialise(part)
        initialise_classifier(self.classifier)

    def head(self, features: list[Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        """Logits `(B, num_classes, h, w)` at the resolution of the finest stage."""
        maps = [lateral(features[level]) for lateral, level in zip(self.laterals, self.levels)]
        maps.append(self.pooling(features[self.levels[-1]]))
        for level in range(len(maps) - 2, -1, -1):
            maps[level] = maps[level] + resize(maps[level + 1], maps[level].shape[-2:])
        maps[:-1] = [smooth(found) for smooth, found in zip(self.smooth, maps)]
        finest = maps[0].shape[-2:]
        fused = self.fuse(torch.cat([resize(found, finest) for found in maps], 1))
        return {"logits": self.classifier(self.dropout(fused))}
