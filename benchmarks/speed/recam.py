"""ReCAM's step against the broadcast product of its released code: forward and backward, time and peak memory.

    python benchmarks/speed/recam.py [--batch 2] [--classes 20] [--shown 2] [--channels 2048] [--side 32] [--threads 1]

What is timed is all after the backbone: both heads, masks, class features, both losses and the gradients with respect
to features and heads. The released steps are restated here from the paper: normalised maps of all classes times the
features, an image x class x channel x position product, averaged over positions; the classes of an image are picked
afterwards. Features of 512 x 512 images at stride 16 are 2048 x 32 x 32; the paper's batch is 16. Rounds alternate;
processor time counts, so that other work on the machine does not.
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

from maskwright.weak.recam import recam_loss

FASTER, LEANER = 3.0, 20.0


def released_steps(features: Tensor, w1: Tensor, w2: Tensor, tags: Tensor) -> Tensor:
    """Binary loss plus the second head's, with the broadcast product as published."""
    logits = F.adaptive_avg_pool2d(F.conv2d(features, w1), 1).flatten(1)
    loss = F.multilabel_soft_margin_loss(logits, tags)
    maps = F.relu(F.conv2d(features, w1))
    maps = maps / (F.adaptive_max_pool2d(maps, 1) + 1e-5)
    product = maps.unsqueeze(2) * features.unsqueeze(1)
    means = product.flatten(0, 1).mean((2, 3)).unflatten(0, maps.shape[:2])
    second = features.new_zeros(())
    for image, shown in zip(means, tags, strict=True):
        keys = shown.nonzero().flatten()
        if len(keys):
            second = second + F.cross_entropy(F.conv2d(image[keys][:, :, None, None], w2).flatten(1), keys)
    return loss + second / len(tags)


def ours(features: Tensor, w1: Tensor, w2: Tensor, tags: Tensor) -> Tensor:
    return recam_loss(features, w1, w2, tags)[0]


FUNCTIONS = {"ours": ours, "released": released_steps}


def example(options: argparse.Namespace) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    heads = [0.02 * draw(options.classes, options.channels, 1, 1) for _ in range(2)]
    features = draw(options.batch, options.channels, options.side, options.side).relu_()
    tags = torch.zeros(options.batch, options.classes)
    for row in tags:
        row[torch.randperm(options.classes, generator=generator)[: options.shown]] = 1
    return [features, *heads], tags


def step(function, inputs: list[Tensor], tags: Tensor) -> tuple[float, list[Tensor]]:
    inputs = [value.detach().requires_grad_() for value in inputs]
    loss = function(*inputs, tags)
    loss.backward()
    return loss.item(), [value.grad for value in inputs if value.grad is not None]


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
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--shown", type=int, default=2)
    parser.add_argument("--channels", type=int, default=2048)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory-of", choices=sorted(FUNCTIONS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    if options.memory_of:
        inputs, tags = example(options)
        small = [value[:, :16, :4, :4] for value in inputs]
        step(FUNCTIONS[options.memory_of], small, tags)  # loads the libraries' parts
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
        before = high_water()
        step(FUNCTIONS[options.memory_of], inputs, tags)
        print(high_water() - before)
        return

    inputs, tags = example(options)
    seconds: dict[str, list[float]] = {name: [] for name in FUNCTIONS}
    results = {}
    for number in range(options.rounds + 1):
        for name, function in FUNCTIONS.items():
            start = time.process_time()
            results[name] = step(function, inputs, tags)
            if number:  # the first round warms up
                seconds[name].append(time.process_time() - start)
    (value, gradients), (other, other_gradients) = results["ours"], results["released"]
    assert abs(value - other) < 1e-5 * abs(other), f"the losses differ: {value} against {other}"
    apart = max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(gradients, other_gradients, strict=True))
    assert apart < 1e-4, f"the gradients differ by {apart:.1e} of the largest"

    names = ("batch", "classes", "shown", "channels", "side", "threads")
    arguments = [word for name in names for word in (f"--{name}", str(getattr(options, name)))]
    memory = {name: peak_memory(name, arguments) for name in FUNCTIONS}
    product = options.batch * options.classes * options.channels * options.side**2 * 4 / 2**20
    assert memory["ours"] < product, f"{memory['ours']:.0f} MB would hold a tensor of {product:.0f} MB"
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ratio, leaner = medians["released"] / medians["ours"], memory["released"] / memory["ours"]
    print(
        f"{options.batch} images, {options.classes} classes, {options.shown} shown, "
        f"{options.channels} x {options.side} x {options.side}, {options.threads} threads: "
        f"ours {1000 * medians['ours']:.0f} ms, +{memory['ours']:.0f} MB; "
        f"broadcast product {1000 * medians['released']:.0f} ms, +{memory['released']:.0f} MB "
        f"(one such product is {product:.0f} MB)\n"
        f"{ratio:.1f} times as fast (target {FASTER:g}: {'met' if ratio >= FASTER else 'missed'}), "
        f"1/{leaner:.1f} of the memory (target 1/{LEANER:g}: {'met' if leaner >= LEANER else 'missed'}); "
        f"gradients differ by {apart:.0e} of the largest"
    )


if __name__ == "__main__":
    main()
