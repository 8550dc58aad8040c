"""Polynomial decay, and with a linear warm-up before it."""

from __future__ import annotations

import numpy as np

from maskwright.engine.schedule import poly


def check(arrays: dict[str, np.ndarray]) -> None:
    base, power, start = (float(arrays[name]) for name in ("base_lr", "power", "warmup_start_factor"))
    total, warmup = int(arrays["total"]), int(arrays["warmup_steps"])
    steps = [int(step) for step in arrays["step"]]
    plain = [base * poly(step, total, power) for step in steps]
    warmed = [base * poly(step, total, power, warmup, start) for step in steps]
    np.testing.assert_allclose(plain, arrays["lr"], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(warmed, arrays["lr_with_linear_warmup"], rtol=1e-12, atol=1e-15)
