"""The random walk against the released dense matrices: affinities, one step, the whole walk, the labels."""

from __future__ import annotations

import numpy as np
import torch
from numpy.testing import assert_allclose

from maskwright.weak.refine.random_walk import (
    affinities,
    directions,
    enlarge_walk,
    random_walk,
    transition,
    walk_labels,
)


def check(arrays: dict[str, np.ndarray]) -> None:
    for prefix in sorted({key.partition("_")[0] for key in arrays}):
        check_case({k.partition("_")[2]: a for k, a in arrays.items() if k.startswith(f"{prefix}_")})


def indifferent(key: str, arrays: dict[str, np.ndarray]) -> bool:
    """A threshold does not matter where no pixel's score lies between it and the altered one."""
    case, _, name = key.partition("_")
    if name != "sem_bg_thres":
        return False
    walked = torch.from_numpy(arrays[f"{case}_rw_f64"][:, 0])
    size, threshold = tuple(arrays[f"{case}_label_hw"].tolist()), float(arrays[key])
    return np.array_equal(walk_labels(walked, size, threshold), walk_labels(walked, size, 1.01 * threshold))


def check_case(arrays: dict[str, np.ndarray]) -> None:
    radius, beta = int(arrays["radius"]), float(arrays["beta"])
    steps = 2 ** int(arrays["exp_times"])
    height, width = arrays["edge"].shape[-2:]

    edges = torch.from_numpy(arrays["edge"])
    dense = symmetric(affinities(edges, radius)[0].numpy(), directions(radius))
    assert_allclose(dense, arrays["affinity_dense"], rtol=0, atol=1e-6)

    exact = torch.from_numpy(arrays["edge_f64"])
    step = transition(exact, radius, beta)
    inner = slice(step.margin, step.margin + height), slice(step.margin, step.margin + width)
    dense = symmetric(step.weights[0].numpy()[:, inner[0], inner[1]], step.ways)
    one_step = dense * step.inverse.numpy().reshape(1, -1)  # columns are where the walk arrives
    assert_allclose(one_step, arrays["transition_one_step_f64"], rtol=0, atol=1e-10)

    for kind, close in (("", 1e-4), ("_f64", 1e-10)):
        maps, edges = (torch.from_numpy(arrays[f"{name}{kind}"])[None] for name in ("x", "edge"))
        walked = random_walk(maps, edges, radius=radius, beta=beta, steps=steps)[0]
        assert_allclose(walked, arrays[f"rw{kind}"][:, 0], rtol=0, atol=close)
    size = tuple(arrays["label_hw"].tolist())
    threshold = float(arrays["sem_bg_thres"])
    labels = walk_labels(walked, size, threshold)
    planes = np.sort(np.concatenate([np.full((1, *size), threshold), enlarge_walk(walked, size).numpy()]), axis=0)
    clear = planes[-1] - planes[-2] >= 1e-5
    assert clear.mean() >= 0.97
    np.testing.assert_array_equal(labels[clear], arrays["label_index"][clear])
    assert (labels == arrays["label_index"]).mean() >= 0.995


def symmetric(pairs: np.ndarray, ways: tuple[tuple[int, int], ...]) -> np.ndarray:
    """The matrix `(N, N)` with unit diagonal from pairs `(D, H, W)`."""
    _, height, width = pairs.shape
    dense = np.eye(height * width, dtype=pairs.dtype)
    for plane, (dy, dx) in zip(pairs, ways, strict=True):
        for y, x in np.ndindex(height, width):
            if 0 <= y + dy < height and 0 <= x + dx < width:
                u, v = y * width + x, (y + dy) * width + x + dx
                dense[u, v] = dense[v, u] = plane[y, x]
    return dense
