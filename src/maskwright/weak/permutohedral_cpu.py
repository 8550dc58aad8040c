"""Compiled CPU kernels of the permutohedral lattice and of the mean-field update; import them where they are needed.

Everything works on groups of four labels, because a row of four float32 is one vector register: values of G groups at N
pixels are `(G, N, 4)`. Rows are spelled out (`a0 .. a3`), since the compiler keeps them in registers only then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from maskwright.compiled import exponential

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


@jit("Tuple((u4[:,::1], f4[:,::1], i8[::1]))(f4[:,::1], f4[::1], i8[::1], i8)")
def build(features, scale, strides, origin):
    """Enclosing simplex of every pixel, and the lattice points in order of first use.

    Args:
        features: `(d, N)` float32, in standard deviations.
        scale: of each feature axis, `(d,)` float32.
        strides: of the lattice coordinates in a key, `(d + 1,)` int64.
        origin: key of the lattice point 0.

    Returns:
        Index `(N, d + 1)` uint32 and barycentric weight `(N, d + 1)` float32 of each vertex, and keys `(M,)` int64.
    """
    d, n = features.shape
    d1 = d + 1
    up, down = f32(d1), f32(1) / f32(d1)
    vertices = np.empty((n, d1), np.uint32)
    weights = np.empty((n, d1), np.float32)
    keys = np.empty(max(1024, n), np.int64)
    table = np.full(4096, -1, np.int32)
    shift = np.uint64(64 - 12)
    found = 0
    total_stride = strides.sum()

    position = np.empty((d1, BLOCK), np.float32)
    remainder = np.empty((d1, BLOCK), np.float32)
    rank = np.empty((d1, BLOCK), np.float32)
    total = np.empty(BLOCK, np.float32)
    key = np.empty(BLOCK, np.int64)
    ranked = np.empty((d1, BLOCK), np.float32)
    step = np.empty((d1, BLOCK), np.int64)
    last_key = np.full(d1, np.iinfo(np.int64).min, np.int64)
    last = np.zeros(d1, np.int32)

    for start in range(0, n, BLOCK):
        m = min(BLOCK, n - start)
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
        key[:] = origin
        for i in range(d1):
            stride = strides[i]
            for p in range(m):
                r = rank[i, p] + total[p]
                wrap = up if r < f32(0) else (-up if r > f32(d) else f32(0))
                rank[i, p] = r + wrap
                position[i, p] -= wrap
                key[p] += np.int64(remainder[i, p] + wrap) * stride
        for p in range(m):
            for i in range(d1):
                r = np.int32(rank[i, p])
                ranked[r, p] = position[i, p]
                step[r, p] = strides[i]
        for p in range(m):
            k = key[p]
            row = start + p
            for r in range(d1):
                if r == 0:
                    weights[row, 0] = f32(1) + (ranked[d, p] - ranked[0, p]) * down
                else:
                    weights[row, r] = (ranked[d - r, p] - ranked[d1 - r, p]) * down
                if k != last_key[r]:  # neighbouring pixels often share vertices
                    slot = np.int64((np.uint64(k) * HASH) >> shift)
                    e = table[slot]
                    while e >= 0 and keys[e] != k:
                        slot = (slot + 1) & (table.size - 1)
                        e = table[slot]
                    if e < 0:
                        e = np.int32(found)
                        table[slot] = e
                        if found == keys.size:
                            grown = np.empty(2 * found, np.int64)
                            grown[:found] = keys
                            keys = grown
                        keys[found] = k
                        found += 1
                        if 2 * found > table.size:
                            table = np.full(4 * table.size, -1, np.int32)
                            shift -= np.uint64(2)
                            for other in range(found):
                                slot = np.int64((np.uint64(keys[other]) * HASH) >> shift)
                                while table[slot] >= 0:
                                    slot = (slot + 1) & (table.size - 1)
                                table[slot] = other
                    last_key[r], last[r] = k, e
                vertices[row, r] = last[r]
                k += total_stride - d1 * step[d - r, p]
    return vertices, weights, keys[:found].copy()


@jit("u4[:,:,::1](i8[::1], i8[::1])")
def neighbours(keys, strides):
    """The points before and after each point along each blur direction; M where there is none.

    Args:
        keys: `(M,)`, ascending.
        strides: see `build`.

    Returns:
        `(d + 1, 2, M)` uint32.
    """
    m, d1 = keys.size, strides.size
    result = np.full((d1, 2, m), m, np.uint32)
    total_stride = strides.sum()
    for j in range(d1):
        delta = d1 * strides[j] - total_stride
        before, after = result[j]
        e = 0
        for p in range(m):
            k = keys[p] + delta
            while e < m and keys[e] < k:
                e += 1
            if e < m and keys[e] == k:
                after[p] = e
                before[e] = p
    return result


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
