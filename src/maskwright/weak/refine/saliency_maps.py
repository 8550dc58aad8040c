"""Saliency maps that overrule seed maps, in the form of seed maps: the refinement `saliency_background`.

What is salient tells objects from background better than a constant score does: the background's score at a pixel
comes from the saliency map S there. ReCAM's rows -M take 1 - S. EDAM's algorithm 1 cuts S into two regions: within, the
highest class wins unless it is very low; outside, the background wins unless a class is very high.

The result keeps the meaning of the background's score: a class's map crosses it where the class crosses the score that
saliency gives the background, so that the same threshold makes the masks, and classes keep their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from maskwright.data.dataset import Dataset
from maskwright.data.sample import Sample
from maskwright.data.sizes import Size
from maskwright.errors import DataError
from maskwright.runs.context import RunContext
from maskwright.runs.folder import MAPS
from maskwright.runs.stages import Stage, effective
from maskwright.settings import Settings
from maskwright.weak.networks.classifier import check_saliency
from maskwright.weak.refine.refinement import Refinement, Refiner
from maskwright.weak.refine.rewrite import refiner, rewrite_maps
from maskwright.weak.refine.threshold import chosen_threshold


class SaliencySettings(Settings):
    """Saliency maps S that overrule seed maps, as in EDAM and in the rows `-M` of ReCAM's table 4.

    A class must score higher than the background, whose score at a pixel is, with `soft`, 1 - S; with `hard`, as in
    EDAM's algorithm 1, `salient` where S is at least `threshold` and `elsewhere` where it is not. No source has the
    numbers: they are ours.
    """

    mode: Literal["soft", "hard"] = Field(
        "soft", description="score of the background; soft: 1 - saliency; hard: one score where salient, one elsewhere"
    )
    threshold: float = Field(0.5, ge=0, le=1, description="saliency from which a pixel counts as salient (hard)")
    salient: float = Field(
        0.05, ge=0, le=1, description="score that a class needs at salient pixels (hard); 0: the highest always wins"
    )
    elsewhere: float = Field(
        0.9, ge=0, le=1, description="score that a class needs at other pixels (hard); 1: none ever wins"
    )


def background_score(
    saliency: Tensor, *, mode: str = "soft", threshold: float = 0.5, salient: float = 0.05, elsewhere: float = 0.9
) -> Tensor:
    """The score that a class must exceed at every pixel.

    Args:
        saliency: `(..., H, W)` in 0..1.
        mode: `soft`: 1 - S. `hard`: one number where S is at least `threshold`, another elsewhere.
        threshold: EDAM's theta.
        salient: its alpha.
        elsewhere: its beta.

    Returns:
        Of the same shape, in 0..1.
    """
    if mode == "soft":
        return 1 - saliency
    within = torch.full_like(saliency, salient)
    return torch.where(saliency >= threshold, within, torch.full_like(saliency, elsewhere))


def overruled_maps(maps: Tensor, background: Tensor, threshold: float) -> Tensor:
    """Maps that exceed `threshold` exactly where they exceeded the background's score.

    Linear below that score and above it, so that classes keep their order.

    Args:
        maps: `(B, n, H, W)` in 0..1.
        background: `(B, 1, H, W)` in 0..1.
        threshold: in 0..1, what masks will be made with.

    Returns:
        `(B, n, H, W)` float32 in 0..1.
    """
    maps, background = maps.float(), background.float()
    below = maps * (threshold / background.clamp(min=1e-6))
    above = 1 - (1 - maps) * ((1 - threshold) / (1 - background).clamp(min=1e-6))
    return torch.where(maps > background, above, below.clamp(max=threshold))


def saliency_folder(
    dataset: Dataset,
    maps_folder: str | Path,
    settings: SaliencySettings,
    folder: str | Path,
    *,
    threshold: float,
    size: Size = None,
) -> None:
    """Write maps `NAME.npz` that saliency overruled; resumes where it was stopped; shared by all processes.

    Args:
        dataset: images with saliency maps, names, tags and sizes.
        maps_folder: seed maps.
        settings: of the refinement.
        folder: gets the files; images without tags get one without maps, images of which nobody said get none.
        threshold: what masks will be made with.
        size: what the seeds were made with; the small maps are a quarter of it, or of the image's size.

    Raises:
        RecipeError: the set has no saliency maps.
        DataError: an image has none, maps are missing or do not fit, or the folder holds maps of other origin.
    """
    check_saliency(dataset, "refine=[saliency_background]")
    options = settings.model_dump(mode="json")
    refine = partial(_refine, options, threshold)
    made_with = {"saliency": {**options, "score": threshold, "from": dataset.source.get("saliency")}}
    rewrite_maps(dataset, maps_folder, folder, refine, made_with=made_with, size=size, batch=8, title="saliency")


def _refine(options: dict[str, Any], threshold: float, samples: Sequence[Sample], maps: Tensor) -> Tensor:
    background = background_score(torch.stack([_saliency(sample) for sample in samples])[:, None], **options)
    return overruled_maps(maps, background, threshold)


def saliency_refiner(context: RunContext, saliency: SaliencySettings, suffix: str) -> Refiner:
    """The same in memory; see `Refinement.refiner`."""
    refine = partial(_refine, saliency.model_dump(mode="json"), chosen_threshold(context))
    return refiner(refine, context.recipe.seeds.size, batch=8)


def _saliency(sample: Sample) -> Tensor:
    if sample.saliency is None:
        raise DataError(f"{sample.name} has no saliency map; give one of every image, see `maskwright data check`")
    return torch.from_numpy(sample.saliency.astype(np.float32) / 255)


def saliency_stages(context: RunContext, saliency: SaliencySettings, source: str, suffix: str) -> list[Stage]:
    """Saliency maps that overrule the maps of stage `source`."""
    size, chosen = context.recipe.seeds.size, context.recipe.pseudo_masks.threshold == "auto"

    def run(folder: Path) -> None:
        maps, threshold = context.out.maps(source), chosen_threshold(context)
        saliency_folder(context.train, maps, saliency, folder / MAPS, threshold=threshold, size=size)

    score = "auto" if chosen else chosen_threshold(context)
    settings = {**effective(saliency), "score": score, "size": size, **context.saliency_facts}
    needs = (source, "threshold") if chosen else (source,)
    each = partial(context.each_image, f"{MAPS}/{{}}.npz")
    return [Stage(f"saliency{suffix}", "maps with saliency as background", run, settings, needs, each=each)]


SALIENCY = Refinement(
    "saliency",
    SaliencySettings,
    saliency_stages,
    refiner=saliency_refiner,
    needs=lambda saliency: ("saliency",),
    reads_threshold=True,
)
