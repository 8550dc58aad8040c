"""DUpsampling's fit against a full eigendecomposition, and its arg-max against building the full-size class map.

    python benchmarks/speed/dupsampling.py [--size 512] [--classes 21] [--ratio 16] [--dim 256] [--threads 2]

Fit: the plain way forms the moment of r*r*C rows from one-hot vectors and decomposes it whole (minutes at the default
sizes, so once); ours streams cells and takes block Lanczos steps. Equal means: the mean squared error of ours is within
0.1 % of the optimum. Arg-max: the plain way is a 1x1 convolution, pixel shuffle and arg-max; rounds alternate between
the two, medians are compared, labels must be equal.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from maskwright.models.dupsampling import dupsample_argmax
from maskwright.models.dupsampling_fit import fit_label_basis, label_patches

FIT_TARGET, ARGMAX_TARGET = 10.0, 2.0


def masks(count: int, size: int, classes: int, seed: int = 0) -> list[np.ndarray]:
    """Regions with smooth borders, a third of the classes in each mask, half of it one class, as photographs have."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        shown = torch.randperm(classes, generator=generator)[: max(2, classes // 3)]
        noise = torch.randn(1, len(shown), size // 32 + 2, size // 32 + 2, generator=generator)
        noise[:, 0] += 0.8
        regions = F.interpolate(noise, (size, size), mode="bicubic")[0].argmax(0)
        found.append(shown[regions].numpy().astype(np.uint8))
    return found


def plain_fit(cells: list[np.ndarray], ratio: int, classes: int, dim: int) -> tuple[np.ndarray, float]:
    rows = ratio**2 * classes
    moment, count = np.zeros((rows, rows)), 0
    for chunk in cells:
        vectors = np.eye(classes, dtype=np.float32)[chunk].reshape(len(chunk), rows)
        moment += vectors.T @ vectors
        count += len(chunk)
    values, vectors = np.linalg.eigh(moment / count)
    return vectors[:, -dim:], float(values[:-dim].sum())


def cut(mask: np.ndarray, ratio: int) -> np.ndarray:
    down, across = mask.shape[0] // ratio, mask.shape[1] // ratio
    cells = mask.reshape(down, ratio, across, ratio).transpose(0, 2, 1, 3)
    return cells.reshape(down * across, ratio**2)


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def compare_fit(options: argparse.Namespace) -> None:
    found = masks(options.masks, options.size, options.classes)
    rows = options.ratio**2 * options.classes

    def ours():
        return fit_label_basis(label_patches(found, options.ratio, options.classes), options.dim, dense=False)

    fit_label_basis(label_patches([np.eye(8, dtype=np.uint8)], 4, 2), 4, dense=False)  # compiles
    times, bases = zip(*(timed(ours) for _ in range(options.fit_rounds)))
    seconds, error = statistics.median(times), bases[0].error
    line = (
        f"fit r={options.ratio} C={options.classes} d={options.dim}, {rows} rows, {options.masks} masks of "
        f"{options.size}: ours {seconds:.2f} s, error {error:.4f} per cell"
    )
    if options.skip_plain:
        print(line)
        return
    plain_seconds, (_, best) = timed(
        lambda: plain_fit([cut(mask, options.ratio) for mask in found], options.ratio, options.classes, options.dim)
    )
    assert best * (1 - 1e-5) <= error <= best * 1.001, f"error {error} per cell, optimum {best}"
    ratio = plain_seconds / seconds
    print(
        f"{line}; full eigendecomposition {plain_seconds:.1f} s, error {best:.4f}; {ratio:.1f} times as fast "
        f"(target {FIT_TARGET:g}: {'met' if ratio >= FIT_TARGET else 'missed'})"
    )


@torch.no_grad()
def compare_argmax(options: argparse.Namespace) -> None:
    ratio, classes, side = options.ratio, options.classes, options.size // options.ratio
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, options.dim, side, side, generator=generator)
    weight = torch.randn(ratio**2 * classes, options.dim, generator=generator) / ratio
    # Pixel shuffle wants the class outermost, which a plain module arranges once, when it is built.
    shuffled = weight.view(ratio**2, classes, -1).transpose(0, 1).reshape(weight.shape)[:, :, None, None].contiguous()
    functions = {
        "ours": lambda: dupsample_argmax(features, weight, classes, ratio),
        "plain": lambda: F.pixel_shuffle(F.conv2d(features, shuffled), ratio).argmax(1),
    }
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    labels = {}
    for number in range(options.rounds + 1):
        for name, function in functions.items():
            spent, labels[name] = timed(function)
            if number:  # the first round warms up
                seconds[name].append(spent)
    # The products are rounded in another order, so a tie to the last bit may fall the other way.
    logits = F.pixel_shuffle(F.conv2d(features, shuffled), ratio).topk(2, 1).values
    clear = logits[:, 0] - logits[:, 1] > 1e-5
    assert torch.equal(labels["ours"].long()[clear], labels["plain"][clear])
    assert clear.float().mean() > 0.999
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    times = medians["plain"] / medians["ours"]
    print(
        f"arg-max {options.size} x {options.size} x {classes}, r={ratio}, d={options.dim}: ours "
        f"{1000 * medians['ours']:.0f} ms; pixel shuffle then arg-max {1000 * medians['plain']:.0f} ms; {times:.1f} "
        f"times as fast (target {ARGMAX_TARGET:g}: {'met' if times >= ARGMAX_TARGET else 'missed'})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--ratio", type=int, default=16)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--masks", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--fit-rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--skip-plain", action="store_true", help="leave out the full eigendecomposition")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.threads} threads")
    compare_argmax(options)
    compare_fit(options)


if __name__ == "__main__":
    main()
