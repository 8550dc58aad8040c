"""`plan=true`: the stages of a run with what each of them will take, before anything is run.

Times and memory come from a trial of the stages on a few crops of the data's own images, scaled by pixels and tags.
Disk is exact for models and maps, whose sizes follow from the images' sizes and tags; PNG files are scaled.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskwright.data.dataset import Dataset
from maskwright.data.finding import number_of
from maskwright.data.sizes import Size, seen_size
from maskwright.engine.device import choose_device
from maskwright.engine.fit import total_steps
from maskwright.inference.features import BATCH_PIXELS, LIMIT
from maskwright.pipeline.check_networks import check_networks, check_words
from maskwright.pipeline.frozen import frozen_size
from maskwright.pipeline.stages import recipe_stages
from maskwright.plan.cut import Budget, Cut, cut_down
from maskwright.plan.images import cropped_samples
from maskwright.plan.parts import in_parts
from maskwright.plan.trial import Trial, try_stages
from maskwright.plan.words import operation_words, size_words, words
from maskwright.runs.context import RunContext
from maskwright.runs.folder import MAPS, RunFolder
from maskwright.runs.stages import states
from maskwright.settings import Recipe, TrainSettings
from maskwright.weak.methods import seed_method
from maskwright.weak.refine import REFINEMENTS
from maskwright.weak.refine.refinement import Work
from maskwright.weak.refine.threshold import SAMPLE
from maskwright.weak.seeds.folders import LARGEST_BATCH

BUDGETS = {"cpu": Budget(2**15, 2**14), "cuda": Budget(2**19, 2**18)}
LOOKING_SECONDS = 5.0  # the most that is spent on sizes and tags of a split
MASKS_AT_ONCE = 4  # images that the stage `pseudo_masks` works on together


@dataclass(frozen=True)
class Images:
    """What is known of the images of a split, or of a part of it drawn at random.

    Args:
        sizes: height and width, `(N, 2)`.
        tags: how many each has, `(N,)`; -1 where nobody said.
        total: images of the split.
    """

    sizes: np.ndarray
    tags: np.ndarray
    total: int

    @property
    def factor(self) -> float:
        """From sums over these images to sums over the split."""
        return self.total / max(1, len(self.sizes))


@dataclass(frozen=True)
class Row:
    """A stage of a run.

    Args:
        name: of the stage.
        title: what it does, in words.
        state: `missing`, `finished`, `unfinished` or `stale`.
        seconds: that it will take; None where it is finished.
        memory: bytes at most.
        disk: bytes of its files.
        operations: multiply-adds of the network that it trains, for one image; 0 where there is none, or unknown.
    """

    name: str
    title: str
    state: str
    seconds: float | None = None
    memory: float | None = None
    disk: float | None = None
    operations: int = 0


def plan(recipe: Recipe, until: str | None = None, sharing: Mapping[str, Any] | None = None) -> list[Row]:
    """The stages that a run would go through, with estimates for those that are not finished; nothing is written.

    Raises:
        DataError: images, masks or tags cannot be used.
        RecipeError: settings that do not go together, or no stage `until`.
    """
    check_words(recipe)
    context = RunContext(recipe, Path(recipe.out or f"runs/{recipe.name}"), lambda line: None, sharing)
    stages = recipe_stages(context, until)
    there = states(stages, context.out)
    rows = [Row(stage.name, stage.title, there[stage.name].word) for stage in stages]
    # The oracle's stages are those of the segmenter again.
    tried = {
        row.name: {"oracle": "segmenter", "oracle_evaluation": "evaluation"}.get(row.name, row.name) for row in rows
    }
    wanted = {tried[row.name] for row in rows if row.state != "finished"}
    if not wanted:
        return rows
    last = next(row.name for row in reversed(rows) if row.name in wanted)
    found = in_parts(estimates(recipe, context.train, context.val, context.device, last), stages, context)
    needs = check_networks(context, {name.partition("-")[0] for name in wanted})
    return [
        row
        if row.state == "finished"
        else Row(
            row.name,
            row.title,
            row.state,
            *found[tried[row.name]],
            operations=needs[tried[row.name]].operations if tried[row.name] in needs else 0,
        )
        for row in rows
    ]


def estimates(
    recipe: Recipe, train: Dataset, val: Dataset, device: torch.device, last: str | None = None
) -> dict[str, tuple[float, float, float]]:
    """Seconds, bytes of memory and bytes on disk of each stage up to `last`, but for the oracle's."""
    budget = BUDGETS.get(device.type, BUDGETS["cpu"])
    cut = cut_down(recipe, train.labels, train.size(0), budget, device)
    samples = cropped_samples(train, budget.image, recipe.supervision != "masks")
    splits = {"train": look_over(train), "val": look_over(val)}
    tried = Images(
        np.array([sample.image.shape[:2] for sample in samples]),
        np.array([len(sample.tags or ()) for sample in samples]),
        len(samples),
    )
    found = {}
    for trial in try_stages(recipe, cut, samples, train.labels, len(train), device, last):
        images = splits["val" if trial.name == "evaluation" else "train"]
        disk = disk_bytes(trial.folder, recipe, images, tried)
        if trial.training is None:
            seconds, memory = map_stage(trial, recipe, cut, images, tried, device)
        else:
            seconds, memory = trial.training.step_seconds * (trial.training.steps or 0), trial.training.memory
            if not shared_features(recipe):
                seconds += trial.training.features * images.total
        epochs = epochs_kept(recipe, len(train))
        if trial.name == "seeds":
            seconds *= epochs
        if trial.name == recipe.networks[-1]:
            disk += (epochs - 1) * RunFolder(trial.folder.parent).model(trial.name).stat().st_size
        if trial.name == first_frozen(recipe):
            disk += feature_bytes(RunFolder(trial.folder.parent).features, cut, recipe, images, tried)
        found[trial.name] = (seconds, memory, disk)
    return found


def epochs_kept(recipe: Recipe, count: int) -> int:
    """Networks that maps are taken of: those of each epoch of the last one's training where they are accumulated.

    Args:
        recipe: of the run.
        count: images of the training split.
    """
    if recipe.seeds.accumulate == "none" or recipe.supervision == "masks":
        return 1
    train: TrainSettings = getattr(recipe, recipe.networks[-1]).train
    batches = max(1, count // train.batch_size)
    steps = total_steps(train, batches) * train.accumulate
    return max(1, math.ceil(steps / (batches * max(1, train.validate_every))))


def first_frozen(recipe: Recipe) -> str | None:
    """The stage whose frozen backbone makes the maps that others read, where there is one."""
    if recipe.supervision != "masks" and getattr(recipe, recipe.networks[0]).train.frozen:
        return recipe.networks[0]
    return "segmenter" if recipe.train.frozen else None


def shared_features(recipe: Recipe) -> bool:
    """Whether the segmenter's frozen backbone finds its maps made, by the classifier's."""
    if first_frozen(recipe) in (None, "segmenter") or not recipe.train.frozen:
        return False
    ours, theirs = recipe.model, recipe.classifier
    same = (ours.backbone, ours.pretrained, ours.output_stride) == (
        theirs.backbone,
        theirs.pretrained,
        theirs.output_stride,
    )
    return same and frozen_size(recipe.train.augment) == recipe.seeds.size and 1.0 in recipe.seeds.scales


def feature_bytes(folder: Path, cut: Cut, recipe: Recipe, images: Images, tried: Images) -> float:
    """Bytes of a frozen backbone's maps of a split while it is worked on, from those of the trial."""
    files = [path.stat().st_size for path in folder.rglob("*.safetensors")]
    if first_frozen(recipe) == "segmenter":
        here, there, views = frozen_size(cut.recipe.train.augment), frozen_size(recipe.train.augment), 1
    else:
        here, there, views = cut.recipe.seeds.size, recipe.seeds.size, len(recipe.seeds.scales)
    pixels = sizes_seen(there, images.sizes).prod(1).sum() / sizes_seen(here, tried.sizes).prod(1).mean()
    return min(float(LIMIT), sum(files) / max(1, len(files)) * views * pixels * images.factor)


def look_over(dataset: Dataset, seconds: float = LOOKING_SECONDS) -> Images:
    """Sizes and tags of all images of a split, or of as many, drawn at random, as can be looked at in some seconds."""
    order, started = np.random.default_rng(0).permutation(len(dataset)).tolist(), time.perf_counter()
    sizes, tags = [], []
    for index in order:
        known = dataset.tags(index)
        sizes.append(tuple(dataset.size(index)))
        tags.append(-1 if known is None else len(known))
        if time.perf_counter() - started > seconds:
            break
    return Images(np.array(sizes).reshape(-1, 2), np.array(tags), len(dataset))


def map_stage(
    trial: Trial, recipe: Recipe, cut: Cut, images: Images, tried: Images, device: torch.device
) -> tuple[float, float]:
    """Seconds for a split and bytes of memory of a stage that makes something of each image."""
    name = trial.name.partition("-")[0]
    here, there = work(name, cut.recipe, tried).mean(), work(name, recipe, images)
    seconds = trial.begin + trial.seconds * there.sum() * images.factor / here
    typical = there[there > 0].mean() if there.any() else 0.0
    together = min(images_at_once(name, recipe, typical, device), images.total)
    return float(seconds), float(trial.fixed + trial.most * together * typical / here)


def work(name: str, recipe: Recipe, images: Images) -> np.ndarray:
    """What the time of a stage is in proportion to, for each image `(N,)`: pixels, times the tags where classes are
    worked on one by one."""
    own, tags = images.sizes.prod(1).astype(float), images.tags.clip(0)
    size = recipe.inference.size if name == "evaluation" else recipe.seeds.size
    seen_sizes = sizes_seen(size, images.sizes)
    seen = seen_sizes.prod(1).astype(float)
    if name == "evaluation":
        return seen
    if name in recipe.networks:  # a head is fitted on the maps of all images
        return seen
    if name == "threshold":
        tagged = (tags > 0).sum() * images.factor
        return seen * (tags > 0) * min(1.0, SAMPLE / max(1.0, tagged))
    if name == "seeds":
        return seen * (tags if seed_method(recipe.seeds.method).per_class else tags > 0)
    word, refinement = refinement_work(name, recipe)
    if refinement.amount is None:
        return own * (images.tags >= 0)
    return refinement.amount(getattr(recipe, word), seen_sizes, tags)


def sizes_seen(size: Size, sizes: np.ndarray) -> np.ndarray:
    """Height and width that a network sees each image at, `(N, 2)`, of their own `(N, 2)`."""
    return np.array([seen_size(size, (int(height), int(width))) for height, width in sizes]).reshape(-1, 2)


def refinement_work(name: str, recipe: Recipe) -> tuple[str, Work]:
    """The refinement that a stage belongs to, and how its work is counted; of no refinement: "", and the usual."""
    return next(
        ((word, REFINEMENTS[word].work[name]) for word in recipe.refine if name in REFINEMENTS[word].work), ("", Work())
    )


def images_at_once(name: str, recipe: Recipe, pixels: float, device: torch.device) -> float:
    """How many images of a typical amount of `work` a stage has in memory together."""
    if name == "evaluation":
        return recipe.inference.batch_size
    if name == "pseudo_masks":
        return MASKS_AT_ONCE
    if name == "seeds":
        limits: int | Mapping[str, int] = seed_method(recipe.seeds.method).batch_pixels
        views, scale = 2 if recipe.seeds.flip else 1, max(recipe.seeds.scales)
    elif name in recipe.networks:
        limits, views, scale = BATCH_PIXELS, 2, max(recipe.seeds.scales)
    else:
        limits, views, scale = refinement_work(name, recipe)[1].at_once, 2, 1.0
    if isinstance(limits, int):
        return limits
    return min(max(1.0, limits.get(device.type, limits["cuda"]) / max(1.0, pixels * views * scale**2)), LARGEST_BATCH)


def disk_bytes(folder: Path, recipe: Recipe, images: Images, tried: Images) -> float:
    """Bytes of a stage's files for a split, from those of the trial."""
    known = images.tags >= 0
    files = [path for path in folder.rglob("*") if path.is_file()]
    maps = [path for path in files if path.suffix == ".npz" and path.parent.name == MAPS]
    pictures = sum(path.stat().st_size for path in files if path.suffix == ".png")
    shared = images.sizes[known] if len(maps) else images.sizes
    pixels = float(shared.prod(1).sum()) * images.factor / float(tried.sizes.prod(1).sum())
    rest = sum(path.stat().st_size for path in files if path.suffix != ".png" and path not in maps)
    if not maps:
        return pictures * pixels + rest
    with np.load(maps[0], allow_pickle=False) as arrays:
        empty = maps[0].stat().st_size - sum(arrays[key].nbytes for key in arrays.files)
        edges = "edge" in arrays.files
    sizes, tags = images.sizes[known], images.tags[known]
    seen = sizes_seen(recipe.seeds.size, sizes)
    quarter = ((seen - 1) // 4 + 1).prod(1)
    if edges:
        each = (empty + 4 * quarter) * (tags > 0)
    else:
        # Keys in eight bytes, maps in half precision.
        each = empty + tags * (8 + 2 * quarter + 2 * sizes.prod(1))
    return float(each.sum()) * images.factor + rest


def table(rows: Sequence[Row], recipe: Recipe) -> list[str]:
    """The plan as lines of text."""
    device = choose_device(recipe.device)
    left = [row for row in rows if row.seconds is not None]
    width = max(len(row.name) for row in rows) + 2
    lines = [f"{'stage':<{width}}{'state':<12}{'time':>12}{'memory':>10}{'disk':>10}{'per image':>11}  what"]
    for row in rows:
        cells = ["-"] * 3
        if row.seconds is not None:
            cells = [words(row.seconds), size_words(row.memory or 0), size_words(row.disk or 0)]
        amount = operation_words(row.operations) if row.operations else ""
        what = f"{cells[0]:>12}{cells[1]:>10}{cells[2]:>10}{amount:>11}  {row.title}"
        lines.append(f"{row.name:<{width}}{row.state:<12}{what}")
    if not left:
        return [*lines, "nothing is left to do"]
    needed = sum(row.disk or 0 for row in left)
    total = words(sum(row.seconds or 0 for row in left))
    most = size_words(max(row.memory or 0 for row in left))
    lines.append(f"{'left to do':<{width}}{'':<12}{total:>12}{most:>10}{size_words(needed):>10}")
    threads = f", {number_of(torch.get_num_threads(), 'thread')}" if device.type == "cpu" else ""
    lines.append(
        f"estimated on {device}{threads}, from two steps of each training and a few crops for all other stages; memory "
        "is on top of the program's own; per image: multiply-adds of the network, forward, at the size it is trained at"
    )
    if first_frozen(recipe):
        lines.append("the maps of the frozen backbone are made once, and deleted when the run is finished")
    out = Path(recipe.out or f"runs/{recipe.name}").absolute()
    there = next(folder for folder in (out, *out.parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    if free < needed:
        lines.append(f"warning: {there} has {size_words(free)} free, {size_words(needed)} are needed")
    return lines
