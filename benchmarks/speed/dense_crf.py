"""Dense CRF against the compiled library (pydensecrf2): CPU seconds of one core, ratio, agreement of labels.

    python -m benchmarks.speed.dense_crf [--images 4] [--rounds 3] [--peer-python PATH] [--json FILE]

500x375 pixels, 3 and 21 labels, 10 iterations, preset "deeplab" (positions 1, 3; positions and colours 67, 3, 4), whose
narrow kernels make the most lattice points. Photographs are those of `camvid` and `msrc21` in MASKWRIGHT_DATA where
that is set, otherwise one is made up; each also with noise of 6 grey levels, which makes far more points. Probabilities
are those of a network that is right about most regions and unsure at their borders; every label has its share.

The library runs in a process of its own, by the interpreter named (this one by default), rounds alternate, and both
sides build both lattices in every round. Medians of CPU time, since others may use the machine. Where the library is
absent, our own times are printed and the comparison is said to be skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from benchmarks.facts import as_lines, facts
from maskwright.weak import dense_crf as module
from maskwright.weak.dense_crf import PRESETS, dense_crf, unary_from_probabilities

WIDTH, HEIGHT = 500, 375
PRESET = PRESETS["deeplab"]
TARGETS = {"lattice": (2.0, 0.99), "fast": (5.0, 0.97)}

PEER = """
import sys, time
import numpy as np
try:
    import pydensecrf.densecrf as library
except ImportError as error:
    sys.exit(f"absent: {error}")
print("ready", flush=True)
for line in sys.stdin:
    source, target = line.split()
    with np.load(source) as case:
        image, unary = np.ascontiguousarray(case["image"]), case["unary"]
        sigma, weight, sigma_xy, sigma_rgb, colour_weight = case["settings"].tolist()
    labels, height, width = unary.shape
    flat = np.ascontiguousarray(unary.reshape(labels, -1))
    start = time.process_time()
    crf = library.DenseCRF2D(width, height, labels)
    crf.setUnaryEnergy(flat)
    crf.addPairwiseGaussian(sxy=sigma, compat=weight)
    crf.addPairwiseBilateral(sxy=sigma_xy, srgb=sigma_rgb, rgbim=image, compat=colour_weight)
    q = np.array(crf.inference(10)).reshape(unary.shape)
    seconds = time.process_time() - start
    np.save(target, q)
    print(seconds, flush=True)
"""


class Library:
    """The library in a process of its own; `None` from `start` where it is absent."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process, self.folder = process, folder

    @classmethod
    def start(cls, python: str, folder: Path) -> Library | None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [python, "-c", PEER]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout is not None
        return cls(process, folder) if process.stdout.readline() == "ready\n" else None

    def solve(self, image: np.ndarray, unary: np.ndarray) -> tuple[float, np.ndarray]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        settings = (*PRESET["gaussian"], *PRESET["bilateral"])
        np.savez(self.folder / "case.npz", image=image, unary=unary, settings=np.array(settings, float))
        print(self.folder / "case.npz", self.folder / "q.npy", file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline()), np.load(self.folder / "q.npy")


def photographs(count: int) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Name, image, and a map of regions numbered from 0."""
    root = os.environ.get("MASKWRIGHT_DATA")
    files: list[Path] = []
    for name in ("camvid", "msrc21"):
        folder = Path(root or "") / name / "JPEGImages"
        found = sorted(folder.glob("*.jpg")) if root else []
        files += found[:: max(1, 2 * len(found) // max(count, 1))][: -(-count // 2)]
    result = []
    for path in files:
        mask = path.parent.parent / "SegmentationClass" / f"{path.stem}.png"
        size = (WIDTH, HEIGHT)
        image = np.array(Image.open(path).convert("RGB").resize(size, Image.Resampling.BICUBIC))
        values = np.array(Image.open(mask).resize(size, Image.Resampling.NEAREST))
        result.append((f"{path.parent.parent.name}/{path.stem}", image, np.unique(values, return_inverse=True)[1]))
    return result or [made_up()]


def made_up() -> tuple[str, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    regions = (rows // 95 + 3 * (columns // 130)) % 7
    shade = 30 * np.sin(rows / 40)[..., None] + 20 * np.cos(columns / 25)[..., None]
    image = rng.integers(60, 200, (7, 3))[regions] + shade + rng.normal(0, 3, (HEIGHT, WIDTH, 3))
    return "made up", np.clip(image, 0, 255).astype(np.uint8), regions


def energies(regions: np.ndarray, labels: int) -> torch.Tensor:
    """What a network says at a stride of 8: right in most places, blurred and noisy."""
    generator = torch.Generator().manual_seed(0)
    one_hot = F.one_hot(torch.from_numpy(regions.reshape(HEIGHT, WIDTH) % labels), labels).permute(2, 0, 1).float()
    coarse = F.avg_pool2d(F.interpolate(one_hot[None], size=(47, 63), mode="area"), 3, 1, 1)
    scores = 6 * coarse + torch.randn(coarse.shape, generator=generator)
    fine = F.interpolate(scores, size=(HEIGHT, WIDTH), mode="bilinear", align_corners=False)[0]
    return unary_from_probabilities(fine.softmax(0))


def ours(image: torch.Tensor, unary: torch.Tensor, mode: str) -> tuple[float, np.ndarray]:
    module._gaussian_cpu.cache_clear()  # so that both lattices are built, as the library does
    start = time.process_time()
    q = dense_crf(image, unary, **PRESET, mode=mode)
    return time.process_time() - start, q.numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--labels", type=int, nargs="+", default=[3, 21])
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has pydensecrf2")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(*as_lines(facts()), sep="\n")

    start = time.process_time()
    dense_crf(torch.zeros(4, 4, 3, dtype=torch.uint8), torch.zeros(2, 4, 4), **PRESET)
    print(f"first call: {time.process_time() - start:.2f} s (compiles the kernels, or reads them from the cache)")

    rows: list[dict[str, Any]] = []
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder:
        library = Library.start(options.peer_python, Path(folder))
        if library is None:
            print("SKIPPED: pydensecrf2 is not installed, so there is nothing to compare with", file=sys.stderr)
        for name, photograph, regions in photographs(options.images):
            noisy = np.clip(photograph + rng.normal(0, 6, photograph.shape), 0, 255).astype(np.uint8)
            for kind, image in ((name, photograph), (f"{name} + noise", noisy)):
                for labels in options.labels:
                    rows.append(measure(kind, image, energies(regions, labels), options.rounds, library))
                    print(as_line(rows[-1]), flush=True)
        if library is not None:
            assert library.process.stdin is not None
            library.process.stdin.close()
            library.process.wait()
            for line in summary(rows):
                print(line)
    if options.json:
        options.json.write_text(json.dumps({"facts": facts(), "rows": rows}, indent=1) + "\n")


def measure(name: str, image: np.ndarray, unary: torch.Tensor, rounds: int, library: Library | None) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {"lattice": [], "fast": [], "library": []}
    found: dict[str, np.ndarray] = {}
    for _ in range(rounds):
        for mode in TARGETS:
            taken, found[mode] = ours(torch.from_numpy(image), unary, mode)
            seconds[mode].append(taken)
        if library is not None:
            taken, found["library"] = library.solve(image, unary.numpy())
            seconds["library"].append(taken)
    row: dict[str, Any] = {"image": name, "labels": len(unary)}
    row |= {f"{key}_s": round(statistics.median(values), 4) for key, values in seconds.items() if values}
    judge = found.get("library", found["lattice"]).argmax(0)
    for mode in TARGETS:
        row[f"{mode}_agreement"] = round(float((found[mode].argmax(0) == judge).mean()), 5)
        if library is not None:
            row[f"{mode}_ratio"] = round(row["library_s"] / row[f"{mode}_s"], 2)
    if library is not None:
        row["lattice_difference"] = float(np.abs(found["lattice"] - found["library"]).max())
        assert row["lattice_agreement"] >= TARGETS["lattice"][1], row
    return row


def as_line(row: dict[str, Any]) -> str:
    text = f"{row['image']:<34} {row['labels']:>2} labels: "
    if "library_s" in row:
        text += f"library {row['library_s']:.3f} s; "
    for mode in TARGETS:
        ratio = f", {row[f'{mode}_ratio']:.1f} x" if f"{mode}_ratio" in row else ""
        text += f"{mode} {row[f'{mode}_s']:.3f} s{ratio}, labels agree {row[f'{mode}_agreement']:.2%}; "
    return text.rstrip("; ")


def summary(rows: list[dict[str, Any]]) -> list[str]:
    lines = []
    for labels in sorted({row["labels"] for row in rows}):
        for mode, (ratio, agreement) in TARGETS.items():
            ratios = [row[f"{mode}_ratio"] for row in rows if row["labels"] == labels]
            least = min(row[f"{mode}_agreement"] for row in rows if row["labels"] == labels)
            middle = statistics.median(ratios)
            lines.append(
                f"{mode}, {labels} labels: median {middle:.2f} x as fast, {min(ratios):.2f} to {max(ratios):.2f} "
                f"(target {ratio:g}: {'met' if middle >= ratio else 'missed'}); labels agree on at least {least:.2%} "
                f"(target {agreement:.0%}: {'met' if least >= agreement else 'missed'})"
            )
    return lines


if __name__ == "__main__":
    main()
