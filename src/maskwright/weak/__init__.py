"""Tags to masks: seed maps from a tag classifier, refinements of them, and the pseudo-mask artefact.

A *seed method* turns views of a batch of images into maps: `method(network, views, **options) -> list[SeedMaps]`, one
entry per image. A new method is one new file and one line in `SEED_METHODS`.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch

from maskwright.errors import RecipeError, unknown_name
from maskwright.settings import SeedSettings
from maskwright.weak.labels import seed_labels, sweep
from maskwright.weak.networks.edam import edam_maps
from maskwright.weak.networks.eps import eps_maps
from maskwright.weak.networks.l2g import l2g_maps
from maskwright.weak.networks.recam import recam_maps
from maskwright.weak.networks.seam import seam_maps
from maskwright.weak.pseudo_masks import read_provenance, score_masks, write_pseudo_masks
from maskwright.weak.seeds.advcam import advcam
from maskwright.weak.seeds.cam import SeedMaps, Views, class_activation_maps, class_maps
from maskwright.weak.seeds.extract import SeedMethod, extract_folder, extract_maps, make_views
from maskwright.weak.seeds.gradcam import gradcam, gradcam_plus_plus
from maskwright.weak.seeds.layercam import layercam
from maskwright.weak.seeds.scorecam import scorecam

SEED_METHODS: dict[str, SeedMethod] = {
    "advcam": advcam,
    "cam": class_activation_maps,
    "edam": edam_maps,
    "eps": eps_maps,
    "gradcam": gradcam,
    "gradcam++": gradcam_plus_plus,
    "l2g": l2g_maps,
    "layercam": layercam,
    "recam": recam_maps,
    "scorecam": scorecam,
    "seam": seam_maps,
}

__all__ = [
    "SEED_METHODS",
    "SeedMaps",
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
    "sweep",
    "write_pseudo_masks",
]


def extract_seeds(
    dataset: Any, classifier: Any, settings: SeedSettings, folder: str | Path, device: torch.device | str
) -> Path:
    """The stage `seeds`: maps of every image whose tags are known, resumable image by image.

    Args:
        dataset: images and tags; masks are never read here.
        classifier: a tag classifier on `device`.
        settings: method, its options, and the views that it sees.
        folder: the stage's folder; the maps go to `maps/` in it.
        device: where to compute.

    Returns:
        The folder of the maps.

    Raises:
        RecipeError: unknown seed method, or an option that it does not have.
        DataError: the folder holds maps made with other settings or another network.
    """
    method, options = seed_method(settings)
    maps = Path(folder) / "maps"
    extract_folder(
        dataset,
        classifier,
        settings,
        maps,
        device,
        method=method,
        options=options,
    )
    return maps


def seed_method(settings: SeedSettings) -> tuple[SeedMethod, dict[str, Any]]:
    """The method that the settings name, and its options.

    Raises:
        RecipeError: unknown seed method, or an option that it does not have.
    """
    if settings.method not in SEED_METHODS:
        raise RecipeError(unknown_name("seed method", settings.method, SEED_METHODS))
    method = SEED_METHODS[settings.method]
    known = list(inspect.signature(method).parameters)[2:]  # after the network and the views
    for name in settings.options:
        if name not in known:
            raise RecipeError(unknown_name(f"option of seeds {settings.method}", name, known))
    return method, settings.options
