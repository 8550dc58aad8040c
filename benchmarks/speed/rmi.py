"""The RMI loss against the steps of its released implementations: forward and backward, time and peak memory.

    python benchmarks/speed/rmi.py [--size 512] [--classes 19] [--present 8] [--threads 2]

The released steps are restated here from the paper: one-hot truth, binary cross-entropy over it, average pooling by 4,
nine shifted copies of every class's map in float64, an inverse and a Cholesky factor of 9 x 9 matrices. Rounds
alternate between the two; medians, their ratio and the greatest differences of value and gradient are printed. Labels
are blocks of the classes that an image shows; a street scene shows about half of its 19.
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
import torch.nn.functional as F
from torch import Tensor

from maskwright.losses.rmi import rmi_loss

TARGET = 3.0
RADIUS, POOL = 3, 4


def released_steps(logits: Tensor, labels: Tensor) -> Tensor:
    """0.5 * binary cross-entropy + 0.5 * region term, step by step as published."""
    batch, classes, _, _ = logits.shape
    valid = labels < classes
    one_hot = F.one_hot(labels * valid, classes).float() * valid.unsqueeze(-1)
    one_hot = one_hot.permute(0, 3, 1, 2)
    weights = valid.view(-1, 1).float()
    pixel = F.binary_cross_entropy_with_logits(
        logits.permute(0, 2, 3, 1).reshape(-1, classes),
        one_hot.permute(0, 2, 3, 1).reshape(-1, classes),
        weight=weights,
        reduction="sum",
    ) / (weights.sum() + 1)
    predicted = logits.sigmoid() * valid.unsqueeze(1) + 1e-6
    one_hot, predicted = (F.avg_pool2d(x, POOL, POOL, padding=POOL // 2) for x in (one_hot, predicted))
    y, p = (neighbourhoods(x).view(batch, classes, RADIUS**2, -1).double() for x in (one_hot, predicted))
    y = y - y.mean(3, keepdim=True)
    p = p - p.mean(3, keepdim=True)
    diagonal = 5e-4 * torch.eye(RADIUS**2, dtype=torch.float64, device=logits.device)
    inverse = torch.inverse(p @ p.transpose(2, 3) + diagonal)
    cross = y @ p.transpose(2, 3)
    left = y @ y.transpose(2, 3) - (cross @ inverse) @ cross.transpose(2, 3)
    factor = torch.linalg.cholesky(left + diagonal)
    terms = (factor.diagonal(dim1=2, dim2=3) + 1e-8).log().sum(-1)
    return 0.5 * pixel + 0.5 * (terms.view(batch, classes).mean(0) / RADIUS**2).sum().float()


def neighbourhoods(maps: Tensor) -> Tensor:
    height, width = (side - RADIUS + 1 for side in maps.shape[2:])
    shifts = [(y, x) for y in range(RADIUS) for x in range(RADIUS)]
    return torch.stack([maps[:, :, y : y + height, x : x + width] for y, x in shifts], 2)


def example(size: int, classes: int, present: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shown = torch.randperm(classes, generator=generator)[:present]
    blocks = shown[torch.randint(present, (1, 1, size // 32, size // 32), generator=generator)]
    labels = F.interpolate(blocks.double(), size=(size, size)).long()[:, 0]
    labels[torch.rand(labels.shape, generator=generator) < 0.05] = 255
    return 2 * torch.randn(1, classes, size, size, generator=generator), labels


def step(function, logits: Tensor, labels: Tensor) -> tuple[float, Tensor]:
    logits = logits.detach().requires_grad_()
    loss = function(logits, labels)
    loss.backward()
    assert logits.grad is not None
    return loss.item(), logits.grad


def high_water() -> float:
    """Most memory that this process has held, in megabytes (Linux)."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def peak_memory(which: str, arguments: list[str]) -> float:
    """Megabytes that one forward and backward adds, in a process of its own."""
    output = subprocess.run(
        [sys.executable, __file__, *arguments, "--memory-of", which], capture_output=True, text=True, check=True
    )
    return float(output.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--present", type=int, nargs="+", default=[8, 19])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory-of", choices=["ours", "released"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    functions = {"ours": rmi_loss, "released": released_steps}

    if options.memory_of:
        logits, labels = example(options.size, options.classes, options.present[0])
        step(functions[options.memory_of], logits[..., :64, :64], labels[..., :64, :64])  # loads the libraries' parts
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
        before = high_water()
        step(functions[options.memory_of], logits, labels)
        print(high_water() - before)
        return

    for present in options.present:
        logits, labels = example(options.size, options.classes, present)
        seconds: dict[str, list[float]] = {name: [] for name in functions}
        results = {}
        for number in range(options.rounds + 1):
            for name, function in functions.items():
                start = time.perf_counter()
                results[name] = step(function, logits, labels)
                if number:  # the first round warms up
                    seconds[name].append(time.perf_counter() - start)
        (ours, our_gradient), (released, released_gradient) = results["ours"], results["released"]
        value = abs(ours - released) / abs(released)
        gradient = ((our_gradient - released_gradient).abs().max() / released_gradient.abs().max()).item()
        assert value < 2e-5, f"the losses differ by {value:.1e}: {ours} against {released}"
        assert gradient < 1e-3, f"the gradients differ by {gradient:.1e} of the largest"
        medians = {name: statistics.median(times) for name, times in seconds.items()}
        ratio = medians["released"] / medians["ours"]
        sizes = ["--size", str(options.size), "--classes", str(options.classes), "--present", str(present)]
        memory = {name: peak_memory(name, [*sizes, "--threads", str(options.threads)]) for name in functions}
        verdict = "met" if ratio >= TARGET else "missed"
        print(
            f"1 x {options.classes} x {options.size} x {options.size}, {present} classes present, "
            f"{options.threads} threads: ours {1000 * medians['ours']:.0f} ms, +{memory['ours']:.0f} MB; "
            f"released steps {1000 * medians['released']:.0f} ms, +{memory['released']:.0f} MB; "
            f"{ratio:.1f} times as fast (target {TARGET:g}: {verdict}); "
            f"value differs by {value:.0e}, gradient by {gradient:.0e} of its largest"
        )


if __name__ == "__main__":
    main()
