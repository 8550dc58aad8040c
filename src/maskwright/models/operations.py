"""What a network computes: multiply-adds of a forward pass, counted on shapes alone."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def multiply_adds(network: nn.Module, size: tuple[int, int] = (512, 512), channels: int = 3) -> int:
    """Multiply-adds of one image's forward pass, as tables of papers count them; nothing is computed.

    Convolutions and matrix products count; what is done to each value once, as activations and resizing, does not.

    Args:
        network: takes `(1, channels, H, W)`; it stays as it is.
        size: height and width of the image.
        channels: of the image.

    Raises:
        NotImplementedError: the network has an operation that shapes alone do not tell.
    """
    shapes = copy.deepcopy(network).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shapes(torch.zeros(1, channels, *size, device="meta"))
    return counter.get_total_flops() // 2
