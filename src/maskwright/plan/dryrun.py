"""A recipe tried out before hours are spent on it: every stage run on a few small images, every network trained for two
steps; see `maskwright.plan`. Time and memory are then scaled by the count of pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from maskwright.data import BUILT_IN, open_dataset
from maskwright.data.dataset import Dataset
from maskwright.data.readers.published import published_labels
from maskwright.data.sample import LabelSpace
from maskwright.data.shards.stores import is_remote
from maskwright.engine.device import choose_device, memory_mb
from maskwright.errors import RecipeError
from maskwright.models.backbones import check_weights
from maskwright.plan.cut import STEPS, Budget, cut_down, loadable, trainings
from maskwright.plan.images import cropped_samples, generated_samples, shrunk
from maskwright.plan.trial import Training, Trial, try_stages
from maskwright.plan.words import size_words, words
from maskwright.settings import DataSettings, Recipe, TrainSettings
from maskwright.weak.methods import trained_blocks

# A step takes seconds on a CPU; on a GPU the whole batch is tried first, then what fits on any.
BUDGETS = {"cpu": (Budget(2**17, 2**14),), "cuda": (Budget(math.inf, 2**18), Budget(2**19, 2**17))}
USUAL_SIZE = (375, 500)  # of a photograph of PASCAL VOC, where neither the recipe nor the data say a size


def dry_run(recipe: Recipe, *, say: Callable[[str], None] = print) -> dict[str, Trial]:
    """Run every stage of a recipe on a few small images, and say what a run will need.

    The data set may be missing: classes are then those of its layout, and images are drawn.

    Args:
        recipe: what would be run; nothing is written.
        say: prints one line.

    Returns:
        One trial for each stage, by its name.

    Raises:
        RecipeError: a model, a loss, an option or settings that cannot be.
        DataError: data that are there and cannot be used, or classes that nothing tells.
        TrainingStopped: the loss is not finite.
    """
    device = choose_device(recipe.device)
    dataset, labels, count, where = look_at_data(recipe.data)
    say(f"recipe     {recipe.name}" + (f": {recipe.source}" if recipe.source else ""))
    if recipe.expected:
        say("expected   " + ", ".join(f"{name} {value:.4g}" for name, value in recipe.expected.items()))
    say(f"data       {where}")
    for line in weights_lines(recipe):
        say(line)
    size = USUAL_SIZE if dataset is None else dataset.size(0)
    budgets = BUDGETS.get(device.type, BUDGETS["cpu"])
    for budget in budgets:
        try:
            trials = _try_all(recipe, budget, dataset, labels, size, count, device, say)
        except torch.OutOfMemoryError:
            if budget is budgets[-1]:
                raise
            torch.cuda.empty_cache()
            say(f"that does not fit on {device}; smaller batches are tried")
        else:
            break
    tried = {name: trial.training for name, trial in trials.items() if trial.training is not None}
    again = ["segmenter"] if recipe.fully_supervised and recipe.supervision != "masks" else []
    steps = {name: training.steps for name, training in tried.items()}
    if None not in steps.values():
        total = sum(tried[name].step_seconds * (steps[name] or 0) for name in [*tried, *again])
        twice = ", the segmenter twice (oracle)" if again else ""
        frozen = ", once the maps of the frozen backbone are made" if recipe.train.frozen else ""
        say(
            f"training   about {words(total)} in all on {device}{twice}{frozen}; `plan=true` tells of all stages, with "
            "the data"
        )
    return trials


def _try_all(
    recipe: Recipe,
    budget: Budget,
    dataset: Dataset,
    labels: LabelSpace,
    size: tuple[int, int],
    count: int | None,
    device: torch.device,
    say: Callable[[str], None],
) -> dict[str, Trial]:
    cut = cut_down(recipe, labels, size, budget, device)
    if dataset is None:
        salient = recipe.data.saliency is not None
        samples = generated_samples(labels, shrunk(size, budget.image), salient=salient)
    else:
        samples = cropped_samples(dataset, budget.image, recipe.supervision != "masks")
    found = {}
    for trial in try_stages(recipe, cut, samples, labels, count, device):
        found[trial.name] = trial
        settings = trainings(recipe).get(trial.name.partition("-")[0])
        if trial.training is not None and settings is not None:
            lines = training_lines(network_title(recipe, trial.name), trial.training, settings, device)
        else:
            height, width = samples[0].image.shape[:2]
            lines = [f"{trial.name}: {words(trial.seconds)} for an image of {height}x{width}"]
        for line in lines:
            say(line)
    return found


def network_title(recipe: Recipe, stage: str) -> str:
    """A network by the name of its stage, with its model and backbone."""
    if stage == "segmenter":
        return f"segmenter {recipe.model.name} on {recipe.model.backbone}"
    settings = trained_blocks(recipe)[stage.partition("-")[0]]
    return f"{stage} on {getattr(settings, 'backbone', recipe.classifier.backbone)}"


def look_at_data(settings: DataSettings) -> tuple[Any, LabelSpace, int | None, str]:
    """The training split or None, its classes, count of its images, and in words where that is known from.

    Raises:
        DataError: the set is there and cannot be read, or it is not there and its layout does not tell its classes.
    """
    there = Path(settings.root).is_dir() or is_remote(settings.root)
    if there or (settings.root in BUILT_IN and settings.layout in ("auto", settings.root)):
        dataset = open_dataset(settings, settings.train)
        labels, count = dataset.labels, len(dataset)
        found = f"{settings.root}, {count} images in split {settings.train}, {labels.num_classes} classes"
        return dataset, labels, count, found
    labels, published = published_labels(settings)
    known = published.get(settings.train)
    images = f"{known} images in {settings.train} as published" if known else f"{settings.train}: count not known"
    where = f"{settings.root} is not here; {labels.num_classes} classes of layout {settings.layout}, {images}"
    return None, labels, known, where


def weights_lines(recipe: Recipe) -> Iterable[str]:
    """What is to be said of pre-trained weights: a file is loaded, others are only looked for."""
    trained = trained_blocks(recipe)
    blocks = [*([recipe.classifier] if trained else []), *trained.values(), recipe.model]
    wanted = [(block.backbone, block.pretrained) for block in blocks if hasattr(block, "backbone")]
    for backbone, pretrained in dict.fromkeys(wanted):
        if pretrained is False or loadable(pretrained):
            continue
        try:
            check_weights(backbone, pretrained)
        except RecipeError as error:
            yield f"weights    a run would stop here: {error}"
        else:
            yield f"weights    {backbone}, pretrained={pretrained}: can be had; not loaded now"


def training_lines(title: str, training: Training, settings: TrainSettings, device: torch.device) -> Iterable[str]:
    """What two steps of a training showed, in words."""
    yield f"{title}: {training.parameters / 1e6:.2f} M parameters, {training.trained / 1e6:.2f} M trained"
    turns = f", {settings.accumulate} times a step" if settings.accumulate > 1 else ""
    yield f"  batch    {_shape(training.batch)}{turns}"
    factor = training.factor
    scaled = "" if factor == 1 else f"; the recipe's step, {factor:.4g} times the pixels, is scaled from it"
    single = " in float32" if device.type == "cpu" and settings.autocast != "none" else ""
    losses = " then ".join(f"{loss:.4g}" for loss in training.losses)
    yield f"  measured {STEPS} steps at {_shape(training.measured)} on {device}{single}: loss {losses}{scaled}"
    length = f"{settings.epochs} epochs, whose steps depend on the count of images"
    if training.steps:
        length = f"{training.steps} steps: {words(training.step_seconds * training.steps)}"
    yield f"  time     {words(training.step_seconds)} a step ({words(training.seconds)} measured); {length}"
    yield (
        f"  memory   {size_words(training.memory)} for the batch on one device, {size_words(training.fixed)} of it "
        f"weights, gradients and optimiser; most used so far: {size_words(memory_mb(device) * 2**20)}"
    )


def _shape(batch: tuple[int, int, int]) -> str:
    return "x".join(map(str, batch))
