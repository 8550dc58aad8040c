"""The second moment of label cells as a product that is never formed, and its top eigenvectors by block Lanczos steps.

A block of vectors is `(b, r*r*C)` float64 here, one vector a row: so both the compiled loops and the products of a few
vectors with many read memory in order.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from maskwright.cpu.compiled import jit
from maskwright.cpu.threads import in_parts

# Vectors that go through the cells together: more leave the cache, with fewer than the least the time goes to indices.
AT_ONCE, AT_LEAST = 16, 8
# Small blocks need fewer products for the same error (256 directions to 1e-4 of the least: 480 vectors in blocks of 16,
# about 530 in blocks of 32); below 16 the products with the basis run at the speed of memory.
BLOCK = 16
# A direction that comes out this much smaller has lost digits; its block is made orthogonal again.
SHRUNK = 1e-3


def second_moment(
    labels: np.ndarray, weights: np.ndarray, classes: int, centred: bool
) -> tuple[Callable[[torch.Tensor], torch.Tensor], float]:
    """The second moment of the vectors of cells.

    Args:
        labels: `(n, r*r)` uint8, `classes` for ignored pixels.
        weights: `(n,)` float64, sum 1.
        classes: C.
        centred: about the mean vector.

    Returns:
        A function that multiplies vectors `(b, r*r*C)` by the moment, and its trace.
    """
    starts = np.zeros(len(labels) + 1, np.int64)
    np.cumsum(1 + np.count_nonzero(labels[:, 1:] != labels[:, :-1], axis=1), out=starts[1:])
    gained, lost = np.empty((2, starts[-1]), np.uint32)
    _changes(labels, classes, starts, gained, lost)

    def apply(block: torch.Tensor) -> torch.Tensor:
        vectors = block.contiguous().numpy()
        out = np.empty_like(vectors)

        def part(first: int, end: int) -> None:
            for start in range(first, end, AT_ONCE):
                some = slice(start, min(start + AT_ONCE, end))
                _product(starts, gained, lost, weights, classes, vectors[some], out[some])

        in_parts(part, len(vectors), AT_LEAST)
        product = torch.from_numpy(out)
        return product.sub_(torch.outer(block @ mean, mean)) if centred else product

    total = float((weights * (labels < classes).sum(1)).sum())
    if not centred:
        return apply, total
    pixels = np.ascontiguousarray(labels.T)
    mean = torch.from_numpy(np.stack([np.bincount(pixel, weights, classes + 1)[:classes] for pixel in pixels]).ravel())
    return apply, total - float(mean @ mean)


@jit
def _changes(labels, classes, starts, gained, lost):  # pragma: no cover (compiled)
    """Where labels change along each cell, as rows of the table of running sums.

    The sum of a vector over a cell's pixels is the sum over its runs of `sums[end, class] - sums[start, class]`: at
    each change one row is added, that of the class that ends, and one is taken away. Row 0 is zero; it stands for the
    start of the cell and for ignored pixels.
    """
    pixels = labels.shape[1]
    for cell in range(len(labels)):
        change = starts[cell]
        for pixel in range(1, pixels + 1):
            before = labels[cell, pixel - 1]
            after = labels[cell, pixel] if pixel < pixels else classes
            if before != after or pixel == pixels:
                gained[change] = pixel * classes + before if before < classes else 0
                lost[change] = pixel * classes + after if after < classes else 0
                change += 1


@jit
def _product(starts, gained, lost, weights, classes, vectors, out):  # pragma: no cover (compiled)
    """`out` becomes `vectors` times the sum of `weight v v^T` over the cells."""
    width, rows = vectors.shape
    sums = np.zeros((rows + classes, width))
    for row in range(rows):
        for column in range(width):
            sums[row + classes, column] = sums[row, column] + vectors[column, row]
    steps = np.zeros((rows + 2 * classes, width))
    code = np.empty(width)
    for cell in range(len(weights)):
        code[:] = 0.0
        for change in range(starts[cell], starts[cell + 1]):
            plus, minus = gained[change], lost[change]
            for column in range(width):
                code[column] += sums[plus, column] - sums[minus, column]
        for column in range(width):
            code[column] *= weights[cell]
        for change in range(starts[cell], starts[cell + 1]):
            plus, minus = gained[change], lost[change]
            for column in range(width):
                steps[plus, column] += code[column]
                steps[minus, column] -= code[column]
    for row in range(rows - 1, -1, -1):
        for column in range(width):
            steps[row + classes, column] += steps[row + 2 * classes, column]
            out[column, row] = steps[row + classes, column]


def top_eigenpairs(
    apply: Callable[[torch.Tensor], torch.Tensor], rows: int, dim: int, total: float, tolerance: float, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Top eigenpairs of a symmetric positive matrix of known trace: block Lanczos with thick restarts.

    The matrix is projected onto the whole basis (Rayleigh-Ritz), and every new block is made orthogonal to all before
    it, so rounding cannot give an eigenvalue twice. It is done in two passes: against the blocks that Lanczos'
    recurrence names, which takes away what is large, and against all, which takes away what rounding left.

    Args:
        apply: multiplies vectors `(b, rows)` by the matrix.
        rows: of the matrix.
        dim: pairs that are wanted.
        total: its trace; the error is what of it the found eigenvalues leave.
        tolerance: stop when the error is within this share of the least, by what the last two gains say if they go on
            falling by the same factor (they fall faster); a gain is that of `max(32, dim / 8)` new vectors.
        seed: of the random start.

    Returns:
        Values `(dim,)` descending, and vectors `(rows, dim)`, both float64.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(count: int) -> torch.Tensor:
        return torch.randn(count, rows, dtype=torch.float64, generator=generator)

    block, pause = min(BLOCK, rows), max(2 * BLOCK, dim // 8)
    # Whole blocks: a part of one that is left out for want of room would be missing from the recurrence for good.
    kept = -(-dim // BLOCK) * BLOCK + 2 * BLOCK
    capacity = 2 * kept + 12 * BLOCK
    if capacity > rows - block:
        capacity = rows
    basis = torch.empty(capacity, rows, dtype=torch.float64)
    projected = torch.zeros(capacity, capacity, dtype=torch.float64)
    # `coupled` is the first vector that the recurrence ties to the newest block.
    coupled, held, look, captured, gain = 0, 0, max(kept, 3 * dim // 2), -np.inf, np.inf
    following = torch.linalg.qr(noise(block).T)[0].T
    while True:
        start, held = held, held + len(following)
        basis[start:held] = following
        product = apply(following)
        shares = torch.zeros(held - start, held, dtype=torch.float64)
        for first in (coupled, 0):
            size = torch.linalg.vector_norm(product)
            part = product @ basis[first:held].T
            product.addmm_(part, basis[first:held], alpha=-1)
            shares[:, first:] += part
        projected[start:held, :held], projected[:held, start:held] = shares, shares.T
        now, done = projected[:held, :held], held == rows
        if held >= look:
            reached = float(torch.linalg.eigvalsh(now)[-dim:].sum())
            before, gain, captured, look = gain, reached - captured, reached, held + pause
            ahead = gain * gain / (before - gain) if gain < before < np.inf else np.inf
            done = done or gain <= 1e-15 * total or ahead <= tolerance * (total - captured)
        if done or held == capacity:
            values, vectors = (found.flip(-1) for found in torch.linalg.eigh(now))
            if done:
                return values[:dim], basis[:held].T @ vectors[:, :dim]
        following, least = _orthonormal(product[: rows - held], size)
        while least < SHRUNK:
            # Exact zeros would leave the next directions to chance; the noise is far below anything that counts.
            following += 1e-14 * noise(len(following))
            following.addmm_(following @ basis[:held].T, basis[:held], alpha=-1)
            following, least = _orthonormal(following, 1.0)
        coupled = start
        if held == capacity:
            basis[:kept] = vectors[:, :kept].T @ basis
            projected.zero_()
            projected.diagonal()[:kept] = values[:kept]
            coupled, held, look = 0, kept, look - (capacity - kept)


def _orthonormal(block: torch.Tensor, size: torch.Tensor | float) -> tuple[torch.Tensor, float]:
    """Orthonormal rows that span those of a block, and how small the least new direction was beside `size`."""
    vectors, factor = torch.linalg.qr(block.T)
    return vectors.T.contiguous(), float(factor.diagonal().abs().min() / max(size, 1e-300))
