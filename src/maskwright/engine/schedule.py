"""Learning rate schedules as pure functions: the factor on every group's base rate, before step `step` of `total`."""

from __future__ import annotations

import math

from maskwright.settings import TrainSettings


def poly(
    step: int,
    total: int,
    power: float = 0.9,
    warmup: int = 0,
    warmup_start: float = 0.0,
    *,
    update_every: int = 1,
    hold_last: bool = False,
) -> float:
    """Polynomial decay `(1 - t / T) ** power`, after a linear warm-up where there is one.

    With a warm-up, t and T count the steps after it (the decay begins where the warm-up ends).

    Args:
        step: steps done so far, from 0.
        total: steps in all.
        power: 0 keeps the rate, 1 is linear.
        warmup: steps of linear rise from `warmup_start` to 1.
        warmup_start: factor at the first step of the warm-up.
        update_every: the decay moves only every this many steps; 10 in the DeepLab releases.
        hold_last: from `total` on keep the factor of step `total - 1`, as the IRN family's optimiser does, not 0.
    """
    if step < warmup:
        return linear_warmup(step, warmup, warmup_start)
    if hold_last:
        step = min(step, total - 1)
    done = (step - warmup) // update_every * update_every
    return max(0.0, 1 - done / max(1, total - warmup)) ** power


def onecycle(step: int, total: int, warmup: int | None = None, start: float = 0.04, end: float = 4e-6) -> float:
    """One cycle: half a cosine up from `start` to 1, then half a cosine down to `end` at the last step.

    The rates of Smith and Topin (2019) as `torch.optim.lr_scheduler.OneCycleLR` has them; momentum is left alone.

    Args:
        step: steps done so far, from 0.
        total: steps in all.
        warmup: the step at which the peak is reached; by default at 30 % of the steps.
        start: factor at step 0.
        end: factor at step `total - 1`.
    """
    peak = max(1.0, 0.3 * total - 1) if warmup is None else max(1, warmup)
    if step < peak:
        return start + (1 - start) * (1 - math.cos(math.pi * step / peak)) / 2
    down = min(1.0, (step - peak) / max(1.0, total - 1 - peak))
    return end + (1 - end) * (1 + math.cos(math.pi * down)) / 2


def one_step(step: int, total: int, factor: float = 0.1) -> float:
    """1 in the first half of `total` steps, `factor` in the second; L2G on VOC divides by ten at epoch 5 of 10."""
    return 1.0 if 2 * step < total else factor


def linear_warmup(step: int, warmup: int, start: float = 0.0) -> float:
    """Linear rise from `start` at step 0 to 1 at step `warmup`, and 1 after it."""
    return start + (1 - start) * step / warmup if step < warmup else 1.0


def rate_factor(settings: TrainSettings, step: int, total: int) -> float:
    """The factor that `settings.schedule` gives before step `step` (from 0) of `total`."""
    if settings.schedule == "poly":
        every = settings.update_every
        return poly(step, total, settings.power, settings.warmup, settings.warmup_start, update_every=every)
    if settings.schedule == "onecycle":
        return onecycle(step, total, settings.warmup or None, settings.warmup_start or 0.04)
    warm = linear_warmup(step, settings.warmup, settings.warmup_start)
    return warm * one_step(step, total) if settings.schedule == "step" else warm
