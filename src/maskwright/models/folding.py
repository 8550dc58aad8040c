"""A network made ready for many images: the same function, with fewer passes over its maps."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

TOLERANCE = 1e-4  # of the largest logit; rounding in another order moves it by about 1e-6


@torch.no_grad()
def inference_copy(model: nn.Module, half: torch.dtype | None = None) -> nn.Module:
    """A copy for many images: normalisations with fixed statistics are part of the convolutions' weights, and on a CPU
    or in half precision weights are laid out channels last, which convolutions there like.

    Which convolution feeds which normalisation is seen while a small image passes, so any network will do. What the
    copy gives for that image is compared with what the model gives.

    Args:
        model: takes images `(1, C, h, w)`, C its backbone's `in_channels` or 3, and gives a tensor; in any mode. It is
            left as it is.
        half: type in which convolutions and linear layers keep their weights, so that `torch.autocast`, under which
            the copy must then run, has nothing to convert at each call. All else keeps its precision.

    Returns:
        The copy, in evaluation mode; the model itself where there is nothing to do: it is in half precision already, or
        nothing can be folded (no such pair, or another result) and `half` is None.
    """
    first = next(model.parameters(), None)
    if first is None or first.dtype != torch.float32:
        return model
    result = _folded(model, first.device, channels_last=first.device.type == "cpu" or half is not None)
    if half is None:
        return result
    result = copy.deepcopy(model).eval() if result is model else result
    for layer in result.modules():
        if type(layer) in (nn.Conv2d, nn.Linear):  # others may do more with a weight than multiply by it
            layer.to(half)
    return result


def _folded(model: nn.Module, device: torch.device, channels_last: bool) -> nn.Module:
    """The copy with normalisations in the convolutions' weights, or the model itself where that cannot be."""
    backbone = getattr(model, "backbone", None)
    height, width = getattr(backbone, "image_size", None) or (64, 64)
    channels = getattr(backbone, "in_channels", 3)
    image = torch.linspace(-2, 2, channels * height * width, device=device).view(1, channels, height, width)
    result = copy.deepcopy(model).eval()
    before, pairs = _watched(result, image)
    if not pairs:
        return model
    for convolution, norm in pairs:
        convolution.weight, convolution.bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        norm.forward = norm.act.forward if hasattr(norm, "act") else _unchanged
    if channels_last:
        result.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        after = result(image)
    except RuntimeError:  # a network that wants its maps in the usual layout
        return model
    return result if (after - before).abs().max() <= TOLERANCE * before.abs().max() else model


def _watched(model: nn.Module, image: Tensor) -> tuple[Tensor, list[tuple[nn.Conv2d, Any]]]:
    """What the model makes of an image, and the convolutions of which one normalisation, always the same, is fed."""
    made: dict[int, tuple[Tensor, nn.Conv2d]] = {}  # holds the maps, so that no two have one address
    runs: Counter[nn.Module] = Counter()
    fed: defaultdict[nn.Conv2d, list[Any]] = defaultdict(list)

    def after_convolution(module: nn.Module, inputs: Any, output: Tensor) -> None:
        made[id(output)] = (output, module)  # type: ignore[assignment]
        runs[module] += 1

    def before_norm(module: nn.Module, inputs: Any) -> None:
        runs[module] += 1
        if id(inputs[0]) in made:
            fed[made[id(inputs[0])][1]].append(module)

    handles = []
    for module in model.modules():
        if type(module) is nn.Conv2d:
            handles.append(module.register_forward_hook(after_convolution))
        elif _is_fixed(module):
            handles.append(module.register_forward_pre_hook(before_norm))
    result = model(image)
    for handle in handles:
        handle.remove()
    pairs = [
        (convolution, norms[0])
        for convolution, norms in fed.items()
        if len(set(norms)) == 1 and len(norms) == runs[convolution] == runs[norms[0]]
    ]
    return result, pairs


def _is_fixed(module: nn.Module) -> bool:
    """Whether it is a factor and a shift for each channel, and at most an activation after it (timm's form)."""
    plain = isinstance(module, _BatchNorm) and module.running_mean is not None
    return plain and isinstance(getattr(module, "drop", nn.Identity()), nn.Identity)


def _unchanged(features: Tensor) -> Tensor:
    return features
