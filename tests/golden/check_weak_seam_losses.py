"""SEAM's losses on the outputs of two branches, and the gradients of the second."""

from __future__ import annotations

import numpy as np
import torch
from numpy.testing import assert_allclose
from torch.nn import functional as F

from maskwright.weak.networks.seam import (
    cross_loss,
    equivariance_loss,
    max_norm,
    minimum_loss,
    resize_aligned,
    seam_loss,
)

CLOSE = {"rtol": 1e-5, "atol": 0}


def check(arrays: dict[str, np.ndarray]) -> None:
    given = {key: torch.from_numpy(arrays[key]).float() for key in ("cam1", "cam_rv1", "cam2", "cam_rv2", "label")}
    for key in ("cam2", "cam_rv2"):
        given[key].requires_grad_()
    tags = given["label"]
    # The background comes first there; a background of the maps themselves is never read.
    pairs = [(given[f"cam{branch}"][:, 1:], given[f"cam_rv{branch}"].roll(-1, 1)) for branch in (1, 2)]
    sizes = [tuple(maps.shape[2:]) for maps, _ in pairs]

    shown = tags[:, :, None, None]
    every = F.pad(shown, (0, 0, 0, 0, 0, 1), value=1.0)
    first, second = (resize_aligned(max_norm(maps), sizes[1]) * shown for maps, _ in pairs)
    first_refined, second_refined = (resize_aligned(max_norm(refined), sizes[1]) * every for _, refined in pairs)
    num_tags = tags.shape[1]
    parts = {
        "loss_cls1": F.multilabel_soft_margin_loss(pairs[0][0].mean((2, 3)), tags),
        "loss_cls2": F.multilabel_soft_margin_loss(pairs[1][0].mean((2, 3)), tags),
        "loss_rvmin1": minimum_loss(pairs[0][1][:, :-1] * shown),
        "loss_rvmin2": minimum_loss(pairs[1][1][:, :-1] * shown),
        "loss_er": equivariance_loss(first, second, num_tags),
        "loss_ecr1": cross_loss(second, first_refined, num_tags),
        "loss_ecr2": cross_loss(first, second_refined, num_tags),
    }
    for name, value in parts.items():
        assert_allclose(value.detach(), arrays[name], err_msg=name, **CLOSE)

    loss, logged = seam_loss(pairs, sizes, tags)
    assert_allclose(loss.detach(), arrays["loss"], **CLOSE)
    assert_allclose(logged["tags"] + logged["minimum"], arrays["loss_cls"], **CLOSE)
    assert_allclose(logged["equivariance"], arrays["loss_er"], **CLOSE)
    assert_allclose(logged["cross"], arrays["loss_ecr"], **CLOSE)
    gradients = torch.autograd.grad(loss, (given["cam2"], given["cam_rv2"]))
    for name, found in zip(("cam2", "cam_rv2"), gradients, strict=True):
        expected = arrays[f"grad_{name}"]
        assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max(), err_msg=name)
