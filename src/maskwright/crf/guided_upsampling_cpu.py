"""Compiled CPU kernel of joint bilateral upsampling; import it where it is needed."""

from __future__ import annotations

import numpy as np

from maskwright.cpu.compiled import exponential, jit

f32 = np.float32


@jit
def upsample(maps, guide, image, sigma, leak, out, first, end):
    """Rows `first` to `end - 1` of an image; arguments as for `guided_upsample`.

    Even and odd columns lie at the same places of all their cells, so each kind is vector code over the cells of a row.

    Args:
        maps: `(C, h, w)` float32.
        guide: `(h, w, 3)` uint8.
        image: `(H, W, 3)` uint8.
        sigma: standard deviation in grey levels.
        leak: what a cell counts whose colour is far away.
        out: `(C, H, W)`, written.
        first, end: rows.
    """
    classes, h, w = maps.shape
    width = image.shape[1]
    scale = f32(-0.5 / (sigma * sigma))
    colours = np.empty((2, 3, w + 2), np.float32)  # of the cells of the two nearest rows, borders repeated
    values = np.empty((2, w + 2), np.float32)
    own = np.empty((2, 3, w), np.float32)  # of the pixels in even and in odd columns
    weights = np.zeros((2, 4, w), np.float32)
    total = np.empty(w, np.float32)
    mixed = np.empty(w, np.float32)
    for y in range(first, end):
        above = (y + 1) // 2 - 1
        rows = max(above, 0), min(above + 1, h - 1)
        lower = f32(0.75) if y % 2 == 0 else f32(0.25)
        for side in range(2):
            for channel in range(3):
                line = colours[side, channel]
                for x in range(w):
                    line[x + 1] = f32(guide[rows[side], x, channel])
                line[0], line[w + 1] = line[1], line[w]
        for parity in range(2):
            count = (width + 1 - parity) // 2
            for channel in range(3):
                for x in range(count):
                    own[parity, channel, x] = f32(image[y, 2 * x + parity, channel])
            red, green, blue = own[parity]
            total[:] = 0
            for cell in range(4):
                side, right = cell // 2, cell % 2
                begin = parity + right
                weight = weights[parity, cell]
                r, g, b = colours[side, 0, begin:], colours[side, 1, begin:], colours[side, 2, begin:]
                share = lower if side == 1 else f32(1) - lower
                share *= f32(0.75) if right != parity else f32(0.25)
                for x in range(count):
                    distance = (r[x] - red[x]) ** 2 + (g[x] - green[x]) ** 2 + (b[x] - blue[x]) ** 2
                    weight[x] = (exponential(scale * distance) + f32(leak)) * share
                    total[x] += weight[x]
            for x in range(count):
                total[x] = f32(1) / total[x]
            for cell in range(4):
                for x in range(count):
                    weights[parity, cell, x] *= total[x]
        for label in range(classes):
            for side in range(2):
                values[side, 1 : w + 1] = maps[label, rows[side]]
                values[side, 0], values[side, w + 1] = values[side, 1], values[side, w]
            for parity in range(2):
                a, b, c, d = weights[parity]
                upper, under = values[0, parity:], values[1, parity:]
                for x in range(w):
                    mixed[x] = (a[x] * upper[x] + b[x] * upper[x + 1]) + (c[x] * under[x] + d[x] * under[x + 1])
                for x in range((width + 1 - parity) // 2):
                    out[label, y, 2 * x + parity] = mixed[x]
