"""A segmenter on a backbone that keeps its weights: its head is trained on feature maps that are made once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from maskwright.data.augment import nearest_index
from maskwright.data.dataset import Dataset
from maskwright.data.loading import TrainingSet, generator_for
from maskwright.data.sizes import Size
from maskwright.engine.fit import Step
from maskwright.errors import RecipeError
from maskwright.inference.features import FeatureStore, kept_levels
from maskwright.models import layers
from maskwright.models.base import SegmentationModel
from maskwright.runs.folder import RunFolder
from maskwright.settings import AugmentSettings, TrainSettings

Key = tuple[int, int]


def frozen_size(augment: AugmentSettings) -> Size:
    """The one size that images are seen at, whose maps are kept.

    Raises:
        RecipeError: augmentation that would show other pixels each time.
    """
    usual = AugmentSettings()
    varied = [
        name
        for name in ("scale", "crop", "class_uniform", "color_jitter", "hue", "short_side")
        if getattr(augment, name) != getattr(usual, name)
    ]
    if augment.long_side is not None and augment.long_side[0] != augment.long_side[1]:
        varied.append("long_side")
    if varied:
        raise RecipeError(
            f"train.frozen=true keeps the maps of each image and its mirror at one size, which augment."
            f"{', augment.'.join(varied)} would change every time; leave it out, and give augment.resize or "
            "augment.long_side=[480, 480]"
        )
    return augment.resize or (augment.long_side[0] if augment.long_side else None)


def check_frozen(model: nn.Module, name: str, augment: AugmentSettings) -> None:
    """Refuse what a head cannot be trained with on kept maps.

    Args:
        model: the segmenter.
        name: of it.
        augment: of its training.

    Raises:
        RecipeError: a model that sees the image at several sizes, or augmentation that changes pixels.
    """
    frozen_size(augment)
    if not isinstance(model, SegmentationModel) or type(model).outputs is not SegmentationModel.outputs:
        raise RecipeError(f"train.frozen=true: model.name={name} sees the image at several sizes; take light or fcn")


class FrozenSet(TrainingSet):
    """Feature maps and masks in place of images and masks; only mirrored at random.

    Masks are seen no larger than they are. All examples have one size, that of the largest: maps are padded with
    zeros, masks with the ignored value.

    Args:
        dataset: images with masks.
        store: maps of them, all or as many as there is room for.
        augment: size and probability of a mirror.
        seed: of the run.
        strides: of the backbone's maps.
    """

    def __init__(
        self, dataset: Dataset, store: FeatureStore, augment: AugmentSettings, seed: int, strides: list[int]
    ) -> None:
        super().__init__(dataset, _not_called, seed)
        self.store, self.flip, self.size, self.strides = store, augment.flip, frozen_size(augment), strides
        seen = np.array([store.seen(index, self.size) for index in range(len(dataset))])
        self.canvas = (int(seen[:, 0].max()), int(seen[:, 1].max()))
        # One factor for all: what an image is enlarged by most is what its mask need not be.
        own = np.array([dataset.size(index) for index in range(len(dataset))])
        self.reduced = min(1.0, float((own / seen).max()))

    def example(self, place: int, key: Key, **options: Any) -> dict[str, Tensor]:
        """Maps `map.0`, ... (C, h, w) float16, `mask` (H, W) uint8 and an `image` (0, H, W) that only has a size."""
        mirrored = generator_for(self.seed, *key).random() < self.flip
        seen = self.store.seen(place, self.size)
        example = {"image": torch.zeros(0, *self.canvas, dtype=torch.uint8), "index": torch.tensor(place)}
        for level, maps in zip(self.store.levels, self.store.maps(place, seen), strict=True):
            chosen = maps[int(mirrored)]
            shape = [-(-side // self.strides[level]) for side in self.canvas]
            padded = chosen.new_zeros(len(chosen), *shape)
            padded[:, : chosen.shape[1], : chosen.shape[2]] = chosen
            example[f"map.{level}"] = padded
        mask = self.dataset.mask(place)
        assert mask is not None
        height, width = (max(1, round(side * self.reduced)) for side in seen)
        mask = mask[nearest_index(mask.shape[0], height)][:, nearest_index(mask.shape[1], width)]
        mask = mask[:, ::-1] if mirrored else mask
        canvas = [max(1, round(side * self.reduced)) for side in self.canvas]
        labels = np.full(canvas, self.dataset.labels.ignore_index, np.uint8)
        labels[:height, :width] = mask
        example["mask"] = torch.from_numpy(labels)
        return example


def frozen_set(
    model: SegmentationModel, train: Dataset, settings: TrainSettings, seed: int, folder: Path, device: torch.device
) -> FrozenSet:
    """The examples that a model's head is trained on; maps that are missing are made.

    Args:
        model: the segmenter.
        train: dataset of examples with masks.
        settings: of its training.
        seed: of the run.
        folder: of the stage.
        device: where maps are made.
    """
    strides = model.backbone.strides
    store = FeatureStore(model, train, RunFolder(folder.parent).features, device, levels=kept_levels(model.backbone))
    store.make([frozen_size(settings.augment)])
    return FrozenSet(train, store, settings.augment, seed, strides)


def frozen_step(model: SegmentationModel, criterion: Any, resize: str) -> Step:
    """The step that trains a model's head on kept maps; the backbone is frozen.

    Args:
        model: the segmenter.
        criterion: its loss.
        resize: as `loss.resize`.
    """
    model.backbone.requires_grad_(False)

    def step(network: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        outputs = network(**kept_maps(model, batch), auxiliary=True, upsample=False)
        labels = batch["mask"].long()
        if resize == "logits":
            outputs["logits"] = layers.resize(outputs["logits"], labels.shape[-2:])
        return criterion(outputs, labels)

    return step


def kept_maps(model: SegmentationModel, batch: dict[str, Tensor]) -> dict[str, Any]:
    """What a model is called with in place of images: their maps, None for one that no head reads, and their size."""
    levels = kept_levels(model.backbone)
    maps = [batch[f"map.{level}"].float() if level in levels else None for level in range(len(model.backbone.strides))]
    return {"images": maps, "size": (batch["image"].shape[-2], batch["image"].shape[-1])}


def _not_called(*_: Any) -> dict[str, Tensor]:
    raise AssertionError("kept maps are not augmented")
