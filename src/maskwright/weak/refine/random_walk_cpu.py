"""Compiled CPU kernel of the random walk; import it where it is needed.

Weights of pairs, and planes that walk, have margins of zeros, so that no loop asks whether a neighbour exists. Rows are
the vector registers' direction: the innermost loops run over a row and become vector code.
"""

from __future__ import annotations

import numpy as np

from maskwright.cpu.compiled import jit

TOGETHER = 8  # steps; the rows that one wave touches are of a few MB


@jit
def product(weights, down, right, source, sums, y):
    """Row y of source + sum over pairs of weight x source, not yet normalised; arguments as for `walk`."""
    width = len(sums)
    margin = (source.shape[1] - width) // 2
    row = y + margin
    sums[:] = source[row, margin : margin + width]
    for d in range(len(down)):
        dy, dx = down[d], right[d]
        left = margin - dx
        ahead = source[row + dy, margin + dx : margin + dx + width]
        behind = source[row - dy, left : left + width]
        to_ahead = weights[row, d, margin : margin + width]
        to_behind = weights[row - dy, d, left : left + width]
        for x in range(width):
            sums[x] += to_ahead[x] * ahead[x] + to_behind[x] * behind[x]


@jit
def walk(weights, down, right, inverse, plane, steps, coefficients):
    """One plane after many products with the transition matrix T, or a Chebyshev series of T applied to it.

    Several steps go down the rows as one wave, each `margin` rows behind the one before, so that weights come from
    memory once for all of them. Two planes take turns: where a step writes, no later row of the step before reads.

    Args:
        weights: of the pair (u, u + direction), `(H + 2m, D, W + 2m)`.
        down: rows of each direction, `(D,)`, 0..m.
        right: columns of each direction, `(D,)`, -m..m.
        inverse: of the degrees, `(H, W)`.
        plane: `(H + 2m, W + 2m)`, margins zero.
        steps: number of products.
        coefficients: of the polynomials T_0 .. T_steps of T, whose sum is returned; none: the last product is.

    Returns:
        As plane.
    """
    height, width = inverse.shape
    margin = (plane.shape[1] - width) // 2
    sums = np.empty(width, plane.dtype)
    planes = np.zeros((2, *plane.shape), plane.dtype)
    planes[0] = plane
    series = len(coefficients) > 0
    total = coefficients[0] * plane if series else planes[0]
    for start in range(0, steps, TOGETHER):
        taken = min(TOGETHER, steps - start)
        for front in range(height + (taken - 1) * margin):
            for step in range(start, start + taken):
                y = front - (step - start) * margin
                if y < 0 or y >= height:
                    continue
                product(weights, down, right, planes[step % 2], sums, y)
                target = planes[1 - step % 2][y + margin, margin : margin + width]
                if not series:
                    for x in range(width):
                        target[x] = sums[x] * inverse[y, x]
                    continue
                # The target still holds what was two steps before.
                after, before, share = min(2, step + 1), min(1, step), coefficients[step + 1]
                mean = total[y + margin, margin : margin + width]
                for x in range(width):
                    target[x] = after * (sums[x] * inverse[y, x]) - before * target[x]
                    mean[x] += share * target[x]
    return total if series else planes[steps % 2]
