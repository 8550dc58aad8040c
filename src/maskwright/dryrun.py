"""A recipe tried out before hours are spent on it: every network built and trained for two steps on generated images.

What is measured is the training that a run would do, with its loss, optimiser and augmentation, but for four things:
the images are made up, the batch is cut down to what takes seconds, pre-trained weights are not loaded, and what a
model takes from the training set (DUpsampling's basis) is left at its default. Time and memory are then scaled by the
count of pixels.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from maskwright.config import DataSettings, Recipe, TrainSettings
from maskwright.data import BUILT_IN, open_dataset
from maskwright.data.augment import Augment, collate
from maskwright.data.loading import TrainingSet, generator_for
from maskwright.data.published import published_labels
from maskwright.data.sample import LabelSpace, Sample
from maskwright.engine.device import choose_device, memory_mb
from maskwright.engine.fit import Step, fit, total_steps
from maskwright.engine.progress import in_words
from maskwright.errors import RecipeError
from maskwright.models import BACKBONES
from maskwright.models.backbones import import_timm
from maskwright.models.base import parameter_groups
from maskwright.models.pretrained import SUFFIXES, find_weights
from maskwright.segment import build_segmenter
from maskwright.weak.classifier import build_classifier

STEPS = 2
CPU_PIXELS = 2**17  # of a batch, so that a step takes seconds
GPU_PIXELS = 2**19  # where the whole batch does not fit
USUAL_SIZE = (375, 500)  # of a photograph of PASCAL VOC, where neither the recipe nor the data say a size


@dataclass
class Trial:
    """What two steps of one network's training showed, and what follows for all of them.

    Args:
        title: of the network.
        parameters: of the network, in all.
        trained: those that are trained.
        batch: images, height and width of what goes through the network at once, over all processes.
        measured: the same for the steps that were run.
        factor: pixels of an optimiser step, over pixels of one that was run.
        seconds: of a step that was run; its first, which is slower, does not count.
        losses: of both steps.
        fixed: bytes for weights, gradients and optimiser.
        kept: bytes kept for the backward pass (CUDA: at most used), for the batch that was run.
        steps: optimiser steps in all; None where that depends on data that are not here.
    """

    title: str
    parameters: int
    trained: int
    batch: tuple[int, int, int]
    measured: tuple[int, int, int]
    factor: float
    seconds: float
    losses: list[float]
    fixed: int
    kept: int
    steps: int | None

    @property
    def step_seconds(self) -> float:
        """Estimate for one optimiser step of the recipe."""
        return self.seconds * self.factor

    @property
    def memory(self) -> float:
        """Estimate in bytes, for the whole batch on one device."""
        return self.fixed + self.kept * math.prod(self.batch) / math.prod(self.measured)


def dry_run(recipe: Recipe, *, say: Callable[[str], None] = print) -> list[Trial]:
    """Build each network that a recipe trains, run two optimiser steps, and say what a run will need.

    The data set may be missing: classes are then those of its layout.

    Args:
        recipe: what would be run; nothing is written.
        say: prints one line.

    Returns:
        One trial for each network.

    Raises:
        RecipeError: a model, a loss, an option or settings that cannot be.
        DataError: data that are there and cannot be used, or classes that nothing tells.
        TrainingStopped: the loss is not finite.
    """
    device = choose_device(recipe.device)
    labels, count, size, where = look_at_data(recipe.data)
    say(f"recipe     {recipe.name}" + (f": {recipe.source}" if recipe.source else ""))
    if recipe.expected:
        say("expected   " + ", ".join(f"{name} {value:.4g}" for name, value in recipe.expected.items()))
    say(f"data       {where}")
    trials = []
    if recipe.supervision != "masks":
        chosen = recipe.classifier
        for line in weights_lines(chosen.backbone, chosen.pretrained):
            say(line)
        bare = recipe.model_copy(deep=True)
        bare.classifier.pretrained = _loadable(chosen.pretrained)
        classifier, step = build_classifier(bare, labels)
        title = f"classifier on {chosen.backbone}"
        trials.append(_try(title, classifier, step, chosen.train, labels, count, size, device, say))
    for line in weights_lines(recipe.model.backbone, recipe.model.pretrained):
        say(line)
    bare = recipe.model_copy(deep=True)
    bare.model.pretrained = _loadable(recipe.model.pretrained)
    segmenter, step = build_segmenter(bare, labels, device, [1.0] * labels.num_classes)
    title = f"segmenter {recipe.model.name} on {recipe.model.backbone}"
    trials.append(_try(title, segmenter, step, recipe.train, labels, count, size, device, say))
    rounds = 2 if recipe.oracle and recipe.supervision != "masks" else 1
    if all(trial.steps is not None for trial in trials):
        seconds = [trial.step_seconds * (trial.steps or 0) for trial in trials]
        total = sum(seconds) + (rounds - 1) * seconds[-1]
        twice = ", the segmenter twice (oracle)" if rounds == 2 else ""
        say(f"training   about {_long(total)} in all on {device}{twice}; seeds, masks, scores and report come on top")
    return trials


def look_at_data(settings: DataSettings) -> tuple[LabelSpace, int | None, tuple[int, int], str]:
    """Classes of a data set, images of its training split, the size of one, and in words where that is known from.

    Raises:
        DataError: the set is there and cannot be read, or it is not there and its layout does not tell its classes.
    """
    if Path(settings.root).is_dir() or (settings.root in BUILT_IN and settings.layout in ("auto", settings.root)):
        dataset = open_dataset(settings, settings.train)
        labels, count = dataset.labels, len(dataset)
        found = f"{settings.root}, {count} images in split {settings.train}, {labels.num_classes} classes"
        return labels, count, dataset.size(0), found
    labels, published = published_labels(settings)
    known = published.get(settings.train)
    images = f"{known} images in {settings.train} as published" if known else f"{settings.train}: count not known"
    where = f"{settings.root} is not here; {labels.num_classes} classes of layout {settings.layout}, {images}"
    return labels, known, USUAL_SIZE, where


def weights_lines(backbone: str, pretrained: bool | str) -> Iterable[str]:
    """What is to be said of pre-trained weights: a file is loaded, others are only looked for."""
    if pretrained in (False, "classifier") or _loadable(pretrained) or backbone in BACKBONES:
        return
    architecture, _, tag = backbone.partition(".")
    try:
        find_weights(import_timm(), architecture, tag, pretrained)
    except RecipeError as error:
        yield f"weights    a run would stop here: {error}"
    else:
        yield f"weights    {backbone}, pretrained={pretrained}: can be had; not loaded now"


def _loadable(pretrained: bool | str) -> bool | str:
    return pretrained if isinstance(pretrained, str) and pretrained.endswith(SUFFIXES) else False


class GeneratedSet:
    """Noise with masks of random patches, a fifth of them ignored; an example follows from its index.

    Args:
        labels: what the masks hold.
        size: height and width of all images.
        count: of the images.
    """

    def __init__(self, labels: LabelSpace, size: tuple[int, int], count: int) -> None:
        self.labels, self.size = labels, size
        self.names = [f"generated_{index}" for index in range(count)]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        rng = generator_for(index)
        height, width = self.size
        cells = rng.integers(0, self.labels.num_classes, (-(-height // 32), -(-width // 32)), np.uint8)
        cells[rng.random(cells.shape) < 0.2] = self.labels.ignore_index
        mask = np.ascontiguousarray(cells.repeat(32, 0).repeat(32, 1)[:height, :width])
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        return Sample(self.names[index], image, mask, self.labels.tags_in(mask))


class _Enough(Exception):
    """Ends a training after the steps that are wanted, without the model being saved."""


class _Watch:
    """Calls a training step, taking the time at its beginning; adds up what its first call keeps for going backward."""

    def __init__(self, step: Step, network: nn.Module, device: torch.device) -> None:
        self.step, self.device = step, device
        self.weights = {tensor.untyped_storage().data_ptr() for tensor in [*network.parameters(), *network.buffers()]}
        self.times: list[float] = []
        self.losses: list[Tensor] = []
        self.kept: dict[int, int] = {}

    def __call__(self, network: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.times.append(time.perf_counter())
        if len(self.times) > STEPS:
            raise _Enough
        if len(self.times) == 1:
            with saved_tensors_hooks(self.count, lambda kept: kept):
                loss, parts = self.step(network, batch)
        else:
            loss, parts = self.step(network, batch)
        self.losses.append(loss.detach())
        return loss, parts

    def count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.weights:
            self.kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # the tensor itself would hold its own graph, and never be freed


def _try(
    title: str,
    network: Any,
    step: Step,
    settings: TrainSettings,
    labels: LabelSpace,
    count: int | None,
    size: tuple[int, int],
    device: torch.device,
    say: Callable[[str], None],
) -> Trial:
    """Two steps of one network's training, and what they say."""
    parameters = sum(parameter.numel() for parameter in network.parameters())
    trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    say(f"{title}: {parameters / 1e6:.2f} M parameters, {trained / 1e6:.2f} M trained")
    height, width = example_size(settings, labels, network.mean, size)
    batch = (settings.batch_size, height, width)
    steps = settings.steps
    if steps is None and settings.epochs is None:
        total_steps(settings, 1)
    if steps is None and count is not None:
        steps = total_steps(settings, max(1, count // settings.batch_size))
    budgets = [math.prod(batch), GPU_PIXELS] if device.type == "cuda" else [CPU_PIXELS]
    for budget in budgets:
        measured = reduced(batch, budget)
        try:
            watch, most = _measure(network, step, settings, labels, measured, device)
        except torch.OutOfMemoryError:
            if budget == budgets[-1]:
                raise
            torch.cuda.empty_cache()
            say(f"  {_shape(batch)} does not fit on {device}; a smaller batch is measured")
        else:
            break
    fixed = fixed_bytes(network, settings)
    trial = Trial(
        title,
        parameters,
        trained,
        batch,
        measured,
        settings.accumulate * math.prod(batch) / math.prod(measured),
        watch.times[2] - watch.times[1],
        [float(loss) for loss in watch.losses],
        fixed,
        max(0, most - fixed) if device.type == "cuda" else sum(watch.kept.values()),
        steps,
    )
    for line in _lines(trial, settings, device):
        say(line)
    return trial


def _measure(
    network: Any,
    step: Step,
    settings: TrainSettings,
    labels: LabelSpace,
    measured: tuple[int, int, int],
    device: torch.device,
) -> tuple[_Watch, int]:
    """Train for two steps as `fit` does, with a smaller batch; gives the most bytes used on a GPU."""
    images, *size = measured
    first_sizes = {"resize": None, "long_side": None, "short_side": None}
    augment = settings.augment.model_copy(update={**first_sizes, "crop": tuple(size)})
    changes = {
        "batch_size": images,
        "accumulate": 1,
        "steps": STEPS + 1,
        "workers": 0,
        "compile": False,
        "log_every": 1,
        "validate_every": 0,
        "checkpoint_seconds": math.inf,
        "augment": augment,
    }
    if device.type == "cpu":
        changes["autocast"] = "none"  # half precision on a CPU says nothing of a GPU, and takes minutes
    generated = GeneratedSet(labels, (size[0], size[1]), images * (STEPS + 1))
    watch = _Watch(step, network, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with tempfile.TemporaryDirectory() as folder, suppress(_Enough):
        fit(
            network,
            watch,
            TrainingSet(generated, Augment(augment, labels, mean=network.mean)),
            settings.model_copy(update=changes),
            folder,
            parameter_groups=parameter_groups(network, settings),
            metadata={},
            device=device,
            title="two steps",
        )
    return watch, torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def example_size(
    settings: TrainSettings, labels: LabelSpace, mean: tuple[float, ...], source: tuple[int, int]
) -> tuple[int, int]:
    """Height and width of a training example, for images of size `source`.

    Raises:
        DataError: examples of a batch have different sizes.
        RecipeError: augmentation settings that contradict each other.
    """
    augment = Augment(settings.augment, labels, mean=mean)
    if settings.augment.crop is not None and settings.augment.resize is None:
        source = settings.augment.crop  # quicker to make than a large image, and the same in the end
    generated = GeneratedSet(labels, source, 2)
    examples = [augment(generated[index], generator_for(index)) for index in range(min(2, settings.batch_size))]
    height, width = collate(examples)["image"].shape[-2:]
    return height, width


def reduced(batch: tuple[int, int, int], pixels: int) -> tuple[int, int, int]:
    """A batch of about so many pixels at most: fewer images first, but two where there are (batch normalisation), then
    smaller ones, with sides that leave the same remainder of 32 where that is 0 or 1, and at least 64.

    Args:
        batch: images, height, width.
        pixels: of all images together.
    """
    images, height, width = batch
    images = min(images, max(2, pixels // (height * width)))
    if images * height * width <= pixels:
        return images, height, width
    factor = math.sqrt(pixels / (images * height * width))
    sides = [min(side, max(2, round(side * factor / 32)) * 32 + (side % 32 == 1)) for side in (height, width)]
    return images, sides[0], sides[1]


def fixed_bytes(network: nn.Module, settings: TrainSettings) -> int:
    """Bytes for weights, their gradients and what the optimiser keeps of each."""
    weights = sum(tensor.nbytes for tensor in [*network.parameters(), *network.buffers()])
    trained = sum(tensor.nbytes for tensor in network.parameters() if tensor.requires_grad)
    copies = 1 + (2 if settings.optimizer == "adamw" else int(settings.momentum > 0))
    return weights + copies * trained + (weights if settings.ema else 0)


def _lines(trial: Trial, settings: TrainSettings, device: torch.device) -> Iterable[str]:
    turns = f", {settings.accumulate} times a step" if settings.accumulate > 1 else ""
    yield f"  batch    {_shape(trial.batch)}{turns}"
    scaled = "" if trial.factor == 1 else f"; the recipe's step, {trial.factor:.4g} times the pixels, is scaled from it"
    single = " in float32" if device.type == "cpu" and settings.autocast != "none" else ""
    losses = " then ".join(f"{loss:.4g}" for loss in trial.losses)
    yield f"  measured {STEPS} steps at {_shape(trial.measured)} on {device}{single}: loss {losses}{scaled}"
    length = f"{trial.steps} steps: {_long(trial.step_seconds * trial.steps)}" if trial.steps else _epochs(settings)
    yield f"  time     {_long(trial.step_seconds)} a step ({_long(trial.seconds)} measured); {length}"
    yield (
        f"  memory   {_gigabytes(trial.memory)} for the batch on one device, {_gigabytes(trial.fixed)} of it weights, "
        f"gradients and optimiser; most used so far: {_gigabytes(memory_mb(device) * 2**20)}"
    )


def _epochs(settings: TrainSettings) -> str:
    return f"{settings.epochs:g} epochs, whose steps depend on the count of images"


def _shape(batch: tuple[int, int, int]) -> str:
    return "x".join(map(str, batch))


def _long(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.3g} s"
    return in_words(seconds) if seconds < 3 * 86400 else f"{seconds / 86400:.0f} days"


def _gigabytes(count: float) -> str:
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.0f} MB"
