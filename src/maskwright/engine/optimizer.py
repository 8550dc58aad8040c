"""The optimiser, its rates, and the running average of the weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from maskwright.errors import RecipeError
from maskwright.settings import TrainSettings


def create_optimizer(groups: Iterable[Any], settings: TrainSettings) -> torch.optim.Optimizer:
    """SGD or AdamW as the settings say.

    Args:
        groups: parameters, or dictionaries with `params` and, where it differs from the settings, `lr` and
            `weight_decay`; a group's `lr` is its base rate, the schedule multiplies all of them alike.
        settings: `optimizer`, `lr`, `momentum`, `nesterov`, `weight_decay`.

    Raises:
        RecipeError: Nesterov momentum without momentum, or nothing to train.
    """
    groups = list(groups)
    parameters = [p for group in groups for p in (group["params"] if isinstance(group, dict) else [group])]
    if not parameters:
        raise RecipeError("the model has no parameter to train")
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, weight_decay=settings.weight_decay, fused=fused or None)
    if settings.nesterov and settings.momentum == 0:
        raise RecipeError("nesterov: true needs momentum above 0, found 0")
    return torch.optim.SGD(
        groups,
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
        fused=fused or None,
    )


def set_rates(optimizer: torch.optim.Optimizer, base_rates: list[float], factor: float) -> None:
    """Give every group its base rate times the schedule's factor."""
    for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
        group["lr"] = rate * factor


class WeightAverage:
    """Exponential moving average of a model's parameters in float32; buffers are the model's own.

    `average += (1 - d) * (parameter - average)` with `d = min(decay, (1 + step) / (10 + step))`, so that the first
    weights, which are still random, fade quickly.

    Args:
        model: where the parameters are; also those that are not trained.
        decay: below 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.names = [name for name, p in model.named_parameters() if p.is_floating_point()]
        self.parameters = [p for p in model.parameters() if p.is_floating_point()]
        self.averages = [p.detach().float().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters after optimiser step `step` (from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        current = [p.detach().float() for p in self.parameters]
        torch._foreach_lerp_(self.averages, current, 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the model's parameters and the average; once more puts them back."""
        for parameter, average in zip(self.parameters, self.averages, strict=True):
            kept = parameter.detach().to(average.dtype, copy=True)
            parameter.copy_(average)
            average.copy_(kept)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return dict(zip(self.names, self.averages, strict=True))

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        for name, average in zip(self.names, self.averages, strict=True):
            average.copy_(state[name])
