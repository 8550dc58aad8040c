"""The compiled inner loop of `regions`."""

from __future__ import annotations

import numpy as np

from maskwright.cpu.compiled import jit


@jit
def assign(image, centres, rows, columns, place, found):
    """Put each pixel into the nearest of the nine regions around its cell of the grid.

    Args:
        image: `(H, W, 3)` uint8.
        centres: `(rows * columns, 5)` float32, colour and place times `place`.
        rows: of the grid.
        columns: of the grid.
        place: grey levels that one pixel of distance counts.
        found: `(H, W)` int32, written.
    """
    height, width = found.shape
    for y in range(height):
        row = y * rows // height
        for x in range(width):
            column = x * columns // width
            least = np.float32(np.inf)
            for other_row in range(max(0, row - 1), min(rows, row + 2)):
                for other_column in range(max(0, column - 1), min(columns, column + 2)):
                    other = other_row * columns + other_column
                    down, right = place * y - centres[other, 3], place * x - centres[other, 4]
                    distance = down * down + right * right
                    for channel in range(3):
                        apart = image[y, x, channel] - centres[other, channel]
                        distance += apart * apart
                    if distance < least:
                        least = distance
                        found[y, x] = other
