"""The RMI loss against the steps of its released implementations: forward and backward.

    python -m benchmarks.speed.rmi

The released steps are restated here from the paper: one-hot truth, binary cross-entropy over it, average pooling by 4,
nine shifted copies of every class's map in float64, an inverse and a Cholesky factor of 9 x 9 matrices. Labels are
blocks of the classes that an image shows; a street scene shows about half of its 19, and what is not there costs us
less, so all 19 are a case of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.speed.timer import Bar, Comparison, Row, main
from maskwright.losses.rmi import rmi_loss

RADIUS, POOL = 3, 4


def released_steps(logits: Tensor, labels: Tensor) -> Tensor:
    """0.5 * binary cross-entropy + 0.5 * region term, step by step as published."""
    batch, classes, _, _ = logits.shape
    valid = labels < classes
    one_hot = F.one_hot(labels * valid, classes).float() * valid.unsqueeze(-1)
    one_hot = one_hot.permute(0, 3, 1, 2)
    weights = valid.view(-1, 1).float()
    pixel = F.binary_cross_entropy_with_logits(
        logits.permute(0, 2, 3, 1).reshape(-1, classes),
        one_hot.permute(0, 2, 3, 1).reshape(-1, classes),
        weight=weights,
        reduction="sum",
    ) / (weights.sum() + 1)
    predicted = logits.sigmoid() * valid.unsqueeze(1) + 1e-6
    one_hot, predicted = (F.avg_pool2d(x, POOL, POOL, padding=POOL // 2) for x in (one_hot, predicted))
    y, p = (neighbourhoods(x).view(batch, classes, RADIUS**2, -1).double() for x in (one_hot, predicted))
    y = y - y.mean(3, keepdim=True)
    p = p - p.mean(3, keepdim=True)
    diagonal = 5e-4 * torch.eye(RADIUS**2, dtype=torch.float64, device=logits.device)
    inverse = torch.inverse(p @ p.transpose(2, 3) + diagonal)
    cross = y @ p.transpose(2, 3)
    left = y @ y.transpose(2, 3) - (cross @ inverse) @ cross.transpose(2, 3)
    factor = torch.linalg.cholesky(left + diagonal)
    terms = (factor.diagonal(dim1=2, dim2=3) + 1e-8).log().sum(-1)
    return 0.5 * pixel + 0.5 * (terms.view(batch, classes).mean(0) / RADIUS**2).sum().float()


def neighbourhoods(maps: Tensor) -> Tensor:
    height, width = (side - RADIUS + 1 for side in maps.shape[2:])
    shifts = [(y, x) for y in range(RADIUS) for x in range(RADIUS)]
    return torch.stack([maps[:, :, y : y + height, x : x + width] for y, x in shifts], 2)


def example(size: int, classes: int, present: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shown = torch.randperm(classes, generator=generator)[:present]
    blocks = shown[torch.randint(present, (1, 1, size // 32, size // 32), generator=generator)]
    labels = F.interpolate(blocks.double(), size=(size, size)).long()[:, 0]
    labels[torch.rand(labels.shape, generator=generator) < 0.05] = 255
    return 2 * torch.randn(1, classes, size, size, generator=generator), labels


def step(function: Callable[[Tensor, Tensor], Tensor], logits: Tensor, labels: Tensor) -> tuple[float, Tensor]:
    logits = logits.detach().requires_grad_()
    loss = function(logits, labels)
    loss.backward()
    assert logits.grad is not None
    return loss.item(), logits.grad


def build(device: str, *, size: int, classes: int, present: int) -> Comparison:
    logits, labels = (value.to(device) for value in example(size, classes, present))

    def check(results: dict[str, Any]) -> dict[str, float]:
        (ours, our_gradient), (released, released_gradient) = results["rmi_loss"], results["released steps"]
        value = abs(ours - released) / abs(released)
        gradient = ((our_gradient - released_gradient).abs().max() / released_gradient.abs().max()).item()
        assert value < 2e-5, f"the losses differ by {value:.1e}: {ours} against {released}"
        assert gradient < 1e-3, f"the gradients differ by {gradient:.1e} of the largest"
        return {"difference of the losses, relative": value, "of the gradients, of the largest": gradient}

    pairs = RADIUS**2 * (RADIUS**2 + 1)  # two moments of symmetric matrices and one that is not, multiplied and added
    return Comparison(
        {
            "rmi_loss": partial(step, rmi_loss, logits, labels),
            "released steps": partial(step, released_steps, logits, labels),
        },
        check,
        [Bar("released steps", 3)],
        moved=2 * logits.nbytes + labels.nbytes,
        flops=2 * 2 * classes * (size // POOL) ** 2 * pairs,
    )


ROW = Row(
    "RMI loss, 512x512x19, pool 4, forward and backward",
    build,
    {
        "8 of 19 classes present": {"size": 512, "classes": 19, "present": 8},
        "all 19 present": {"size": 512, "classes": 19, "present": 19},
    },
    {"size": 64, "classes": 5, "present": 3},
)

if __name__ == "__main__":
    main(ROW)
