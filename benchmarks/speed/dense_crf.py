"""Dense CRF, exact and fast, against the compiled library (pydensecrf2).

    python -m benchmarks.speed.dense_crf

500x375 pixels, 3 and 21 labels, 10 iterations, preset "deeplab" (positions 1, 3; positions and colours 67, 3, 4), whose
narrow kernels make the most lattice points. The photograph is one of `camvid` in MASKWRIGHT_DATA where that is set,
otherwise made up; noise of 6 grey levels makes far more points. Probabilities are those of a network that is right
about most regions and unsure at their borders; every label has its share. Both sides build both lattices in every call.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from benchmarks.speed.timer import Bar, Comparison, Row, main
from maskwright.crf import dense_crf as module
from maskwright.crf.dense_crf import PRESETS, dense_crf, unary_from_probabilities

PRESET = PRESETS["deeplab"]


def photograph(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image, and a map of regions numbered from 0."""
    folder = Path(os.environ.get("MASKWRIGHT_DATA", "")) / "camvid"
    files = sorted((folder / "JPEGImages").glob("*.jpg")) if os.environ.get("MASKWRIGHT_DATA") else []
    if not files:
        return made_up(height, width)
    path = files[len(files) // 2]
    image = Image.open(path).convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    mask = Image.open(folder / "SegmentationClass" / f"{path.stem}.png").resize(
        (width, height), Image.Resampling.NEAREST
    )
    return np.array(image), np.unique(np.array(mask), return_inverse=True)[1].reshape(height, width)


def made_up(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width]
    regions = (rows // 95 + 3 * (columns // 130)) % 7
    shade = 30 * np.sin(rows / 40)[..., None] + 20 * np.cos(columns / 25)[..., None]
    image = rng.integers(60, 200, (7, 3))[regions] + shade + rng.normal(0, 3, (height, width, 3))
    return np.clip(image, 0, 255).astype(np.uint8), regions


def energies(regions: np.ndarray, labels: int) -> torch.Tensor:
    """What a network says at a stride of 8: right in most places, blurred and noisy."""
    generator = torch.Generator().manual_seed(0)
    height, width = regions.shape
    one_hot = F.one_hot(torch.from_numpy(regions % labels), labels).permute(2, 0, 1).float()
    coarse = F.interpolate(one_hot[None], size=(-(-height // 8), -(-width // 8)), mode="area")
    scores = 6 * F.avg_pool2d(coarse, 3, 1, 1) + torch.randn(coarse.shape, generator=generator)
    fine = F.interpolate(scores, size=(height, width), mode="bilinear", align_corners=False)[0]
    return unary_from_probabilities(fine.softmax(0))


def ours(image: torch.Tensor, unary: torch.Tensor, mode: str) -> np.ndarray:
    module._gaussian_cpu.cache_clear()  # so that both lattices are built, as the library does
    return dense_crf(image, unary, **PRESET, mode=mode).cpu().numpy()


def theirs(library: Any, image: np.ndarray, unary: np.ndarray) -> np.ndarray:
    labels, height, width = unary.shape
    (sigma, weight), (sigma_xy, sigma_rgb, colour_weight) = PRESET["gaussian"], PRESET["bilateral"]
    crf = library.DenseCRF2D(width, height, labels)
    crf.setUnaryEnergy(np.ascontiguousarray(unary.reshape(labels, -1)))
    crf.addPairwiseGaussian(sxy=sigma, compat=weight)
    crf.addPairwiseBilateral(sxy=sigma_xy, srgb=sigma_rgb, rgbim=image, compat=colour_weight)
    return np.array(crf.inference(10)).reshape(unary.shape)


def build(device: str, *, height: int, width: int, labels: int, noise: float) -> Comparison:
    image, regions = photograph(height, width)
    noisy = image + np.random.default_rng(1).normal(0, noise, image.shape)
    image = np.ascontiguousarray(np.clip(noisy, 0, 255).astype(np.uint8))
    unary = energies(regions, labels)
    given = (torch.from_numpy(image).to(device), unary.to(device))
    functions: dict[str, Callable[[], np.ndarray]] = {
        "exact": partial(ours, *given, "lattice"),
        "fast": partial(ours, *given, "fast"),
    }
    notes = []
    try:
        import pydensecrf.densecrf as library
    except ImportError as error:
        notes.append(f"SKIPPED: pydensecrf2 cannot be imported ({error})")
    else:
        functions["pydensecrf2"] = partial(theirs, library, image, unary.numpy())

    def check(results: dict[str, Any]) -> dict[str, float]:
        judge = results.get("pydensecrf2", results["exact"])
        found = {"exact: largest difference": float(np.abs(results["exact"] - judge).max())}
        for mode, least in (("exact", 0.99), ("fast", 0.97)):
            found[f"{mode}: labels that agree"] = float((results[mode].argmax(0) == judge.argmax(0)).mean())
            assert found[f"{mode}: labels that agree"] >= least, found
        return found

    return Comparison(
        functions,
        check,
        [Bar("pydensecrf2", 2, ours="exact"), Bar("pydensecrf2", 5, ours="fast")],
        moved=image.nbytes + 2 * unary.nbytes,
        # Each iteration splats and slices d + 1 values a pixel into lattices of 5 and 2 dimensions.
        flops=10 * labels * height * width * 2 * 2 * (6 + 3),
        notes=notes,
    )


SIZES = {"height": 375, "width": 500}
ROW = Row(
    "Dense CRF, 500x375, 10 iterations",
    build,
    {
        "3 labels": {"labels": 3, "noise": 0.0, **SIZES},
        "21 labels": {"labels": 21, "noise": 0.0, **SIZES},
        "21 labels, noise": {"labels": 21, "noise": 6.0, **SIZES},
    },
    {"height": 144, "width": 192},  # in a smaller photograph half the resolution is too little for the fast mode
    seconds=6.0,
)

if __name__ == "__main__":
    main(ROW)
