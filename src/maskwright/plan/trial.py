"""A recipe's own stages on a few small images in a temporary folder, and what each of them takes.

Each stage is run by the pipeline itself, so that every method that a recipe can name is tried as it is. Trainings make
two steps; but for five things they are those of a run: the learning rate is tiny, pre-trained weights are not loaded
(unless from a file), what a model takes from the training set (DUpsampling's basis) is left at its default, of two
phases (DUpsampling's coordinates before its labels) the second is tried, and on a CPU all is float32.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.optim.optimizer import register_optimizer_step_post_hook

from maskwright.data.sample import LabelSpace, Sample
from maskwright.engine.fit import WATCH, Batch, Step, total_steps
from maskwright.engine.progress import QUIET
from maskwright.pipeline.frozen import frozen_set
from maskwright.pipeline.segment import build_segmenter, for_channels
from maskwright.pipeline.stages import recipe_stages
from maskwright.plan.cut import FIRST_EPOCHS, Cut, Shape, trainings
from maskwright.plan.images import FewImages
from maskwright.plan.peak import Peak
from maskwright.runs.context import RunContext
from maskwright.runs.stages import Stage
from maskwright.settings import Recipe, TrainSettings
from maskwright.weak.networks.classifier import next_network
from maskwright.weak.networks.frozen import frozen_store

SLOW = 4.0  # seconds for an image, after which fewer are tried


@dataclass
class Training:
    """What two steps of one network's training showed, and what follows for all of them.

    Args:
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
        features: seconds for the maps of an image that a frozen backbone makes before the first step.
    """

    parameters: int
    trained: int
    batch: Shape
    measured: Shape
    factor: float
    seconds: float
    losses: list[float]
    fixed: int
    kept: int
    steps: int | None
    features: float = 0.0

    @property
    def step_seconds(self) -> float:
        """Estimate for one optimiser step of the recipe."""
        return self.seconds * self.factor

    @property
    def memory(self) -> float:
        """Estimate in bytes, for the whole batch on one device."""
        return self.fixed + self.kept * math.prod(self.batch) / math.prod(self.measured)


@dataclass
class Trial:
    """What a stage showed.

    Args:
        name: of the stage.
        folder: where its files are, until the trial is over.
        training: where the stage trains a network.
        begin: seconds whatever the images, where it does not.
        seconds: for one image.
        fixed: bytes that it used whatever the images.
        most: bytes that it used at most for one image, on top.
    """

    name: str
    folder: Path
    training: Training | None = None
    begin: float = 0.0
    seconds: float = 0.0
    fixed: int = 0
    most: int = 0


def try_stages(
    recipe: Recipe,
    cut: Cut,
    samples: Sequence[Sample],
    labels: LabelSpace,
    count: int | None,
    device: torch.device,
    last: str | None = None,
) -> Iterator[Trial]:
    """Run the stages of a recipe that was cut down, each on what the ones before it left; the oracle is left out.

    Args:
        recipe: of the run.
        cut: what `cut_down` made of it.
        samples: as `cropped_samples` or `generated_samples` give them, at least 4.
        labels: what they mean.
        count: images of the training split of a run, or None where nobody knows.
        device: where to run.
        last: name of the last stage to run; all by default.

    Yields:
        One trial for each stage, when it is done; its files are there until all are done.
    """
    blind = [Sample(sample.name, sample.image, None, None, sample.saliency) for sample in samples]
    with tempfile.TemporaryDirectory() as temporary, _quietly():
        out = Path(temporary)
        context = RunContext(cut.recipe, out, lambda line: None)
        context.device, context.real, context.one_pass, context.reviewed = device, [], None, {}

        def show(images: int) -> None:
            context.train = context.judged = FewImages(samples[:images], labels, recipe.data.train)
            # Nothing to evaluate on: a network of two steps is bound to fail.
            context.val = FewImages(blind[:images], labels, recipe.data.val)

        images = len(samples)
        show(images)
        for stage in recipe_stages(context, last):
            folder = out / stage.name
            folder.mkdir()
            name = stage.name.partition("-")[0]
            if name in cut.batches:
                features = 0.0
                if name == "segmenter" and recipe.train.frozen:
                    show(1)
                    _make_features(context, folder)  # what is slow at the first call is slow now
                    show(images)
                    features = _make_features(context, folder)
                settings, first = trainings(recipe)[name], 0.0
                if name == "segmenter":
                    first = recipe.model.options.get(FIRST_EPOCHS, 0.0)
                training = _train(stage, folder, *cut.batches[name], _steps(settings, first, count), settings, device)
                training.features = features * math.prod(training.batch[1:]) / math.prod(training.measured[1:])
                yield Trial(stage.name, folder, training)
                continue
            show(1)
            stage.run(folder)  # what is compiled at the first call is compiled now
            show(2)
            with Peak(device) as peak:
                if _timed(stage, folder, device) > SLOW:
                    images = 3  # from here on, since maps of more are not there
            show(images)
            if name in cut.recipe.networks:
                # Maps are made for each image, once; a fit takes its time whatever the images.
                features = _make_features(context, folder) if name == cut.recipe.networks[0] else 0.0
                yield Trial(stage.name, folder, None, _timed(stage, folder, device), features, peak.fixed, peak.most)
                continue
            many = _timed(stage, folder, device)
            show(1)
            few = _timed(stage, folder, device)
            # Two images were done before, and the one of the last call as well; but an evaluation starts again.
            again = name == "evaluation"
            each = max(many - few, 0.1 * many) / (images - 1 if again else images - 2)
            begin = max(0.0, few - each if again else few)
            if name == "seeds":
                each /= cut.seed_share
            yield Trial(stage.name, folder, None, begin, each, peak.fixed, peak.most)


def _timed(stage: Stage, folder: Path, device: torch.device) -> float:
    started = time.perf_counter()
    stage.run(folder)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _make_features(context: RunContext, folder: Path) -> float:
    """Seconds for an image's maps of a stage's frozen backbone; they are kept for its training."""
    recipe, train = context.recipe, context.train
    if folder.name == "segmenter":
        model, _ = build_segmenter(for_channels(recipe, train), train.labels, context.device)
        started = time.perf_counter()
        frozen_set(model, train, recipe.train, recipe.random_seed, folder, context.device)
    else:
        network = next_network(recipe, None, len(train.labels.foreground), constant=True)
        store = frozen_store(recipe, network, train, context.out, context.device)
        started = time.perf_counter()
        store.make([recipe.seeds.size], recipe.seeds.scales)
    return (time.perf_counter() - started) / len(train)


def _steps(settings: TrainSettings, first_epochs: float, count: int | None) -> int | None:
    """Optimiser steps of a training, with those of a first phase; None where they depend on an unknown `count`."""
    if count is None:
        return None if first_epochs else settings.steps
    batches = max(1, count // settings.batch_size)
    before = settings.model_copy(update={"epochs": first_epochs, "steps": None})
    return total_steps(settings, batches) + total_steps(before, batches)


def _train(
    stage: Stage,
    folder: Path,
    batch: Shape,
    measured: Shape,
    steps: int | None,
    settings: TrainSettings,
    device: torch.device,
) -> Training:
    watch = Watch(device)
    token = WATCH.set(watch)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        stage.run(folder)
    finally:
        WATCH.reset(token)
        watch.remove()
    fixed = fixed_bytes(watch.modules, settings)
    most = torch.cuda.max_memory_allocated(device) - fixed if device.type == "cuda" else sum(watch.kept.values())
    parameters = list(watch.modules.parameters())
    return Training(
        sum(parameter.numel() for parameter in parameters),
        sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        batch,
        measured,
        settings.accumulate * math.prod(batch) / math.prod(measured),
        watch.times[1] - watch.times[0],
        [float(loss) for loss in watch.losses],
        fixed,
        max(0, most),
        steps,
    )


class Watch:
    """Looks at a training: when each step ends, its losses, and what its first step keeps for going backward."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.modules = nn.ModuleList()
        self.weights: set[int] = set()
        self.times: list[float] = []
        self.losses: list[Tensor] = []
        self.kept: dict[int, int] = {}
        self.hook: Any = None

    def __call__(self, model: nn.Module, extra: Iterable[nn.Module], step: Step) -> Step:
        self.modules = nn.ModuleList([model, *extra])
        self.hook = register_optimizer_step_post_hook(self.stepped)

        def watched(network: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
            if self.times:
                loss, parts = step(network, batch)
            else:
                weights = [*self.modules.parameters(), *self.modules.buffers()]
                self.weights = {tensor.untyped_storage().data_ptr() for tensor in weights}
                with saved_tensors_hooks(self.count, lambda kept: kept):
                    loss, parts = step(network, batch)
            self.losses.append(loss.detach())
            return loss, parts

        return watched

    def stepped(self, *_: Any) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.times.append(time.perf_counter())

    def count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.weights:
            self.kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # the tensor itself would hold its own graph, and never be freed

    def remove(self) -> None:
        if self.hook is not None:
            self.hook.remove()


@contextmanager
def _quietly() -> Iterator[None]:
    """Without progress lines, and without TensorBoard, whose import alone takes seconds."""
    token = QUIET.set(True)
    before = os.environ.get("MASKWRIGHT_TENSORBOARD")
    os.environ["MASKWRIGHT_TENSORBOARD"] = "0"
    try:
        yield
    finally:
        QUIET.reset(token)
        if before is None:
            del os.environ["MASKWRIGHT_TENSORBOARD"]
        else:
            os.environ["MASKWRIGHT_TENSORBOARD"] = before


def fixed_bytes(network: nn.Module, settings: TrainSettings) -> int:
    """Bytes for weights, their gradients and what the optimiser keeps of each."""
    weights = sum(tensor.nbytes for tensor in [*network.parameters(), *network.buffers()])
    trained = sum(tensor.nbytes for tensor in network.parameters() if tensor.requires_grad)
    copies = 1 + (2 if settings.optimizer == "adamw" else int(settings.momentum > 0))
    return weights + copies * trained + (weights if settings.ema else 0)
