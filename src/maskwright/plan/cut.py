"""A recipe cut down so that its stages take seconds: small batches, small images, two steps of training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from maskwright.data.augment import Augment, collate
from maskwright.data.loading import generator_for
from maskwright.data.sample import LabelSpace
from maskwright.data.sizes import seen_size
from maskwright.engine.fit import total_steps
from maskwright.models.pretrained import SUFFIXES
from maskwright.plan.images import generated_samples, shrunk
from maskwright.settings import Recipe, TrainSettings
from maskwright.weak.methods import seed_method, trained_blocks
from maskwright.weak.networks import NETWORKS
from maskwright.weak.refine import REFINEMENTS

STEPS = 2
FIRST_EPOCHS = "compressed_epochs"  # the option of a model that is trained in two phases, of which one is tried
LEARNING_RATE = 1e-6  # nothing to learn in two steps, but much to break in a network without weights

Shape = tuple[int, int, int]  # images, height, width


@dataclass(frozen=True)
class Budget:
    """Pixels that a trial may use.

    Args:
        batch: of a training's batch, all images together.
        image: of each image that maps are made of.
    """

    batch: float
    image: int


@dataclass(frozen=True)
class Cut:
    """What a trial runs in place of a recipe.

    Args:
        recipe: cut down.
        batches: of each training, what goes through its network at once in a run (over all processes) and here.
        seed_share: how much of the work on an image is left of the seed method, where its options were cut.
    """

    recipe: Recipe
    batches: dict[str, tuple[Shape, Shape]]
    seed_share: float


def trainings(recipe: Recipe) -> dict[str, TrainSettings]:
    """The settings of each training of a recipe, by the name of its stage; heads that are fitted make no steps."""
    blocks = {stage: settings.train for stage, settings in trained_blocks(recipe).items()}
    steps = {stage: train for stage, train in blocks.items() if not (train.frozen and stage in recipe.networks)}
    return {**steps, "segmenter": recipe.train}


def loadable(pretrained: bool | str) -> bool | str:
    """What a trial begins with: weights of a local file or of the recipe's own classifier, or none."""
    kept = isinstance(pretrained, str) and (pretrained == "classifier" or pretrained.endswith(SUFFIXES))
    return pretrained if kept else False


def _smaller(size: tuple[int, int] | int, ratio: float) -> tuple[int, int] | int:
    if isinstance(size, int):
        return max(1, round(size * ratio))
    return max(1, round(size[0] * ratio)), max(1, round(size[1] * ratio))


def cut_down(recipe: Recipe, labels: LabelSpace, size: tuple[int, int], budget: Budget, device: torch.device) -> Cut:
    """Settings of a trial.

    Args:
        recipe: of the run.
        labels: classes of the data.
        size: height and width of an image.
        budget: of the trial.
        device: where it is tried.

    Raises:
        DataError: examples of a batch have different sizes.
        RecipeError: augmentation settings that contradict each other, or a training without an end.
    """
    batches: dict[str, tuple[Shape, Shape]] = {}
    for name, settings in trainings(recipe).items():
        total_steps(settings, 1)
        batch = (settings.batch_size, *example_size(settings, labels, size))
        # A head on kept maps is quick, and its step on a few small ones would be mostly what any step takes.
        batches[name] = (batch, batch if settings.frozen else reduced(batch, budget.batch))
    blocks: dict[str, Any] = {}
    for word in dict.fromkeys(("classifier", *recipe.networks, *recipe.refine)):
        block, refinement = getattr(recipe, word), REFINEMENTS.get(word)
        name = refinement.network if refinement else word
        changes: dict[str, Any] = dict(refinement.cheap) if refinement else {}
        if hasattr(block, "pretrained"):
            changes["pretrained"] = loadable(block.pretrained)
        if name in batches:
            changes["train"] = small_training(block.train, batches[name][1], device)
            shrink = None if refinement else NETWORKS[word].shrink
            if shrink:
                whole, small = (shape[1:] for shape in batches[name])
                changes |= shrink(block, whole, small, recipe.classifier.output_stride or 32)
        blocks[word] = block.model_copy(update=changes)
    options, share = small_seed_options(recipe)
    seen = recipe.seeds.size and shrunk(seen_size(recipe.seeds.size, size), budget.image)
    judged = recipe.inference
    ratio = math.sqrt(min(1.0, budget.image / math.prod(seen_size(judged.size, size))))
    sides = {name: getattr(judged, name) for name in ("size", "window", "stride")}
    model = recipe.model.model_copy(update={"pretrained": loadable(recipe.model.pretrained)})
    if model.name == "dupsampling":
        own = {key: value for key, value in model.options.items() if key != FIRST_EPOCHS}
        model.options = {**own, "label_basis": "cosine"} if own.get("label_basis", "fit") == "fit" else own
    blocks |= {
        "train": small_training(recipe.train, batches["segmenter"][1], device),
        "model": model,
        "seeds": recipe.seeds.model_copy(
            update={"size": seen, "options": options, **_seed_windows(recipe, size, budget)}
        ),
        "inference": judged.model_copy(update={name: _smaller(value, ratio) for name, value in sides.items() if value}),
        "fully_supervised": False,
        "expected_split": None,
    }
    return Cut(recipe.model_copy(update=blocks), batches, share)


def _seed_windows(recipe: Recipe, size: tuple[int, int], budget: Budget) -> dict[str, Any]:
    """Windows of seeds that are the same share of a trial's images as of a run's, in positions of the network's map."""
    seeds, cell = recipe.seeds, recipe.classifier.output_stride or 32
    ratio = math.sqrt(min(1.0, budget.image / math.prod(seen_size(seeds.size, size)))) / cell
    sides = {name: getattr(seeds, name) for name in ("window", "stride") if getattr(seeds, name)}
    return {name: tuple(max(1, round(side * ratio)) * cell for side in value) for name, value in sides.items()}


def small_training(settings: TrainSettings, measured: Shape, device: torch.device) -> TrainSettings:
    """Two steps of a training with a batch of another shape."""
    images, *size = measured
    first_sizes = {"resize": None, "long_side": None, "short_side": None}
    changes: dict[str, Any] = {
        "batch_size": images,
        "accumulate": 1,
        "steps": STEPS,
        "lr": LEARNING_RATE,
        "workers": 0,
        "compile": False,
        "log_every": 1,
        "validate_every": 0,
        "checkpoint_seconds": 1e9,
        "augment": settings.augment.model_copy(
            update={**first_sizes, "resize" if settings.frozen else "crop": tuple(size)}
        ),
    }
    if device.type == "cpu":
        changes["autocast"] = "none"  # half precision on a CPU says nothing of a GPU, and takes minutes
    return settings.model_copy(update=changes)


def small_seed_options(recipe: Recipe) -> tuple[dict[str, Any], float]:
    """Options of a seed method that takes minutes for an image, cut down, and the share of its work that is left."""
    cheap = seed_method(recipe.seeds.method).cheap
    return cheap(recipe.seeds, recipe.classifier) if cheap else (recipe.seeds.options, 1.0)


def example_size(settings: TrainSettings, labels: LabelSpace, source: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a training example, for images of size `source`.

    Raises:
        DataError: examples of a batch have different sizes.
        RecipeError: augmentation settings that contradict each other.
    """
    augment = Augment(settings.augment, labels)
    if settings.augment.crop is not None and settings.augment.resize is None:
        source = settings.augment.crop  # quicker to make than a large image, and the same in the end
    samples = generated_samples(labels, source, 2)[: settings.batch_size]
    examples = [augment(sample, generator_for(index)) for index, sample in enumerate(samples)]
    height, width = collate(examples)["image"].shape[-2:]
    return height, width


def reduced(batch: tuple[int, int, int], pixels: float) -> tuple[int, int, int]:
    """A batch of about so many pixels at most: fewer images first, but two where there are (batch normalisation), then
    smaller ones, with sides that leave the same remainder of 32 where that is 0 or 1, and at least 64.

    Args:
        batch: images, height, width.
        pixels: of all images together.
    """
    images, height, width = batch
    images = min(images, max(2, int(min(pixels, math.prod(batch))) // (height * width)))
    if images * height * width <= pixels:
        return images, height, width
    factor = math.sqrt(pixels / (images * height * width))
    sides = [min(side, max(2, round(side * factor / 32)) * 32 + (side % 32 == 1)) for side in (height, width)]
    return images, sides[0], sides[1]
