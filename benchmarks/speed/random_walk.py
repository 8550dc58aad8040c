"""IRN's random walk against its released form, the matrix of pixels by pixels.

    python -m benchmarks.speed.random_walk

The released steps are restated here: affinities of index pairs, a dense matrix, as many squarings as 2^n steps need,
one product. At 512 x 512 the matrix has 16384 rows, so the dense form runs on a smaller grid, and its time and memory
are multiplied as the cube and the square of the positions: what products of matrices cost.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.speed.timer import Bar, Comparison, Row, Scaled, main
from maskwright.weak.refine.random_walk import directions, path_offsets, random_walk

RADIUS, BETA = 5, 10.0


def released_steps(maps: Tensor, edges: Tensor, exp_times: int) -> Tensor:
    """The walk of one image as published, in the type of the maps."""
    count, height, width = maps.shape
    positions = torch.arange(height * width, device=maps.device).view(height, width)
    matrix = maps.new_zeros(height * width, height * width)
    for dy, dx in directions(RADIUS):
        rows, left = height - dy, max(0, -dx)
        columns = width - abs(dx)
        source = positions[:rows, left : left + columns].flatten()
        path = torch.stack([source + y * width + x for y, x in path_offsets(dy, dx)])
        matrix[source, source + dy * width + dx] = 1 - edges.flatten()[path].amax(0)
    matrix += matrix.T.clone()
    matrix.fill_diagonal_(1).pow_(BETA)
    matrix /= matrix.sum(0, keepdim=True)
    for _ in range(exp_times):
        matrix = matrix @ matrix
    return ((maps * (1 - edges)).view(count, -1) @ matrix).view_as(maps)


def ours(maps: Tensor, edges: Tensor, exp_times: int) -> Tensor:
    return random_walk(maps[None], edges[None, None], radius=RADIUS, beta=BETA, steps=2**exp_times, tolerance=0.0)[0]


def example(side: int, classes: int, device: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(side)
    maps = torch.rand(classes, side, side, generator=generator)
    return maps.to(device), (torch.rand(side, side, generator=generator) ** 3).to(device)


def build(device: str, *, size: int, classes: int, exp_times: int, grid: int) -> Comparison:
    side = size // 4
    given, small = example(side, classes, device), example(grid, classes, device)
    growth = (side / grid) ** 2

    def check(results: dict[str, Any]) -> dict[str, float]:
        exact = released_steps(small[0].double(), small[1].double(), exp_times)
        apart = (ours(*small, exp_times).double() - exact).abs().max().item()
        assert apart < 1e-5, f"the forms differ by {apart:.1e} on a grid of {grid}"
        single = (results["dense squaring"].double() - exact).abs().max().item()
        return {f"difference on {grid}x{grid} from the dense form in float64": apart, "its own in float32": single}

    pairs = len(directions(RADIUS))
    law = f"run on {grid}x{grid} positions; time times {growth:.4g}^3, memory times {growth:.4g}^2, as positions grow"
    return Comparison(
        {
            "random_walk": partial(ours, *given, exp_times),
            "dense squaring": partial(released_steps, *small, exp_times),
        },
        check,
        [Bar("dense squaring", 1000), Bar("dense squaring", 50, of="memory")],
        scaled={"dense squaring": Scaled(growth**3, growth**2, law)},
        # Every step reads each pair's affinity once and adds two products for each class.
        flops=2**exp_times * 4 * pairs * classes * side**2,
        moved=given[0].nbytes + given[1].nbytes,
        notes=[law],
    )


ROW = Row(
    "IRN's random walk, 512x512 at stride 4, 3 classes, 256 steps",
    build,
    {"512x512": {"size": 512, "classes": 3, "exp_times": 8, "grid": 48}},
    {"size": 64, "grid": 12},
)

if __name__ == "__main__":
    main(ROW)
