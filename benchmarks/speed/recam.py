"""ReCAM's step against the broadcast product of its released code: forward and backward.

    python -m benchmarks.speed.recam

What is timed is all after the backbone: both heads, masks, class features, both losses and the gradients with respect
to features and heads. The released steps are restated here from the paper: normalised maps of all classes times the
features, an image x class x channel x position product, averaged over positions; the classes of an image are picked
afterwards. Features of 512 x 512 images at stride 16 are 2048 x 32 x 32; the paper's batch is 16.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.speed.timer import Bar, Comparison, Row, main
from maskwright.weak.networks.recam import recam_loss


def released_steps(features: Tensor, w1: Tensor, w2: Tensor, tags: Tensor) -> Tensor:
    """Binary loss plus the second head's, with the broadcast product as published."""
    logits = F.adaptive_avg_pool2d(F.conv2d(features, w1), 1).flatten(1)
    loss = F.multilabel_soft_margin_loss(logits, tags)
    maps = F.relu(F.conv2d(features, w1))
    maps = maps / (F.adaptive_max_pool2d(maps, 1) + 1e-5)
    product = maps.unsqueeze(2) * features.unsqueeze(1)
    means = product.flatten(0, 1).mean((2, 3)).unflatten(0, maps.shape[:2])
    second = features.new_zeros(())
    for image, shown in zip(means, tags, strict=True):
        keys = shown.nonzero().flatten()
        if len(keys):
            second = second + F.cross_entropy(F.conv2d(image[keys][:, :, None, None], w2).flatten(1), keys)
    return loss + second / len(tags)


def ours(features: Tensor, w1: Tensor, w2: Tensor, tags: Tensor) -> Tensor:
    return recam_loss(features, w1, w2, tags)[0]


def step(function: Callable[..., Tensor], inputs: list[Tensor], tags: Tensor) -> tuple[float, list[Tensor]]:
    inputs = [value.detach().requires_grad_() for value in inputs]
    loss = function(*inputs, tags)
    loss.backward()
    return loss.item(), [value.grad for value in inputs if value.grad is not None]


def build(device: str, *, batch: int, classes: int, shown: int, channels: int, side: int) -> Comparison:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    heads = [0.02 * draw(classes, channels, 1, 1) for _ in range(2)]
    inputs = [value.to(device) for value in (draw(batch, channels, side, side).relu_(), *heads)]
    tags = torch.zeros(batch, classes)
    for row in tags:
        row[torch.randperm(classes, generator=generator)[:shown]] = 1
    tags = tags.to(device)

    def check(results: dict[str, Any]) -> dict[str, float]:
        (value, gradients), (other, other_gradients) = results["recam_loss"], results["broadcast product"]
        assert abs(value - other) < 1e-5 * abs(other), f"the losses differ: {value} against {other}"
        pairs = zip(gradients, other_gradients, strict=True)
        apart = max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)
        assert apart < 1e-4, f"the gradients differ by {apart:.1e} of the largest"
        return {"difference of the losses": abs(value - other), "of the gradients, of the largest": apart}

    return Comparison(
        {
            "recam_loss": partial(step, ours, inputs, tags),
            "broadcast product": partial(step, released_steps, inputs, tags),
        },
        check,
        [Bar("broadcast product", 3), Bar("broadcast product", 20, of="memory")],
        moved=2 * inputs[0].nbytes,
        # Maps of the classes shown, their class features, and each of the two backwards to its two factors.
        flops=6 * 2 * batch * shown * channels * side**2,
    )


ROW = Row(
    "ReCAM step, 20 classes, features of 512 px",
    build,
    {"2 images": {"batch": 2, "classes": 20, "shown": 2, "channels": 2048, "side": 32}},
    {"classes": 5, "channels": 16, "side": 6},
)

if __name__ == "__main__":
    main(ROW)
