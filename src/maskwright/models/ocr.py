"""Object-contextual representations (OCR; Yuan, Chen, Wang, ECCV 2020), the head of HRNet + OCR.

A coarse segmentation says softly which pixels belong to each class. Features are averaged over each such region, every
pixel looks up the regions that it is similar to, and what it finds is joined to its own features. The look-up is pixels
by classes, so memory grows linearly with pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from maskwright.models.backbone import Backbone
from maskwright.models.base import SegmentationModel
from maskwright.models.fcn import stages
from maskwright.models.layers import ConvBNReLU, initialise, initialise_classifier, resize


def gather_regions(features: Tensor, region_logits: Tensor) -> Tensor:
    """Mean feature of each region, a region being a softmax over space of one class's logits.

    Args:
        features: `(B, D, h, w)`.
        region_logits: `(B, K, h, w)`.

    Returns:
        `(B, D, K)`.
    """
    weights = region_logits.flatten(2).softmax(2).to(features.dtype)
    return features.flatten(2) @ weights.transpose(1, 2)


def region_attention(query: Tensor, key: Tensor) -> Tensor:
    """How much each pixel looks at each region: softmax over regions of the scaled dot product.

    Args:
        query: `(B, d, h, w)`.
        key: `(B, d, K)`.

    Returns:
        `(B, h * w, K)`, each row summing to 1.
    """
    return (query.flatten(2).transpose(1, 2) @ key / math.sqrt(key.shape[1])).softmax(2)


class ObjectAttention(nn.Module):
    """What each pixel finds in the regions that it is similar to.

    Args:
        channels: D, of pixels, regions and result.
        key_channels: width in which they are compared.
    """

    def __init__(self, channels: int, key_channels: int) -> None:
        super().__init__()
        self.pixel = nn.Sequential(ConvBNReLU(channels, key_channels, 1), ConvBNReLU(key_channels, key_channels, 1))
        self.region = nn.Sequential(ConvBNReLU(channels, key_channels, 1), ConvBNReLU(key_channels, key_channels, 1))
        self.value = ConvBNReLU(channels, key_channels, 1)
        self.up = ConvBNReLU(key_channels, channels, 1)

    def forward(self, features: Tensor, regions: Tensor) -> Tensor:
        """Context features `(B, D, h, w)`.

        Args:
            features: `(B, D, h, w)`.
            regions: `(B, D, K)`.
        """
        regions = regions.unsqueeze(3)
        attention = region_attention(self.pixel(features), self.region(regions).squeeze(3))
        found = attention @ self.value(regions).squeeze(3).transpose(1, 2).to(attention.dtype)
        return self.up(found.transpose(1, 2).unflatten(2, features.shape[-2:]))


class OCRHead(nn.Module):
    """Pixel features to logits by way of regions.

    The released layers have biases before batch normalisation, which takes them out again; these have none.

    Args:
        in_channels: channels of the pixel features (HRNet-W48: 720).
        num_classes: channels of the logits.
        channels: width of the object-contextual features.
        key_channels: width of the attention.
        dropout: probability that a channel is dropped before the classifier.
        own_regions: the head predicts the region logits itself; otherwise it is given them.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        channels: int = 512,
        key_channels: int = 256,
        dropout: float = 0.05,
        own_regions: bool = True,
    ) -> None:
        super().__init__()
        classify_regions = nn.Conv2d(in_channels, num_classes, 1)
        self.regions: nn.Sequential | None = None
        if own_regions:
            self.regions = nn.Sequential(ConvBNReLU(in_channels, in_channels, 1), classify_regions)
        self.pixels = ConvBNReLU(in_channels, channels)
        self.attention = ObjectAttention(channels, key_channels)
        self.fuse = ConvBNReLU(2 * channels, channels, 1)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        initialise(self)
        initialise_classifier(classify_regions)
        initialise_classifier(self.classifier)

    def forward(self, features: Tensor, region_logits: Tensor | None = None) -> dict[str, Tensor]:
        """From pixel features `(B, in_channels, h, w)`.

        Args:
            features: see above.
            region_logits: `(B, K, h, w)`, where the head has no regions of its own. They get a gradient.

        Returns:
            "logits" and "aux", the region logits, `(B, num_classes, h, w)`; "features", the object-contextual ones,
            `(B, channels, h, w)`.
        """
        if self.regions is not None:
            region_logits = self.regions(features)
        assert region_logits is not None
        pixels = self.pixels(features)
        context = self.attention(pixels, gather_regions(pixels, region_logits))
        represented = self.dropout(self.fuse(torch.cat([context, pixels], 1)))
        return {"logits": self.classifier(represented), "aux": region_logits, "features": represented}


def levels_to_read(backbone: Backbone, fuse: int | None) -> list[int]:
    """Indices of the last `fuse` maps of stride 4 or more; None: all of an HRNet's, the coarsest of others."""
    if fuse is None:
        fuse = len(stages(backbone)) if backbone.name.startswith("hrnet") else 1
    return stages(backbone)[-fuse:]


def concatenated(features: list[Tensor]) -> Tensor:
    """Feature maps brought to the size of the first and concatenated: `(B, sum C_i, h_0, w_0)`."""
    return torch.cat([resize(feature, features[0].shape[-2:]) for feature in features], 1)


class OCRNet(SegmentationModel):
    """OCR on any backbone; with an HRNet it is HRNetV2 + OCR.

    Trained with the region logits as auxiliary output: `loss.auxiliary={"aux": 0.4}`.

    Differs from the released networks: bilinear resizing has half-pixel centres (`align_corners` false) throughout, as
    in NVIDIA's; with a plain backbone the regions come from the same map as the pixels, where the released ResNet form
    takes them from the stage before.

    Args:
        backbone: gives the feature maps; a ResNet wants output stride 8.
        num_classes: channels of the logits.
        channels: width of the object-contextual features.
        key_channels: width of the attention.
        fuse: the head reads the last `fuse` maps of stride 4 or more, brought to the finest of them and concatenated;
            by default all of an HRNet (W48: 48 + 96 + 192 + 384 = 720 channels), the coarsest of others.
        dropout: probability that a channel is dropped before the classifier.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        channels: int = 512,
        key_channels: int = 256,
        fuse: int | None = None,
        dropout: float = 0.05,
    ) -> None:
        super().__init__(backbone, num_classes)
        self.levels = levels_to_read(backbone, fuse)
        backbone.use_only(self.levels)
        width = sum(backbone.channels[level] for level in self.levels)
        self.ocr = OCRHead(width, num_classes, channels=channels, key_channels=key_channels, dropout=dropout)

    def head(self, features: list[Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        """Logits and region logits "aux" `(B, num_classes, h, w)` at the resolution of the finest map that is read."""
        outputs = self.ocr(concatenated([features[level] for level in self.levels]))
        return {name: outputs[name] for name in ("logits", "aux")}
