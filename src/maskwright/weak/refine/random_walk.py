"""IRN's random walk of class maps within boundaries (Ahn et al., CVPR 2019, section 3.4), in memory linear in pixels.

Positions less than a radius apart are joined by a weight a^beta, where the affinity a is 1 minus the highest edge on
the straight path between them. The released code writes the weights into a matrix of pixels by pixels and squares it t
times. As (x T) T ... is the same as x (T T ...), a step per product of the sparse T with the maps gives the same: with
w_d(u) = a(u, u + d)^beta for each direction d of a half plane,

    y'(u) = (y(u) + sum_d [w_d(u) y(u + d) + w_d(u - d) y(u - d)]) / (1 + sum_d [w_d(u) + w_d(u - d)])

so each step gives every position a mean of its neighbours. `exp_times` t of the papers' recipes are 2^t steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from maskwright.cpu.threads import in_parts
from maskwright.errors import DataError, RecipeError
from maskwright.weak.labels import seed_labels


@lru_cache
def directions(radius: float) -> tuple[tuple[int, int], ...]:
    """(dy, dx) of every neighbour nearer than `radius` in one half plane: 34 for radius 5, 152 for radius 10."""
    reach = margin_of(radius)
    across = range(-reach, reach + 1)
    return tuple(
        (dy, dx)
        for dy in range(reach + 1)
        for dx in across
        if (dy > 0 or dx > 0) and (dy == 0 or dy * dy + dx * dx < radius * radius)
    )


def margin_of(radius: float) -> int:
    """How far a neighbour can be along one axis: ceil(radius) - 1.

    Raises:
        RecipeError: a radius within which there is no neighbour.
    """
    if radius <= 1:
        raise RecipeError(f"the radius must be above 1, or nothing is joined; found {radius}")
    return math.ceil(radius) - 1


@lru_cache
def path_offsets(dy: int, dx: int) -> tuple[tuple[int, int], ...]:
    """Positions on the way from (0, 0) to (dy, dx): those of the bounding rectangle nearer than 1 to the line."""
    return tuple(
        (y, x)
        for y in range(min(0, dy), max(0, dy) + 1)
        for x in range(min(0, dx), max(0, dx) + 1)
        if (dy * x - dx * y) ** 2 < dy * dy + dx * dx
    )


def path_maximum(edges: Tensor, dy: int, dx: int) -> Tensor:
    """The highest edge on the way from u to u + (dy, dx), for every u for which both lie in the image.

    Args:
        edges: `(..., H, W)`.
        dy: rows down, at least 0.
        dx: columns to the right, negative to the left.

    Returns:
        `(..., H - dy, W - |dx|)`; its first column is u at column max(0, -dx).
    """
    height, width = edges.shape[-2] - dy, edges.shape[-1] - abs(dx)
    left = max(0, -dx)
    highest: Tensor | None = None
    for y, x in path_offsets(dy, dx):
        window = edges[..., y : y + height, left + x : left + x + width]
        highest = window if highest is None else torch.maximum(highest, window)
    assert highest is not None
    return highest


def affinities(edges: Tensor, radius: float, margin: int = 0) -> Tensor:
    """Affinity of each position with its neighbour in each direction: 1 minus the highest edge on the way.

    Args:
        edges: `(..., H, W)` in 0..1.
        radius: see `directions`.
        margin: zeros to be added on all four sides.

    Returns:
        `(..., D, H + 2 margin, W + 2 margin)`; 0 where the neighbour lies outside of the image.
    """
    return of_pairs(edges, lambda dy, dx: 1 - path_maximum(edges, dy, dx), radius, margin)


def of_pairs(planes: Tensor, affinity: Callable[[int, int], Tensor], radius: float, margin: int = 0) -> Tensor:
    """The affinity of each position with its neighbour in each direction, laid out for a walk.

    Args:
        planes: `(..., H, W)`, whose shape and type it gets.
        affinity: called with a direction (dy, dx); gives `(..., H - dy, W - |dx|)` as `path_maximum` does.
        radius: see `directions`.
        margin: zeros to be added on all four sides.

    Returns:
        `(..., D, H + 2 margin, W + 2 margin)`; 0 where the neighbour lies outside of the image.
    """
    height, width = planes.shape[-2:]
    ways = directions(radius)
    # In memory all directions of a row lie together: a walk goes row by row.
    found = planes.new_zeros(*planes.shape[:-2], height + 2 * margin, len(ways), width + 2 * margin).transpose(-3, -2)
    for number, (dy, dx) in enumerate(ways):
        if dy < height and abs(dx) < width:
            left = margin + max(0, -dx)
            pairs = affinity(dy, dx)
            rows, columns = pairs.shape[-2:]
            found[..., number, margin : margin + rows, left : left + columns] = pairs
    return found


class Stencil(NamedTuple):
    """A transition matrix without the matrix.

    Args:
        weights: of pairs, `(B, D, H + 2m, W + 2m)` with zero margins, m = `margin_of(radius)`.
        inverse: of the degrees, `(B, H, W)`.
        ways: the D directions.
    """

    weights: Tensor
    inverse: Tensor
    ways: tuple[tuple[int, int], ...]

    @property
    def margin(self) -> int:
        return (self.weights.shape[-1] - self.inverse.shape[-1]) // 2


def transition(edges: Tensor, radius: float = 5, beta: float = 10.0) -> Stencil:
    """One step of the walk: weights a^beta, each position's normalised to 1, with 1 for staying.

    Args:
        edges: `(B, H, W)` in 0..1.
        radius: of neighbours.
        beta: above 0; the higher, the more an edge hinders.
    """
    return stencil(affinities(edges, radius, margin_of(radius)), radius, beta)


def stencil(pairs: Tensor, radius: float, beta: float) -> Stencil:
    """One step of a walk along any affinities, as `transition` makes it of edges.

    Args:
        pairs: `(B, D, H + 2m, W + 2m)` as `of_pairs` gives them with the margin m of the radius; they are overwritten.
        radius: of neighbours.
        beta: exponent, above 0.

    Raises:
        RecipeError: another exponent.
    """
    if beta <= 0:
        raise RecipeError(f"beta must be above 0, found {beta}")
    margin, ways = margin_of(radius), directions(radius)
    height, width = pairs.shape[-2] - 2 * margin, pairs.shape[-1] - 2 * margin
    weights = pairs.pow_(beta)
    degree = weights.new_ones(len(weights), height, width)
    for number, (dy, dx) in enumerate(ways):
        plane = weights[:, number]
        degree += plane[:, margin : margin + height, margin : margin + width]
        degree += plane[:, margin - dy : margin - dy + height, margin - dx : margin - dx + width]
    return Stencil(weights, degree.reciprocal_(), ways)


@torch.no_grad()
def random_walk(
    maps: Tensor,
    edges: Tensor,
    *,
    radius: float = 5,
    beta: float = 10.0,
    steps: int = 256,
    tolerance: float = 0.0,
) -> Tensor:
    """Class maps after a random walk that edges hinder; they start as `maps * (1 - edges)`.

    On the CPU all is computed in float64, planes side by side in threads, planes of zeros for nothing; elsewhere in
    float32, or float64 where the maps are that.

    Args:
        maps: `(B, C, h, w)`, at a quarter of the image size in the papers.
        edges: `(B, 1, h, w)` in 0..1.
        radius: of neighbours, in positions.
        beta: exponent of the affinities.
        steps: products with the transition matrix, 2^exp_times.
        tolerance: 0 for that many products. Above, a Chebyshev series of the power is cut where what is left out is
            below this, in the operator norm of the symmetric form: 86 products instead of 256 for 4e-8.

    Returns:
        Of the shape and type of `maps`.

    Raises:
        DataError: maps and edges do not fit.
        RecipeError: radius or beta that cannot be.
    """
    if maps.ndim != 4 or edges.shape != (len(maps), 1, *maps.shape[2:]):
        raise DataError(
            f"maps are {tuple(maps.shape)}, edges {tuple(edges.shape)}; expected (B, C, h, w) and (B, 1, h, w)"
        )
    dtype = walk_type(maps)
    step = transition(edges[:, 0].to(dtype), radius, beta)
    return walk(maps.to(dtype) * (1 - edges.to(dtype)), step, steps, tolerance).to(maps.dtype)


def walk_type(maps: Tensor) -> torch.dtype:
    """The type of number that maps walk in: float64 on the CPU, elsewhere float32, or float64 where they are that."""
    return torch.float64 if maps.device.type == "cpu" or maps.dtype == torch.float64 else torch.float32


def walk(maps: Tensor, step: Stencil, steps: int, tolerance: float = 0.0) -> Tensor:
    """Maps after steps of a walk.

    Args:
        maps: `(B, C, h, w)`, in the type that `walk_type` gives, as the stencil.
        step: one step.
        steps: see `random_walk`.
        tolerance: see `random_walk`.

    Returns:
        `(B, C, h, w)`.
    """
    padded = F.pad(maps, (step.margin,) * 4)
    coefficients = power_series(steps, tolerance) if tolerance > 0 and steps > 0 else None
    if maps.device.type == "cpu" and find_spec("numba") is not None:
        walked = _compiled(step, padded, steps, coefficients)
    else:
        walked = _by_shifts(step, padded, steps, coefficients)
    height, width = maps.shape[2:]
    inside = slice(step.margin, step.margin + height), slice(step.margin, step.margin + width)
    return walked[:, :, inside[0], inside[1]]


@lru_cache
def power_series(power: int, tolerance: float) -> tuple[float, ...]:
    """Coefficients of x^power in Chebyshev polynomials, as many as leave out at most `tolerance` on -1..1.

    x^n = sum_k 2^(1 - n) C(n, (n - k) / 2) T_k(x) over k = n, n - 2, ...; that of k = 0 is halved.
    """
    found = [
        0.0 if (power - k) % 2 else math.comb(power, (power - k) // 2) / 2 ** (power - 1) / (2 if k == 0 else 1)
        for k in range(power + 1)
    ]
    left_out = 0.0
    while len(found) > 1 and left_out + found[-1] <= tolerance:
        left_out += found.pop()
    return tuple(found)


def _compiled(step: Stencil, padded: Tensor, steps: int, coefficients: tuple[float, ...] | None) -> Tensor:
    from maskwright.weak.refine import random_walk_cpu as kernels

    weights, inverse = step.weights.transpose(1, 2).numpy(), step.inverse.numpy()
    down, right = np.array(step.ways, np.int64).T.copy()
    result = torch.zeros_like(padded)
    source, target = padded.numpy(), result.numpy()

    if coefficients is not None:
        steps = len(coefficients) - 1
    series = np.array(coefficients or (), source.dtype)
    jobs = [job for job in np.ndindex(source.shape[:2]) if source[job].any()]

    def some(first: int, end: int) -> None:
        for job in jobs[first:end]:
            target[job] = kernels.walk(weights[job[0]], down, right, inverse[job[0]], source[job], steps, series)

    in_parts(some, len(jobs))
    return result


def _by_shifts(step: Stencil, padded: Tensor, steps: int, coefficients: tuple[float, ...] | None) -> Tensor:
    """The walk by torch alone: two fused products per direction and step, nothing held but a few copies of the maps."""
    margin = step.margin
    height, width = step.inverse.shape[-2:]
    inverse = step.inverse[:, None]

    def seen(planes: Tensor, dy: int = 0, dx: int = 0) -> Tensor:
        return planes[..., margin + dy : margin + dy + height, margin + dx : margin + dx + width]

    pairs = [
        (weight, dy * sign, dx * sign)
        for number, (dy, dx) in enumerate(step.ways)
        for plane in (step.weights[:, number, None],)
        for sign, weight in ((1, seen(plane)), (-1, seen(plane, -dy, -dx)))
    ]

    def product(source: Tensor, target: Tensor) -> Tensor:
        inner = seen(target)
        inner.copy_(seen(source))
        for weight, dy, dx in pairs:
            inner.addcmul_(weight, seen(source, dy, dx))
        inner.mul_(inverse)
        return target

    if coefficients is None:
        source, target = padded.clone(), torch.zeros_like(padded)
        for _ in range(steps):
            source, target = product(source, target), source
        return source
    before, after = padded.clone(), torch.zeros_like(padded)
    now = product(before, torch.zeros_like(padded))
    total = coefficients[0] * before
    for coefficient in coefficients[1:]:
        if coefficient:
            total.add_(now, alpha=coefficient)
        product(now, after).mul_(2).sub_(before)
        before, now, after = now, after, before
    return total


def enlarge_walk(walked: Tensor, seen: tuple[int, int], size: tuple[int, int] | None = None) -> Tensor:
    """Walked maps of one image at full size, divided by one maximum over all classes, as in IRN's code.

    A weak class can therefore vanish beside a strong one.

    Args:
        walked: `(n, h, w)` at a quarter of what the network saw, rounded up; not negative.
        seen: height and width that the network saw.
        size: height and width of the image, where it is another.

    Returns:
        `(n, H, W)` with maximum 1, or zero everywhere.
    """
    if len(walked) == 0:
        return walked.new_zeros(0, *(size or seen))
    large = F.interpolate(walked[None], scale_factor=4, mode="bilinear", align_corners=False)[0]
    large = large[:, : seen[0], : seen[1]]
    if size is not None and size != seen:
        large = F.interpolate(large[None], size, mode="bilinear", align_corners=False)[0]
    highest = large.max()
    return large / torch.where(highest > 0, highest, 1)


def walk_labels(walked: Tensor, size: tuple[int, int], threshold: float = 0.25) -> np.ndarray:
    """Which map each pixel belongs to.

    Args:
        walked: `(n, h, w)`, see `enlarge_walk`.
        size: height and width of the image.
        threshold: score of the background, as a share of the highest score.

    Returns:
        `(H, W)` uint8: 0 background, k for map k - 1.
    """
    large = enlarge_walk(walked, size).cpu().numpy()
    return seed_labels(large, np.arange(len(large)), threshold, 0, range(1, len(large) + 1))
