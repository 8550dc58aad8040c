"""EPS's saliency loss with two settings: both estimates, their blend, the loss and its gradient."""

from __future__ import annotations

import numpy as np
import torch
from numpy.testing import assert_allclose
from torch.nn import functional as F

from maskwright.weak.networks.eps import class_shares, eps_loss, saliency_estimates
from maskwright.weak.networks.recam import first_head_loss

CLOSE = {"rtol": 1e-5, "atol": 1e-7}


def indifferent(key: str, arrays: dict[str, np.ndarray]) -> bool:
    """A threshold, where no tagged class's overlap with the saliency lies between it and 1.01 of it."""
    if not key.endswith("_tau"):
        return False
    shares = np.exp(arrays["cam"]) / np.exp(arrays["cam"]).sum(1, keepdims=True)
    own = shares[:, :-1].round()
    rows, columns = (
        np.arange(small) * large // small
        for small, large in zip(own.shape[2:], arrays["saliency"].shape[2:], strict=True)
    )
    salient = arrays["saliency"][:, :, rows][..., columns].round()
    overlap = (own * salient).sum((2, 3)) / (own.sum((2, 3)) + 1e-4)
    tagged = overlap[arrays["label"] > 0]
    threshold = float(arrays[key])
    return not ((tagged > threshold) & (tagged <= 1.01 * threshold)).any()


def check(arrays: dict[str, np.ndarray]) -> None:
    maps, saliency, tags = (torch.from_numpy(arrays[key]) for key in ("cam", "saliency", "label"))
    maps.requires_grad_()
    assert_allclose(first_head_loss(maps[:, :-1].mean((2, 3)), tags, "bce").detach(), arrays["loss_cls"], **CLOSE)
    small = F.interpolate(saliency, maps.shape[2:], mode="nearest")
    for case in ("c0", "c1"):
        threshold, blend = float(arrays[f"{case}_tau"]), float(arrays[f"{case}_lam"])
        foreground, not_background = saliency_estimates(class_shares(maps), small, tags, threshold)
        assert_allclose(foreground.detach(), arrays[f"{case}_fg_map"], **CLOSE)
        assert_allclose(not_background.detach(), arrays[f"{case}_one_minus_bg_map"], **CLOSE)
        blended = blend * foreground + (1 - blend) * not_background
        assert_allclose(blended.detach(), arrays[f"{case}_sal_pred"], **CLOSE)
        loss = eps_loss(maps, saliency, tags, threshold=threshold, blend=blend)
        assert_allclose(loss.detach(), arrays[f"{case}_loss"], **CLOSE)
        expected = arrays[f"{case}_grad_cam"]
        (gradient,) = torch.autograd.grad(loss, maps)
        assert_allclose(gradient, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
