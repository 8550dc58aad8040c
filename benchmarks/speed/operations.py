"""How many operations a network's forward pass makes: the least that any implementation of it must."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def operations(network: nn.Module, images: Tensor, method: str = "forward") -> float:
    """Multiplications and additions of convolutions and matrix products of one call, counted without computing it."""
    training = network.training
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        function: Any = getattr(network.eval(), method)
        function(images)
    network.train(training)
    return float(counter.get_total_flops())
