"""How cost grows with the work: pixels, classes, images; and what a second process brings.

    python -m benchmarks.speed.scaling [--side SIDE] [--classes CLASSES] [--images IMAGES] [--patience SECONDS]

Processor seconds of one thread, children included, which other work on the machine hardly touches; freed memory stays
with the process, as in training (else blocks over 32 MB come anew, page by page, at every call). Each curve gets two
exponents, least squares on the logarithms: over all sizes, and over the larger half of them, where fixed cost no longer
hides how it grows. The second is the one that must stay at 1.1 or below. `results/scaling.json` keeps every point,
`results/scaling.png` shows them.
"""

from __future__ import annotations

import argparse
import io
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.facts import facts
from benchmarks.speed.dense_crf import made_up
from benchmarks.speed.pictures import label_maps, photograph
from benchmarks.speed.processes import measured_processes
from benchmarks.speed.table import RESULTS, keep, seconds
from benchmarks.speed.timer import timed
from maskwright.crf.dense_crf import PRESETS, dense_crf
from maskwright.data import open_dataset
from maskwright.data.check import check
from maskwright.engine.device import freed_memory_kept
from maskwright.losses import loss_max_pooling_weights, pool_labels
from maskwright.losses.rmi import rmi_loss
from maskwright.metrics import ConfusionMatrix
from maskwright.models.base import resize_argmax
from maskwright.models.dupsampling import dupsample_argmax
from maskwright.settings import DataSettings, MaskSettings, SeedSettings
from maskwright.weak.pseudo_masks import write_pseudo_masks
from maskwright.weak.refine.random_walk import random_walk
from maskwright.weak.seeds.extract import extract_folder, extract_maps

MOST = 1.1  # exponent
SIDES = (64, 128, 256, 512, 1024, 2048)
CLASSES = (2, 5, 10, 21, 50, 150)
IMAGES = (100, 1000, 10_000, 100_000)
Work = Callable[[], Any]


@dataclass(frozen=True)
class Curve:
    """One kind of work.

    Args:
        name: of what is done.
        make: the work at one size: side in pixels, or number of classes.
        sizes: how large it is made.
        why: what makes it grow faster than the size, where it does.
    """

    name: str
    make: Callable[[int], Work]
    sizes: Sequence[int] = SIDES
    why: str = ""


class Stub(nn.Module):
    """A tag classifier that costs next to nothing: colours, averaged over 16 x 16 pixels."""

    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)

    def __init__(self, tags: int) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(3, tags, 1, bias=False)

    def features(self, images: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(images, 16, ceil_mode=True)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images)).mean((2, 3))


def random_maps(side: int, count: int) -> Tensor:
    return torch.randn(1, count, side, side, generator=torch.Generator().manual_seed(side))


def losses(side: int) -> Work:
    values = random_maps(side, 1).flatten().square()
    return lambda: loss_max_pooling_weights(values, p=1.7, ratio=0.25)


def pooled_labels(side: int, classes: int = 21) -> Work:
    labels = label_maps(1, side, side, classes).long()
    return lambda: pool_labels(labels, classes, stride=8)


def counted(side: int, classes: int = 21) -> Work:
    truth, predicted = (label_maps(1, side, side, classes, seed=seed) for seed in (0, 1))
    return lambda: ConfusionMatrix(classes).update(predicted, truth)


def region_loss(side: int, classes: int = 10) -> Work:
    logits, labels = random_maps(side, classes), label_maps(1, side, side, classes, shown=classes).long()

    def step() -> None:
        rmi_loss(logits.requires_grad_(), labels).backward()
        logits.grad = None

    return step


def resized(side: int, classes: int = 21) -> Work:
    logits = random_maps(side // 4, classes)
    return lambda: resize_argmax(logits, (side, side))


def dupsampled(side: int, classes: int = 21) -> Work:
    features = random_maps(side // 8, 64)
    weight = torch.randn(64 * classes, 64, generator=torch.Generator().manual_seed(0))
    return lambda: dupsample_argmax(features, weight, classes, 8)


def walked(side: int, classes: int = 2) -> Work:
    side //= 4
    maps, edges = random_maps(side, classes).abs(), random_maps(side + 1, 1)[..., :-1, :-1].sigmoid() ** 3
    return lambda: random_walk(maps, edges, steps=16)


def crf(mode: Any) -> Callable[..., Work]:
    def make(side: int, classes: int = 3) -> Work:
        # As many lattice points a pixel (0.6) as a photograph of CamVid at 500x375 has; noise would have 5.
        image, scores = torch.from_numpy(made_up(side, side)[0]), -random_maps(side, classes)[0].log_softmax(0)
        return lambda: dense_crf(image, scores, **{**PRESETS["deeplab"], "iterations": 3}, mode=mode)

    return make


def extracted(side: int, classes: int = 2) -> Work:
    network, image = Stub(max(20, classes)), photograph(side, side)
    return lambda: extract_maps(network, image, range(classes), scales=(1.0,))


LISTING = (
    "6 microseconds an image, and 9 where the tables of all names no longer fit the cache; fewer tables and objects "
    "for each image (1.8 times as fast) and no garbage collection (no faster) leave that as it is"
)
CACHE = "the largest no longer fits the processor's cache"
BY_PIXELS = (
    Curve("CPP pooling", pooled_labels),
    Curve("loss max-pooling", losses),
    Curve("RMI, forward and backward", region_loss),
    Curve("confusion matrix", counted),
    Curve("arg-max of resized logits", resized),
    Curve("DUpsampling arg-max", dupsampled),
    Curve("CAM extraction", extracted, why=CACHE),
    Curve("random walk, 16 steps", walked),
    Curve("CRF, exact, 3 iterations", crf("lattice"), why=CACHE),
    Curve("CRF, fast, 3 iterations", crf("fast"), why=CACHE),
)
BY_CLASSES = tuple(
    Curve(name, lambda classes, make=make, side=side: make(side, classes), CLASSES)  # type: ignore[misc]
    for name, make, side in (
        ("CPP pooling", pooled_labels, 512),
        ("RMI, forward and backward", region_loss, 128),
        ("confusion matrix", counted, 512),
        ("arg-max of resized logits", resized, 512),
        ("DUpsampling arg-max", dupsampled, 256),
        ("CAM extraction", extracted, 256),
        ("random walk, 16 steps", walked, 256),
        ("CRF, exact, 3 iterations", crf("lattice"), 128),
        ("CRF, fast, 3 iterations", crf("fast"), 128),
    )
)


def tiny_files(root: Path, count: int) -> DataSettings:
    """A set of 32 x 32 images with masks and tags; no two image files are equal."""
    folders = [root / "images", root / "masks"]
    encoded = []
    for folder, pixels in zip(folders, (photograph(32, 32), label_maps(1, 32, 32, 3)[0].numpy()), strict=True):
        folder.mkdir(parents=True)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        encoded.append(stream.getvalue())
    lines = ["image,tags"]
    for index in range(count):
        (folders[0] / f"{index:06d}.png").write_bytes(encoded[0] + index.to_bytes(4, "little"))  # read by nobody
        (folders[1] / f"{index:06d}.png").write_bytes(encoded[1])
        lines.append(f"{index:06d},{('a', 'b', 'a;b')[index % 3]}")
    (root / "tags.csv").write_text("\n".join(lines) + "\n")
    return DataSettings(root=str(root), classes=["background", "a", "b"], tags="tags.csv", train="all", val="all")


def of_files(root: Path, count: int) -> Iterator[tuple[str, Work]]:
    """What is done once for every image of a set, without a network that costs anything."""
    settings = tiny_files(root, count)
    dataset = open_dataset(settings, "all")
    network = Stub(2)
    facts_of_masks = {"method": "cam", "weights": "none", "saliency": None, "crf": None, "pretrained": False}
    yield "listing", lambda: open_dataset(settings, "all")
    yield "checks", lambda: check(settings)
    yield "maps, stub network", lambda: extract_folder(dataset, network, SeedSettings(), root / "maps", "cpu")
    yield (
        "maps to pseudo-masks",
        lambda: write_pseudo_masks(dataset, root / "maps", MaskSettings(), root / "labels", facts_of_masks),
    )


def processor_time(work: Work, least: float = 0.1, most: int = 20) -> float:
    """Median of calls after one that warms up; where that one took many seconds, of one alone."""
    if timed(work, "cpu")[1] > 100 * least:
        return timed(work, "cpu")[1]
    values: list[float] = []
    while len(values) < 3 or (sum(values) < least and len(values) < most):
        values.append(timed(work, "cpu")[1])
    return statistics.median(values)


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Slope of the least squares line through the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(values, 1e-7)), 1)[0])


def fitted(name: str, axis: str, sizes: Sequence[int], values: Sequence[float], why: str = "") -> dict[str, Any]:
    """A curve as it is kept."""
    middle = math.sqrt(sizes[0] * sizes[-1])
    larger = [index for index, size in enumerate(sizes) if size >= middle] if len(sizes) > 2 else range(len(sizes))
    late = exponent([sizes[index] for index in larger], [values[index] for index in larger])
    return {
        "name": name,
        "axis": axis,
        "sizes": list(sizes),
        "cpu_s": list(values),
        "exponent": exponent(sizes, values),
        "exponent_late": late,
        "met": late <= MOST,
        "why": why,
    }


def grown(axis: str, curves: Sequence[Curve], largest: int) -> Iterator[dict[str, Any]]:
    """Measure curves over pixels or classes."""
    for curve in curves:
        sizes = [size for size in curve.sizes if size <= largest]
        curve.make(sizes[0])()  # compiles what numba compiles
        values = [processor_time(curve.make(size)) for size in sizes]
        yield fitted(curve.name, axis, [size**2 for size in sizes] if axis == "pixels" else sizes, values, curve.why)


def by_images(largest: int, patience: float) -> Iterator[dict[str, Any]]:
    """Measure what is done for each image of a set; every step once, since a second call would find it done.

    Args:
        largest: number of images.
        patience: seconds; a step that would take longer, by what it took before, and those after it are left out.
    """
    sizes = [count for count in IMAGES if count <= largest]
    found: dict[str, list[float]] = {}
    for count in (10, *sizes):  # the first warms up
        with tempfile.TemporaryDirectory() as folder:
            for name, work in of_files(Path(folder) / "set", count):
                values = found.setdefault(name, [])
                expected = values[-1] * count / sizes[len(values) - 1] if values else 0.0
                if expected > patience:
                    print(f"  SKIPPED: {name} of {count:,} images would take {expected:.0f} s", flush=True)
                    break
                spent = timed(work, "cpu")[1]
                if count != 10:
                    values.append(spent)
    for name, values in found.items():
        yield fitted(name, "images", sizes[: len(values)], values, LISTING if name == "listing" else "")


def said(curve: dict[str, Any]) -> str:
    text = f"  {curve['name']}: {curve['axis']}^{curve['exponent_late']:.2f} (all sizes {curve['exponent']:.2f}), "
    text += f"{seconds(curve['cpu_s'][-1])} for {curve['sizes'][-1]:,}"
    return text + ("" if curve["met"] else f"; above {MOST}{': ' + curve['why'] if curve['why'] else ''}")


def draw(curves: Sequence[dict[str, Any]], path: Path) -> None:
    """One panel for each axis, both axes logarithmic."""
    from matplotlib.figure import Figure

    axes = list(dict.fromkeys(curve["axis"] for curve in curves))
    figure = Figure(figsize=(5.5 * len(axes), 5.5), layout="constrained")
    for panel, axis in zip(figure.subplots(1, len(axes), squeeze=False)[0], axes, strict=True):
        for curve in (curve for curve in curves if curve["axis"] == axis):
            label = f"{curve['name']} ({curve['exponent_late']:.2f})"
            panel.loglog(curve["sizes"], curve["cpu_s"], marker="o", markersize=3, linewidth=1, label=label)
        panel.set(xlabel=axis, ylabel="processor seconds, one thread", title=f"cost by {axis} (exponent)")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure every curve, print the exponents, and keep them."""
    parser = argparse.ArgumentParser(description="how cost grows with pixels, classes and images")
    parser.add_argument("--side", type=int, default=SIDES[-1], help="largest side of an image")
    parser.add_argument("--classes", type=int, default=CLASSES[-1], help="most classes")
    parser.add_argument("--images", type=int, default=IMAGES[-1], help="most images")
    parser.add_argument("--patience", type=float, default=60, help="seconds that one step on images may take")
    parser.add_argument("--dry", action="store_true", help="keep nothing")
    options = parser.parse_args()
    start = time.monotonic()
    print("processes:", flush=True)
    processes = measured_processes()
    for found in processes:
        one, two = (found["amount"] / spent for spent in found["wall_s"])
        text = f"  {found['name']}: {one:.4g} a second from one, {two:.4g} from two ({found['clock']:.2f} x), "
        print(f"{text}which take {found['processor']:.2f} x the processor time", flush=True)
    torch.set_num_threads(1)
    curves: list[dict[str, Any]] = []
    with freed_memory_kept("cpu"):
        for axis, source in (
            ("pixels", grown("pixels", BY_PIXELS, options.side)),
            ("classes", grown("classes", BY_CLASSES, options.classes)),
            ("images", by_images(options.images, options.patience)),
        ):
            print(f"{axis}:", flush=True)
            for curve in source:
                curves.append(curve)
                print(said(curve), flush=True)
    print(f"{time.monotonic() - start:.0f} s")
    if not options.dry:
        work = "how cost grows with the work, and with processes"
        record = {"row": "scaling", "work": work, "device": "cpu", **facts(), "threads": 1}
        draw(curves, RESULTS / "scaling.png")
        keep(record | {"cases": [], "curves": curves, "processes": processes})


if __name__ == "__main__":
    main()
