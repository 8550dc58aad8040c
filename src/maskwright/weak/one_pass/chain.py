"""The networks and refinements of a run, loaded once, that turn images into masks without a file in between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from maskwright.data.dataset import Dataset
from maskwright.data.sample import Sample
from maskwright.engine.checkpoint import weights_hash
from maskwright.engine.device import freed_memory_kept, half_type
from maskwright.errors import DataError
from maskwright.models.classifier import load_classifier
from maskwright.runs.context import RunContext
from maskwright.runs.stages import effective, fingerprint
from maskwright.weak.labels import labels_and_confidence
from maskwright.weak.methods import seed_method
from maskwright.weak.refine import REFINEMENTS, network_stage_names, suffixed
from maskwright.weak.refine.threshold import chosen_threshold
from maskwright.weak.seeds.accumulate import accumulated
from maskwright.weak.seeds.cam import SeedMaps
from maskwright.weak.seeds.extract import ready_for_seeds, seed_batches, seeds_per_batch
from maskwright.weak.seeds.folders import tagged_batches
from maskwright.weak.seeds.method import MapsOf

FORMAT = 1  # raised when the same networks and settings come to mean other masks


@dataclass(frozen=True)
class Labelled:
    """What became of one image.

    Args:
        index: of the image.
        mask: `(H, W)` uint8 label values; unsure pixels have the ignore value.
        confidence: `(H, W)` uint8, 255 times the confidence.
        maps: what the mask was made of.
    """

    index: int
    mask: np.ndarray
    confidence: np.ndarray
    maps: SeedMaps


class Chain:
    """Seeds, refinements, threshold and masks of a run whose networks are trained.

    Args:
        context: of the run; its data sets are not opened.

    Raises:
        DataError: a network is missing or damaged, or no threshold was chosen yet.
    """

    def __init__(self, context: RunContext) -> None:
        recipe = context.recipe
        self.context, self.seeds, self.masks = context, recipe.seeds, recipe.pseudo_masks
        self.threshold = chosen_threshold(context)

    @cached_property
    def fingerprint(self) -> str:
        """A hash over all that masks depend on beside the images: settings, weights, and the threshold."""
        recipe, out = self.context.recipe, self.context.out
        networks = [recipe.networks[-1], *network_stage_names(recipe)]
        return fingerprint(
            {
                "format": FORMAT,
                "seeds": effective(recipe.seeds),
                "refine": [[word, effective(getattr(recipe, word))] for word in recipe.refine],
                "weights": {name: weights_hash(out.model(name)) for name in networks},
                "threshold": self.threshold,
                "unsure_below": recipe.pseudo_masks.ignore_below,
            }
        )

    @cached_property
    def _network(self) -> Any:
        network = load_classifier(self.context.out.model(self.context.seed_network)).to(self.context.device).eval()
        return ready_for_seeds(network, self.seeds, half_type(self.seeds.autocast, self.context.device))

    @cached_property
    def _maps(self) -> MapsOf:
        models = self.context.out.epochs(self.context.seed_network)
        return accumulated(seed_method(self.seeds.method).maps, self.seeds, models, self.context.device)

    @cached_property
    def _refiners(self) -> list[Any]:
        recipe = self.context.recipe
        found = [(REFINEMENTS[word].refiner, getattr(recipe, word), suffix) for word, suffix in suffixed(recipe)]
        return [make(self.context, settings, suffix) for make, settings, suffix in found if make is not None]

    def labelled(self, dataset: Dataset, indices: Sequence[int], failed: dict[int, str]) -> Iterator[Labelled]:
        """Label images, batch by batch; which images are together depends on `indices` alone.

        Args:
            dataset: images and tags; masks are never read.
            indices: of the images; those of which nobody said what they show are passed over.
            failed: gets why an image could not be read.

        Raises:
            RecipeError: settings that the seed method cannot work with.
        """
        device, size = self.context.device, self.seeds.size
        seed_method(self.seeds.method).check(self.seeds)
        sized = [index for index in indices if _has_size(dataset, index, failed)]
        jobs = tagged_batches(dataset, sized, size, pixels=seeds_per_batch(self.seeds, device))
        batches = seed_batches(
            dataset, self._network, self.seeds, jobs, device, self._maps, self.seeds.options, failed=failed
        )
        with freed_memory_kept(device):
            for found, samples, maps in batches:
                maps = [_as_kept(one) for one in maps]
                if samples:
                    maps = self._refined(samples, maps)
                for index, one in zip(found, maps, strict=True):
                    yield self._mask(dataset, index, one)

    @torch.no_grad()
    def _refined(self, samples: Sequence[Sample], maps: list[SeedMaps]) -> list[SeedMaps]:
        for refine in self._refiners:
            maps = [_as_kept(one) for one in refine(samples, maps)]
        return maps

    def _mask(self, dataset: Dataset, index: int, maps: SeedMaps) -> Labelled:
        labels = dataset.labels
        mask, confidence = labels_and_confidence(
            maps.high_res.numpy(),
            maps.keys.numpy(),
            self.threshold,
            labels.background,
            labels.foreground,
            labels.ignore_index,
        )
        grey = np.rint(255 * confidence).astype(np.uint8)
        mask[grey < 255 * self.masks.ignore_below] = labels.ignore_index
        return Labelled(index, mask, grey, maps)


def _has_size(dataset: Dataset, index: int, failed: dict[int, str]) -> bool:
    try:
        dataset.size(index)
    except DataError as error:
        failed[index] = str(error)
        return False
    return True


def _as_kept(maps: SeedMaps) -> SeedMaps:
    """Maps as their file would have them, so that masks are those that are made by way of files."""
    return SeedMaps(maps.keys.cpu(), maps.cam.half().float().cpu(), maps.high_res.half().cpu())
