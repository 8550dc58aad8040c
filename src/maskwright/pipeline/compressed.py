"""DUpsampling's optional first phase: the network learns the coordinates of labels, then the labels themselves.

The loss is `|F - P v|^2` in the space of the coordinates, where neither the basis nor the temperature has a part. It is
a training of its own in a folder inside that of the stage, with the settings of the second phase, whose weights begin
where it ends.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskwright.data.augment import normalise
from maskwright.data.loading import TrainingSet
from maskwright.engine.fit import Step, fit
from maskwright.losses.resizing import resize_labels
from maskwright.models.base import parameter_groups
from maskwright.models.dupsampling import DUpsampling, compressed_label_loss
from maskwright.pipeline.frozen import kept_maps
from maskwright.runs.folder import COMPRESSED
from maskwright.settings import TrainSettings


def train_compressed(
    model: DUpsampling,
    examples: TrainingSet,
    settings: TrainSettings,
    folder: Path,
    device: torch.device,
    *,
    ignore_index: int,
    metadata: dict[str, Any],
) -> None:
    """Train a model on the coordinates of labels for its `compressed_epochs`; resumes where it was stopped.

    Args:
        model: with its basis in place; trained in place.
        examples: as for the second phase.
        settings: of the second phase; a schedule runs through each of both.
        folder: of the stage; the folder `compressed` in it gets `log.jsonl`, `state.pt` and `model.safetensors`.
        device: where to train.
        ignore_index: value of pixels without a label.
        metadata: of the model file.
    """
    first = settings.model_copy(
        update={"epochs": model.compressed_epochs, "steps": None, "validate_every": 0, "snapshots": 0}
    )
    with model.only_coordinates():
        fit(
            model,
            compressed_step(model, frozen=settings.frozen, ignore_index=ignore_index),
            examples,
            first,
            folder / COMPRESSED,
            parameter_groups=parameter_groups(model, first),
            metadata=metadata,
            device=device,
            title=f"{folder.name}, coordinates",
        )


def compressed_step(model: DUpsampling, *, frozen: bool, ignore_index: int) -> Step:
    """The step that trains a model's coordinates.

    Args:
        model: the segmenter, within `only_coordinates`.
        frozen: its head is trained on kept maps.
        ignore_index: value of pixels without a label.
    """
    mean, std = model.mean, model.std

    def step(network: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        seen = kept_maps(model, batch) if frozen else {"images": normalise(batch["image"], mean, std)}
        labels, size = batch["mask"], (batch["image"].shape[-2], batch["image"].shape[-1])
        if labels.shape[1:] != size:  # kept maps are of images that were enlarged, whose masks are not
            labels = resize_labels(labels, size)
        loss = compressed_label_loss(
            network(**seen, upsample=False),
            labels.long(),
            model.basis,
            model.num_classes,
            model.ratio,
            ignore_index=ignore_index,
        )
        return loss, {"compressed": loss.detach()}

    return step
