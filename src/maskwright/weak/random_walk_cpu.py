"""Compiled CPU kernels of the random walk; import them where they are needed.

Weights of pairs, and planes that walk, have margins of zeros, so that no loop asks whether a neighbour exists. Rows are
the vector registers' direction: the innermost loops run over a row and become vector code.
"""

from __future__ import annotations

import numpy as np

from maskwright.compiled import jit


@jit
def product(weights, down, right, inverse, source, target, sums):
    """One step of one plane: target = T source.

    Args:
        weights: of the pair (u, u + direction), `(D, H + 2m, W + 2m)`.
        down: rows of each direction, `(D,)`, 0..m.
        right: columns of each direction, `(D,)`, -m..m.
        inverse: of the degrees, `(H, W)`.
        source: `(H + 2m, W + 2m)`, margins zero.
        target: the same, written within the margins.
        sums: a row of scratch, `(W,)`.
    """
    height, width = inverse.shape
    margin = (source.shape[1] - width) // 2
    for y in range(height):
        row = y + margin
        sums[:] = source[row, margin : margin + width]
        for d in range(len(down)):
            dy, dx = down[d], right[d]
            left = margin - dx
            ahead = source[row + dy, margin + dx : margin + dx + width]
            behind = source[row - dy, left : left + width]
            to_ahead = weights[d, row, margin : margin + width]
            to_behind = weights[d, row - dy, left : left + width]
            for x in range(width):
                sums[x] += to_ahead[x] * ahead[x] + to_behind[x] * behind[x]
        for x in range(width):
            target[row, margin + x] = sums[x] * inverse[y, x]


@jit
def walk(weights, down, right, inverse, plane, steps):
    """The plane after `steps` products; arguments as for `product`."""
    sums = np.empty(inverse.shape[1], plane.dtype)
    source, target = plane.copy(), np.zeros_like(plane)
    for _ in range(steps):
        product(weights, down, right, inverse, source, target, sums)
        source, target = target, source
    return source


@jit
def chebyshev_walk(weights, down, right, inverse, plane, coefficients):
    """Sum over k of coefficients[k] T_k(transition) applied to the plane; arguments as for `product`."""
    sums = np.empty(inverse.shape[1], plane.dtype)
    before, now, after = plane.copy(), np.zeros_like(plane), np.zeros_like(plane)
    total = coefficients[0] * before
    product(weights, down, right, inverse, before, now, sums)
    for k in range(1, len(coefficients)):
        if coefficients[k] != 0:
            total += coefficients[k] * now
        product(weights, down, right, inverse, now, after, sums)
        after *= 2
        after -= before
        before, now, after = now, after, before
    return total
