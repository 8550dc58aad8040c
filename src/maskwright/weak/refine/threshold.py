"""The background's score from tags alone: what lies below it may show a class no more than a little.

The classifier is asked about the rest: the mean of its features where no tagged class is above a threshold. The higher
the threshold, the more of a class is in the rest, and the more likely the classifier calls it there. The threshold is
the highest at which the odds of that are `RATIO` times those of a class that an image is not tagged with, which measure
how sure this classifier is of what is absent. Masks are never read.

`RATIO` is the one number that was found with masks: on MSRC at two sizes and on the built-in scenes the thresholds that
it gives are within 0.01 mIoU of the best ones, which are 0.12, 0.20 and 0.35. Otsu's threshold, the agreement of
mirrored views and boundaries do not follow them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from maskwright.data import without_masks
from maskwright.data.augment import normalise, resize_image
from maskwright.data.dataset import Dataset
from maskwright.data.sizes import seen_size
from maskwright.engine import distributed
from maskwright.engine.progress import track
from maskwright.files import read_json, write_json
from maskwright.inference.features import FeatureStore
from maskwright.models.classifier import ImageTagClassifier, load_classifier
from maskwright.runs.context import RunContext
from maskwright.runs.stages import Stage
from maskwright.settings import SeedSettings
from maskwright.weak.networks.frozen import frozen_store
from maskwright.weak.seeds.extract import load_maps

RATIO = 33.0
FIXED = 0.25  # where nothing can be measured
THRESHOLDS = np.arange(2, 96) / 100
SAMPLE = 200  # images, evenly spread over those with tags


def threshold_stage(context: RunContext, source: str) -> Stage:
    """The stage that chooses the threshold of the maps of stage `source`; it writes `threshold.json`.

    The run's first network is asked, whichever makes the maps: it learned the tags alone, where a later one (L2G's
    learns from attention) may no longer know how sure to be of them.
    """
    asked, lowest = context.recipe.networks[0], context.recipe.pseudo_masks.lowest

    def run(folder: Path) -> None:
        if not distributed.is_main():
            return
        recipe, train, device = context.recipe, context.train, context.device
        network = load_classifier(context.out.model(asked)).to(device)
        frozen = getattr(recipe, asked).train.frozen
        store = frozen_store(recipe, network, train, context.out, device) if frozen else None
        maps = context.out.maps(source)
        found = choose_threshold(train, network, maps, recipe.seeds, device, store=store, lowest=lowest)
        write_json(context.out.threshold, found)
        context.say(f"    threshold {found['threshold']:.2f}, {found['because']}")

    settings: dict[str, Any] = {"ratio": RATIO}
    settings |= {} if asked == context.seed_network else {"network": asked}
    settings |= {"lowest": lowest} if lowest else {}
    name = context.out.threshold.name
    return Stage("threshold", "choose the background's score without masks", run, settings, (source,), results=(name,))


def chosen_threshold(context: RunContext) -> float:
    """The threshold that masks are made with; 0.25 where it is tuned on masks, and so found only at the end."""
    threshold = context.recipe.pseudo_masks.threshold
    if threshold == "auto":
        return float(read_json(context.out.threshold)["threshold"])
    return FIXED if isinstance(threshold, str) else threshold


@torch.no_grad()
def choose_threshold(
    dataset: Dataset,
    network: ImageTagClassifier,
    maps_folder: str | Path,
    settings: SeedSettings,
    device: torch.device | str,
    *,
    store: FeatureStore | None = None,
    sample: int = SAMPLE,
    lowest: float = 0.0,
) -> dict[str, Any]:
    """The threshold at which the rest of an image no longer shows its tags.

    Args:
        dataset: images and tags; masks are never read.
        network: a classifier that knows the tags, on `device`, in inference mode.
        maps_folder: of `NAME.npz` maps.
        settings: size and first scale say how the classifier sees an image.
        device: where to compute.
        store: maps of the classifier's backbone, which is frozen.
        sample: images that are looked at.
        lowest: the lowest threshold that may be chosen.

    Returns:
        `threshold`; `because`, in words; `rest`, the mean probability of a tag in the rest at each of `thresholds`;
        `absent`, that of a class that an image is not tagged with; `images`.

    Raises:
        DataError: an image has no maps.
    """
    labels = dataset.labels
    position = {value: place for place, value in enumerate(labels.foreground)}
    tagged = [index for index in range(len(dataset)) if dataset.tags(index)]
    chosen = [tagged[place] for place in np.linspace(0, len(tagged) - 1, min(sample, len(tagged))).round().astype(int)]
    rest, absent = [], []
    for index in track(chosen, title="threshold"):
        keys = torch.tensor([position[value] for value in dataset.tags(index) or ()])
        features = _features(network, dataset, index, settings, device, store)
        _, maps = load_maps(maps_folder, dataset.names[index])
        size = (features.shape[1], features.shape[2])
        small = F.interpolate(torch.from_numpy(maps).float()[None], size, mode="bilinear", antialias=True)[0]
        scores = _probabilities(network, features.mean((1, 2))[None])[0]
        others = torch.ones(len(scores), dtype=torch.bool)
        others[keys] = False
        absent.append(scores[others])
        rest.append(_rest(network, features, small.amax(0))[:, keys].sum(1).numpy() / len(keys))
    found: dict[str, Any] = {"images": len(chosen), "thresholds": THRESHOLDS.tolist()}
    away = torch.cat(absent) if absent else torch.zeros(0)
    if labels.background is None or not len(away):
        why = "there is no background class" if labels.background is None else "every image is tagged with every class"
        return {
            **found,
            "threshold": max(FIXED, lowest),
            "because": f"fixed, since {why}",
            "rest": None,
            "absent": None,
        }
    level = float(away.mean())
    means = np.mean(rest, 0)
    limit = RATIO * level / (1 - level)
    limit /= 1 + limit
    within = np.flatnonzero(means <= limit)
    place = int(within[-1]) if len(within) else 0
    if place in (0, len(THRESHOLDS) - 1):
        often = "every" if place == 0 else "no"
        why = f"fixed, since the rest of an image shows its tag at {often} threshold: it says nothing of these maps"
        return {**found, "threshold": max(FIXED, lowest), "because": why, "rest": means.tolist(), "absent": level}
    if THRESHOLDS[place] < lowest:
        why = f"the lowest that is allowed of such maps; the rest of an image alone would say {THRESHOLDS[place]:.2f}"
        return {**found, "threshold": lowest, "because": why, "rest": means.tolist(), "absent": level}
    because = (
        f"where the rest of an image shows its tag with a probability of {means[place]:.3f} (a class that it is not "
        f"tagged with: {level:.4f})"
    )
    return {**found, "threshold": float(THRESHOLDS[place]), "because": because, "rest": means.tolist(), "absent": level}


def _rest(network: ImageTagClassifier, features: Tensor, best: Tensor) -> Tensor:
    """Probability of each class where the highest map is at most each threshold, `(T, K)`; 0 where nothing is."""
    order = torch.argsort(best.flatten())
    flat = features.flatten(1)[:, order]
    counts = torch.searchsorted(best.flatten()[order].contiguous(), torch.from_numpy(THRESHOLDS).float(), right=True)
    sums = flat.cumsum(1)[:, (counts - 1).clamp(min=0)]
    found = _probabilities(network, (sums / counts.clamp(min=1)).mT)
    return found * (counts > 0)[:, None]


def _probabilities(network: ImageTagClassifier, means: Tensor) -> Tensor:
    """Probabilities of tags `(N, K)` on the CPU of mean features `(N, D)`."""
    device = network.classifier.weight.device
    return network.logits(means.to(device)[:, :, None, None]).sigmoid().cpu()


def _features(
    network: ImageTagClassifier,
    dataset: Dataset,
    index: int,
    settings: SeedSettings,
    device: torch.device | str,
    store: FeatureStore | None,
) -> Tensor:
    """The map that the heads read `(D, h, w)` float32 on the CPU, at the first scale."""
    if store is not None:
        return store.maps(index, store.seen(index, settings.size, settings.scales[0]))[-1][0].float()
    height, width = seen_size(settings.size, dataset.size(index))
    scale = settings.scales[0]
    image = resize_image(
        without_masks(dataset)[index].image, (max(1, round(height * scale)), max(1, round(width * scale)))
    )
    pixels = torch.tensor(image).permute(2, 0, 1)[None].to(device)
    return network.features(normalise(pixels, network.mean, network.std))[0].float().cpu()
