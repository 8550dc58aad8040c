"""Gaussian filter over many feature dimensions by the permutohedral lattice (Adams, Baek, Davis, Eurographics 2010).

Every pixel lies in one simplex of a lattice over feature space; it is spread over the d + 1 corners, the lattice is
blurred by (1/2, 1, 1/2) along its d + 1 directions, and read back. Only lattice points that some pixel touches exist.
The cost is linear in pixels and in lattice points, and the result is an approximation of exp(-|f_i - f_j|^2 / 2).

Two forms of one thing: compiled kernels on the CPU (`CpuLattice`), plain torch anywhere (`TorchLattice`). Their kernel
is symmetrically normalised, K_ij / sqrt(n_i n_j) with n the row sums, self included (Kraehenbuehl and Koltun, NeurIPS
2011, supplement), so that the constant factor of the filter cancels.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from maskwright.cpu.threads import in_parts
from maskwright.errors import DataError

LANES = 4
"""Labels per row of the CPU kernels; state is `(G, N, LANES)`."""

NEGLIGIBLE = 1e-3
"""Groups whose values lie below it everywhere are taken as zero: of 21 labels, few occur in an image. As the message to
such a label is below weight x 1e-3, so is the relative error of a probability that is below 1e-3 itself."""

TILE = 128  # pixels along each side


def axis_scale(d: int) -> list[float]:
    """Factor of each feature axis before it is laid on the hyperplane, such that the blur has standard deviation 1."""
    return [math.sqrt(2 / 3) * (d + 1) / math.sqrt((i + 1) * (i + 2)) for i in range(d)]


def key_layout(low: list[float], high: list[float]) -> tuple[list[int], int, int]:
    """How the d + 1 lattice coordinates make one integer, linearly.

    Coordinates are turned back to feature axes, the second of which counts most, then the first, then the others. So
    points sorted by key lie in the order of the pixels' rows where the second axis is vertical. As a step in one
    direction adds the same to every key, neighbours of sorted points are sorted too: the blur reads memory in streams.

    Args:
        low, high: range of each feature.

    Returns:
        Stride of each of the d + 1 coordinates, the key of the point 0, and the number of keys.

    Raises:
        DataError: the keys do not fit into 62 bits.
    """
    d = len(low)
    strides, origin, count = [0] * (d + 1), 0, 1
    for i in [*range(d - 1, 1, -1), 0, 1][-d:]:
        # Along axis i a point has (sum of its coordinates up to i) - (i + 1) (the next); a corner or a neighbour of one
        # lies within 3 (d + 1) of the pixel in each coordinate.
        cells = axis_scale(d)[i] * (i + 1) * (i + 2)
        margin = 6 * (d + 1) * (i + 1)
        least, most = math.floor(low[i] * cells) - margin, math.ceil(high[i] * cells) + margin
        for j in range(i + 1):
            strides[j] += count
        strides[i + 1] -= (i + 1) * count
        origin -= least * count
        count *= most - least + 1
    if count >= 2**62:
        raise DataError(
            f"the lattice would have {count:.1e} cells, more than 2^62: features range over "
            f"{[round(b - a) for a, b in zip(low, high)]} standard deviations; use larger ones"
        )
    return strides, origin, count


class CpuLattice:
    """Normalised Gaussian kernel over the pixels of an image, by compiled kernels.

    Args:
        features: `(d, H, W)` float32, in standard deviations.
        weight: factor of the kernel, above 0.
    """

    def __init__(self, features: np.ndarray, weight: float = 1.0) -> None:
        from maskwright.crf import permutohedral_cpu as kernels

        self.kernels = kernels
        d, height, width = features.shape
        features = np.ascontiguousarray(features, np.float32).reshape(d, -1)
        layout, origin, _ = key_layout(features.min(1).tolist(), features.max(1).tolist())
        strides = np.array(layout, np.int64)
        scale = np.array(axis_scale(d), np.float32)
        self.vertices = np.empty((height * width, d + 1), np.uint32)
        self.weights = np.empty((height * width, d + 1), np.float32)
        # Points of a tile are looked up in a table that stays in the cache; then equal points of all tiles become one.
        tiles = [(y * width + x, down, right) for y, down in _spans(height) for x, right in _spans(width)]

        def build(first: int, end: int) -> list[tuple[np.ndarray, np.ndarray]]:
            found = []
            for tile in tiles[first:end]:
                keys = kernels.build(features, *tile, width, scale, strides, origin, self.vertices, self.weights)
                order = np.argsort(keys)
                found.append((keys[order], order))
            return found

        found = [keys_and_order for part in in_parts(build, len(tiles)) for keys_and_order in part]
        every = np.concatenate([keys for keys, _ in found])
        numbers, keys = kernels.number(every, np.argsort(every, kind="stable"))  # which merges sorted parts
        begins = np.cumsum([0, *(len(order) for _, order in found)])

        def renumber(first: int, end: int) -> None:
            for index in range(first, end):
                order = found[index][1]
                own = np.empty(len(order), np.uint32)
                own[order] = numbers[begins[index] : begins[index + 1]]
                kernels.renumber(self.vertices, *tiles[index], width, own)

        in_parts(renumber, len(tiles))
        self.points = len(keys)
        self.neighbours = np.empty((d + 1, 2, self.points), np.uint32)

        def join(first: int, end: int) -> None:
            for j in range(first, end):
                kernels.neighbours(keys, (d + 1) * layout[j] - sum(layout), *self.neighbours[j])

        in_parts(join, d + 1)
        self.spaces: list[np.ndarray] = []  # to work in, of threads that are done
        # The same weights serve for splatting and for slicing, so each takes the root of the norm and of the factor.
        ones = np.ones((1, height * width, LANES), np.float32)
        norm = self.add(np.zeros_like(ones), ones, np.empty_like(ones))[0, :, :1]
        self.weights *= math.sqrt(weight) / np.sqrt(norm + 1e-20)

    def add(self, base: np.ndarray, q: np.ndarray, out: np.ndarray) -> np.ndarray:
        """`out = base + K q`, groups shared by torch's threads.

        Args:
            base: `(G, N, LANES)` float32, contiguous.
            q: the same.
            out: the same; may be base.

        Returns:
            out.
        """
        groups = []
        for group in range(len(q)):
            if len(q) == 1 or q[group].max() >= NEGLIGIBLE:
                groups.append(group)
            elif out is not base:
                out[group] = base[group]
        in_parts(partial(self._add, base, q, out, groups), len(groups))
        return out

    def _add(self, base: np.ndarray, q: np.ndarray, out: np.ndarray, groups: list[int], first: int, end: int) -> None:
        try:
            space = self.spaces.pop()
        except IndexError:
            space = np.zeros((2, (self.points + 1) * 2 * LANES), np.float32)
        # Two groups at a time: their rows of the lattice are one cache line's half, and indices are read once for both.
        for start in range(first, end, 2):
            taken = groups[start : min(start + 2, end)]
            lanes = LANES * len(taken)
            values, other = (row[: (self.points + 1) * lanes].reshape(-1, lanes) for row in space)
            values[-1] = other[-1] = 0
            splat, gather = self.kernels.splat, self.kernels.gather
            if len(taken) == 2:
                splat, gather = self.kernels.splat_pair, self.kernels.gather_pair
            splat(*(q[group] for group in taken), self.vertices, self.weights, values)
            for before, after in self.neighbours:
                self.kernels.blur(values, before, after, other)
                values, other = other, values
            into = [maps[group] for maps in (base, out) for group in taken]
            gather(values, self.vertices, self.weights, *into)
        self.spaces.append(space)


def _spans(length: int) -> list[tuple[int, int]]:
    """Begin and length of parts of a side, none longer than `TILE`, as even as can be."""
    parts = -(-length // TILE)
    return [(length * part // parts, length * (part + 1) // parts - length * part // parts) for part in range(parts)]


class TorchLattice:
    """Normalised Gaussian kernel over the pixels of a batch, each image on its own, in plain torch.

    Args:
        features: `(B, N, d)` float32, in standard deviations.
        weight: factor of the kernel, above 0.
    """

    def __init__(self, features: Tensor, weight: float = 1.0) -> None:
        images, n, d = features.shape
        device = features.device
        flat = features.reshape(-1, d).float()
        low, high = torch.aminmax(flat, dim=0)
        layout, origin, count = key_layout(low.tolist(), high.tolist())
        if images * count >= 2**62:
            raise DataError(f"{images} images of {count:.1e} lattice cells each do not fit into one; split them")
        corners, weights = _simplices(flat, torch.tensor(layout, device=device), origin)
        corners += (torch.arange(images, device=device) * count).repeat_interleave(n)[:, None]
        keys, vertices = torch.unique(corners, return_inverse=True)
        self.points = len(keys)
        self.neighbours = []
        for j in range(d + 1):
            delta = (d + 1) * layout[j] - sum(layout)
            self.neighbours.append((self._find(keys, keys + delta), self._find(keys, keys - delta)))
        self.vertices = vertices.int()
        order = torch.argsort(vertices.flatten(), stable=True)
        self.pixels = (order // (d + 1)).int()
        counts = torch.bincount(vertices.flatten(), minlength=self.points)
        self.begins = (counts.cumsum(0) - counts).int()
        self.order, self.weights = order, weights
        ones = torch.ones(len(flat), 1, device=device)
        norm = self.add(torch.zeros_like(ones), ones)
        self.weights = weights * (math.sqrt(weight) * (norm + 1e-20).rsqrt())

    def _find(self, keys: Tensor, wanted: Tensor) -> Tensor:
        """Where each wanted key stands, or the index of the row of zeros after the last."""
        place = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
        return place.masked_fill_(keys[place] != wanted, len(keys)).int()

    def add(self, base: Tensor, q: Tensor, out: Tensor | None = None) -> Tensor:
        """`base + K q`, for `(B N, C)` float32; out is taken for the interface's sake and not used."""
        # Sums in a fixed order, unlike scattered additions: the same result every time.
        spread = self.weights.flatten()[self.order]
        values = F.embedding_bag(self.pixels, q, self.begins, mode="sum", per_sample_weights=spread)
        values = torch.cat([values, values.new_zeros(1, q.shape[1])])
        for before, after in self.neighbours:
            both = values.index_select(0, before) + values.index_select(0, after)
            values[:-1].add_(both, alpha=0.5)
        return base + F.embedding_bag(self.vertices, values, mode="sum", per_sample_weights=self.weights)


def _simplices(features: Tensor, strides: Tensor, origin: int) -> tuple[Tensor, Tensor]:
    """Keys and barycentric weights of the corners around each pixel, `(P, d + 1)` each."""
    d = features.shape[1]
    d1 = d + 1
    c = features * torch.tensor(axis_scale(d), device=features.device)
    position = F.pad(c.flip(1).cumsum(1).flip(1), (0, 1))
    position[:, 1:] -= c * torch.arange(1, d1, device=c.device)
    cell = torch.floor(position / d1 + 0.5)
    position -= cell * d1
    # Rank of each coordinate by how far it lies from the nearest point; ties go to the first.
    rank = torch.argsort(position, dim=1, descending=True, stable=True).argsort(1) + cell.sum(1, keepdim=True).long()
    wrap = (rank < 0).long() - (rank > d).long()
    rank += d1 * wrap
    cell += wrap
    position -= d1 * wrap
    ranked = torch.empty_like(position).scatter_(1, rank, position)
    step = torch.empty_like(rank).scatter_(1, rank, strides.expand_as(rank))
    weights = torch.empty_like(position)
    weights[:, 1:] = (ranked[:, :-1] - ranked[:, 1:]).flip(1) / d1
    weights[:, 0] = 1 + (ranked[:, -1] - ranked[:, 0]) / d1
    # From corner r to r + 1, every coordinate grows by 1 but that of rank d - r, which falls by d.
    first = (cell.long() * d1 * strides).sum(1, keepdim=True) + origin
    moves = (strides.sum() - d1 * step.flip(1))[:, :-1].cumsum(1)
    return torch.cat([first, first + moves], 1), weights
