"""Tags to masks: seed maps from a tag classifier, refinements of them, and the pseudo-mask artefact.

A *seed method* turns views of a batch of images into maps: `method(network, views, **options) -> list[SeedMaps]`, one
entry per image. What there is: `weak.seeds.SEED_METHODS`, `weak.networks.NETWORKS`, `weak.refine.REFINEMENTS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from maskwright.data.dataset import Dataset
from maskwright.inference.features import FeatureStore
from maskwright.runs.folder import MAPS
from maskwright.settings import SeedSettings
from maskwright.weak.labels import seed_labels, sweep
from maskwright.weak.methods import seed_method, seed_methods
from maskwright.weak.pseudo_masks import read_provenance, score_masks, write_pseudo_masks
from maskwright.weak.seeds import SEED_METHODS, SeedMethod
from maskwright.weak.seeds.accumulate import accumulated
from maskwright.weak.seeds.cam import SeedMaps, Views, class_maps
from maskwright.weak.seeds.extract import extract_folder, extract_maps, make_views

__all__ = [
    "SEED_METHODS",
    "SeedMaps",
    "SeedMethod",
    "Views",
    "class_maps",
    "extract_folder",
    "extract_maps",
    "extract_seeds",
    "make_views",
    "read_provenance",
    "score_masks",
    "seed_labels",
    "seed_method",
    "seed_methods",
    "sweep",
    "write_pseudo_masks",
]


def extract_seeds(
    dataset: Dataset,
    classifier: Any,
    settings: SeedSettings,
    folder: str | Path,
    device: torch.device | str,
    *,
    store: FeatureStore | None = None,
    models: Sequence[Path] = (),
) -> Path:
    """The stage `seeds`: maps of every image whose tags are known, resumable image by image.

    Args:
        dataset: images and tags; masks are never read here.
        classifier: a tag classifier on `device`.
        settings: method, its options, and the views that it sees.
        folder: the stage's folder; the maps go to `maps/` in it.
        device: where to compute.
        store: maps of the classifier's backbone, which is frozen; read by methods that need no more of the network, but
            not where it sees windows.
        models: of the classifier after each epoch of its training, for `settings.accumulate`.

    Returns:
        The folder of the maps.

    Raises:
        RecipeError: unknown seed method, an option that it does not have, or windows that the network cannot see.
        DataError: the folder holds maps made with other settings or another network, or there are no models to
            accumulate maps of.
    """
    method = seed_method(settings.method)
    method.check(settings)
    maps = Path(folder) / MAPS
    whole = settings.window is None  # the store has maps of whole images
    store = store if method.reads_features and whole else None
    taken = accumulated(method.maps, settings, models, device)
    extract_folder(dataset, classifier, settings, maps, device, method=taken, options=settings.options, store=store)
    return maps
