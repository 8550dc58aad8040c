"""Neighbours, the paths to them, and affinities along the paths, at the radii of inference and training."""

from __future__ import annotations

import numpy as np
import torch
from numpy.testing import assert_allclose, assert_array_equal

from maskwright.weak.refine.random_walk import affinities, directions, margin_of, path_offsets


def check(arrays: dict[str, np.ndarray]) -> None:
    for prefix in sorted({key.partition("_")[0] for key in arrays}):
        check_radius(int(prefix[1:]), {k.partition("_")[2]: a for k, a in arrays.items() if k.startswith(f"{prefix}_")})


def check_radius(radius: int, arrays: dict[str, np.ndarray]) -> None:
    height, width = arrays["grid"].tolist()
    margin = margin_of(radius)
    assert margin == arrays["radius_floor"]
    ways = sorted(directions(radius))
    paths = arrays["sorted_paths"]
    assert len(ways) == len(paths)
    for (dy, dx), row in zip(ways, paths, strict=True):
        path = sorted(path_offsets(dy, dx))
        expected = [dy, dx, len(path), *np.ravel(path)]
        assert_array_equal(row[: len(expected)], expected)
        assert (row[len(expected) :] == -99).all()
    # Across the row first, then row by row; paths of one length together.
    assert_array_equal(
        sorted(directions(radius), key=lambda way: len(path_offsets(*way))), arrays["search_dst_official_order"]
    )

    # Where the released tensors have sources: no neighbour lies outside.
    rows, columns = np.arange(height - margin), np.arange(margin, width - margin)
    source = (rows[:, None] * width + columns).ravel()
    pairs = np.array([(u, u + dy * width + dx) for u in source for dy, dx in ways])
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    assert_array_equal(pairs[order], arrays["sorted_src_dst_pairs"])
    edges = torch.from_numpy(arrays["edge"][:, 0])
    found = affinities(edges, radius)[:, [directions(radius).index(way) for way in ways]].numpy()
    found = found[:, :, : height - margin, margin : width - margin]
    found = found.reshape(len(edges), len(ways), -1)
    assert_array_equal(found.shape, arrays["affinity_shape_official"])
    found = found.transpose(0, 2, 1).reshape(len(edges), -1)[:, order]
    assert_allclose(found, arrays["affinity_sorted"], rtol=0, atol=1e-12)
