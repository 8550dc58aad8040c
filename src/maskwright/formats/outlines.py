"""Regions of pixels as polygons along the edges of the pixels, exact: one for each connected part, holes cut open."""

from __future__ import annotations

import numpy as np

# Directions of steps along edges, clockwise on the screen: right, down, left, up.
STEPS: np.ndarray = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])


def outlines(inside: np.ndarray) -> list[np.ndarray]:
    """The outline of every connected part of a region; pixels that touch at a corner alone are two parts.

    An outline runs clockwise around its part, and over a cut of no width to each of its holes, around it and back, so
    that one ring says all of a part. Painted by the even-odd rule or the non-zero rule it gives the part's pixels
    exactly.

    Args:
        inside: `(H, W)` bool.

    Returns:
        `(n, 2)` int64 corners, x and y in pixels from the upper left corner of the image, for each part from the
        uppermost down; the last is joined to the first.
    """
    inside = np.pad(np.asarray(inside, bool), 1)
    x, y, direction = _edges(inside)
    following = _following(x, y, direction, inside.shape[1])
    ring = _rings(following)
    x, y, following = _holes_cut_open(x, y, direction, following, ring, inside)
    around: list[int] = []
    lengths: list[int] = []
    after, seen = following.tolist(), bytearray(len(following))
    for first in np.flatnonzero(direction == 0).tolist():  # the first edge to the right, from above, is an outer one
        if seen[first]:
            continue
        begin, edge = len(around), first
        while not seen[edge]:
            seen[edge] = 1
            around.append(edge)
            edge = after[edge]
        lengths.append(len(around) - begin)
    if not lengths:
        return []
    corners = np.stack([x[around], y[around]], axis=1) - 1
    last = np.cumsum(lengths) - 1
    following, before = np.arange(len(corners)) + 1, np.arange(len(corners)) - 1
    following[last], before[last - lengths + 1] = last - lengths + 1, last
    step = np.sign(corners[following] - corners)
    turns = (step != step[before]).any(axis=1)
    return np.split(corners[turns], np.cumsum(turns)[last][:-1])


def _edges(inside: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Start and direction of every edge between inside and outside, with the inside on its right, from above down."""
    found = []
    # Where an edge of a pixel at (column, row) starts, for each direction; and the neighbour beyond the edge.
    sides = (((0, 0), (-1, 0)), ((1, 0), (0, 1)), ((1, 1), (1, 0)), ((0, 1), (0, -1)))
    for direction, (start, beyond) in enumerate(sides):
        edges = np.flatnonzero(inside & ~np.roll(inside, (-beyond[0], -beyond[1]), axis=(0, 1)))
        row, column = np.divmod(edges, inside.shape[1])
        found.append(np.stack([column + start[0], row + start[1], np.full(len(row), direction)]))
    x, y, directions = np.concatenate(found, axis=1)
    return x, y, directions


def _following(x: np.ndarray, y: np.ndarray, direction: np.ndarray, width: int) -> np.ndarray:
    """The edge after each edge. Where two start at its end, the one to the right, which stays with the same pixel."""
    starts = (y * (width + 1) + x) * 4 + direction
    order = np.argsort(starts)
    ends = (y + STEPS[direction, 1]) * (width + 1) + x + STEPS[direction, 0]
    found = np.full(len(x), -1)
    for turn in (3, 0, 1):  # left, straight on, right: the last that is there stays
        wanted = ends * 4 + (direction + turn) % 4
        place = np.minimum(np.searchsorted(starts, wanted, sorter=order), len(x) - 1)
        there = starts[order[place]] == wanted if len(x) else np.zeros(0, bool)
        found[there] = order[place[there]]
    return found


def _rings(following: np.ndarray) -> np.ndarray:
    """The number of the ring that each edge is in."""
    ring, after = [-1] * len(following), following.tolist()
    for first in range(len(after)):
        edge = first
        while ring[edge] < 0:
            ring[edge] = first
            edge = after[edge]
    return np.array(ring, np.int64)


def _holes_cut_open(
    x: np.ndarray, y: np.ndarray, direction: np.ndarray, following: np.ndarray, ring: np.ndarray, inside: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges with a cut from every hole to the left, to what is first there: the outline, or another hole's."""
    length = len(x)
    area = np.bincount(ring, weights=np.where(direction == 0, -y, np.where(direction == 2, y, 0)), minlength=length)
    down = np.flatnonzero((direction == 1) & (area[ring] < 0))  # the left sides of holes
    order = down[np.lexsort((y[down], x[down], ring[down]))]
    first = order[np.unique(ring[order], return_index=True)[1]]  # of each hole the upper end of its leftmost side
    if not len(first):
        return x, y, following
    upward = np.flatnonzero(direction == 3)
    left_side = dict(zip(zip((y[upward] - 1).tolist(), x[upward].tolist()), upward.tolist()))
    after = following.tolist()
    before = np.empty(length, np.int64)
    before[following] = np.arange(length)
    previous = before.tolist()
    corners: list[tuple[int, int]] = []
    for edge in first.tolist():
        row, column = int(y[edge]), int(x[edge])
        outside = np.flatnonzero(~inside[row, :column])
        hit = left_side[row, int(outside[-1]) + 1]
        there, back = length + len(corners), length + len(corners) + 1
        corners += [(int(outside[-1]) + 1, row), (column, row)]
        last, beyond = previous[edge], after[hit]
        after += [edge, beyond]
        previous += [hit, last]
        after[hit], after[last] = there, back
        previous[edge], previous[beyond] = there, back
    extra: np.ndarray = np.array(corners)
    return np.concatenate([x, extra[:, 0]]), np.concatenate([y, extra[:, 1]]), np.array(after)
