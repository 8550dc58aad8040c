"""Small heads for backbones that keep their weights: a linear one, and a decoder that also reads a finer map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from maskwright.models.backbone import Backbone
from maskwright.models.base import SegmentationModel
from maskwright.models.layers import ConvBNReLU, initialise, initialise_classifier, resize


class Linear(SegmentationModel):
    """A 1x1 convolution on the coarsest map: how much of a task a backbone knows already.

    Args:
        backbone: gives the feature maps.
        num_classes: channels of the logits.
    """

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__(backbone, num_classes)
        backbone.use_only([len(backbone.strides) - 1])
        self.classifier = nn.Conv2d(backbone.channels[-1], num_classes, 1)
        initialise_classifier(self.classifier)

    def head(self, features: list[Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        """Logits `(B, num_classes, h, w)` at the resolution of the coarsest map."""
        return {"logits": self.classifier(features[-1])}


class Light(SegmentationModel):
    """The coarsest map, made narrow and looked at in 3x3, beside a finer map, and one more 3x3: trained in minutes.

    Args:
        backbone: gives the feature maps.
        num_classes: channels of the logits.
        channels: width of the decoder.
        fine_stride: stride of the finer map, the first that is at least so coarse; None: the coarsest map alone.
        fine_channels: width that the finer map is reduced to.
        dropout: probability that a channel is dropped before the classifier.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        channels: int = 128,
        fine_stride: int | None = 8,
        fine_channels: int = 32,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(backbone, num_classes)
        last = len(backbone.strides) - 1
        self.fine: int | None = None
        if fine_stride is not None:
            self.fine = next((i for i, stride in enumerate(backbone.strides) if stride >= fine_stride), last)
            self.fine = None if self.fine == last else self.fine
        backbone.use_only([last] if self.fine is None else [self.fine, last])
        self.context = nn.Sequential(
            ConvBNReLU(backbone.channels[-1], channels, 1),
            ConvBNReLU(channels, channels),
        )
        width = channels
        if self.fine is not None:
            self.reduce = ConvBNReLU(backbone.channels[self.fine], fine_channels, 1)
            width += fine_channels
        self.decoder = nn.Sequential(ConvBNReLU(width, channels), nn.Dropout2d(dropout))
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        initialise(self.context)
        initialise(self.decoder)
        if self.fine is not None:
            initialise(self.reduce)
        initialise_classifier(self.classifier)

    def head(self, features: list[Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        """Logits `(B, num_classes, h, w)` at the resolution of the finest map that is read."""
        found = self.context(features[-1])
        if self.fine is not None:
            fine = self.reduce(features[self.fine])
            found = torch.cat([resize(found, fine.shape[-2:]), fine], 1)
        return {"logits": self.classifier(self.decoder(found))}
