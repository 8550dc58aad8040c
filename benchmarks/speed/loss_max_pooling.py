"""Loss max-pooling: its weights against a full sort, and its cost on top of cross-entropy.

    python -m benchmarks.speed.loss_max_pooling

The sort is the plain way to the exact threshold: all losses in order, sums of their tails, the first position where the
constraint holds. Losses are those of a network in the middle of training, most of them small (`-log` of a beta).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.speed.pictures import label_maps
from benchmarks.speed.timer import Bar, Comparison, Row, main
from maskwright.losses import LossMaxPooling, loss_max_pooling_weights
from maskwright.losses.cross_entropy import cross_entropy_map

P, RATIO = 1.7, 0.25


def by_sorting(losses: Tensor, p: float = P, ratio: float = RATIO) -> Tensor:
    """The weights of one row `(N,)` by a full sort, in float64."""
    q = p / (p - 1)
    count = len(losses)
    support = ratio * count
    values, order = losses.double().sort(descending=True)
    powers = values.pow(q)
    tails = powers.flip(0).cumsum(0).flip(0)
    room = support - torch.arange(count, dtype=torch.float64, device=losses.device)
    bounds = tails / room
    first = int((bounds >= powers).logical_and(room > 0).nonzero()[0])
    alpha = bounds[first] ** (1 / q)
    ceiling = count ** (1 / p - 1) * support ** (-1 / p)
    weights = ceiling * (values / alpha).clamp(max=1).pow(q - 1)
    return torch.empty_like(values).index_copy_(0, order, weights).to(losses.dtype)


def build(device: str, *, kind: str, count: int = 0, batch: int = 0, size: int = 0, classes: int = 19) -> Comparison:
    if kind == "weights":
        return weights_only(device, count)
    return on_top(device, batch, size, classes)


def weights_only(device: str, count: int) -> Comparison:
    torch.manual_seed(0)
    losses = -torch.distributions.Beta(2.0, 0.4).sample((count,)).clamp(1e-6, 1 - 1e-6).log().to(device)

    def check(results: dict[str, Any]) -> dict[str, float]:
        plain = results["full sort"]
        apart = ((results["Newton steps"] - plain).abs().max() / plain.max()).item()
        assert apart < 1e-4, f"the weights differ by {apart:.1e} of the largest"
        return {"difference of the weights, of the largest": apart}

    return Comparison(
        {
            "Newton steps": lambda: loss_max_pooling_weights(losses, p=P, ratio=RATIO),
            "full sort": lambda: by_sorting(losses),
        },
        check,
        [Bar("full sort", 3)],
        moved=2 * losses.nbytes,
    )


def on_top(device: str, batch: int, size: int, classes: int) -> Comparison:
    generator = torch.Generator().manual_seed(0)
    labels = label_maps(batch, size, size, classes, ignored=0.05).long().to(device)
    logits = 2 * torch.randn(batch, classes, size, size, generator=generator).to(device)
    pooled = LossMaxPooling(p=P, ratio=RATIO)

    def plain_mean() -> tuple[float, Tensor]:
        inputs = logits.detach().requires_grad_()
        return finished(F.cross_entropy(inputs, labels, ignore_index=255), inputs)

    def ours() -> tuple[float, Tensor]:
        inputs = logits.detach().requires_grad_()
        return finished(pooled(inputs, labels), inputs)

    def sorted_weights() -> tuple[float, Tensor]:
        inputs = logits.detach().requires_grad_()
        losses, valid = cross_entropy_map(inputs, labels)
        total = losses.new_zeros(())
        for values, counted in zip(losses, valid, strict=True):
            kept = values[counted]
            total = total + (kept * by_sorting(kept.detach())).sum()
        return finished(total / batch, inputs)

    def finished(loss: Tensor, inputs: Tensor) -> tuple[float, Tensor]:
        loss.backward()
        assert inputs.grad is not None
        return loss.item(), inputs.grad

    def check(results: dict[str, Any]) -> dict[str, float]:
        (value, gradient), (other, other_gradient) = results["loss max-pooling"], results["with a full sort"]
        apart = ((gradient - other_gradient).abs().max() / other_gradient.abs().max()).item()
        assert abs(value - other) < 1e-4 * abs(other), f"the losses differ: {value} against {other}"
        assert apart < 1e-3, f"the gradients differ by {apart:.1e} of the largest"
        return {"difference of the losses": abs(value - other), "of the gradients, of the largest": apart}

    return Comparison(
        {"loss max-pooling": ours, "cross-entropy": plain_mean, "with a full sort": sorted_weights},
        check,
        [
            Bar("cross-entropy", 1 / 1.15, words="at most 15 % on top (0.87 x)"),
            Bar("with a full sort", 1, words="faster"),
        ],
        moved=2 * logits.nbytes + labels.nbytes,
    )


ROW = Row(
    "Loss max-pooling, p 1.7, 25 %",
    build,
    {
        "1 M losses": {"kind": "weights", "count": 2**20},
        "4x19x512x512, forward and backward": {"kind": "on top", "batch": 4, "size": 512, "classes": 19},
    },
    {"count": 5000, "batch": 2, "size": 64},
)

if __name__ == "__main__":
    main(ROW)
