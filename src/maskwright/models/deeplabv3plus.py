"""DeepLabV3+ (Chen et al., ECCV 2018): atrous spatial pyramid pooling, and a decoder on a stride-4 feature map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from maskwright.models.backbone import Backbone
from maskwright.models.base import SegmentationModel
from maskwright.models.layers import ConvBNReLU, SeparableConv, grid_means, initialise, initialise_classifier, resize


class ImagePooling(nn.Module):
    """Mean over the image, 1x1 convolution, batch normalisation, ReLU, spread over all positions again.

    A batch of one image has no batch statistics here (one value per channel): the running ones are used for it.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        cells: means over this many rows and columns of the image instead of one, spread bilinearly.
    """

    def __init__(self, in_channels: int, out_channels: int, cells: int = 1) -> None:
        super().__init__()
        self.cells = cells
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, features: Tensor) -> Tensor:
        if self.cells == 1:
            pooled = self.conv(features.mean((2, 3), keepdim=True))
        else:
            pooled = self.conv(grid_means(features, self.cells))
        if self.norm.training and pooled.numel() == pooled.shape[1]:
            norm = self.norm
            pooled = nn.functional.batch_norm(
                pooled, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps
            )
        else:
            pooled = self.norm(pooled)
        pooled = pooled.relu()
        return pooled.expand(-1, -1, *features.shape[-2:]) if self.cells == 1 else resize(pooled, features.shape[-2:])


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: 1x1, dilated 3x3 and image-pooling branches, concatenated, 1x1, dropout.

    Args:
        in_channels: channels of the input.
        out_channels: channels of every branch and of the output.
        rates: dilations of the 3x3 branches.
        separable: 3x3 branches are depthwise separable.
        dropout: probability that a value is dropped at the end.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        rates: Sequence[int] = (6, 12, 18),
        *,
        separable: bool = False,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        dilated = SeparableConv if separable else ConvBNReLU
        self.branches = nn.ModuleList(
            [
                ConvBNReLU(in_channels, out_channels, 1),
                *(dilated(in_channels, out_channels, dilation=rate) for rate in rates),
                ImagePooling(in_channels, out_channels),
            ]
        )
        self.project = ConvBNReLU(len(self.branches) * out_channels, out_channels, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        """Context features.

        Args:
            features: `(B, in_channels, h, w)`.

        Returns:
            `(B, out_channels, h, w)`.
        """
        return self.dropout(self.project(torch.cat([branch(features) for branch in self.branches], 1)))


def aspp_rates(output_stride: int) -> tuple[int, ...]:
    """The papers' dilations, which look equally far at every output stride: 6, 12, 18 at 16 and 12, 24, 36 at 8."""
    return tuple(max(1, rate * 16 // output_stride) for rate in (6, 12, 18))


class DeepLabV3Plus(SegmentationModel):
    """DeepLabV3+ on any backbone.

    The decoder works on the finest feature map of stride 4 or more; a backbone whose maps all have one stride (a plain
    vision transformer) gives its first map, and nothing is upsampled in between.

    Args:
        backbone: gives the feature maps; the paper's encoder has output stride 16 (8 for the last per cent).
        num_classes: channels of the logits.
        decoder_channels: width of the pyramid and of the decoder.
        low_level_channels: width that the fine feature map is reduced to.
        rates: dilations of the pyramid; by default those of the papers for the backbone's output stride.
        separable: depthwise separable convolutions in pyramid and decoder, as in the paper.
        dropout: probability at the end of the pyramid; 0.1 as in the released code, other ports use 0.5.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        decoder_channels: int = 256,
        low_level_channels: int = 48,
        rates: Sequence[int] | None = None,
        separable: bool = True,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(backbone, num_classes)
        strides = backbone.strides
        self.low_level = next((i for i, stride in enumerate(strides) if stride >= 4), 0)
        backbone.use_only([self.low_level, len(strides) - 1])
        self.aspp = ASPP(
            backbone.channels[-1],
            decoder_channels,
            rates or aspp_rates(strides[-1]),
            separable=separable,
            dropout=dropout,
        )
        self.reduce = ConvBNReLU(backbone.channels[self.low_level], low_level_channels, 1)
        conv = SeparableConv if separable else ConvBNReLU
        self.decoder = nn.Sequential(
            conv(decoder_channels + low_level_channels, decoder_channels),
            conv(decoder_channels, decoder_channels),
        )
        self.classifier = nn.Conv2d(decoder_channels, num_classes, 1)
        for part in (self.aspp, self.reduce, self.decoder):
            initialise(part)
        initialise_classifier(self.classifier)

    def head(self, features: list[Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        """Logits `(B, num_classes, h, w)` at the resolution of the fine feature map."""
        fine = self.reduce(features[self.low_level])
        coarse = resize(self.aspp(features[-1]), fine.shape[-2:])
        return {"logits": self.classifier(self.decoder(torch.cat([coarse, fine], 1)))}
