"""Region mutual information (RMI) loss (Zhao et al., NeurIPS 2019), as hierarchical multi-scale attention uses it.

A pixel and its neighbours are one point of d = radius^2 dimensions, for the truth and for the prediction. The loss is a
bound on how uncertain the truth's point still is once the prediction's is known, from the covariances of the two,
per image and class.

Mathematically the two released implementations (which agree with each other); computed otherwise:
* the conditional covariance is the Schur complement of one joint matrix, so its log-determinant is read off the last d
  diagonal entries of a single Cholesky factor (18 x 18 at radius 3); no inverse;
* a class that an image does not contain has no covariance with anything: its term is a constant without gradient, and
  is added as such instead of being computed;
* on the CPU, compiled kernels make both terms in one pass over the logits, and their gradient in another (`rmi_cpu`);
* elsewhere image-class pairs are worked on a few at a time, value and gradient together (`rmi_region`).
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
from maskwright.losses.resizing import pooled_side
from maskwright.losses.rmi_region import EPSILON, PROBABILITY_EPSILON, Pool, RegionTerms, region_terms

PIXEL_TERMS = ("sigmoid", "softmax")
FORMS = ("convex", "added")

# The compiled kernels go from one row of pooling cells to the next, also where nothing is pooled.
ROWS_AT_ONCE = 4


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
    _check_pooling(pool, pool_size, radius)
    first, second = (weight, 1 - weight) if form == "convex" else (1.0, weight)
    if ce == "sigmoid" and _is_compiled(logits, pool, pool_size):
        pixel_term, region = _terms_in_one_pass(logits, labels, pool_size, radius, ignore_index)
    else:
        pixel = sigmoid_cross_entropy if ce == "sigmoid" else cross_entropy
        pixel_term = pixel(logits, labels, ignore_index=ignore_index)
        region = region_term(logits, labels, pool=pool, pool_size=pool_size, radius=radius, ignore_index=ignore_index)
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
    if _is_compiled(logits, "avg", ROWS_AT_ONCE):
        from maskwright.losses.rmi_cpu import PixelPass

        nothing = labels.new_empty(0, dtype=torch.long)
        total = PixelPass.apply(logits, labels, valid, nothing, nothing, ROWS_AT_ONCE, 0.0)[0]
    else:
        total = _SigmoidCrossEntropySum.apply(logits, index_labels(labels, valid), valid)
    return (total / (valid.sum() + 1)).to(logits.dtype)


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
    _check_pooling(pool, pool_size, radius)
    if _is_compiled(logits, pool, pool_size):
        return _terms_in_one_pass(logits, labels, pool_size, radius, ignore_index)[1]
    check_shapes(logits, labels)
    with torch.autocast(logits.device.type, enabled=False):
        logits = at_least_float32(logits)
        valid = valid_pixels(labels, logits.shape[1], ignore_index)
        image, label = _present(labels, valid, logits.shape[1])
        _check_positions(logits, pool, pool_size, radius)
        terms = RegionTerms.apply(logits, labels, valid, image, label, pool, pool_size, radius)
        return _with_constants(terms, valid, logits)


def _is_compiled(logits: Tensor, pool: Pool, pool_size: int) -> bool:
    """Whether the kernels of `rmi_cpu` make the terms: float32 on the CPU, with maps smaller than the logits."""
    return (
        logits.device.type == "cpu"
        and logits.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and pool == "avg"
        and pool_size > 1
        and not torch.compiler.is_compiling()
    )


def _terms_in_one_pass(
    logits: Tensor, labels: Tensor, pool_size: int, radius: int, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """`sigmoid_cross_entropy` and `region_term` by compiled kernels."""
    from maskwright.losses.rmi_cpu import PixelPass

    check_shapes(logits, labels)
    with torch.autocast(logits.device.type, enabled=False):
        logits = at_least_float32(logits)
        valid = valid_pixels(labels, logits.shape[1], ignore_index)
        image, label = _present(labels, valid, logits.shape[1])
        _check_positions(logits, "avg", pool_size, radius)
        total, predicted, true = PixelPass.apply(logits, labels, valid, image, label, pool_size, PROBABILITY_EPSILON)
        region = _with_constants(region_terms(predicted, true, radius), valid, logits)
        return (total / (valid.sum() + 1)).to(logits.dtype), region


def _present(labels: Tensor, valid: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """The K pairs of an image and a class that it contains, in order."""
    present = torch.zeros(len(labels), classes + 1, dtype=torch.bool, device=labels.device)
    present.scatter_(1, labels.long().masked_fill(~valid, classes).flatten(1), True)
    image, label = present[:, :classes].nonzero(as_tuple=True)
    return image, label


def _with_constants(terms: Tensor, valid: Tensor, logits: Tensor) -> Tensor:
    """The region term from those of the pairs that are there."""
    batch, classes = logits.shape[:2]
    constant = 0.5 * math.log(EPSILON)
    total = terms.sum() + valid.any().double() * (constant * (batch * classes - len(terms)))
    return (total / batch).to(logits.dtype)


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


def _check_pooling(pool: Pool, pool_size: int, radius: int) -> None:
    _known("pooling", pool, ("avg", "max", "none"))
    if pool_size < 1 or radius < 1:
        raise RecipeError(f"pool_size and radius must be at least 1, found {pool_size} and {radius}")


def _check_positions(logits: Tensor, pool: Pool, pool_size: int, radius: int) -> None:
    height, width = logits.shape[2:]
    if pool != "none":
        height, width = (pooled_side(side, pool_size) for side in (height, width))
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
        _known("form", form, FORMS)
        _check_pooling(pool, pool_size, radius)
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
