"""Reasons to stop a training that cannot give a usable model, said so that a person can act on them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from maskwright.errors import TrainingStopped
from maskwright.settings import TrainSettings

LEAST_STEPS = 100
AT_THE_END = (
    ". No model file was written. The weights after the last step are in state.pt, as `model`; the same command ends "
    "here again, so change a setting of the training, or delete its folder to train anew"
)


def check_finite(means: dict[str, float], where: str, rate: float, settings: TrainSettings) -> None:
    """Stop at a loss that is not finite.

    Args:
        means: the loss and its parts.
        where: which step of how many.
        rate: the learning rate there.
        settings: what can be changed.

    Raises:
        TrainingStopped: a number is not finite.
    """
    if all(map(math.isfinite, means.values())):
        return
    parts = ", ".join(f"{name} {value:.4g}" for name, value in means.items())
    raise TrainingStopped(
        f"training stopped {where}: the loss is not finite ({parts}) at learning rate {rate:.3g}. {_advice(settings)}"
    )


def check_weights(parameters: Iterable[torch.Tensor], where: str, settings: TrainSettings) -> None:
    """Stop where gradients overflowed although the loss was finite, before such weights replace good ones.

    Raises:
        TrainingStopped: a weight is not finite.
    """
    norms = torch._foreach_norm([parameter.detach() for parameter in parameters])
    if not torch.stack([norm.float() for norm in norms]).isfinite().all():
        raise TrainingStopped(f"training stopped {where}: weights are not finite. {_advice(settings)}")


def check_collapse(metrics: dict[str, Any], names: list[str] | None, step: int, total: int) -> None:
    """Stop when a model predicts a single class although the ground truth has more, once half of the training is done.

    Before that a single class is normal: most pixels are background, and a network finds that out first. A training of
    fewer than 100 steps tries out the plumbing and is not checked.

    Args:
        metrics: `predicted_classes` and, where known, `true_classes`: counts, or lists of class names or label values.
        names: class names by label value.
        step: optimiser steps done.
        total: optimiser steps in all.

    Raises:
        TrainingStopped: it does.
    """
    predicted, true = metrics.get("predicted_classes"), metrics.get("true_classes")
    if (
        predicted is None
        or total < LEAST_STEPS
        or 2 * step < total
        or _count(predicted) > 1
        or (true is not None and _count(true) < 2)
    ):
        return
    only = "a single class"
    if isinstance(predicted, list) and predicted:
        value = predicted[0]
        only += f", {names[value] if names and isinstance(value, int) else value!r},"
    raise TrainingStopped(
        f"training stopped at step {step} of {total}: the model predicts {only} on every validation image, "
        f"although the ground truth has {'more' if true is None else _count(true)}. Likely causes: too few steps, a "
        "learning rate that is far too high or too low, or masks that are almost all background or ignore: look at "
        "them, or try loss.class_weights=sqrt_inverse" + (AT_THE_END if step == total else "")
    )


def _count(classes: int | list[Any]) -> int:
    return len(classes) if isinstance(classes, list) else classes


def _advice(settings: TrainSettings) -> str:
    tips = [f"a lower learning rate (train.lr={settings.lr / 10:g})"]
    if not settings.warmup:
        tips.append("a warm-up (train.warmup=500)")
    if settings.clip is None:
        tips.append("gradient clipping (train.clip=1)")
    if settings.autocast == "float16":
        tips.append("train.autocast=bfloat16")
    if settings.optimizer == "sgd" and settings.momentum > 0.5 and settings.lr >= 0.1:
        tips.append("train.momentum=0.0001, which is what the IRN family's releases train with at lr 0.1")
    return f"Try {', or '.join(tips)}; and look at the labels with `maskwright data check`"
