"""Compiled CPU kernels of the permutohedral lattice and of the mean-field update; import them where they are needed.

Everything works on groups of four labels, because a row of four float32 is one vector register: values of G groups at N
pixels are `(G, N, 4)`. Rows are spelled out (`a0 .. a3`), since the compiler keeps them in registers only then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from maskwright.cpu.compiled import exponential

BLOCK = 256
HASH = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: neighbouring keys land far apart
f32 = np.float32


settings: Any = numba.config


def jit(signature: str) -> Callable[[Callable], Any]:
    """Compile for one signature, and keep the result on disk where some folder can be written.

    Rows of four become vector instructions only by LLVM's superword pass, which numba leaves out unless told globally.
    """

    def compiled(function: Callable) -> Any:
        options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
        before, settings.SLP_VECTORIZE = settings.SLP_VECTORIZE, 1
        try:
            return numba.njit(signature, cache=True, **options)(function)
        except RuntimeError:  # no folder for the cache
            return numba.njit(signature, **options)(function)
        finally:
            settings.SLP_VECTORIZE = before

    return compiled


@jit("i8[::1](f4[:,::1], i8, i8, i8, i8, f4[::1], i8[::1], i8, u4[:,::1], f4[:,::1])")
def build(features, first, rows, columns, width, scale, strides, origin, vertices, weights):
    """Enclosing simplex of every pixel of a tile, and the lattice points in order of first use.

    Args:
        features: of the whole image, `(d, N)` float32, in standard deviations.
        first: the tile's upper left pixel.
        rows, columns: of the tile.
        width: pixels from one row to the next.
        scale: of each feature axis, `(d,)` float32.
        strides: of the lattice coordinates in a key, `(d + 1,)` int64.
        origin: key of the lattice point 0.
        vertices: `(N, d + 1)` uint32, gets which of the tile's points is each corner of each of its pixels' simplices.
        weights: `(N, d + 1)` float32, gets their barycentric weights.

    Returns:
        Keys of the tile's points, `(M,)` int64.
    """
    d = len(features)
    d1 = d + 1
    up, down = f32(d1), f32(1) / f32(d1)
    total_stride = strides.sum()
    shift = np.uint64(52)
    table = np.full(4096, -1, np.int64)  # keys by their hash
    place = np.empty(table.size, np.uint32)
    keys = np.empty(table.size // 2, np.int64)
    found = 0

    position = np.empty((d1, BLOCK), np.float32)
    remainder = np.empty((d1, BLOCK), np.float32)
    rank = np.empty((d1, BLOCK), np.float32)
    ranked = np.empty((d1, BLOCK), np.float32)
    total = np.empty(BLOCK, np.float32)
    key = np.empty((d1 + 1, BLOCK), np.int64)
    slot = np.empty((d1, BLOCK), np.int64)

    parts = (columns + BLOCK - 1) // BLOCK
    for block in range(rows * parts):
        begun = block % parts * BLOCK
        start = first + block // parts * width + begun
        m = min(BLOCK, columns - begun)
        # Pixels run innermost, so that each of these loops is vector code.
        total[:] = 0
        for j in range(d, 0, -1):
            axis, times = scale[j - 1], f32(j)
            for p in range(m):
                c = features[j - 1, start + p] * axis
                position[j, p] = total[p] - times * c
                total[p] += c
        for p in range(m):
            position[0, p] = total[p]
        total[:] = 0
        for i in range(d1):
            for p in range(m):
                v = np.floor(position[i, p] * down + f32(0.5))
                total[p] += v
                remainder[i, p] = v * up
                position[i, p] -= v * up
                rank[i, p] = 0
        for i in range(d):
            for j in range(i + 1, d1):
                for p in range(m):
                    less = f32(1) if position[i, p] < position[j, p] else f32(0)
                    rank[i, p] += less
                    rank[j, p] += f32(1) - less
        key[0] = origin
        for i in range(d1):
            stride = strides[i]
            for p in range(m):
                r = rank[i, p] + total[p]
                wrap = up if r < f32(0) else (-up if r > f32(d) else f32(0))
                rank[i, p] = r + wrap
                position[i, p] -= wrap
                key[0, p] += np.int64(remainder[i, p] + wrap) * stride
        ranked[:] = 0
        key[1:] = 0  # first the stride of the coordinate that is to fall from one corner to the next
        for r in range(d1):
            wanted, falls = f32(r), key[d1 - r]
            for i in range(d1):
                stride = strides[i]
                for p in range(m):
                    ranked[r, p] += position[i, p] if rank[i, p] == wanted else f32(0)
                    falls[p] += stride if rank[i, p] == wanted else 0
        for r in range(1, d1):
            for p in range(m):
                key[r, p] = key[r - 1, p] + (total_stride - d1 * key[r, p])
        for p in range(m):
            position[0, p] = f32(1) + (ranked[d, p] - ranked[0, p]) * down
        for r in range(1, d1):
            for p in range(m):
                position[r, p] = (ranked[d - r, p] - ranked[d1 - r, p]) * down

        while 2 * (found + m * d1) > table.size:
            table, place = np.full(2 * table.size, -1, np.int64), np.empty(2 * table.size, np.uint32)
            more = np.empty(2 * keys.size, np.int64)
            more[:found] = keys[:found]
            keys = more
            shift -= np.uint64(1)
            for e in range(found):
                at = np.int64((np.uint64(keys[e]) * HASH) >> shift)
                while table[at] >= 0:
                    at = (at + 1) & (table.size - 1)
                table[at], place[at] = keys[e], e
        for r in range(d1):
            for p in range(m):
                slot[r, p] = np.int64((np.uint64(key[r, p]) * HASH) >> shift)
        for p in range(m):
            for r in range(d1):
                k, at = key[r, p], slot[r, p]
                while table[at] != k:
                    if table[at] < 0:
                        table[at], place[at], keys[found] = k, found, k
                        found += 1
                        break
                    at = (at + 1) & (table.size - 1)
                vertices[start + p, r] = place[at]
                weights[start + p, r] = position[r, p]
    return keys[:found].copy()


@jit("Tuple((u4[::1], i8[::1]))(i8[::1], i8[::1])")
def number(keys, order):
    """Number keys `(L,)`, equal ones alike, as ascending as `order` `(L,)` takes them; and the M different keys."""
    numbers = np.empty(keys.size, np.uint32)
    different = np.empty(keys.size, np.int64)
    found = 0
    for e in order:
        if found == 0 or keys[e] != different[found - 1]:
            different[found] = keys[e]
            found += 1
        numbers[e] = found - 1
    return numbers, different[:found].copy()


@jit("void(u4[:,::1], i8, i8, i8, i8, u4[::1])")
def renumber(vertices, first, rows, columns, width, numbers):
    """Replace the tile's own numbers of points by those of the whole lattice; arguments as for `build`."""
    d1 = vertices.shape[1]
    for row in range(rows):
        for p in range(first + row * width, first + row * width + columns):
            for r in range(d1):
                vertices[p, r] = numbers[vertices[p, r]]


@jit("void(i8[::1], i8, u4[::1], u4[::1])")
def neighbours(keys, delta, before, after):
    """The points before and after each point along one blur direction; M where there is none.

    Args:
        keys: `(M,)`, ascending.
        delta: from a point's key to that of the one after it.
        before, after: `(M,)`, written.
    """
    m = keys.size
    before[:] = m
    after[:] = m
    e = 0
    for p in range(m):
        k = keys[p] + delta
        while e < m and keys[e] < k:
            e += 1
        if e < m and keys[e] == k:
            after[p] = e
            before[e] = p


@numba.njit(fastmath={"contract"})
def read(rows, p, first):  # pragma: no cover (compiled)
    return rows[p, first], rows[p, first + 1], rows[p, first + 2], rows[p, first + 3]


@numba.njit(fastmath={"contract"})
def write(rows, p, first, y):  # pragma: no cover (compiled)
    rows[p, first], rows[p, first + 1], rows[p, first + 2], rows[p, first + 3] = y


@numba.njit(fastmath={"contract"})
def plus(a, w, b):  # pragma: no cover (compiled)
    """a + w b."""
    return a[0] + w * b[0], a[1] + w * b[1], a[2] + w * b[2], a[3] + w * b[3]


@jit("void(f4[:,::1], u4[:,::1], f4[:,::1], f4[:,::1])")
def splat(q, vertices, weights, values):
    """Spread pixels `(N, 4)` over the lattice `(M + 1, 4)`."""
    values[:] = 0
    n, d1 = vertices.shape
    for p in range(n):
        a = read(q, p, 0)
        for r in range(d1):
            e = vertices[p, r]
            write(values, e, 0, plus(read(values, e, 0), weights[p, r], a))


@jit("void(f4[:,::1], f4[:,::1], u4[:,::1], f4[:,::1], f4[:,::1])")
def splat_pair(first, second, vertices, weights, values):
    """Spread pixels of two groups `(N, 4)` over the lattice `(M + 1, 8)`."""
    values[:] = 0
    n, d1 = vertices.shape
    for p in range(n):
        a, b = read(first, p, 0), read(second, p, 0)
        for r in range(d1):
            e, w = vertices[p, r], weights[p, r]
            y, z = plus(read(values, e, 0), w, a), plus(read(values, e, 4), w, b)
            write(values, e, 0, y)
            write(values, e, 4, z)


@jit("void(f4[:,::1], u4[::1], u4[::1], f4[:,::1])")
def blur(values, before, after, out):
    """Filter `(M + 1, 4 or 8)`, whose last row is 0, by (1/2, 1, 1/2) along one direction."""
    half, one = f32(0.5), f32(1)
    pair = values.shape[1] == 8
    for p in range(before.size):
        i, j = before[p], after[p]
        y = plus(read(values, p, 0), half, plus(read(values, i, 0), one, read(values, j, 0)))
        if pair:
            z = plus(read(values, p, 4), half, plus(read(values, i, 4), one, read(values, j, 4)))
            write(out, p, 4, z)
        write(out, p, 0, y)


@jit("void(f4[:,::1], u4[:,::1], f4[:,::1], f4[:,::1], f4[:,::1])")
def gather(values, vertices, weights, base, out):
    """Slice: `out = base +` the lattice `(M + 1, 4)` read at the pixels `(N, 4)`; out may be base."""
    n, d1 = vertices.shape
    for p in range(n):
        a = read(base, p, 0)
        for r in range(d1):
            a = plus(a, weights[p, r], read(values, vertices[p, r], 0))
        write(out, p, 0, a)


@jit("void(f4[:,::1], u4[:,::1], f4[:,::1], f4[:,::1], f4[:,::1], f4[:,::1], f4[:,::1])")
def gather_pair(values, vertices, weights, base, second_base, out, second_out):
    """As `gather`, of two groups and the lattice `(M + 1, 8)`."""
    n, d1 = vertices.shape
    for p in range(n):
        a, b = read(base, p, 0), read(second_base, p, 0)
        for r in range(d1):
            e, w = vertices[p, r], weights[p, r]
            a, b = plus(a, w, read(values, e, 0)), plus(b, w, read(values, e, 4))
        write(out, p, 0, a)
        write(second_out, p, 0, b)


@jit("void(f4[:,:,::1], f4[:,:,::1], i8, i8)")
def softmax(logits, out, first, end):
    """Softmax over the 4 G labels of `(G, N, 4)`, of pixels `first` to `end - 1`."""
    groups = len(logits)
    buffer = np.empty((groups, 4 * BLOCK), np.float32)
    total = np.empty(BLOCK, np.float32)
    for start in range(first, end, BLOCK):
        m = min(BLOCK, end - start)
        total[:] = -np.inf
        for g in range(groups):
            for p in range(m):
                row = logits[g, start + p]
                total[p] = max(total[p], max(max(row[0], row[1]), max(row[2], row[3])))
        for g in range(groups):
            for p in range(m):
                top, row = total[p], logits[g, start + p]
                x0, x1, x2, x3 = row[0] - top, row[1] - top, row[2] - top, row[3] - top
                buffer[g, 4 * p], buffer[g, 4 * p + 1], buffer[g, 4 * p + 2], buffer[g, 4 * p + 3] = x0, x1, x2, x3
            for i in range(4 * m):
                buffer[g, i] = exponential(buffer[g, i])
        total[:] = 0
        for g in range(groups):
            for p in range(m):
                i = 4 * p
                total[p] += (buffer[g, i] + buffer[g, i + 1]) + (buffer[g, i + 2] + buffer[g, i + 3])
        for p in range(m):
            total[p] = f32(1) / total[p]
        for g in range(groups):
            for p in range(m):
                t, i, row = total[p], 4 * p, out[g, start + p]
                x0, x1, x2, x3 = buffer[g, i] * t, buffer[g, i + 1] * t, buffer[g, i + 2] * t, buffer[g, i + 3] * t
                row[0], row[1], row[2], row[3] = x0, x1, x2, x3
