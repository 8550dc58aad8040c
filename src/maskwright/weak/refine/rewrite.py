"""A folder of maps from another one, image by image: what refinements share that look at one image at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from maskwright.data import without_masks
from maskwright.data.dataset import Dataset
from maskwright.data.sample import Sample
from maskwright.data.sizes import Size, seen_size
from maskwright.engine import distributed
from maskwright.engine.progress import track
from maskwright.files import written_beside
from maskwright.weak.refine.refinement import Refiner
from maskwright.weak.seeds.cam import SeedMaps, strided
from maskwright.weak.seeds.extract import load_maps, save_maps
from maskwright.weak.seeds.folders import LARGEST_BATCH, batches_to_make, claim, origin

Refine = Callable[[Sequence[Sample], Tensor], Tensor]


def rewrite_maps(
    dataset: Dataset,
    maps_folder: str | Path,
    folder: str | Path,
    refine: Refine,
    *,
    made_with: dict[str, Any],
    size: Size = None,
    batch: int = 1,
    title: str,
) -> None:
    """Write refined maps `NAME.npz`; resumes where it was stopped; shared by all processes.

    Args:
        dataset: images, names, tags and sizes.
        maps_folder: maps.
        folder: gets the files; images without tags get one without maps, images of which nobody said get none.
        refine: called with images of one size and their maps `(B, n, H, W)` on the CPU, n at least 1; gives maps of the
            same shape on any device.
        made_with: settings that the maps depend on; maps of others must not lie in the folder.
        size: what the seeds were made with; the small maps are a quarter of it, or of the image's size.
        batch: images that are refined together at most.
        title: what the progress line says.

    Raises:
        DataError: maps are missing or do not fit, or the folder holds maps of other origin.
    """
    folder, maps_folder, unmasked = Path(folder), Path(maps_folder), without_masks(dataset)
    claim(folder, {**made_with, "maps": origin(maps_folder)})
    jobs = batches_to_make(dataset, folder, None, largest=batch)
    with written_beside(LARGEST_BATCH) as write:
        for indices in track(jobs, title=title):
            names = [dataset.names[index] for index in indices]
            found = [load_maps(maps_folder, name) for name in names]
            samples = [unmasked[index] if len(keys) else None for index, (keys, _) in zip(indices, found, strict=True)]
            for name, maps in zip(names, refined_maps(samples, found, refine, size), strict=True):
                write(save_maps, folder, name, maps)
    distributed.barrier()


def refined_maps(
    samples: Sequence[Sample | None], found: Sequence[tuple[np.ndarray, np.ndarray]], refine: Refine, size: Size
) -> list[SeedMaps]:
    """The maps of a batch of images of one size after a refinement.

    Args:
        samples: the images; those without maps may be None.
        found: tag positions `(n,)` and maps `(n, H, W)` of each.
        refine: see `rewrite_maps`.
        size: what the seeds were made with.
    """
    refined: list[SeedMaps] = [None] * len(found)  # type: ignore[list-item]  # every place is filled below
    for count in sorted({len(keys) for keys, _ in found}):
        alike = [place for place, (keys, _) in enumerate(found) if len(keys) == count]
        high_res = torch.from_numpy(np.stack([found[place][1] for place in alike]))
        if count:
            high_res = refine([samples[place] for place in alike], high_res)  # type: ignore[misc]
        for place, maps in zip(alike, high_res.float(), strict=True):
            small = _quarter(maps, seen_size(size, maps.shape[-2:]))
            refined[place] = SeedMaps(torch.from_numpy(found[place][0]), small, maps)
    return refined


def refiner(refine: Refine, size: Size, batch: int = 1) -> Refiner:
    """A refinement that looks at one image at a time, without files; see `Refinement.refiner`.

    Args:
        refine: see `rewrite_maps`.
        size: what the seeds were made with.
        batch: images that are refined together at most.
    """

    def work(samples: Sequence[Sample], maps: Sequence[SeedMaps]) -> list[SeedMaps]:
        found = [(one.keys.numpy(), one.high_res.cpu().numpy()) for one in maps]
        parts = [slice(start, start + batch) for start in range(0, len(found), batch)]
        return [one for part in parts for one in refined_maps(samples[part], found[part], refine, size)]

    return work


def _quarter(maps: Tensor, seen: tuple[int, int]) -> Tensor:
    """Maps `(n, H, W)` at a quarter of the size that the network saw, rounded up."""
    small = strided(seen[0], 4), strided(seen[1], 4)
    if len(maps) == 0:
        return maps.new_zeros(0, *small)
    return F.interpolate(maps[None], small, mode="bilinear", align_corners=False, antialias=True)[0]
