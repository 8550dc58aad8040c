"""A dense CRF over seed maps, in the form of seed maps: the refinement `crf`.

Unaries are the maps beside a score of the background: a constant plane, as when masks are made of maps, or SEAM's
`(1 - highest map) ** alpha`. The result keeps the meaning of the background's score: where a class and the background
are equally likely after the CRF, the class's map equals it, so that the same threshold makes the masks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from maskwright.crf.dense_crf import dense_crf, preset_settings, unary_from_probabilities
from maskwright.data.dataset import Dataset
from maskwright.data.sample import Sample
from maskwright.data.sizes import Size
from maskwright.runs.context import RunContext
from maskwright.runs.folder import MAPS
from maskwright.runs.stages import Stage, effective
from maskwright.settings import CRFPreset, KernelScale, Settings
from maskwright.weak.refine.refinement import Refinement, Refiner
from maskwright.weak.refine.rewrite import refiner, rewrite_maps
from maskwright.weak.refine.threshold import chosen_threshold


class CRFSettings(Settings):
    """A dense CRF between maps and pseudo-masks, or before another refinement; see `weak.refine.crf_maps`."""

    preset: CRFPreset = Field("seam", description="kernels and iterations; see `maskwright.crf.dense_crf.PRESETS`")
    background: float | None = Field(
        None, gt=0, lt=1, description="score of the background; none: pseudo_masks.threshold"
    )
    alpha: float | None = Field(
        None,
        gt=0,
        description="background scores (1 - highest map) ** alpha, not crf.background; 4 in SEAM, PSA, EPS",
    )
    power: float = Field(
        1.0, gt=0, description="exponent of maps and background in the unary; above 1 the maps count for more"
    )
    scale: KernelScale = "image"
    mode: Literal["lattice", "exact", "fast"] = Field(
        "lattice", description="how the CRF is computed; exact: all pairs of pixels, for small images"
    )


def crf_maps(
    images: Tensor,
    maps: Tensor,
    *,
    preset: str = "seam",
    background: float = 0.25,
    alpha: float | None = None,
    power: float = 1.0,
    mode: str = "lattice",
    scale: float | str = 1.0,
) -> Tensor:
    """Maps of images of one size and one count of classes after a dense CRF.

    Args:
        images: `(B, H, W, 3)` uint8, RGB.
        maps: `(B, n, H, W)` in 0..1, n at least 1.
        preset: one of `dense_crf.PRESETS`.
        background: score of the background, in 0..1; also what even odds become.
        alpha: the unary of the background is `(1 - highest map) ** alpha` instead.
        power: exponent of maps and background's plane in the unary.
        mode: as for `dense_crf`.
        scale: as for `dense_crf.preset_settings`.

    Returns:
        `(B, n, H, W)` float32 in 0..1: `background` where class and background are equally likely.

    Raises:
        DataError: as `dense_crf` and `dense_crf.preset_settings`.
    """
    kernels = preset_settings(preset, maps.shape[-2:], scale)
    maps = maps.float()
    if alpha is None:
        plane = torch.full_like(maps[:, :1], background)
    else:
        plane = (1 - maps.amax(1, keepdim=True)).clamp(min=0) ** alpha
    likely = dense_crf(images, power * unary_from_probabilities(torch.cat([plane, maps], 1)), **kernels, mode=mode)
    odds = likely[:, 1:] / (likely[:, 1:] + likely[:, :1]).clamp(min=1e-12)
    return odds ** (math.log(background) / math.log(0.5))


def crf_folder(
    dataset: Dataset,
    maps_folder: str | Path,
    settings: CRFSettings,
    folder: str | Path,
    device: torch.device | str,
    *,
    background: float,
    size: Size = None,
) -> None:
    """Write maps `NAME.npz` after the CRF; resumes where it was stopped; shared by all processes.

    Args:
        dataset: images, names, tags and sizes.
        maps_folder: seed maps.
        settings: of the CRF.
        folder: gets the files; images without tags get one without maps, images of which nobody said get none.
        device: where to compute.
        background: score of the background.
        size: what the seeds were made with; the small maps are a quarter of it, or of the image's size.

    Raises:
        DataError: maps are missing or do not fit, the folder holds maps of other origin, or an unknown preset.
    """
    options = {**settings.model_dump(mode="json"), "background": background}
    refine = partial(_refine, options, device)
    rewrite_maps(dataset, maps_folder, folder, refine, made_with={"crf": options}, size=size, title="dense CRF")


def _refine(options: dict[str, Any], device: torch.device | str, samples: Sequence[Sample], maps: Tensor) -> Tensor:
    images = torch.from_numpy(np.stack([sample.image for sample in samples])).to(device)
    return crf_maps(images, maps.to(device), **options)


def crf_refiner(context: RunContext, crf: CRFSettings, suffix: str) -> Refiner:
    """The dense CRF in memory; see `Refinement.refiner`."""
    options = {**crf.model_dump(mode="json"), "background": crf.background or chosen_threshold(context)}
    return refiner(partial(_refine, options, context.device), context.recipe.seeds.size)


def crf_stages(context: RunContext, crf: CRFSettings, source: str, suffix: str) -> list[Stage]:
    """The dense CRF on the maps of stage `source`; the background scores as in masks unless `crf.background` is set."""
    size = context.recipe.seeds.size
    threshold = context.recipe.pseudo_masks.threshold
    chosen = crf.background is None and threshold == "auto"

    def run(folder: Path) -> None:
        maps, background = context.out.maps(source), crf.background or chosen_threshold(context)
        crf_folder(context.train, maps, crf, folder / MAPS, context.device, background=background, size=size)

    score = "auto" if chosen else crf.background or chosen_threshold(context)
    settings = {**effective(crf), "background": score, "size": size}
    needs = (source, "threshold") if chosen else (source,)
    each = partial(context.each_image, f"{MAPS}/{{}}.npz")
    return [Stage(f"crf{suffix}", "maps through a dense CRF", run, settings, needs, each=each)]


CRF = Refinement(
    "CRF", CRFSettings, crf_stages, refiner=crf_refiner, reads_threshold=True, crf=lambda crf: f"maps: {crf.preset}"
)
