"""Compiled CPU kernel of DUpsampling's arg-max; import it where it is needed."""

from __future__ import annotations

import numpy as np

from maskwright.cpu.compiled import jit


@jit
def pick_classes(product, labels):
    """The first of the largest classes of every pixel.

    Args:
        product: logits `(rows, w, C, r * r)`: pixels run innermost, so that one instruction compares many of them.
        labels: `(rows, r, w, r)`, written.
    """
    rows, columns, classes, pixels = product.shape
    ratio = labels.shape[1]
    largest = np.empty(pixels, product.dtype)
    chosen = np.empty(pixels, np.int32)
    for row in range(rows):
        for column in range(columns):
            logits = product[row, column]
            largest[:] = logits[0]
            chosen[:] = 0
            for label in range(1, classes):
                for pixel in range(pixels):
                    more = logits[label, pixel] > largest[pixel]
                    largest[pixel] = logits[label, pixel] if more else largest[pixel]
                    chosen[pixel] = np.int32(label) if more else chosen[pixel]
            for y in range(ratio):
                for x in range(ratio):
                    labels[row, y, column, x] = chosen[y * ratio + x]
