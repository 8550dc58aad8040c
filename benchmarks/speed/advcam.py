"""AdvCAM, all classes of an image in one batch, against the released way: class by class, two backward passes a step.

    python benchmarks/speed/advcam.py [--backbone resnet50] [--size 96] [--classes 2] [--steps 3] [--frozen 0]

The released steps are restated here from the paper and its code's behaviour: for each class of an image, each step
runs the pair of image and mirror forward, one backward pass to the hooked last feature map and on down to the image
for Grad-CAM's weights, and one for the ascent; both also make gradients of the weights, which nobody reads (with
`--frozen 1` they do not). The head agrees with the mean feature, so that maps are not empty. Rounds alternate;
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
from typing import Any

import torch
from torch import Tensor

from maskwright.models import create_classifier
from maskwright.weak.advcam import climb, merge_views

TARGET = 1.8
STEP_SIZE, PENALTY, THRESHOLD = 0.08, 7.0, 0.5


def released_steps(network: Any, pair: Tensor, keys: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Summed maps `(P, h, w)` and the last pairs `(2, P, 3, H, W)`, one class after the other."""
    maps, pairs = [], []
    for key in keys.tolist():
        image, first, total = pair, None, torch.zeros(())
        for _ in range(steps):
            image = image.detach().requires_grad_()
            features = network.features(image)
            features.retain_grad()
            scores = network.classifier(features).relu()
            scores[:, key].sum().backward(retain_graph=True)
            gradient = features.grad.clone()
            weights = gradient.sum((2, 3), keepdim=True) / ((gradient > 0).sum() + 1e-12)
            each = (weights * features).sum(1).relu()
            merged = each[0] + each[1].flip(-1)
            first = merged.detach() if first is None else first
            total = total + merged.detach()
            means = scores.mean((2, 3))
            clear = merged.detach() / merged.detach().max() > THRESHOLD
            network.zero_grad()
            image.grad = None
            objective = 2 * means[:, key].sum() - means.sum() - PENALTY * ((merged - first).abs() * clear).sum()
            objective.backward()
            ascent: Any = image.grad
            moved = image.detach() + STEP_SIZE * ascent / (ascent.abs().max() + 1e-12)
            image = moved.clamp(image.min().item(), image.max().item())
        maps.append(total)
        pairs.append(image)
    network.zero_grad()
    return torch.stack(maps), torch.stack(pairs, 1)


def ours(network: Any, pair: Tensor, keys: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    total = torch.zeros(())
    images = pair[:, None].expand(-1, len(keys), -1, -1, -1)
    options: dict[str, Any] = {"step_size": STEP_SIZE, "penalty": PENALTY, "threshold": THRESHOLD}
    for step in climb(network, images, keys, steps=steps, **options):
        total = total + merge_views(step.maps)
        images = step.images
    return total, images


FUNCTIONS = {"ours": ours, "released": released_steps}


def example(options: argparse.Namespace) -> tuple[Any, Tensor, Tensor]:
    torch.manual_seed(0)
    network = create_classifier(backbone=options.backbone, num_tags=20).eval()
    image = torch.nn.functional.interpolate(torch.randn(1, 3, 8, 8), size=(options.size, options.size), mode="bicubic")
    pair = torch.cat([image, image.flip(-1)])
    with torch.no_grad():
        usual = network.features(pair).mean((0, 2, 3))
        network.classifier.weight.add_(0.05 * (usual / usual.norm())[None, :, None, None])
    return network, pair, torch.arange(options.classes)


def high_water() -> float:
    """Most memory that this process has held, in megabytes (Linux)."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def peak_memory(which: str, arguments: list[str]) -> float:
    """Megabytes that two steps add, in a process of its own."""
    output = subprocess.run(
        [sys.executable, __file__, *arguments, "--memory-of", which], capture_output=True, text=True, check=True
    )
    return float(output.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--frozen", type=int, default=0, help="1: the released way makes no gradients of weights")
    parser.add_argument("--memory-of", choices=sorted(FUNCTIONS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    network, pair, keys = example(options)
    network.requires_grad_(not options.frozen)

    if options.memory_of:
        FUNCTIONS[options.memory_of](network, pair[..., :32, :32], keys, 1)  # loads the libraries' parts
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
        before = high_water()
        FUNCTIONS[options.memory_of](network, pair, keys, 2)
        print(high_water() - before)
        return

    seconds: dict[str, list[float]] = {name: [] for name in FUNCTIONS}
    results = {}
    for number in range(options.rounds + 1):
        for name, function in FUNCTIONS.items():
            start = time.process_time()
            results[name] = function(network, pair, keys, options.steps)
            if number:  # the first round warms up
                seconds[name].append(time.process_time() - start)
    (maps, images), (other_maps, other_images) = results["ours"], results["released"]
    assert (other_maps.amax((1, 2)) > 0).all(), "a class without a map compares nothing"
    apart = ((maps - other_maps).abs().max() / other_maps.max()).item()
    assert apart < 2e-3, f"the maps differ by {apart:.1e} of the largest"
    moved = (other_images - pair[:, None]).abs().max().item()
    differ = (images - other_images).abs().max().item()
    assert differ < 0.02 * moved, f"the images differ by {differ:.1e}; they moved by {moved:.1e}"

    names = ("backbone", "size", "classes", "threads", "frozen")
    arguments = [word for name in names for word in (f"--{name}", str(getattr(options, name)))]
    memory = {name: peak_memory(name, arguments) for name in FUNCTIONS}
    medians = {name: statistics.median(times) / options.steps for name, times in seconds.items()}
    ratio = medians["released"] / medians["ours"]
    print(
        f"{options.backbone}, one image of {options.size} x {options.size} and its mirror, {options.classes} classes, "
        f"{options.threads} threads{', weights frozen' if options.frozen else ''}: "
        f"ours {1000 * medians['ours']:.0f} ms a step, +{memory['ours']:.0f} MB; class by class"
        f" {1000 * medians['released']:.0f} ms, +{memory['released']:.0f} MB; {ratio:.2f} times as fast "
        f"(target {TARGET:g}: {'met' if ratio >= TARGET else 'missed'}); maps differ by {apart:.0e} of the largest, "
        f"images by {differ:.0e}"
    )


if __name__ == "__main__":
    main()
