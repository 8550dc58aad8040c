"""The training loop. Stop it anywhere and call it again with the same arguments: it resumes where it was.

On the CPU a run that was stopped ends bit-equal to one that was not, for any number of loader processes: the order of
examples follows from (seed, epoch), what varies an example from (seed, epoch, index), and what the network itself draws
(dropout) from (seed, step, rank), so that no generator has a history that could be lost.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from maskwright.data.loading import TrainingSet, make_loader
from maskwright.engine import distributed
from maskwright.engine.checkpoint import MODEL, load_into, load_weights, save_model
from maskwright.engine.device import deterministic, freed_memory_kept, half_type, memory_mb, prefers_channels_last
from maskwright.engine.guards import check_collapse, check_finite, check_weights
from maskwright.engine.optimizer import WeightAverage, create_optimizer, set_rates
from maskwright.engine.progress import Progress, RunLog, plain
from maskwright.engine.resume import STATE, StopSignals, identity_of, read_state, seed_everything
from maskwright.engine.schedule import rate_factor
from maskwright.errors import DataError, RecipeError, TrainingStopped
from maskwright.files import atomic_write, remove_unfinished
from maskwright.settings import TrainSettings

Batch = dict[str, Tensor]
Step = Callable[[nn.Module, Batch], tuple[Tensor, dict[str, Tensor]]]
Validate = Callable[[nn.Module], dict[str, Any]]

# Where it is set, it gets each training's model, the modules trained along and the step, and gives the step to use.
WATCH: ContextVar[Callable[[nn.Module, Iterable[nn.Module], Step], Step] | None] = ContextVar("WATCH", default=None)


def fit(
    model: nn.Module,
    step: Step,
    train_set: TrainingSet,
    settings: TrainSettings,
    folder: str | Path,
    *,
    parameter_groups: Iterable[Any] | None = None,
    validate: Validate | None = None,
    metadata: dict[str, Any],
    device: str | torch.device,
    title: str = "training",
    trainable_extra: Iterable[nn.Module] = (),
    shuffle: bool = True,
) -> dict[str, Any]:
    """Train a model; leaves `model.safetensors` (the result), `log.jsonl` and `state.pt` (to resume from) in a folder.

    With more than one process (`torchrun`) each takes its part of every batch, and all must see the same folder. When
    it returns, `model` holds the weights that were saved: the running average where `settings.ema` asks for one.

    Args:
        model: trained in place.
        step: called as `step(model, batch)` with the batch on the device; gives the loss (a scalar) and its named parts
            for the log, the same names at every step and in every process. Call the model that is handed over: it may
            be wrapped. Images come as the training set gives them: normalisation is done in here.
        train_set: gives the examples; its seed also decides their order and what the network draws.
        settings: how to train. `batch_size` counts over all processes; one step is `accumulate` such batches, whose
            losses are averaged; `epochs` may be a fraction; `steps` wins over `epochs`.
        folder: where there is a resume point in it, training resumes from there.
        parameter_groups: as for a torch optimiser; each group's `lr` is its base rate. All parameters by default.
        validate: gives metrics of the model, which is in evaluation mode; called in every process at the end and every
            `settings.validate_every` epochs. `predicted_classes` and `true_classes` among them (counts, or lists of
            classes) are watched, see `guards.check_collapse`.
        metadata: written into the model file; see `checkpoint.save_model`.
        device: where to train.
        title: what the progress line says.
        trainable_extra: modules trained along but not saved with the model, such as a second classifier that `step`
            calls. Their parameters that no group has get `settings.lr`.
        shuffle: false keeps the set's order in every epoch.

    Returns:
        `steps`, `epochs`, `seconds`, and the last log lines as `train` and `validate` (None where there was none).

    Raises:
        RecipeError: settings that cannot be met.
        DataError: the folder's state belongs to another model, other settings or another training set.
        TrainingStopped: loss or weights are not finite, steps or processes log different parts, or the model predicts a
            single class although the ground truth has more.
        SystemExit: SIGINT or SIGTERM came; the present step was finished and a resume point written.
    """
    device, folder = torch.device(device), Path(folder)
    trainable_extra, watch = list(trainable_extra), WATCH.get()
    step = step if watch is None else watch(model, trainable_extra, step)
    state = read_state(folder, identity_of(settings, train_set))
    if distributed.is_main():
        remove_unfinished(folder)
    distributed.barrier()  # every process has read the state before the main one writes the next
    if state is not None and state["finished"]:
        load_into(model.to(device), load_weights(folder / MODEL), folder / MODEL)
        model.eval()
        return json.loads(state["result"])
    with deterministic(settings.deterministic), freed_memory_kept(device):
        training = _Training(
            model, train_set, settings, folder, parameter_groups, trainable_extra, device, state, shuffle
        )
        with Progress(title, training.total, training.step) as progress, StopSignals() as signals, training.log:
            if distributed.world_size() > 1:
                progress.say(f"{settings.batch_size} images a batch, {share_of_batch(settings)} in each process")
            try:
                training.run(step, validate, metadata, progress, signals)
            finally:
                del training.runner  # what averages gradients must be gone before the processes part
            result = training.finish(metadata)
            if distributed.any_process(signals.received is not None):  # since the last step, in its validation or here
                signals.leave("stopped after the last step; give the same command again to resume")
        return result


class _Training:
    """All that changes while a model is trained; `state_dict` is what a resumed run needs of it."""

    def __init__(
        self,
        model: nn.Module,
        train_set: TrainingSet,
        settings: TrainSettings,
        folder: Path,
        parameter_groups: Iterable[Any] | None,
        extra: Iterable[nn.Module],
        device: torch.device,
        state: dict[str, Any] | None,
        shuffle: bool,
    ) -> None:
        self.settings, self.folder, self.device, self.seed = settings, folder, device, train_set.seed
        self.identity = identity_of(settings, train_set)
        self.loader = make_loader(
            train_set,
            share_of_batch(settings),
            workers=settings.workers,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            shuffle=shuffle,
            pin_memory=device.type == "cuda",
        )
        self.total = total_steps(settings, len(self.loader))

        groups = list(model.parameters() if parameter_groups is None else parameter_groups)
        self.model = distributed.synchronise_batchnorm(model, device) if settings.sync_batchnorm else model
        self.model.to(device)
        self.extra = nn.ModuleList(extra).to(device)
        wanted = settings.channels_last
        self.channels_last = prefers_channels_last(self.model, device) if wanted == "auto" else wanted
        if self.channels_last:
            for module in (self.model, self.extra):
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = create_optimizer(_with_extra(groups, self.extra), settings)
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.average = WeightAverage(self.model, settings.ema) if settings.ema else None
        self.half = half_type(settings.autocast, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.half is torch.float16)

        self.step = self.validated = self.window_steps = self.timed_steps = 0
        self.window: Tensor | None = None  # sums of the loss and its parts since the last log line
        self.part_names: list[str] = []
        self.parts_agreed = False
        self.last: dict[str, Any] = {"train": None, "validate": None}
        self.seconds_before = 0.0
        if state is not None:
            self.load_state_dict(state)
        self.started = self.line_time = self.saved_time = time.monotonic()
        self.log = RunLog(folder, state["log_bytes"] if state is not None else 0, self.step)
        distributed.broadcast_tensors([*self.extra.parameters(), *self.extra.buffers()])
        self.runner = distributed.wrap(self.model, device, compiled=settings.compile)

    def run(
        self, step: Step, validate: Validate | None, metadata: dict[str, Any], progress: Progress, signals: StopSignals
    ) -> None:
        """Train to the end, or until a signal comes."""
        names = metadata.get("labels", {}).get("names")
        batches = self.batches()
        self.train_mode()
        while True:
            if validate is not None and self.validation_due():
                self.save()
                self.validate(validate, names)
            if self.step == self.total:
                return
            self.train_step(step, batches)
            line = None
            if self.step % self.settings.log_every == 0 or self.step == self.total:
                line = self.write_line()
            progress.update(self.step, _in_short(line) if line else "")
            stopped = distributed.any_process(signals.received is not None)
            if stopped or time.monotonic() - self.saved_time >= self.settings.checkpoint_seconds:
                self.save()
            if stopped:
                signals.leave(f"stopped after {self.position}; give the same command again to resume")

    def train_step(self, step: Step, batches: Iterator[Batch]) -> None:
        """One optimiser step over `accumulate` batches."""
        settings = self.settings
        set_rates(self.optimizer, self.base_rates, rate_factor(settings, self.step, self.total))
        sums: Tensor | None = None
        for turn in range(settings.accumulate):
            batch = self.to_device(next(batches))
            seed_everything(self.seed, self.step, turn, distributed.rank())
            last = turn + 1 == settings.accumulate
            waits = not last and isinstance(self.runner, DistributedDataParallel)
            with self.runner.no_sync() if waits else contextlib.nullcontext():  # type: ignore[operator]
                with torch.autocast(self.device.type, self.half, enabled=self.half is not None):
                    loss, parts = step(self.runner, batch)
                values = self.values(loss, parts)
                if self.device.type == "cpu":  # on a GPU looking means waiting; there each log line looks
                    self.check_finite(values.tolist(), f"at step {self.step + 1} of {self.total}")
                self.scaler.scale(loss / settings.accumulate).backward()
            sums = values if sums is None else sums + values
        distributed.average_gradients(self.extra)
        if settings.clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, settings.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.average is not None:
            self.average.update(self.step)
        assert sums is not None
        sums = sums / settings.accumulate
        self.window = sums if self.window is None else self.window + sums
        self.window_steps += 1
        self.timed_steps += 1

    def batches(self) -> Iterator[Batch]:
        """Batches from the present position on, without end."""
        self.loader.sampler.set_position(*divmod(self.step * self.settings.accumulate, len(self.loader)))
        while True:
            yield from self.loader

    def to_device(self, batch: Batch) -> Batch:
        batch = {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}
        if self.channels_last:
            for name in batch:
                if name == "image" or name.startswith("map."):  # maps of a frozen backbone stand for images
                    batch[name] = batch[name].contiguous(memory_format=torch.channels_last)
        return batch

    def train_mode(self) -> None:
        # Training sees one size, for which it pays to look for the fastest convolution; evaluation may see many.
        torch.backends.cudnn.benchmark = not self.settings.deterministic
        for module in (self.model, self.extra):
            module.train()
            if self.settings.freeze_batchnorm:
                for layer in module.modules():
                    if isinstance(layer, _BatchNorm):
                        layer.eval()

    def values(self, loss: Tensor, parts: dict[str, Tensor]) -> Tensor:
        """Loss and parts as one vector, in the same order at every step and in every process."""
        names = sorted(parts)
        if not self.parts_agreed:
            check_same_parts(distributed.gather(names))
            self.part_names, self.parts_agreed = names, True
        if names != self.part_names:
            raise TrainingStopped(
                f"every step must log the same loss parts: process {distributed.rank()} logs {names} at step "
                f"{self.step + 1}, before {self.part_names}"
            )
        scalars = [loss, *(torch.as_tensor(parts[name], device=loss.device) for name in names)]
        return torch.stack([scalar.detach().float() for scalar in scalars])

    def write_line(self) -> dict[str, Any]:
        """Log means since the last line, over processes."""
        assert self.window is not None
        sums = distributed.all_reduce_sum(self.window.clone()) / distributed.world_size()
        means = (sums / self.window_steps).tolist()
        self.check_finite(means, f"within the {self.window_steps} steps up to {self.position}")
        images = self.timed_steps * self.settings.batch_size * self.settings.accumulate
        values = {
            **self.named(means),
            "lr": self.settings.lr * rate_factor(self.settings, self.step - 1, self.total),
            "images_per_second": round(images / (time.monotonic() - self.line_time), 2),
            "memory_mb": round(memory_mb(self.device), 1),
        }
        self.last["train"] = self.log.write("train", self.step, self.epoch, values)
        self.window, self.window_steps, self.timed_steps = None, 0, 0
        self.line_time = time.monotonic()
        return self.last["train"]

    def check_finite(self, means: list[float], where: str) -> None:
        rate = self.settings.lr * rate_factor(self.settings, self.step, self.total)
        check_finite(self.named(means), where, rate, self.settings)

    def named(self, means: list[float]) -> dict[str, float]:
        parts = dict(zip(self.part_names, means[1:], strict=True))
        return {"loss": means[0]} | parts | {"loss": means[0]}

    def validation_due(self) -> bool:
        """At the end, and where an epoch that `validate_every` divides has just been completed."""
        if self.step <= self.validated:
            return False
        if self.step == self.total or self.settings.validate_every == 0:
            return self.step == self.total
        stretch = self.settings.validate_every * len(self.loader)
        done = self.step * self.settings.accumulate
        return done // stretch > (done - self.settings.accumulate) // stretch

    def validate(self, validate: Validate, names: list[str] | None) -> None:
        """Log what the callback says of the model that would be saved now."""
        started = time.monotonic()
        distributed.broadcast_tensors(list(self.model.buffers()))
        self.model.eval()
        torch.backends.cudnn.benchmark = False
        if self.average is not None:
            self.average.swap()
        with torch.no_grad():
            metrics = plain(validate(self.model))
        if self.average is not None:
            self.average.swap()
        self.train_mode()
        self.last["validate"] = self.log.write("validate", self.step, self.epoch, metrics)
        self.validated = self.step
        self.line_time += time.monotonic() - started
        check_collapse(metrics, names, self.step, self.total)

    @property
    def epoch(self) -> float:
        return round(self.step * self.settings.accumulate / len(self.loader), 4)

    @property
    def position(self) -> str:
        return f"step {self.step} of {self.total}"

    @property
    def seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started

    def state_dict(self) -> dict[str, Any]:
        return {
            "finished": False,
            "identity": json.dumps(self.identity),
            "step": self.step,
            "validated": self.validated,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "extra": self.extra.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "scaler": self.scaler.state_dict(),
            "window": self.window,
            "window_steps": self.window_steps,
            "last": json.dumps(self.last),
            "log_bytes": self.log.bytes,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        source = self.folder / STATE
        load_into(self.model, state["model"], source)
        load_into(self.extra, state["extra"], source)
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{source} belongs to other parameter groups ({error}); choose another folder") from error
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.validated, self.seconds_before = state["step"], state["validated"], state["seconds"]
        self.window = None if state["window"] is None else state["window"].to(self.device)
        self.window_steps = state["window_steps"]
        self.last = json.loads(state["last"])

    def save(self) -> None:
        """Write the resume point."""
        self.saved_time = time.monotonic()
        if distributed.is_main():
            check_weights(self.parameters, f"at {self.position}", self.settings)
            with atomic_write(self.folder / STATE, lasting=True) as temporary:
                torch.save(self.state_dict(), temporary)

    def finish(self, metadata: dict[str, Any]) -> dict[str, Any]:
        """Save the model; the state then only says that it is finished."""
        check_weights(self.parameters, f"at {self.position}", self.settings)
        distributed.broadcast_tensors(list(self.model.buffers()))
        if self.average is not None:
            self.average.swap()
        self.model.eval()
        result = {"steps": self.step, "epochs": self.epoch, "seconds": round(self.seconds, 2), **self.last}
        if distributed.is_main():
            save_model(self.folder / MODEL, self.model, metadata)
            with atomic_write(self.folder / STATE) as temporary:
                done = {"finished": True, "identity": json.dumps(self.identity), "result": json.dumps(result)}
                torch.save(done, temporary)
        distributed.barrier()
        return result


def total_steps(settings: TrainSettings, batches_per_epoch: int) -> int:
    """Optimiser steps in all: `steps`, or enough for `epochs`, which may be a fraction.

    Raises:
        RecipeError: neither is given.
    """
    if settings.steps is not None:
        return settings.steps
    if settings.epochs is None:
        raise RecipeError("how long to train is not said; give train.epochs or train.steps")
    return math.ceil(settings.epochs * batches_per_epoch / settings.accumulate)


def check_same_parts(names: list[list[str]]) -> None:
    """Stop where a process would wait for numbers that the others never send.

    Args:
        names: loss parts that each process logs, by rank.

    Raises:
        TrainingStopped: they differ; the message names a process.
    """
    for rank, others in enumerate(names):
        if others != names[0]:
            raise TrainingStopped(
                f"every process must log the same loss parts: process {rank} logs {others}, process 0 {names[0]}"
            )


def share_of_batch(settings: TrainSettings) -> int:
    """Images of a batch that each process takes.

    Raises:
        RecipeError: the processes cannot share it evenly.
    """
    share, rest = divmod(settings.batch_size, distributed.world_size())
    if rest:
        raise RecipeError(
            f"batch_size is the total over all processes: {settings.batch_size} cannot be shared evenly "
            f"by {distributed.world_size()} processes; give a multiple"
        )
    return share


def _with_extra(groups: list[Any], extra: nn.Module) -> list[dict[str, Any]]:
    """Parameter groups, with those parameters of extra modules that no group has."""
    if not groups or not isinstance(groups[0], dict):
        groups = [{"params": groups}]
    groups = [{**group, "params": list(group["params"])} for group in groups]
    known = {id(p) for group in groups for p in group["params"]}
    more = [p for p in extra.parameters() if id(p) not in known]
    return [group for group in [*groups, {"params": more}] if group["params"]]


def _in_short(line: dict[str, Any]) -> str:
    return f"loss {line['loss']:.4g}  {line['images_per_second']:.1f} images/s  {line['memory_mb']:.0f} MB"
