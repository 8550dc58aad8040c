"""IRN's random walk against its released form, the matrix of pixels by pixels: time, memory, difference.

    python benchmarks/speed/random_walk.py [--size 512] [--classes 3] [--grids 32 48 64] [--threads 2]

The released steps are restated here: affinities of index pairs, a dense matrix, as many squarings as `--exp-times`, one
product. On the grids both run, in rounds that alternate; what the dense form would take at the full size follows from
its own times on the last grid, as the cube and the square of the pixels. Memory is measured in processes of their own.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.facts import as_lines, facts
from maskwright.weak.random_walk import directions, path_offsets, random_walk

SECONDS, MEGABYTES, DIFFERENCE = 0.5, 100.0, 1e-5
FASTER, SMALLER = 1000, 50
RADIUS, BETA = 5, 10.0


def released_steps(maps: Tensor, edges: Tensor, exp_times: int) -> Tensor:
    """The walk of one image as published, in the type of the maps."""
    count, height, width = maps.shape
    positions = torch.arange(height * width).view(height, width)
    matrix = torch.zeros(height * width, height * width, dtype=maps.dtype)
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


def ours(maps: Tensor, edges: Tensor, exp_times: int, tolerance: float = 0.0) -> Tensor:
    walked = random_walk(
        maps[None], edges[None, None], radius=RADIUS, beta=BETA, steps=2**exp_times, tolerance=tolerance
    )
    return walked[0]


def example(side: int, classes: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(side)
    maps = torch.rand(classes, side, side, generator=generator, dtype=dtype)
    return maps, torch.rand(side, side, generator=generator, dtype=dtype) ** 3


def high_water() -> float:
    """Most memory that this process has held, in megabytes (Linux)."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def peak_memory(which: str, side: int, options: argparse.Namespace) -> float:
    """Megabytes that one walk adds, in a process of its own."""
    words = ["--memory-of", which, "--size", 4 * side, "--classes", options.classes, "--threads", options.threads]
    module = [sys.executable, "-m", "benchmarks.speed.random_walk"]
    output = subprocess.run([*module, *map(str, words)], capture_output=True, text=True, check=True)
    return float(output.stdout)


def medians(functions: dict, rounds: int) -> dict[str, tuple[float, float]]:
    """Median seconds of the clock and of the processor, over rounds that alternate."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter(), time.process_time()
            function()
            seconds[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return {
        name: (statistics.median(wall for wall, _ in times), statistics.median(cpu for _, cpu in times))
        for name, times in seconds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="side of the image; the grid is a quarter of it")
    parser.add_argument("--classes", type=int, default=3)
    parser.add_argument("--exp-times", type=int, default=8)
    parser.add_argument("--grids", type=int, nargs="+", default=[32, 48, 64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory-of", choices=["ours", "dense"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    t, side = options.exp_times, options.size // 4

    warm = example(8, options.classes)
    ours(*warm, t), ours(*warm, t, 1e-9), released_steps(*warm, t)
    if options.memory_of:
        given = example(side, options.classes)
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
        before = high_water()
        (ours if options.memory_of == "ours" else released_steps)(*given, t)
        print(high_water() - before)
        return

    print(*as_lines(facts()), sep="\n")
    print("| grid | dense, s | ours, s | times as fast | difference | dense, MB | ours, MB |")
    print("|---|---|---|---|---|---|---|")
    dense_seconds = dense_memory = 0.0
    for grid in options.grids:
        given, exact = example(grid, options.classes), example(grid, options.classes, torch.float64)
        pair = {"dense": lambda g=given: released_steps(*g, t), "ours": lambda g=given: ours(*g, t)}
        found = medians(pair, options.rounds)
        single = tuple(tensor.float() for tensor in exact)
        difference = (ours(*single, t).double() - released_steps(*(s.double() for s in single), t)).abs().max().item()
        assert difference < DIFFERENCE, f"the forms differ by {difference:.1e} on a grid of {grid}"
        dense_seconds, dense_memory = found["dense"][1], peak_memory("dense", grid, options)
        cells = [f"{grid} x {grid}", f"{dense_seconds:.3f}", f"{found['ours'][1]:.3f}"]
        cells += [f"{dense_seconds / found['ours'][1]:.0f}", f"{difference:.0e}", f"{dense_memory:.1f}"]
        print("|", " | ".join([*cells, f"{peak_memory('ours', grid, options):.1f}"]), "|")

    full = example(side, options.classes)
    found = medians({"ours": lambda: ours(*full, t), "series": lambda: ours(*full, t, 1e-7)}, max(3, options.rounds))
    difference = (ours(*full, t) - ours(*full, t, 1e-7)).abs().max().item()
    growth = (side / options.grids[-1]) ** 2
    dense_seconds, dense_memory = dense_seconds * growth**3, dense_memory * growth**2
    memory = peak_memory("ours", side, options)
    wall, processor = found["ours"]
    print(
        f"\nSeconds above are of the processor. {options.size} x {options.size} image, {options.classes} classes, "
        f"{2**t} steps, radius {RADIUS}, beta {BETA:g}:\n"
        f"{wall:.2f} s by the clock, {processor:.2f} s of the processor (target {SECONDS:g} on 2 cores: "
        f"{verdict(min(wall, processor) <= SECONDS)}), +{memory:.0f} MB (target {MEGABYTES:g}: "
        f"{verdict(memory <= MEGABYTES)}); as a series cut at 1e-7: {found['series'][0]:.2f} s by the clock, "
        f"{found['series'][1]:.2f} s of the processor, differing by {difference:.0e}.\n"
        f"Dense form, extrapolated from the last grid: {dense_seconds:.0f} s, {dense_memory:.0f} MB; "
        f"{dense_seconds / processor:.0f} times as fast (target {FASTER}: "
        f"{verdict(dense_seconds / processor >= FASTER)}), 1/{dense_memory / max(memory, 0.1):.0f} of the memory "
        f"(target 1/{SMALLER}: {verdict(dense_memory / max(memory, 0.1) >= SMALLER)})."
    )


def verdict(good: bool) -> str:
    return "met" if good else "missed"


if __name__ == "__main__":
    main()
