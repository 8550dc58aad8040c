"""The segmenter's two stages: trained on masks, wherever they came from, and evaluated on ground truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskwright.data import subset, without_masks
from maskwright.data.augment import Augment, normalise
from maskwright.data.class_uniform import ClassIndex, ClassUniformSet, class_index, load_index, save_index
from maskwright.data.dataset import Dataset, channels_of
from maskwright.data.loading import TrainingSet
from maskwright.data.provenance import against
from maskwright.data.sample import LabelSpace
from maskwright.engine import distributed
from maskwright.engine.checkpoint import describe
from maskwright.engine.fit import Step, fit
from maskwright.engine.progress import LOG, track
from maskwright.errors import RecipeError
from maskwright.files import write_json
from maskwright.inference.predict import Predictor
from maskwright.inference.tag_agreement import known_tags, write_tag_agreement
from maskwright.inference.views import evaluate
from maskwright.losses import create_loss
from maskwright.models import create_model
from maskwright.models.base import SegmentationModel, parameter_groups
from maskwright.models.dupsampling import DUpsampling
from maskwright.pipeline.compressed import train_compressed
from maskwright.pipeline.frozen import frozen_set, frozen_step
from maskwright.runs.contents import read_log
from maskwright.runs.folder import METRICS, SNAPSHOTS, TRAINING
from maskwright.settings import InferenceSettings, Recipe

GLANCED = 16  # validation images that are predicted at the end of a training
MOST_TAGGED = 100  # training images that are predicted to compare them with their tags


def build_segmenter(
    recipe: Recipe, labels: LabelSpace, device: torch.device, class_frequencies: Sequence[float] | None = None
) -> tuple[SegmentationModel, Step]:
    """The recipe's network, as it is before training, and the step that trains it with the recipe's loss.

    Args:
        recipe: `model`, `loss` and `random_seed` are read.
        labels: what the masks mean.
        device: where the step will run.
        class_frequencies: `(C,)`, where the loss weighs classes by how often they occur.

    Raises:
        RecipeError: a model, an option, weights or a loss that cannot be had.
    """
    torch.manual_seed(recipe.random_seed)
    model = create_model(
        recipe.model.name,
        backbone=recipe.model.backbone,
        num_classes=labels.num_classes,
        output_stride=recipe.model.output_stride,
        pretrained=recipe.model.pretrained,
        **recipe.model.options,
    )
    criterion = create_loss(recipe.loss, labels, class_frequencies).to(device)
    mean, std = model.mean, model.std
    if recipe.train.frozen:
        return model, frozen_step(model, criterion, recipe.loss.resize)

    def step(network: torch.nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        images = normalise(batch["image"], mean, std)
        outputs = network(images, auxiliary=True, upsample=recipe.loss.resize == "logits")
        return criterion(outputs, batch["mask"].long())

    return model, step


def for_channels(recipe: Recipe, dataset: Dataset) -> Recipe:
    """The recipe with a model for images of as many channels as a set has; weights from elsewhere are adapted.

    Raises:
        RecipeError: the recipe states another number.
    """
    channels = channels_of(dataset)
    stated = recipe.model.options.get("in_channels", channels)
    if stated != channels:
        raise RecipeError(f"model.options.in_channels={stated}, but the images have {channels} channels; leave it out")
    if channels == 3:
        return recipe
    options = {**recipe.model.options, "in_channels": channels}
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"options": options})})


def train_segmenter(recipe: Recipe, train: Dataset, val: Dataset, folder: Path, device: torch.device) -> dict[str, Any]:
    """Train the recipe's model on a dataset whose examples all have masks; resumes where it was stopped.

    Args:
        recipe: `model`, `loss`, `train` and `inference` are read.
        train: dataset of examples with masks.
        val: dataset for validation between epochs, where `train.validate_every` is set and it has masks. Where it is
            not, `GLANCED` of its images tell at the end whether the model predicts more than one class. Predictions of
            `train.snapshots` of its images are kept each time.
        folder: gets `log.jsonl`, `state.pt`, `model.safetensors` and `snapshots/`; and those of the first phase, of a
            model that has one (`train_compressed`), in `compressed/`.
        device: where to train.

    Returns:
        What `fit` returns: the last numbers of the log.
    """
    recipe = for_channels(recipe, train)
    settings = recipe.train
    if settings.frozen:
        settings = settings.model_copy(update={"workers": 0})  # maps are read faster than processes hand them over
    counted = recipe.loss.class_weights in ("inverse", "sqrt_inverse")
    model, step = build_segmenter(recipe, train.labels, device, class_frequencies(train) if counted else None)
    model.prepare(train, folder)

    judged = [index for index in range(len(val)) if val.has_mask(index)]
    seen = val if settings.validate_every else subset(val, judged[:: math.ceil(len(judged) / GLANCED) or 1])

    places = np.linspace(0, len(val) - 1, min(settings.snapshots, len(val))).round().astype(int)
    shown = without_masks(subset(val, sorted(set(places.tolist()))))

    def validate(network: torch.nn.Module) -> dict[str, Any]:
        if len(shown):
            before = sum(line["event"] == "validate" for line in read_log(folder / LOG))
            evaluate(network, shown, recipe.inference, device, folder=folder / SNAPSHOTS / f"{before + 1:03d}")
        if not judged:
            return {}
        confusion, _ = evaluate(network, seen, recipe.inference, device)
        scores = confusion.scores() if settings.validate_every else {}
        return {
            **{name: scores[name] for name in ("miou", "pixel_accuracy") if name in scores},
            "predicted_classes": int((confusion.matrix.sum(0) > 0).sum()),
            "true_classes": int((confusion.matrix.sum(1) > 0).sum()),
        }

    made = {**recipe.model.model_dump(mode="json", exclude={"pretrained"}), "num_classes": train.labels.num_classes}
    augment = Augment(settings.augment, train.labels, mean=model.mean)
    examples = TrainingSet(train, augment, settings.seed + recipe.random_seed)
    if settings.frozen:
        examples = frozen_set(model, train, settings, settings.seed + recipe.random_seed, folder, device)
    elif settings.augment.class_uniform:
        examples = ClassUniformSet(examples, stage_index(train, folder), settings.augment.class_uniform)
    metadata = describe("segmenter", made, model, train.labels, recipe)
    if isinstance(model, DUpsampling) and model.compressed_epochs:
        ignored = train.labels.ignore_index
        train_compressed(model, examples, settings, folder, device, ignore_index=ignored, metadata=metadata)
    return fit(
        model,
        step,
        examples,
        settings,
        folder,
        parameter_groups=parameter_groups(model, settings),
        validate=validate if judged or len(shown) else None,
        metadata=metadata,
        device=device,
        title=folder.name,
    )


def measured_on(scores: dict[str, Any]) -> str:
    """What scores of `evaluate_to_folder` were measured on, in words, and whether that is not ground truth."""
    said = against(scores.get("source") or {})
    return f"on {scores['split']} ({scores['images']} images)" + (f", {said}" if said else "")


def stage_index(dataset: Dataset, folder: Path) -> ClassIndex:
    """Where each class lies in the masks of a dataset; made once, by the first process, and kept in the folder."""
    path = folder / "class_index.npz"
    if distributed.is_main() and not path.is_file():
        save_index(path, class_index(dataset, track(range(len(dataset)), title="finding classes")))
    distributed.barrier()
    return load_index(path)


def class_frequencies(dataset: Dataset) -> list[float]:
    """Share of the valid pixels that each class has, `(C,)`, over all masks of a dataset."""
    counts = np.zeros(256, np.int64)
    for index in track(range(len(dataset)), title="counting labels"):
        if (mask := dataset.mask(index)) is not None:
            counts += np.bincount(mask.ravel(), minlength=256)
    counts = counts[: dataset.labels.num_classes]
    return (counts / max(1, counts.sum())).tolist()


def evaluate_to_folder(
    predictor: Predictor, dataset: Dataset, settings: InferenceSettings, folder: Path, trained_on: Dataset | None = None
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Predict a whole dataset, score it where it has ground truth or tags, and write all.

    Args:
        predictor: what `maskwright.load` gives.
        dataset: images, masks where scores are wanted, and tags, which are read when all is predicted.
        settings: how the model is applied.
        folder: gets `metrics.json`, `images.json`, `tags.json` and `predictions/`; and what is made of images of
            `trained_on`, in `training/`.
        trained_on: where no tags of `dataset` are known, some images of this one are predicted, and compared with the
            tags that the model learned from.

    Returns:
        The content of `metrics.json`, None where no image has a ground-truth mask; and that of `tags.json`, None where
        no tags are known, and in all processes but the first.
    """
    made_by = predictor.made_by() if distributed.is_main() else None
    confusion, _ = evaluate(predictor.model, dataset, settings, predictor.device, folder=folder, made_by=made_by)
    agreement = None
    if known := known_tags(dataset):
        if distributed.is_main():
            same = trained_on is not None and dict(trained_on.source).get("split") == dict(dataset.source).get("split")
            agreement = write_tag_agreement(subset(dataset, known), folder, trained_on=same)
    elif trained_on is not None:
        sample = without_masks(spread_over_tagged(trained_on))
        evaluate(predictor.model, sample, settings, predictor.device, folder=folder / TRAINING, made_by=made_by)
        if distributed.is_main():
            agreement = write_tag_agreement(sample, folder / TRAINING, trained_on=True)
    judged = sum(dataset.has_mask(index) for index in range(len(dataset)))
    if not judged:
        return None, agreement
    scores = {
        **confusion.scores(),
        "confusion": confusion.matrix.tolist(),
        "images": judged,
        "split": dataset.source.get("split"),
        "source": dataset.source,
        "post_processing": settings.model_dump(mode="json", exclude={"batch_size"}),
        "tags_read": False,
    }
    if distributed.is_main():
        write_json(folder / METRICS, scores)
    return scores, agreement


def spread_over_tagged(dataset: Dataset) -> Dataset:
    """At most `MOST_TAGGED` of the images whose tags are known, spread evenly."""
    tagged = [index for index in range(len(dataset)) if dataset.tags(index) is not None]
    return subset(dataset, tagged[:: math.ceil(len(tagged) / MOST_TAGGED) or 1])
