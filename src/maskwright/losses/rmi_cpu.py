"""The RMI loss on the CPU by compiled kernels; import it where it is needed.

Both passes over the pixels go from pooling cell to pooling cell: the first reads the logits and leaves a sum and small
pooled maps, the second reads them again and writes the gradient. Sigmoids are made twice, which costs less
than to write and read a map of them. Between the two are products of pooled maps with their shifted selves.

Threads share rows of cells and pairs of image and class: every kernel works from `first` up to `end`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maskwright.cpu.compiled import exponential, jit
from maskwright.cpu.threads import in_parts
from maskwright.losses.resizing import pooled_side

f32 = np.float32
CLASSES_AT_ONCE = 64  # a product of factors up to 2 for each of them is a float32
LEAST_ROWS = 8  # of cells, that are worth a thread


class PixelPass(torch.autograd.Function):
    """What both terms need of the pixels: a sum, and pooled maps of K pairs of image and class.

    Takes float32 logits `(B, C, H, W)`, labels and valid `(B, H, W)`, image and label `(K,)`, the size of a cell and
    what is added to every probability. Returns the sum over valid pixels and classes of the binary cross-entropy, a
    scalar, and the pooled probability and truth `(K, h, w)`; all float64.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        labels: Tensor,
        valid: Tensor,
        image: Tensor,
        label: Tensor,
        size: int,
        epsilon: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, classes, height, width = logits.shape
        rows, columns = pooled_side(height, size), pooled_side(width, size)
        pairs = image.new_full((batch, classes), -1)
        pairs[image, label] = torch.arange(len(image), device=image.device)
        cells = torch.arange(width, device=image.device).add_(size // 2).floor_divide_(size).clamp_(max=columns)
        marked = labels.to(torch.int32).masked_fill(~valid, -1)
        ctx.save_for_backward(logits.detach().contiguous(), marked, pairs, cells)
        ctx.size = size

        predicted = logits.new_empty(len(image), rows, columns, dtype=torch.float64)
        true = torch.zeros_like(predicted)
        sums = predicted.new_empty(batch * rows)
        arrays = [value.numpy() for value in (*ctx.to_save, predicted, true, sums)]
        in_parts(partial(reduce, *arrays, size, epsilon), len(sums), LEAST_ROWS)
        ctx.mark_non_differentiable(true)
        return sums.sum(), predicted, true

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_sum: Tensor, by_predicted: Tensor, _: Any) -> tuple[Any, ...]:
        result = torch.empty_like(ctx.saved_tensors[0])
        arrays = [value.numpy() for value in (*ctx.saved_tensors, by_predicted.float().contiguous(), result)]
        rows = len(result) * by_predicted.shape[1]
        in_parts(partial(gradient, *arrays, ctx.size, by_sum.item()), rows, LEAST_ROWS)
        return result, *[None] * 6


class NeighbourhoodProducts(torch.autograd.Function):
    """As that of `rmi_region`, from the maps themselves instead of their shifted copies."""

    @staticmethod
    def forward(ctx: Any, predicted: Tensor, true: Tensor, radius: int) -> tuple[Tensor, Tensor]:
        pairs, d = len(predicted), radius**2
        ctx.dtype, ctx.radius = predicted.dtype, radius
        maps = [value.detach().double().contiguous() for value in (predicted, true)]
        ctx.save_for_backward(*maps)
        cross = maps[0].new_empty(pairs, d, 2 * d + 1)
        own = maps[0].new_empty(pairs, d + 1, d + 1)
        in_parts(partial(products, *(value.numpy() for value in (*maps, cross, own)), radius), pairs)
        ctx.mark_non_differentiable(own)
        return cross, own

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_cross: Tensor, _: Any) -> tuple[Tensor, None, None]:
        predicted, true = ctx.saved_tensors
        result = torch.empty_like(predicted)
        arrays = [value.numpy() for value in (predicted, true, by_cross.contiguous(), result)]
        in_parts(partial(products_gradient, *arrays, ctx.radius), len(result))
        return result.to(ctx.dtype), None, None


@jit
def reduce(logits, labels, pairs, cells, predicted, true, sums, size, epsilon, first, end):
    """Sum of the binary cross-entropy, and pooled probabilities and truth of the wanted pairs of image and class.

    `sum_c log(1 + exp z_c)` is `sum_c max(z_c, 0) + log prod_c (1 + exp -|z_c|)`: a pixel's product is collected
    without its leading 1, so that small factors keep their digits, and one logarithm serves many pixels.

    Args:
        logits: `(B, C, H, W)` float32.
        labels: `(B, H, W)` integer, negative where ignored.
        pairs: `(B, C)` int64, place of the pair among the pooled maps, negative where it is not wanted.
        cells: `(W,)` int64, column of the cell of every pixel, w where it is in none.
        predicted: `(K, h, w)` float64, written: probability, 0 at ignored pixels, averaged over the cell.
        true: `(K, h, w)` float64, zeros, written: share of the class in the cell.
        sums: `(B h,)` float64, written: cross-entropy over the valid pixels of a row of cells; the last row has the
            pixels below it.
        size: side of a cell in pixels; the first one begins half of it outside.
        epsilon: added to every probability, not to what lies outside.
        first: first of the B h rows of cells that are worked on.
        end: row after the last one.
    """
    _, classes, height, width = logits.shape
    _, rows, columns = predicted.shape
    product = np.empty((2 * size, width), np.float32)
    positive = np.empty((2 * size, width), np.float32)
    seen = np.empty((2 * size, width), np.float32)
    column = np.empty(width, np.float32)
    margin, share = size // 2, 1 / size**2
    for n in range(first, end):
        b, k = n // rows, n % rows
        top, inside = max(0, k * size - margin), min(height, (k + 1) * size - margin)
        bottom = height if k == rows - 1 else inside
        positive[:] = 0
        for y in range(top, bottom):
            label = labels[b, y]
            for x in range(width):
                seen[y - top, x] = label[x] >= 0
        total, many = 0.0, 1.0
        for block in range(0, classes, CLASSES_AT_ONCE):
            product[:] = 0
            for c in range(block, min(block + CLASSES_AT_ONCE, classes)):
                pair = pairs[b, c]
                column[:] = 0
                for y in range(top, bottom):
                    row, p, q, s = logits[b, c, y], product[y - top], positive[y - top], seen[y - top]
                    if pair >= 0 and y < inside:
                        for x in range(width):
                            e = exponential(-abs(row[x]))
                            q[x] += f32(0) if row[x] < 0 else row[x]
                            p[x] += e + e * p[x]
                            column[x] += s[x] * ((e if row[x] < 0 else f32(1)) / (f32(1) + e))
                    else:
                        for x in range(width):
                            e = exponential(-abs(row[x]))
                            q[x] += f32(0) if row[x] < 0 else row[x]
                            p[x] += e + e * p[x]
                if pair >= 0:
                    out = predicted[pair, k]
                    out[:] = 0
                    for x in range(width):
                        if cells[x] < columns:
                            out[cells[x]] += column[x] + epsilon * (inside - top)
                    for j in range(columns):
                        out[j] *= share
            for y in range(top, bottom):
                for x in range(width):
                    if labels[b, y, x] >= 0:
                        many *= 1.0 + product[y - top, x]
                        if many > 1e200:
                            total += np.log(many)
                            many = 1.0
        for y in range(top, bottom):
            for x in range(width):
                c = labels[b, y, x]
                if c >= 0:
                    total += positive[y - top, x] - logits[b, c, y, x]
                    pair = pairs[b, c]
                    if pair >= 0 and y < inside and cells[x] < columns:
                        true[pair, k, cells[x]] += share
        sums[n] = total + np.log(many)


@jit
def gradient(logits, labels, pairs, cells, pooled, out, size, pixel, first, end):
    """Gradient of what `reduce` finds, by the logits.

    Args:
        logits: as for `reduce`, and so are labels, pairs, cells, size, first and end.
        pooled: `(K, h, w)` float32, gradient by the pooled probabilities.
        out: `(B, C, H, W)` float32, written.
        pixel: gradient by the sum of the cross-entropy.
    """
    _, classes, height, width = logits.shape
    _, rows, columns = pooled.shape
    slope = np.empty(width, np.float32)
    seen = np.empty((2 * size, width), np.float32)
    margin, scale, share = size // 2, f32(pixel), f32(1 / size**2)
    for n in range(first, end):
        b, k = n // rows, n % rows
        top, inside = max(0, k * size - margin), min(height, (k + 1) * size - margin)
        bottom = height if k == rows - 1 else inside
        for y in range(top, bottom):
            label = labels[b, y]
            for x in range(width):
                seen[y - top, x] = label[x] >= 0
        for c in range(classes):
            pair = pairs[b, c]
            if pair >= 0:
                for x in range(width):
                    slope[x] = share * pooled[pair, k, cells[x]] if cells[x] < columns else f32(0)
            for y in range(top, bottom):
                row, s, result = logits[b, c, y], seen[y - top], out[b, c, y]
                if pair >= 0 and y < inside:
                    for x in range(width):
                        e = exponential(-abs(row[x]))
                        other = f32(1) / (f32(1) + e)
                        p = other if row[x] >= 0 else e * other
                        result[x] = s[x] * (scale * p + slope[x] * (e * other * other))
                else:
                    for x in range(width):
                        e = exponential(-abs(row[x]))
                        result[x] = s[x] * (scale * ((e if row[x] < 0 else f32(1)) / (f32(1) + e)))
        for y in range(top, bottom):
            for x in range(width):
                c = labels[b, y, x]
                if c >= 0:
                    out[b, c, y, x] -= scale


@jit
def products(predicted, true, cross, own, radius, first, end):
    """Products over all positions of the shifted views p and y of two maps, and of ones.

    Args:
        predicted: `(K, h, w)` float64.
        true: `(K, h, w)` float64.
        cross: `(K, d, 2d + 1)` float64 with d = radius^2, written: p with [p, y, 1].
        own: `(K, d + 1, d + 1)` float64, written: [y, 1] with itself.
        radius: side of the neighbourhood.
        first: first of the pairs that are worked on.
        end: pair after the last one.
    """
    d = radius**2
    for n in range(first, end):
        p, y = predicted[n], true[n]
        correlate(p, p, radius, cross[n, :, :d])
        correlate(p, y, radius, cross[n, :, d : 2 * d])
        correlate(y, y, radius, own[n, :d, :d])
        window_sums(p, radius, cross[n, :, 2 * d])
        window_sums(y, radius, own[n, :d, d])
        own[n, d, :d] = own[n, :d, d]
        own[n, d, d] = (p.shape[0] - radius + 1) * (p.shape[1] - radius + 1)


@jit
def correlate(one, other, radius, out):
    """Products of the shifted views of one map with those of another, `(d, d)`.

    Views that are equally far apart share their products but for a few rows and columns: sums down the columns are made
    once for each distance, and brought from one window to the next by a row that leaves and one that enters.
    """
    height, width = one.shape
    h, w = height - radius + 1, width - radius + 1
    sums = np.empty(width)
    for dy in range(1 - radius, radius):
        for dx in range(1 - radius, radius):
            left, many = max(0, -dx), width - abs(dx)
            top = max(0, -dy)
            column = sums[:many]
            column[:] = 0
            for y in range(top, top + h):
                a, b = one[y, left : left + many], other[y + dy, left + dx : left + dx + many]
                for x in range(many):
                    column[x] += a[x] * b[x]
            for ay in range(top, min(radius, radius - dy)):
                if ay > top:
                    for y, sign in ((ay - 1, -1.0), (ay - 1 + h, 1.0)):
                        a, b = one[y, left : left + many], other[y + dy, left + dx : left + dx + many]
                        for x in range(many):
                            column[x] += sign * a[x] * b[x]
                for ax in range(left, min(radius, radius - dx)):
                    out[ay * radius + ax, (ay + dy) * radius + ax + dx] = column[ax - left : ax - left + w].sum()


@jit
def window_sums(values, radius, out):
    """Sums of the shifted views of a map, `(d,)`."""
    height, width = values.shape
    h, w = height - radius + 1, width - radius + 1
    column = np.empty(width)
    for ay in range(radius):
        column[:] = 0
        for y in range(ay, ay + h):
            row = values[y]
            for x in range(width):
                column[x] += row[x]
        for ax in range(radius):
            out[ay * radius + ax] = column[ax : ax + w].sum()


@jit
def products_gradient(predicted, true, by_cross, out, radius, first, end):
    """Gradient of `products` by the predicted maps.

    Args:
        predicted: as for `products`, and so are true, radius, first and end.
        by_cross: `(K, d, 2d + 1)` float64, gradient by `cross`.
        out: `(K, h, w)` float64, written.
    """
    d = radius**2
    _, height, width = predicted.shape
    h, w = height - radius + 1, width - radius + 1
    line = np.empty(w)
    for n in range(first, end):
        g = by_cross[n]
        out[n] = 0
        for y in range(height):
            above, below = max(0, y - h + 1), min(radius, y + 1)  # shifts whose view has this row
            for ax in range(radius):
                line[:] = g[above * radius + ax : below * radius : radius, 2 * d].sum()
                for other in range(max(0, y - radius + 1), min(height, y + radius)):
                    dy = other - y
                    for bx in range(radius):
                        by_p, by_y = 0.0, 0.0
                        for ay in range(max(above, -dy), min(below, radius - dy)):
                            a, b = ay * radius + ax, (ay + dy) * radius + bx
                            by_p += g[a, b] + g[b, a]
                            by_y += g[a, d + b]
                        p, t = predicted[n, other, bx : bx + w], true[n, other, bx : bx + w]
                        for x in range(w):
                            line[x] += by_p * p[x] + by_y * t[x]
                result = out[n, y, ax : ax + w]
                for x in range(w):
                    result[x] += line[x]
