"""Networks whose backbone keeps its weights: heads fitted on its feature maps, which are made once and kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskwright.data.dataset import Dataset
from maskwright.engine import distributed
from maskwright.engine.checkpoint import MODEL, describe, save_model
from maskwright.engine.progress import RunLog, track
from maskwright.inference.features import FeatureStore, kept_levels
from maskwright.models import ImageTagClassifier, create_model
from maskwright.models.base import SegmentationModel
from maskwright.runs.folder import RunFolder
from maskwright.settings import Recipe
from maskwright.weak.networks.recam import class_features, soft_masks
from maskwright.weak.networks.tag_head import choose_decay, class_loss, fit_head, tag_loss

LARGEST_FIT = 200_000  # examples that a head is fitted on; of more, so many are drawn


def frozen_store(
    recipe: Recipe, network: Any, dataset: Dataset, folder: str | PathLike[str], device: torch.device
) -> FeatureStore:
    """The maps of a run's frozen backbone, for heads of classifiers and of the segmenter alike.

    Args:
        recipe: says whether a segmenter on the same backbone will read finer maps, too.
        network: has the backbone.
        dataset: images.
        folder: of the run.
        device: where maps are made.
    """
    levels = {len(network.backbone.strides) - 1}
    if recipe.train.frozen and recipe.model.backbone == recipe.classifier.backbone:
        levels |= set(kept_levels(_segmenter(recipe, dataset.labels.num_classes).backbone))
    return FeatureStore(network, dataset, RunFolder(folder).features, device, levels=sorted(levels))


def is_frozen(recipe: Recipe) -> bool:
    """Whether the network that maps come from has a backbone that was never trained."""
    return all(getattr(recipe, word).train.frozen for word in recipe.networks)


def fit_tag_head(
    network: ImageTagClassifier, recipe: Recipe, train: Dataset, folder: Path, device: torch.device
) -> dict[str, Any]:
    """Fit the tag head, on every view that seeds are taken from.

    Args:
        network: with the part `constant`; its head is set.
        recipe: `seeds` says the views.
        train: dataset with tags; images of which nobody said what they show are left out.
        folder: of the stage.
        device: where to fit.

    Returns:
        What is known of the fit, for the log.
    """
    store = frozen_store(recipe, network, train, folder.parent, device)
    store.make([recipe.seeds.size], recipe.seeds.scales)
    labels = train.labels
    tagged = [index for index in range(len(train)) if train.tags(index) is not None]
    tagged = _drawn(tagged, len(recipe.seeds.scales) * 2)
    means, tags, groups = [], [], []
    for index in track(tagged, title="means of features"):
        for maps in _views(store, recipe, index):
            means.append(maps.mean((2, 3)))
            tags += [labels.tag_vector(train.tags(index) or ())] * len(maps)
            groups += [index] * len(maps)
    features, targets = torch.cat(means).to(device), torch.from_numpy(np.stack(tags)).float().to(device)
    count, places = len(labels.foreground), torch.tensor(groups, device=device)
    decay, losses = choose_decay(features, targets, tag_loss, count, places)
    weight, bias = fit_head(features, targets, tag_loss, decay, count)
    with torch.no_grad():
        network.classifier.weight.copy_(weight[:, :, None, None])
        assert network.constant is not None
        network.constant.bias.copy_(bias)
    return {"loss": losses.get(decay), "decay": decay, "examples": len(features)}


def fit_second_head(
    network: ImageTagClassifier, recipe: Recipe, train: Dataset, folder: Path, device: torch.device
) -> dict[str, Any]:
    """Fit ReCAM's second head: features under the map of a class must be told to be that class.

    The first head is fixed, so the masks are, and the fit is convex; in the paper both go on together.

    Args:
        network: with a fitted first head and `recam_head`, which is set.
        recipe: `seeds` says the views.
        train: dataset with tags.
        folder: of the stage.
        device: where to fit.

    Returns:
        What is known of the fit, for the log.
    """
    store = frozen_store(recipe, network, train, folder.parent, device)
    store.make([recipe.seeds.size], recipe.seeds.scales)
    labels, first = train.labels, network.classifier.weight.detach().flatten(1).cpu()
    position = {value: place for place, value in enumerate(labels.foreground)}
    tagged = [index for index in range(len(train)) if train.tags(index)]
    tagged = _drawn(tagged, len(recipe.seeds.scales) * 2)
    means, classes, groups = [], [], []
    for index in track(tagged, title="features of each class"):
        keys = torch.tensor([position[value] for value in train.tags(index) or ()])
        for maps in _views(store, recipe, index):
            chosen = keys.expand(len(maps), -1)
            means.append(class_features(maps, soft_masks(maps, first, chosen)).flatten(0, 1))
            classes.append(chosen.flatten())
            groups += [index] * chosen.numel()
    features, targets = torch.cat(means).to(device), torch.cat(classes).to(device)
    count, places = len(labels.foreground), torch.tensor(groups, device=device)
    decay, losses = choose_decay(features, targets, class_loss, count, places, constant=False)
    weight, _ = fit_head(features, targets, class_loss, decay, count, constant=False)
    assert network.recam_head is not None
    with torch.no_grad():
        network.recam_head.weight.copy_(weight[:, :, None, None])
    right = ((features @ weight.mT).argmax(1) == targets).float().mean()
    return {"loss": losses.get(decay), "decay": decay, "examples": len(features), "second_accuracy": float(right)}


def save_fitted(
    network: ImageTagClassifier,
    recipe: Recipe,
    train: Dataset,
    folder: Path,
    found: dict[str, Any],
    validate: dict[str, Any] | None,
    started: float,
) -> dict[str, Any]:
    """Write model and log of a fitted network, as training writes them.

    Args:
        network: with fitted heads.
        recipe: of the run.
        train: dataset it was fitted on.
        folder: of the stage.
        found: what is known of the fit.
        validate: metrics on other images, if any.
        started: `time.monotonic()` when the stage began.

    Returns:
        As `fit`.
    """
    made = {
        **recipe.classifier.model_dump(mode="json", exclude={"pretrained", "loss", "train"}),
        "num_tags": len(train.labels.foreground),
        **network.parts,
        "pooled": network.backbone.pooled,
    }
    last: dict[str, Any] = {"train": None, "validate": None}
    log = RunLog(folder)
    with log:
        last["train"] = log.write("train", 1, 1.0, found)
        if validate is not None:
            last["validate"] = log.write("validate", 1, 1.0, validate)
    if distributed.is_main():
        save_model(folder / MODEL, network.cpu(), describe("classifier", made, network, train.labels, recipe))
    distributed.barrier()
    return {"steps": 1, "epochs": 1.0, "seconds": round(time.monotonic() - started, 2), **last}


def _segmenter(recipe: Recipe, num_classes: int) -> SegmentationModel:
    """The recipe's segmenter without its weights, to ask which maps it reads."""
    model = recipe.model
    with torch.random.fork_rng(devices=[]):
        return create_model(
            model.name,
            backbone=model.backbone,
            num_classes=num_classes,
            output_stride=model.output_stride,
            **model.options,
        )


def _views(store: FeatureStore, recipe: Recipe, index: int) -> Sequence[Tensor]:
    """Per scale the coarsest maps of an image, and of its mirror where seeds see it, `(1 or 2, D, h, w)` float32."""
    count = 2 if recipe.seeds.flip else 1
    seen = [store.seen(index, recipe.seeds.size, scale) for scale in recipe.seeds.scales]
    return [store.maps(index, size)[-1][:count].float() for size in seen]


def _drawn(indices: list[int], views: int) -> list[int]:
    most = LARGEST_FIT // views
    if len(indices) <= most:
        return indices
    return sorted(np.random.default_rng(0).choice(indices, most, replace=False).tolist())
