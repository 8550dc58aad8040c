"""The IRN family's optimiser (poly, two groups, weight decay as momentum) and DeepLab's decay in steps of ten."""

from __future__ import annotations

import numpy as np
import torch

from maskwright.engine.optimizer import create_optimizer, set_rates
from maskwright.engine.schedule import poly
from maskwright.settings import TrainSettings

POWER = 0.9  # of both releases
DEEPLAB_UPDATE_EVERY = 10


def check(arrays: dict[str, np.ndarray]) -> None:
    base, decay, momentum = (float(arrays[name]) for name in ("base_lr", "weight_decay", "momentum_seen_by_sgd"))
    total = int(arrays["max_step"])
    assert momentum == decay  # the slip: the release hands the weight decay over in the momentum's place
    settings = TrainSettings(lr=base, momentum=momentum, weight_decay=decay)

    p = torch.nn.Parameter(torch.tensor(arrays["p0"]))
    q = torch.nn.Parameter(torch.tensor(arrays["q0"]))
    optimizer = create_optimizer([{"params": [p]}, {"params": [q], "lr": 10 * base}], settings)
    base_rates = [group["lr"] for group in optimizer.param_groups]
    for t, (grad_p, grad_q) in enumerate(zip(arrays["grads_p"], arrays["grads_q"], strict=True)):
        set_rates(optimizer, base_rates, poly(t, total, POWER, hold_last=True))
        np.testing.assert_allclose([group["lr"] for group in optimizer.param_groups], arrays["lr"][t], rtol=1e-12)
        p.grad, q.grad = torch.tensor(grad_p), torch.tensor(grad_q)
        optimizer.step()
        np.testing.assert_allclose(p.detach(), arrays["traj_p"][t], rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(q.detach(), arrays["traj_q"][t], rtol=1e-12, atol=1e-14)

    used = arrays["deeplab_lr_used_at_iter_1_based"]
    deeplab_base = float(f"{used[0]:.1e}")  # a rate that a person chose has two digits; no array holds it
    iterations = int(arrays["deeplab_iter_max"])
    factors = [poly(t, iterations, POWER, update_every=DEEPLAB_UPDATE_EVERY) for t in range(len(used))]
    np.testing.assert_allclose(deeplab_base * np.array(factors), used, rtol=1e-12)
