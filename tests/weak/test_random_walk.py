"""The random walk: against matrices of pixels by pixels, and what any walk must keep."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from maskwright.errors import DataError, RecipeError
from maskwright.weak.refine.random_walk import (
    affinities,
    directions,
    enlarge_walk,
    path_maximum,
    path_offsets,
    power_series,
    random_walk,
    transition,
    walk_labels,
)

MODULE = "maskwright.weak.refine.random_walk"

SHAPE = (11, 14)


def example(batch=2, classes=3, shape=SHAPE, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(batch, classes, *shape, generator=generator, dtype=dtype)
    return maps, torch.rand(batch, 1, *shape, generator=generator, dtype=dtype) ** 2


def dense_walk(maps, edges, radius, beta, steps):
    """As published: the matrix by its definition, squared."""
    height, width = edges.shape[-2:]
    count = height * width
    results = []
    for planes, edge in zip(maps, edges[:, 0]):
        matrix = torch.eye(count, dtype=edges.dtype)
        for i in range(count):
            for j in range(i + 1, count):
                (y, x), (v, u) = divmod(i, width), divmod(j, width)
                dy, dx = v - y, u - x
                if dy * dy + dx * dx < radius * radius:
                    length = math.hypot(dy, dx)
                    on_path = [
                        edge[y + b, x + a]
                        for b in range(dy + 1)
                        for a in range(min(0, dx), max(0, dx) + 1)
                        if abs(dy * a - dx * b) / length < 1
                    ]
                    matrix[i, j] = matrix[j, i] = (1 - max(on_path)) ** beta
        matrix = matrix / matrix.sum(0)
        start = (planes * (1 - edge)).flatten(1)
        results.append((start @ torch.linalg.matrix_power(matrix, steps)).view_as(planes))
    return torch.stack(results)


@pytest.mark.parametrize(("radius", "beta", "steps"), [(5, 10.0, 16), (3, 4.0, 1), (2, 1.5, 256), (6, 8.0, 0)])
def test_equals_the_dense_form(form, radius, beta, steps):
    maps, edges = example(shape=(9, 7))
    expected = dense_walk(maps, edges, radius, beta, steps)
    found = random_walk(maps, edges, radius=radius, beta=beta, steps=steps)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
    single = random_walk(maps.float(), edges.float(), radius=radius, beta=beta, steps=steps)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 7, 256])
def test_chebyshev_series(form, steps):
    maps, edges = example()
    exact = random_walk(maps, edges, steps=steps)
    torch.testing.assert_close(random_walk(maps, edges, steps=steps, tolerance=1e-12), exact, rtol=0, atol=1e-10)
    close = random_walk(maps, edges, steps=steps, tolerance=1e-6)
    torch.testing.assert_close(close, exact, rtol=0, atol=1e-5)


def test_power_series():
    x = np.linspace(-1, 1, 101)
    for power in (1, 2, 5, 64):
        np.testing.assert_allclose(np.polynomial.chebyshev.chebval(x, power_series(power, 0.0)), x**power, atol=1e-12)
    short = power_series(256, 4e-8)
    assert 80 < len(short) < 95
    np.testing.assert_allclose(np.polynomial.chebyshev.chebval(x, short), x**256, atol=4e-8)


@pytest.mark.parametrize("tolerance", [0.0, 1e-12])
def test_more_steps_than_go_together(form, tolerance):
    maps, edges = example(shape=(41, 6))
    expected = dense_walk(maps, edges, 3, 4.0, 19)
    found = random_walk(maps, edges, radius=3, beta=4.0, steps=19, tolerance=tolerance)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_constants_stay(form):
    _, edges = example()
    maps = (0.7 / (1 - edges)).expand(-1, 2, -1, -1)  # the walk starts from maps * (1 - edges)
    torch.testing.assert_close(random_walk(maps, edges), torch.full_like(maps, 0.7), rtol=0, atol=1e-11)


def test_stays_between_lowest_and_highest(form):
    maps, edges = example(seed=3)
    start = maps * (1 - edges)
    walked = random_walk(maps, edges, steps=5)
    assert (walked.amax((2, 3)) <= start.amax((2, 3))).all()
    assert (walked.amin((2, 3)) >= start.amin((2, 3))).all()


def test_mirror(form):
    maps, edges = example()
    mirrored = random_walk(maps.flip(-1), edges.flip(-1), steps=32).flip(-1)
    torch.testing.assert_close(mirrored, random_walk(maps, edges, steps=32), rtol=0, atol=1e-12)


@pytest.mark.bit_equal
def test_batch_equals_loop_and_threads_do_not_matter(form):
    maps, edges = example(batch=3)
    maps[1, 2] = 0
    together = random_walk(maps, edges, steps=9)
    alone = [random_walk(m[None, None], e[None], steps=9)[0, 0] for ms, e in zip(maps, edges) for m in ms]
    assert torch.equal(together, torch.stack(alone).view_as(maps))
    assert (together[1, 2] == 0).all()
    torch.set_num_threads(2)
    assert torch.equal(random_walk(maps, edges, steps=9), together)


def test_edges_stop_the_walk(form):
    maps, edges = torch.zeros(1, 1, 9, 12), torch.zeros(1, 1, 9, 12)
    maps[..., :3] = 1
    edges[..., 6:8] = 1
    walked = random_walk(maps, edges)
    assert (walked[..., 6:] == 0).all()
    torch.testing.assert_close(walked[..., :6], torch.full((1, 1, 9, 6), 0.5), atol=0.02, rtol=0)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 3)])
def test_images_smaller_than_the_radius(form, shape):
    maps, edges = example(shape=shape)
    expected = dense_walk(maps, edges, 5, 10.0, 8)
    torch.testing.assert_close(random_walk(maps, edges, steps=8), expected, rtol=0, atol=1e-12)


def test_directions_are_a_half_plane():
    for radius, count in ((5, 34), (10, 152), (2, 4), (1.5, 4)):
        ways = directions(radius)
        assert len(ways) == len(set(ways)) == count
        assert not {(-dy, -dx) for dy, dx in ways} & set(ways)
    assert path_offsets(0, 3) == ((0, 0), (0, 1), (0, 2), (0, 3))
    assert set(path_offsets(2, -2)) == {(0, 0), (1, -1), (2, -2), (0, -1), (1, 0), (1, -2), (2, -1)}


def test_affinity_is_that_of_the_way():
    edges = torch.rand(2, 6, 8)
    found = affinities(edges, 4, margin=2)
    assert found.shape == (2, len(directions(4)), 10, 12)
    way = directions(4).index((2, -1))
    torch.testing.assert_close(found[:, way, 2:6, 3:10], 1 - path_maximum(edges, 2, -1))
    outside = found[:, way].clone()
    outside[:, 2:6, 3:10] = 0
    assert (outside == 0).all()


def test_transition_is_stochastic():
    _, edges = example()
    step = transition(edges[:, 0])
    assert step.margin == 4
    assert step.weights.shape == (2, 34, SHAPE[0] + 8, SHAPE[1] + 8)
    assert (step.inverse <= 1).all()
    assert (step.inverse >= 1 / 69).all()


def test_labels():
    walked = torch.zeros(2, 3, 4)
    walked[0, :, :2] = 0.8
    walked[1, :, 2:] = 0.1
    labels = walk_labels(walked, (10, 15), 0.25)
    assert labels.shape == (10, 15)
    assert (labels[:, :7] == 1).all()
    assert (labels[:, 12:] == 0).all()  # 0.1 of 0.8: one maximum for all classes
    assert (walk_labels(walked, (10, 15), 0.1)[:, 12:] == 2).all()
    assert walk_labels(torch.zeros(1, 3, 4), (12, 16)).max() == 0
    assert enlarge_walk(walked, (10, 15), (20, 30)).shape == (2, 20, 30)
    assert enlarge_walk(walked[:0], (10, 15), (20, 30)).shape == (0, 20, 30)


def test_refuses_what_cannot_be():
    maps, edges = example()
    with pytest.raises(DataError, match="expected"):
        random_walk(maps, edges[:1])
    with pytest.raises(RecipeError, match="beta"):
        random_walk(maps, edges, beta=0.0)
    with pytest.raises(RecipeError, match="radius"):
        random_walk(maps, edges, radius=1)
