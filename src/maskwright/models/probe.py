"""What a backbone computes, whatever its weights: whether its maps are signed, and which weights are behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from maskwright.models import layers

if TYPE_CHECKING:
    from maskwright.models.backbone import Backbone

# Steps of the backward graph, as autograd names them: what they give is never negative, and what is never negative
# where all that they are given is not. (ReLU6 is a "Hardtanh", which may begin below 0.)
NEVER_NEGATIVE = ("Relu", "Sigmoid", "Softmax", "Hardsigmoid")
KEEP_SIGNS = (
    *("Add", "Mul", "Cat", "Mean", "AvgPool2D", "AdaptiveAvgPool2D", "MaxPool2DWithIndices", "UpsampleBilinear2D"),
    *("Slice", "View", "UnsafeView", "Permute", "Transpose", "Clone", "ToCopy", "NativeDropout"),
)


def probe(backbone: Backbone) -> list[Tensor]:
    """The feature maps of one small black image, in evaluation mode, with their backward graph; on `meta` too."""
    size = getattr(backbone, "image_size", None) or (64, 64)
    with layers.evaluating(backbone), torch.enable_grad():
        return backbone(next(backbone.parameters()).new_zeros(1, backbone.in_channels, *size).requires_grad_())


def is_signed(backbone: Backbone) -> bool:
    """Whether the coarsest map can be negative: it does not come out of a ReLU or the like."""
    return _can_be_negative(probe(backbone)[-1].grad_fn)


def weights_behind(maps: Sequence[Tensor]) -> set[Tensor]:
    """The weights with a gradient that maps were computed from, by their backward graph."""
    left: list[Any] = [feature.grad_fn for feature in maps]
    seen: set[Any] = {None}
    while left:
        node = left.pop()
        if node not in seen:
            seen.add(node)
            left += [before for before, _ in node.next_functions]
    return {node.variable for node in seen if hasattr(node, "variable")}


def _can_be_negative(node: Any) -> bool:
    """Whether what a step of the backward graph belongs to can be negative; unknown steps can."""
    name = "" if node is None else node.name().rstrip("0123456789").removesuffix("Backward")
    if name == "Hardtanh":
        return node._saved_min_val < 0
    if name in KEEP_SIGNS:
        return any(_can_be_negative(before) for before, _ in node.next_functions)
    return name not in NEVER_NEGATIVE
