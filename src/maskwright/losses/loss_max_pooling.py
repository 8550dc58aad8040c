"""Loss max-pooling (Rota Bulo, Neuhold, Kontschieder, CVPR 2017): the hardest pixels carry the loss.

The pooled loss is `max_w sum_i w_i l_i` over weightings with `||w||_p <= gamma` and `||w||_inf <= tau`, where
`gamma = n^(1/p - 1)` and `tau = gamma m^(-1/p)`. It bounds the mean from above, equals it for p = inf or m = n, and is
the mean of the m hardest pixels for p = 1. By the envelope theorem its gradient is `w`, found without a graph.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from maskwright.errors import RecipeError
from maskwright.losses.cross_entropy import cross_entropy_map
from maskwright.losses.ignore import IGNORE_INDEX

_SUBSAMPLE = 64  # the warm start sorts one loss in this many


def loss_max_pooling_weights(
    losses: Tensor, *, p: float, m: Tensor | float | None = None, ratio: float = 0.25, valid: Tensor | None = None
) -> Tensor:
    """The weights that loss max-pooling gives to the losses of each row, solved exactly.

    For 1 < p < inf they are `tau * min(1, (l_i / alpha)^(q - 1))` with `q = p / (p - 1)`, where the threshold alpha
    solves `sum_i min(1, (l_i / alpha)^q) = m`. It is found by Newton's method on a concave piecewise linear function:
    a few passes over the losses, no sort, and the exact root.

    Args:
        losses: `(..., N)`, not negative; each row is pooled by itself.
        p: norm of the weights, 1 <= p <= inf; smaller is harder.
        m: least number of losses that carry weight, `(...)` or one number, real, clipped to 1..n; default `ratio * n`.
        ratio: m as a fraction of the n valid losses of a row.
        valid: bool `(..., N)`; invalid losses do not count in n and get weight 0.

    Returns:
        Weights `(..., N)` in the dtype of `losses`, without a graph; they sum to at most 1. A row of zeros, or without
        a valid loss, gets zeros (for p = inf: 1/n on the valid ones). Ties at the border of p = 1 go by position.
        A row with a non-finite loss gets 1/n, so that the pooled loss is non-finite too and a trainer's guard sees it.

    Raises:
        RecipeError: p, m or ratio out of range.
    """
    _check(p, ratio)
    with torch.no_grad(), torch.autocast(losses.device.type, enabled=False):
        shape = losses.shape
        rows = losses.detach().reshape(-1, shape[-1])
        rows = rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows
        if valid is None:
            counts = torch.full((len(rows), 1), float(shape[-1]), dtype=torch.float64, device=rows.device)
        else:
            valid = valid.reshape(rows.shape)
            rows = rows.masked_fill(~valid, 0)
            counts = valid.sum(1, keepdim=True, dtype=torch.float64)
        counts = counts.clamp(min=1)
        if m is None:
            supports = ratio * counts
        else:
            supports = torch.as_tensor(m, dtype=torch.float64, device=rows.device).expand(shape[:-1]).reshape(-1, 1)
        supports = torch.minimum(supports.clamp(min=1), counts)
        if math.isinf(p):
            weights = _uniform(rows, counts, valid)
        elif p == 1:
            weights = _hardest(rows, supports)
        else:
            weights = _power_law(rows, counts, supports, p)
        finite = rows.sum(1, keepdim=True).isfinite()
        if not finite.all():
            weights = torch.where(finite, weights, _uniform(rows, counts, valid))
    return weights.reshape(shape).to(losses.dtype)


def loss_max_pooling(
    losses: Tensor,
    valid: Tensor | None = None,
    *,
    p: float = 1.7,
    ratio: float = 0.25,
    scope: Literal["image", "batch"] = "image",
) -> Tensor:
    """Pool per-pixel losses of any kind.

    Args:
        losses: `(B, ...)`, not negative, with a graph.
        valid: bool, the same shape; invalid losses change neither the value nor a gradient.
        p: norm of the weights, 1 <= p <= inf.
        ratio: least fraction of the valid losses that carries weight.
        scope: "image" pools each image and averages the images that have a valid pixel (the paper's form); "batch"
            pools all pixels at once, which lets hard images take the mass. Nothing is exchanged in a distributed run:
            "image" gives the gradient of one process with the whole batch (where every image has a valid pixel), the
            batch of "batch" is the process's own.

    Returns:
        A scalar between the mean of the valid losses and the largest; a graph-connected 0 where none is valid.

    Raises:
        RecipeError: p, ratio or scope out of range.
    """
    if scope not in ("image", "batch"):
        raise RecipeError(f"scope must be 'image' or 'batch', found {scope!r}")
    rows = losses.reshape(1 if scope == "batch" else len(losses), -1)
    mask = None if valid is None else valid.reshape(rows.shape)
    weights = loss_max_pooling_weights(rows, p=p, ratio=ratio, valid=mask)
    if mask is not None:
        rows = rows.masked_fill(~mask, 0)
    pooled = (rows * weights).sum(1)
    if mask is None:
        return pooled.mean()
    return pooled.sum() / mask.any(1).sum().clamp(min=1)


class LossMaxPooling(nn.Module):
    """Loss max-pooling on top of cross-entropy, or of any per-pixel loss.

    Args:
        p: norm of the weights, 1 <= p <= inf; the paper scanned 1 to 2. 1.7 is what a public implementation uses; the
            paper's best values per data set are not known to us.
        ratio: least fraction of the valid pixels that carries weight; 0.25 as in the paper.
        scope: "image" or "batch"; see `loss_max_pooling`.
        ignore_index: value of pixels without a label.
        class_weights: factor on each class's pixel losses before pooling.
        pixel_loss: `(logits, labels, ignore_index=, class_weights=) -> (losses (B, H, W), valid (B, H, W))`.

    Raises:
        RecipeError: p, ratio or scope out of range.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        *,
        p: float = 1.7,
        ratio: float = 0.25,
        scope: Literal["image", "batch"] = "image",
        ignore_index: int = IGNORE_INDEX,
        class_weights: Sequence[float] | Tensor | None = None,
        pixel_loss=cross_entropy_map,
    ) -> None:
        super().__init__()
        _check(p, ratio)
        self.p, self.ratio, self.scope, self.ignore_index = float(p), ratio, scope, ignore_index
        self.pixel_loss = pixel_loss
        weights = None if class_weights is None else torch.as_tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        losses, valid = self.pixel_loss(
            logits, labels, ignore_index=self.ignore_index, class_weights=self.class_weights
        )
        return loss_max_pooling(losses, valid, p=self.p, ratio=self.ratio, scope=self.scope)


def _uniform(rows: Tensor, counts: Tensor, valid: Tensor | None) -> Tensor:
    weights = (1 / counts).to(rows.dtype).expand_as(rows)
    return weights if valid is None else weights.masked_fill(~valid, 0)


def _hardest(rows: Tensor, supports: Tensor) -> Tensor:
    """p = 1: the floor(m) largest losses get 1/m, the next one what is left of 1; zero losses get nothing."""
    weights = torch.zeros_like(rows)
    for row, weight, support in zip(rows, weights, supports[:, 0].tolist()):
        whole = math.floor(support)
        values, places = row.topk(min(whole + 1, len(row)), sorted=False)
        if len(places) > whole:
            last = values.argmin()
            weight[places] = 1 / support
            weight[places[last]] = 1 - whole / support
        else:
            weight[places] = 1 / support
    return weights.masked_fill_(rows <= 0, 0)


def _power_law(rows: Tensor, counts: Tensor, supports: Tensor, p: float) -> Tensor:
    """1 < p < inf, with losses scaled before the power: q is 51 at p = 1.02."""
    conjugate = p / (p - 1)
    unit = rows.amax(1, keepdim=True)
    while True:
        scaled = (rows / torch.where(unit > 0, unit, torch.ones_like(unit))).clamp_(max=1)
        powers = scaled.pow(conjugate)
        bound = _threshold(powers, supports)
        inactive = bound <= 0
        if not inactive.any():
            break
        # Small losses whose power underflowed look like zeros. What is far above the largest of them is saturated for
        # certain, so it may be cut to a value that leaves room for both in the floating point range.
        stuck = inactive & ((rows > 0).sum(1, keepdim=True) > supports)
        if not stuck.any():
            break
        hidden = rows.masked_fill(powers > 0, 0).amax(1, keepdim=True)
        unit = torch.where(stuck, torch.minimum(hidden * 1e20 ** (1 / conjugate), unit * 0.999), unit)
    threshold = (bound ** (1 / conjugate)).to(rows.dtype)  # alpha in units of `unit`
    ratio = scaled.div_(torch.where(inactive, torch.ones_like(threshold), threshold))
    weights = ratio.clamp_(max=1).pow_(conjugate - 1)
    if inactive.any():  # no more positive losses than m: the p-norm is inactive, all of them get tau
        weights = torch.where(inactive, (rows > 0).to(weights.dtype), weights)
    ceiling = counts ** (1 / p - 1) * supports ** (-1 / p)
    return weights.mul_(ceiling.to(weights.dtype))


def _threshold(powers: Tensor, supports: Tensor) -> Tensor:
    """b with `sum_i min(1, x_i / b) = m` for each row, 0 where no more than m of the x are positive.

    In s = 1/b the left side is increasing, concave and piecewise linear, so Newton's method from the left of the root
    stops at it after finitely many steps: `k = #{x > b}; b <- sum_{x <= b} x / (m - k)`.
    """
    total = powers.sum(1, keepdim=True, dtype=torch.float64)
    bound = _warm_start(powers, supports, total)
    above = None
    while True:
        found, tail = _split_at(powers, bound)
        if above is not None and torch.equal(found, above):
            return bound
        above = found
        room = supports - found
        inactive = (room <= 0) | (tail <= 0)
        bound = torch.where(inactive, torch.zeros_like(tail), tail / torch.where(inactive, torch.ones_like(room), room))


def _warm_start(powers: Tensor, supports: Tensor, total: Tensor) -> Tensor:
    """A start left of the root: one Newton step from the solution of a subsample, where that step is safe."""
    cold = total / supports
    sample = powers[:, ::_SUBSAMPLE]
    if sample.shape[1] < 64:
        return cold
    sample = sample.sort(1, descending=True).values.double()
    wanted = supports * (sample.shape[1] / powers.shape[1])
    tails = sample.flip(1).cumsum(1).flip(1)
    position = torch.arange(sample.shape[1], device=powers.device)
    over = ((wanted - position) * sample > tails).sum(1, keepdim=True).clamp(max=sample.shape[1] - 1)
    guess = tails.gather(1, over) / (wanted - over)
    found, tail = _split_at(powers, guess)
    room = supports - found
    safe = (guess > 0) & (wanted > over) & (room > 0) & (tail > 0)
    return torch.where(safe, tail / torch.where(safe, room, torch.ones_like(room)), cold)


def _split_at(powers: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
    """How many of each row are above the bound, and the sum of the others, accumulated in float64."""
    over = powers > bound.to(powers.dtype)
    return over.sum(1, keepdim=True), powers.masked_fill(over, 0).sum(1, keepdim=True, dtype=torch.float64)


def _check(p: float, ratio: float) -> None:
    if not p >= 1:
        raise RecipeError(f"loss max-pooling needs 1 <= p <= inf, found p = {p}")
    if not 0 < ratio <= 1:
        raise RecipeError(f"loss max-pooling needs 0 < ratio <= 1, found ratio = {ratio}")
