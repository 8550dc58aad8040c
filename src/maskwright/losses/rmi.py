"""Region mutual information (RMI) loss (Zhao et al., NeurIPS 2019), as hierarchical multi-scale attention uses it.

A pixel and its neighbours are one point of d = radius^2 dimensions, for the truth and for the prediction. The loss is a
bound on how uncertain the truth's point still is once the prediction's is known, from the covariances of the two,
per image and class.

Mathematically the two released implementations (which agree with each other); computed otherwise:
* the conditional covariance is the Schur complement of one joint matrix, so its log-determinant is read off the last d
  diagonal entries of a single Cholesky factor (18 x 18 at radius 3); no inverse;
* a class that an image does not contain has no covariance with anything: its term is a constant without gradient, and
  is added as such instead of being computed;
* image-class pairs are worked on a few at a time, value and gradient together, so neighbourhoods exist for few.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from maskwright.errors import DataError, RecipeError, unknown_name
from maskwright.losses.cross_entropy import cross_entropy
from maskwright.losses.ignore import IGNORE_INDEX, at_least_float32, check_shapes, index_labels, valid_pixels

Pool = Literal["avg", "max", "none"]
PIXEL_TERMS = ("sigmoid", "softmax")
FORMS = ("convex", "added")

# Added to both covariances, which keeps them invertible and the gradient bounded by about its inverse. The factor's
# diagonal is then at least its root, so the 1e-8 that released code adds to it before the logarithm is left out.
EPSILON = 5e-4
# Added to every probability, as in the released code.
PROBABILITY_EPSILON = 1e-6

# Pixels (or neighbourhood values) worked on at the same time: few for a processor's cache, more than enough to fill an
# accelerator.
VALUES_AT_ONCE = {"cpu": 2**20, "accelerator": 2**25}


def rmi_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    ce: Literal["sigmoid", "softmax"] = "sigmoid",
    pool: Pool = "avg",
    pool_size: int = 4,
    radius: int = 3,
    weight: float = 0.5,
    form: Literal["convex", "added"] = "convex",
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    """Pixel-wise cross-entropy plus the region term.

    The value is not comparable between images: a class that an image lacks contributes a constant, about -3.8 times its
    weight. It can be negative.

    Args:
        logits: `(B, C, H, W)`; half precision is computed in float32.
        labels: `(B, H, W)`, values `0..C-1` or `ignore_index`.
        ce: pixel term; "sigmoid" as in the released code (`sigmoid_cross_entropy`), "softmax" for SeeThroughNet.
        pool: how truth and prediction are reduced before neighbourhoods are looked at.
        pool_size: side and step of the pooling in pixels.
        radius: side of the neighbourhood in (pooled) positions; called so in the paper.
        weight: lambda.
        form: "convex" means `weight * ce + (1 - weight) * rmi`, "added" `ce + weight * rmi`.
        ignore_index: value of pixels without a label.

    Returns:
        A scalar; a graph-connected 0 where the batch has no valid pixel.

    Raises:
        DataError: shapes that do not fit, labels out of range (CPU), or images too small for one neighbourhood.
        RecipeError: an unknown pixel term, pooling or form, or a pooling size or radius below 1.
    """
    _known("pixel term", ce, PIXEL_TERMS)
    _known("form", form, FORMS)
    pixel = sigmoid_cross_entropy if ce == "sigmoid" else cross_entropy
    pixel_term = pixel(logits, labels, ignore_index=ignore_index)
    region = region_term(logits, labels, pool=pool, pool_size=pool_size, radius=radius, ignore_index=ignore_index)
    first, second = (weight, 1 - weight) if form == "convex" else (1.0, weight)
    return first * pixel_term + second * region


def sigmoid_cross_entropy(logits: Tensor, labels: Tensor, *, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """Binary cross-entropy of every class against the rest: summed over classes, over `valid pixels + 1`.

    Args:
        logits: `(B, C, H, W)`; half precision is computed in float32.
        labels: `(B, H, W)`, values `0..C-1` or `ignore_index`.
        ignore_index: value of pixels without a label.

    Returns:
        A scalar, not negative.

    Raises:
        DataError: shapes that do not fit, or labels out of range (CPU).
    """
    check_shapes(logits, labels)
    logits = at_least_float32(logits)
    valid = valid_pixels(labels, logits.shape[1], ignore_index)
    return _SigmoidCrossEntropySum.apply(logits, index_labels(labels, valid), valid) / (valid.sum() + 1)


def region_term(
    logits: Tensor,
    labels: Tensor,
    *,
    pool: Pool = "avg",
    pool_size: int = 4,
    radius: int = 3,
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    """Negated bound on the mutual information of truth and prediction, up to a constant: to be minimised.

    `sum_c mean_b (1 / 2d) logdet(S_yy - S_yp (S_pp + eps)^-1 S_py + eps)` with the scatter matrices S of the
    d-dimensional neighbourhoods of one-hot truth y and sigmoid prediction p. Ignored pixels carry truth 0 and
    probability 1e-6, so they agree and have no gradient.

    Args:
        logits: `(B, C, H, W)`; half precision is computed in float32, covariances always in float64.
        labels: `(B, H, W)`, values `0..C-1` or `ignore_index`.
        pool: "avg" counts the padding of `pool_size // 2`, "max" does not, "none" keeps every pixel.
        pool_size: side and step of the pooling in pixels.
        radius: side of the neighbourhood in positions, d = radius^2.
        ignore_index: value of pixels without a label.

    Returns:
        A scalar of the logits' precision; a graph-connected 0 where the batch has no valid pixel.

    Raises:
        DataError: shapes that do not fit, labels out of range (CPU), or images too small for one neighbourhood.
        RecipeError: an unknown pooling, or a pooling size or radius below 1.
    """
    _known("pooling", pool, ("avg", "max", "none"))
    if pool_size < 1 or radius < 1:
        raise RecipeError(f"pool_size and radius must be at least 1, found {pool_size} and {radius}")
    check_shapes(logits, labels)
    with torch.autocast(logits.device.type, enabled=False):
        logits = at_least_float32(logits)
        batch, classes = logits.shape[:2]
        valid = valid_pixels(labels, classes, ignore_index)
        present = torch.zeros(batch, classes + 1, dtype=torch.bool, device=labels.device)
        present.scatter_(1, labels.long().masked_fill(~valid, classes).flatten(1), True)
        image, label = present[:, :classes].nonzero(as_tuple=True)

        _check_positions(logits, pool, pool_size, radius)
        terms = _RegionTerms.apply(logits, labels, valid, image, label, pool, pool_size, radius)
        constant = 0.5 * math.log(EPSILON)
        total = terms.sum() + valid.any().double() * (constant * (batch * classes - len(terms)))
        return (total / batch).to(logits.dtype)


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


class _RegionTerms(torch.autograd.Function):
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
        at_once = VALUES_AT_ONCE["cpu" if logits.device.type == "cpu" else "accelerator"]
        step = max(1, at_once // (logits[0, 0].numel() * (1 if pool_size > 1 and pool != "none" else 2 * radius**2)))
        for first in range(0, len(image), step):
            part = slice(first, first + step)
            probability = logits[image[part], label[part]].sigmoid_().mul_(seen[image[part]])
            true = torch.eq(marked[image[part]], label_of[part], out=torch.empty_like(probability))
            with torch.set_grad_enabled(wanted):
                predicted = _pooled(probability.requires_grad_(wanted) + PROBABILITY_EPSILON, pool, pool_size)
                products = _NeighbourhoodProducts.apply(predicted, _pooled(true, pool, pool_size), radius)
                value = conditional_logdet(*products) / (2 * radius**2)
            terms[part] = value.detach()
            if wanted:
                (slope,) = torch.autograd.grad(value, probability, torch.ones_like(value))
                probability = probability.detach()
                slope = slope.mul_(probability)
                torch.addcmul(
                    slope, slope, probability, value=-1, out=gradients[part]
                )  # times p (1 - p), 0 where masked
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


class _NeighbourhoodProducts(torch.autograd.Function):
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


class _SigmoidCrossEntropySum(torch.autograd.Function):
    """Sum over valid pixels and classes of the binary cross-entropy, without a one-hot map.

    The gradient, sigmoid minus one-hot, is written in one pass over the logits and one over the labels.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        ctx.save_for_backward(logits, labels, valid)
        own = logits.gather(1, labels.unsqueeze(1)).squeeze(1).masked_fill(~valid, 0)
        # log(1 + exp z) for every class; the released form of the same with a one-hot target.
        rest = F.softplus(logits, threshold=40).sum(1).masked_fill_(~valid, 0)
        return (rest - own).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        logits, labels, valid = ctx.saved_tensors
        result = logits.sigmoid()
        result.scatter_add_(1, labels.unsqueeze(1), -torch.ones_like(result[:, :1]))
        return result.mul_((valid * gradient).unsqueeze(1)), None, None


def _pooled(maps: Tensor, pool: Pool, size: int) -> Tensor:
    if pool == "none" or size == 1:
        return maps
    function = F.avg_pool2d if pool == "avg" else F.max_pool2d
    return function(maps.unsqueeze(1), size, stride=size, padding=size // 2).squeeze(1)


def _check_positions(logits: Tensor, pool: Pool, pool_size: int, radius: int) -> None:
    height, width = logits.shape[2:]
    if pool != "none":
        height, width = ((side + 2 * (pool_size // 2) - pool_size) // pool_size + 1 for side in (height, width))
    if min(height, width) < radius:
        raise DataError(
            f"the RMI loss needs at least {radius} x {radius} positions, found {height} x {width} from images of "
            f"{logits.shape[2]} x {logits.shape[3]} pixels; take larger crops, a smaller pool_size or a smaller radius"
        )


def _known(kind: str, name: str, names: tuple[str, ...]) -> None:
    if name not in names:
        raise RecipeError(unknown_name(f"RMI {kind}", name, names))


class RMI(nn.Module):
    """Module form of `rmi_loss`, with its arguments.

    Auxiliary outputs get the pixel term alone, as in the released code: see `auxiliary_loss`.

    Args:
        rmi: False leaves the pixel term alone, with weight 1.

    Raises:
        RecipeError: an unknown pixel term, pooling or form, or a pooling size or radius below 1.
    """

    def __init__(
        self,
        *,
        ce: Literal["sigmoid", "softmax"] = "sigmoid",
        pool: Pool = "avg",
        pool_size: int = 4,
        radius: int = 3,
        weight: float = 0.5,
        form: Literal["convex", "added"] = "convex",
        rmi: bool = True,
        ignore_index: int = IGNORE_INDEX,
    ) -> None:
        super().__init__()
        _known("pixel term", ce, PIXEL_TERMS)
        _known("pooling", pool, ("avg", "max", "none"))
        _known("form", form, FORMS)
        if pool_size < 1 or radius < 1:
            raise RecipeError(f"pool_size and radius must be at least 1, found {pool_size} and {radius}")
        self.arguments: dict[str, Any] = {
            "ce": ce,
            "pool": pool,
            "pool_size": pool_size,
            "radius": radius,
            "weight": weight,
            "form": form,
            "ignore_index": ignore_index,
        }
        self.rmi = rmi

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        if not self.rmi:
            return self.auxiliary_loss(logits, labels)
        return rmi_loss(logits, labels, **self.arguments)

    def auxiliary_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The pixel term alone."""
        pixel = sigmoid_cross_entropy if self.arguments["ce"] == "sigmoid" else cross_entropy
        return pixel(logits, labels, ignore_index=self.arguments["ignore_index"])
