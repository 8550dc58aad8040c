"""The region term of the RMI loss in torch alone, and what it shares with the compiled kernels of the CPU.

Pairs of an image and a class that it contains are worked on a few at a time, value and gradient together, so
neighbourhoods exist for few.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Pool = Literal["avg", "max", "none"]

# Added to both covariances, which keeps them invertible and the gradient bounded by about its inverse. The factor's
# diagonal is then at least its root, so the 1e-8 that released code adds to it before the logarithm is left out.
EPSILON = 5e-4
# Added to every probability, as in the released code.
PROBABILITY_EPSILON = 1e-6

# Pixels (or neighbourhood values) worked on at the same time: few for a processor's cache, more than enough to fill an
# accelerator.
VALUES_AT_ONCE = {"cpu": 2**20, "accelerator": 2**25}


def region_terms(predicted: Tensor, true: Tensor, radius: int) -> Tensor:
    """The region terms `(K,)` float64 of pooled maps `(K, h, w)`."""
    if predicted.device.type == "cpu" and not torch.compiler.is_compiling():
        from maskwright.losses import rmi_cpu

        products = rmi_cpu.NeighbourhoodProducts.apply(predicted, true, radius)
    else:
        products = NeighbourhoodProducts.apply(predicted, true, radius)
    return conditional_logdet(*products) / (2 * radius**2)


def conditional_logdet(cross: Tensor, own: Tensor, epsilon: float = EPSILON) -> Tensor:
    """`logdet(S_yy - S_yp (S_pp + eps)^-1 S_py + eps)` by one joint Cholesky factor.

    The matrix is the Schur complement of `S_pp + eps` in `[[S_pp + eps, S_py], [S_yp, S_yy + eps]]`, so its Cholesky
    factor is that one's last block.

    Args:
        cross: `(K, d, 2d + 1)` float64, uncentred products of the rows p with the rows [p, y, 1].
        own: `(K, d + 1, d + 1)` float64, uncentred products of the rows [y, 1] with themselves.
        epsilon: added to the diagonal of the scatter matrices.

    Returns:
        `(K,)` float64; NaN where a product is not finite.
    """
    d = cross.shape[1]
    products = torch.cat([cross[:, :, :-1], torch.cat([cross[:, :, d:-1].transpose(1, 2), own[:, :d, :d]], 2)], 1)
    sums = torch.cat([cross[:, :, -1], own[:, :d, -1]], 1).unsqueeze(2)
    scatter = products - sums @ sums.transpose(1, 2) / own[:, -1:, -1:]
    scatter = scatter + epsilon * torch.eye(2 * d, dtype=cross.dtype, device=cross.device)
    # Without its check the factorisation needs no answer from the device.
    factor, failed = torch.linalg.cholesky_ex(scatter)
    logdet = 2 * factor.diagonal(dim1=1, dim2=2)[:, d:].log().sum(1)
    return torch.where(failed == 0, logdet, torch.nan)


class RegionTerms(torch.autograd.Function):
    """The region term of K pairs of image and class, `(K,)` float64.

    The pairs have nothing to do with each other, so each one's gradient is made right after its value, while all that
    it needs is at hand; what is kept for the backward pass is one plane per pair.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        labels: Tensor,
        valid: Tensor,
        image: Tensor,
        label: Tensor,
        pool: Pool,
        pool_size: int,
        radius: int,
    ) -> Tensor:
        wanted = ctx.needs_input_grad[0]
        terms = logits.new_empty(len(image), dtype=torch.float64)
        gradients = logits.new_empty((len(image) if wanted else 0, *logits.shape[2:]))
        # In the logits' own type, where comparing and masking are several times as fast as on integers and booleans.
        seen, label_of = valid.to(logits.dtype), label.to(logits.dtype)[:, None, None]
        marked = labels.masked_fill(~valid, -1).to(logits.dtype)
        pooled = pool_size > 1 and pool != "none"
        at_once = VALUES_AT_ONCE["cpu" if logits.device.type == "cpu" else "accelerator"]
        step = max(1, at_once // (logits[0, 0].numel() * (1 if pooled else 2 * radius**2)))
        for first in range(0, len(image), step):
            part = slice(first, first + step)
            probability = logits[image[part], label[part]].sigmoid_().mul_(seen[image[part]])
            true = torch.eq(marked[image[part]], label_of[part], out=torch.empty_like(probability))
            with torch.set_grad_enabled(wanted):
                predicted = _pooled(probability.requires_grad_(wanted) + PROBABILITY_EPSILON, pool, pool_size)
                value = region_terms(predicted, _pooled(true, pool, pool_size), radius)
            terms[part] = value.detach()
            if wanted:
                (slope,) = torch.autograd.grad(value, probability, torch.ones_like(value))
                probability = probability.detach()
                slope = slope.mul_(probability)
                # Times p (1 - p), which is 0 where masked.
                torch.addcmul(slope, slope, probability, value=-1, out=gradients[part])
        ctx.save_for_backward(gradients, image, label)
        ctx.shape = logits.shape
        return terms

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        gradients, image, label = ctx.saved_tensors
        scaled = gradients * gradient[:, None, None].to(gradients.dtype)
        if len(image) == ctx.shape[0] * ctx.shape[1]:  # every class in every image, in order
            return scaled.view(ctx.shape), *[None] * 7
        result = gradients.new_zeros(ctx.shape)
        result[image, label] = scaled
        return result, *[None] * 7


class NeighbourhoodProducts(torch.autograd.Function):
    """Products over all positions of the shifted views p and y of two maps `(K, h, w)`, and of ones.

    Returns `(K, d, 2d + 1)`, p with [p, y, 1], and `(K, d + 1, d + 1)`, [y, 1] with itself; both float64. Only the
    first map has a gradient.
    """

    @staticmethod
    def forward(ctx: Any, predicted: Tensor, true: Tensor, radius: int) -> tuple[Tensor, Tensor]:
        height, width = (side - radius + 1 for side in predicted.shape[1:])
        d = radius**2
        rows = predicted.new_empty(len(predicted), 2 * d + 1, height, width, dtype=torch.float64)
        for number, maps in enumerate((predicted, true)):
            views = maps.unfold(1, height, 1).unfold(2, width, 1)
            rows[:, number * d : (number + 1) * d].unflatten(1, (radius, radius)).copy_(views)
        rows[:, -1] = 1
        ctx.save_for_backward(rows)
        ctx.dtype = predicted.dtype
        flat = rows.flatten(2)
        cross, own = flat[:, :d] @ flat.transpose(1, 2), flat[:, d:] @ flat[:, d:].transpose(1, 2)
        ctx.mark_non_differentiable(own)
        return cross, own

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Any) -> tuple[Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        pairs, channels, height, width = rows.shape
        d = channels // 2
        radius = math.isqrt(d)
        gradient = gradient + F.pad(gradient[:, :, :d].transpose(1, 2), (0, d + 1))
        views = (gradient @ rows.flatten(2)).unflatten(2, (height, width))
        result = rows.new_zeros(pairs, height + radius - 1, width + radius - 1)
        for shift in range(d):
            y, x = divmod(shift, radius)
            result[:, y : y + height, x : x + width] += views[:, shift]
        return result.to(ctx.dtype), None, None


def _pooled(maps: Tensor, pool: Pool, size: int) -> Tensor:
    if pool == "none" or size == 1:
        return maps
    function = F.avg_pool2d if pool == "avg" else F.max_pool2d
    return function(maps.unsqueeze(1), size, stride=size, padding=size // 2).squeeze(1)
