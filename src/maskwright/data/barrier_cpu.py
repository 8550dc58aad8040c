"""Compiled kernel of the minimum barrier distance; import it where it is needed."""

from __future__ import annotations

import numpy as np

from maskwright.cpu.compiled import jit


@jit
def barrier_distance(channel, passes):
    """How much the values along the flattest path to the border vary: least (maximum - minimum) over paths.

    Approximated as in the paper (algorithm 1): scans from the upper left and from the lower right in turn, each pixel
    reached through its two neighbours that were just visited.

    Args:
        channel: `(H, W)` float32.
        passes: scans; 3 in the paper.

    Returns:
        `(H, W)` float32, 0 at the border.
    """
    height, width = channel.shape
    highest, lowest = channel.copy(), channel.copy()
    distance = np.full((height, width), np.float32(np.inf))
    distance[0], distance[-1], distance[:, 0], distance[:, -1] = 0, 0, 0, 0
    for number in range(passes):
        back = number % 2 == 1
        step = -1 if back else 1
        for i in range(1, height - 1):
            y = height - 1 - i if back else i
            for j in range(1, width - 1):
                x = width - 1 - j if back else j
                for dy, dx in ((-step, 0), (0, -step)):
                    top = max(highest[y + dy, x + dx], channel[y, x])
                    bottom = min(lowest[y + dy, x + dx], channel[y, x])
                    if top - bottom < distance[y, x]:
                        distance[y, x] = top - bottom
                        highest[y, x], lowest[y, x] = top, bottom
    return distance
