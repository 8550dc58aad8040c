"""The wide ResNet-38 (Wu et al., "Wider or Deeper", 2016; network A1) as PSA, SEAM, EPS and L2G have it: stride 8.

Blocks normalise before they convolve. Strides end at stride 8; block 5 is dilated by 2, blocks 6 and 7 by 4. Modules
have the names of the public ImageNet weights (`ilsvrc-cls_rna-a1_cls1000_ep-0001`, converted to PyTorch by those
projects), so that a file of them loads as it is.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from maskwright.errors import RecipeError
from maskwright.models import layers
from maskwright.models.backbone import Backbone
from maskwright.models.backbones import import_timm
from maskwright.models.pretrained import load_local

# Number of the block, how often it is repeated, inner channels, channels, stride and dilation.
BLOCKS = ((2, 3, 128, 128, 2, 1), (3, 3, 256, 256, 2, 1), (4, 6, 512, 512, 2, 1), (5, 3, 512, 1024, 1, 2))
# The first of them are frozen as a stem.
STEM = ("conv1a", "b2", "b2_1", "b2_2")
# Blocks whose normalised input is a feature map.
TAPPED = ("b5", "b6")


class Residual(nn.Module):
    """A branch beside a shortcut; both begin with the normalised, rectified input where channels or size change.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        stride: of the block.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(in_channels)
        changes = in_channels != out_channels or stride != 1
        self.conv_branch1 = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output and the normalised, rectified input."""
        entered = F.relu(self.bn_branch2a(x))
        shortcut = x if self.conv_branch1 is None else self.conv_branch1(entered)
        return self.branch(entered) + shortcut, entered

    def branch(self, entered: Tensor) -> Tensor:
        """What is added to the shortcut."""
        raise NotImplementedError(f"{type(self).__name__} must implement branch(entered)")


class Block(Residual):
    """Two 3x3 convolutions.

    Args:
        in_channels: of the input.
        inner: channels between the convolutions.
        out_channels: of the output.
        stride: of the first convolution.
        dilations: of the two.
    """

    def __init__(
        self, in_channels: int, inner: int, out_channels: int, stride: int, dilations: tuple[int, int]
    ) -> None:
        super().__init__(in_channels, out_channels, stride)
        first, second = dilations
        self.conv_branch2a = nn.Conv2d(in_channels, inner, 3, stride, padding=first, dilation=first, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(inner)
        self.conv_branch2b1 = nn.Conv2d(inner, out_channels, 3, padding=second, dilation=second, bias=False)

    def branch(self, entered: Tensor) -> Tensor:
        return self.conv_branch2b1(F.relu(self.bn_branch2b1(self.conv_branch2a(entered))))


class Bottleneck(Residual):
    """A 1x1, a 3x3 and a 1x1 convolution, with dropout of whole channels before the last two.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        dilation: of the 3x3 convolution.
        dropout: share of the channels that are dropped.
    """

    def __init__(self, in_channels: int, out_channels: int, dilation: int, dropout: float) -> None:
        super().__init__(in_channels, out_channels)
        narrow, middle = out_channels // 4, out_channels // 2
        self.conv_branch2a = nn.Conv2d(in_channels, narrow, 1, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(narrow)
        self.dropout_2b1 = nn.Dropout2d(dropout)
        self.conv_branch2b1 = nn.Conv2d(narrow, middle, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn_branch2b2 = nn.BatchNorm2d(middle)
        self.dropout_2b2 = nn.Dropout2d(dropout)
        self.conv_branch2b2 = nn.Conv2d(middle, out_channels, 1, bias=False)

    def branch(self, entered: Tensor) -> Tensor:
        x = self.dropout_2b1(F.relu(self.bn_branch2b1(self.conv_branch2a(entered))))
        x = self.dropout_2b2(F.relu(self.bn_branch2b2(self.conv_branch2b1(x))))
        return self.conv_branch2b2(x)


class ResNet38(Backbone):
    """Gives conv4 and conv5, the normalised inputs of blocks 5 and 6, and conv6, the normalised output; stride 8 all.

    Args:
        name: as given to `create_backbone`.
        in_channels: channels of the images.
        width: factor on all channels; 1 is the paper's 64 to 4096.
        freeze_norm: weights of the normalisations are not trained, as in PSA, SEAM, EPS and L2G; that its statistics
            are the running ones is a matter of training (`freeze_batchnorm`).
    """

    def __init__(self, name: str, *, in_channels: int = 3, width: float = 1.0, freeze_norm: bool = False) -> None:
        def scaled(channels: int) -> int:
            return max(4, round(width * channels))

        super().__init__(name, list(map(scaled, (512, 1024, 4096))), [8, 8, 8], in_channels=in_channels)
        channels = scaled(64)
        self.conv1a = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.blocks: list[str] = []
        for number, count, inner, out, stride, dilation in BLOCKS:
            for index in range(count):
                key = f"b{number}_{index}" if index else f"b{number}"
                step, first = (1, dilation) if index else (stride, 1)
                self._add(key, Block(channels, scaled(inner), scaled(out), step, (first, dilation)))
                channels = scaled(out)
        self._add("b6", Bottleneck(channels, scaled(2048), dilation=4, dropout=0.3))
        self._add("b7", Bottleneck(scaled(2048), scaled(4096), dilation=4, dropout=0.5))
        self.bn7 = nn.BatchNorm2d(scaled(4096))
        layers.initialise(self)
        if freeze_norm:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.requires_grad_(False)

    def _add(self, key: str, block: Residual) -> None:
        self.add_module(key, block)
        self.blocks.append(key)

    def forward(self, images: Tensor) -> list[Tensor]:
        x, features = self.conv1a(images), []
        for key in self.blocks:
            x, entered = getattr(self, key)(x)
            if key in TAPPED:
                features.append(entered)
        return [*features, F.relu(self.bn7(x))]

    def chain(self) -> list[tuple[str, nn.Module, int | None]]:
        parts = [(key if key in STEM else f"block{key[1:]}", getattr(self, key)) for key in ("conv1a", *self.blocks)]
        ends = {"block4_5": 8, "block7": 8}
        return [(key, module, ends.get(key)) for key, module in parts]


def resnet38(
    name: str,
    *,
    pretrained: bool | str = False,
    output_stride: int | None = None,
    in_channels: int = 3,
    width: float = 1.0,
    freeze_norm: bool = False,
) -> ResNet38:
    """The backbone `resnet38`.

    Args:
        name: as given to `create_backbone`.
        pretrained: a local file in the layout of the public ImageNet weights, with or without a head, or a model saved
            by maskwright; there is nothing to download.
        output_stride: 8, or None.
        in_channels: channels of the images; pre-trained stems are adapted.
        width: see `ResNet38`.
        freeze_norm: see `ResNet38`.

    Raises:
        RecipeError: another output stride, or weights that cannot be had or do not fit.
    """
    if output_stride not in (None, 8):
        raise RecipeError(f"{name} has output stride 8 only, found output_stride={output_stride}; set output_stride=8")
    backbone = ResNet38(name, in_channels=in_channels, width=width, freeze_norm=freeze_norm)
    if pretrained:
        load_local(import_timm(), backbone, pretrained, stem="conv1a.weight")
    return backbone
