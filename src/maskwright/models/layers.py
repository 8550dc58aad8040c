"""Building blocks that several heads share: convolution blocks, resizing, initialisation, frozen parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from maskwright.errors import RecipeError

if TYPE_CHECKING:
    from maskwright.models.backbone import Backbone


class ConvBNReLU(nn.Sequential):
    """Convolution without bias, batch normalisation, ReLU; stride 1 keeps the size.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: odd side of the kernel in pixels.
        stride: step of the convolution.
        dilation: distance between the kernel's taps.
        groups: groups of the convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__(
            nn.Conv2d(
                in_channels,
                out_channels,
                kernel_size,
                stride=stride,
                padding=dilation * (kernel_size // 2),
                dilation=dilation,
                groups=groups,
                bias=False,
            ),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class SeparableConv(nn.Sequential):
    """Depthwise 3x3 then pointwise 1x1 convolution, each followed by batch normalisation and ReLU (Xception style).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        dilation: distance between the taps of the depthwise kernel.
    """

    def __init__(self, in_channels: int, out_channels: int, *, dilation: int = 1) -> None:
        super().__init__(
            ConvBNReLU(in_channels, in_channels, 3, dilation=dilation, groups=in_channels),
            ConvBNReLU(in_channels, out_channels, 1),
        )


def resize(features: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear resize of `(B, C, h, w)` to `(B, C, H, W)` with half-pixel centres; unchanged where the size fits."""
    known: Callable[[bool], bool] = bool
    if exporting():  # whether sizes are equal must not be asked of the sample, only of what holds for every image
        from torch.fx.experimental.symbolic_shapes import statically_known_true

        known = statically_known_true
    if all(known(own == wanted) for own, wanted in zip(features.shape[-2:], size)):
        return features
    return F.interpolate(features, size=tuple(size), mode="bilinear", align_corners=False)


def exporting() -> bool:
    """Whether `torch.export` follows, to which the sizes of its sample must stay open."""
    return getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)()  # torch 2.6 has the second alone


def grid_means(features: Tensor, cells: int) -> Tensor:
    """Means of `(B, C, h, w)` over a grid of parts, `(B, C, cells, cells)`; a part begins and ends at whole positions.

    It is adaptive pooling. Exporters fix the parts of that to the size that they were shown, so to them it is two
    products with matrices that are made of the size, which is right at every one.
    """
    if not (exporting() or torch.jit.is_tracing()):
        return F.adaptive_avg_pool2d(features, cells)
    rows, columns = (_shares(length, cells, features) for length in features.shape[-2:])
    return rows @ features @ columns.transpose(0, 1)


def _shares(length: int, cells: int, like: Tensor) -> Tensor:
    """What each position adds to the mean of each part of an axis, `(cells, length)`; each row sums to 1."""
    part = torch.arange(cells, device=like.device)[:, None]
    first, end = part * length // cells, ((part + 1) * length + cells - 1) // cells
    position = torch.arange(length, device=like.device)
    inside = (position >= first) & (position < end)
    return inside.to(like.dtype) / (end - first).to(like.dtype)


def initialise(module: nn.Module) -> None:
    """Kaiming-normal convolutions (fan-in, ReLU), zero biases, batch normalisation as the identity; for new heads.

    The fan is the number of inputs of one output, so depthwise convolutions keep the variance as well.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, _BatchNorm) and layer.affine:
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)


def initialise_classifier(layer: nn.Conv2d) -> None:
    """Weights N(0, 0.01) and no bias, so that every class starts equally likely."""
    nn.init.normal_(layer.weight, std=0.01)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def freeze_batchnorm(model: nn.Module) -> None:
    """Batch normalisation uses its running statistics and keeps them; its affine weights still train.

    `model.train()` undoes it, so call it after every `model.train()`.
    """
    for layer in model.modules():
        if isinstance(layer, _BatchNorm):
            layer.eval()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; afterwards every module is in the mode it was in (frozen ones stay frozen)."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


# Modules that come before a network's first stage have names that start with none of these.
STAGE_NAMES = ("layer", "stage", "block", "features")


def has_stem(backbone: Backbone) -> bool:
    """Whether it is known which modules of a backbone are its stem."""
    return bool(_stem(backbone))


def freeze_stem(backbone: Backbone) -> None:
    """What comes before the first stage (in ResNets: convolution and affine normalisation weights) keeps its weights.

    Raises:
        RecipeError: the backbone has no stem, or none is known.
    """
    if not has_stem(backbone):
        raise RecipeError(f"backbone {backbone.name} has no stem that could be frozen; a ResNet has one")
    for module in _stem(backbone):
        module.requires_grad_(False)


def freeze_stages(backbone: Backbone, stride: int) -> None:
    """Everything that runs up to and including the first map of the given stride keeps its weights.

    To the weights it is the same as cutting the gradient there, and nothing is kept for a backward pass; but the
    gradient with respect to the image still exists.

    Raises:
        RecipeError: the backbone is no plain chain of stages, or has no map of that stride.
    """
    chain = backbone.chain()
    last = next((i for i, (_, _, reached) in enumerate(chain) if reached == stride), None)
    if last is None:
        raise RecipeError(
            f"backbone {backbone.name} cannot be frozen up to stride {stride}: expected a chain of stages with a "
            f"feature map of that stride, found strides {backbone.strides}"
        )
    for _, module, _ in chain[: last + 1]:
        module.requires_grad_(False)


def _stem(backbone: Backbone) -> list[nn.Module]:
    modules: list[nn.Module] = []
    for name, module, _ in backbone.chain():
        if name.startswith(STAGE_NAMES):
            return modules
        modules.append(module)
    return []
