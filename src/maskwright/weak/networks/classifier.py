"""Training the image-tag classifier whose head gives class activation maps (weak-supervision stage one)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from maskwright.data import subset, without_masks
from maskwright.data.augment import Augment, normalise, prepare
from maskwright.data.dataset import Dataset
from maskwright.data.loading import TrainingSet
from maskwright.data.sample import LabelSpace
from maskwright.data.sizes import Size
from maskwright.engine import distributed
from maskwright.engine.checkpoint import PRETRAINED, describe, load_into, load_metadata, load_weights
from maskwright.engine.fit import Step, Validate, fit
from maskwright.errors import DataError, RecipeError
from maskwright.models import ImageTagClassifier, create_classifier, layers
from maskwright.models.base import parameter_groups
from maskwright.models.classifier import PARTS, map_of
from maskwright.models.folding import inference_copy
from maskwright.settings import ClassifierSettings, Recipe, TrainSettings
from maskwright.weak.networks.frozen import fit_tag_head, save_fitted
from maskwright.weak.networks.network import Network
from maskwright.weak.networks.recam import first_head_loss
from maskwright.weak.seeds.accumulate import keeping_epochs

# Called with logits and tags `(B, K)` of a training step; gives more numbers for the log.
Watch = Callable[[torch.Tensor, torch.Tensor], dict[str, torch.Tensor]]


def build_classifier(recipe: Recipe, labels: LabelSpace, watch: Watch | None = None) -> tuple[ImageTagClassifier, Step]:
    """The recipe's classifier, as it is before training, and the step that trains it with `classifier.loss`.

    Args:
        recipe: `classifier` and `random_seed` are read.
        labels: gives the tags.
        watch: more numbers for the log of each step, from logits without gradient.

    Raises:
        RecipeError: a backbone, an option or weights that cannot be had.
    """
    torch.manual_seed(recipe.random_seed)
    network = create_classifier(
        backbone=recipe.classifier.backbone,
        num_tags=len(labels.foreground),
        pretrained=recipe.classifier.pretrained,
        output_stride=recipe.classifier.output_stride,
        **recipe.classifier.options,
    )
    mean, std = network.mean, network.std

    def step(network: nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        logits = network(normalise(batch["image"], mean, std))
        loss = first_head_loss(logits, batch["tags"], recipe.classifier.loss)
        more = {} if watch is None else watch(logits.detach(), batch["tags"])
        return loss, {"tags": loss.detach(), **more}

    return network, step


def train_classifier(
    recipe: Recipe,
    settings: ClassifierSettings,
    start: Path | None,
    train: Dataset,
    val: Dataset,
    folder: Path,
    device: torch.device,
    *,
    watch: Watch | None = None,
    validate: Validate | None = None,
) -> dict[str, Any]:
    """Train the tag classifier on every image whose tags are known; resumes where it was stopped.

    Images that are known to have no tag are negatives for every class.

    Args:
        recipe: `classifier` and `seeds.size` are read.
        settings: the recipe's `classifier`.
        start: None; it is the first network of a chain.
        train: dataset with tags.
        val: dataset whose tags, where known, give the average precision that is logged; nothing is chosen by it.
        folder: gets `log.jsonl`, `state.pt` and `model.safetensors`.
        device: where to train.
        watch: as for `build_classifier`.
        validate: as for `fit`, in place of the average precision.

    Returns:
        What `fit` returns: the last numbers of the log.

    Raises:
        DataError: no image of the split has known tags.
    """
    if settings.train.frozen:
        return fit_frozen(recipe, train, val, folder, device)
    network, step = build_classifier(recipe, train.labels, watch)
    return fit_tags(
        network,
        step,
        recipe,
        settings.train,
        train,
        val,
        folder,
        device,
        parameter_groups=parameter_groups(network, settings.train),
        title="classifier",
        validate=validate,
    )


def fit_frozen(recipe: Recipe, train: Dataset, val: Dataset, folder: Path, device: torch.device) -> dict[str, Any]:
    """A classifier whose backbone keeps its weights, with the head that fits the tags best.

    Args:
        recipe: `classifier` and `seeds` are read: the head is fitted on the views that maps are taken of.
        train: dataset with tags.
        val: dataset whose tags, where known, give the average precision that is logged.
        folder: gets `log.jsonl` and `model.safetensors`.
        device: where to work.

    Returns:
        As `fit`.

    Raises:
        DataError: no image of the split has known tags.
    """
    started = time.monotonic()
    check_tags(recipe, train)
    network = next_network(recipe, None, len(train.labels.foreground), constant=True)
    found = fit_tag_head(network, recipe, train, folder, device)
    metrics = known_precision(network.to(device).eval(), recipe, val, device)
    return save_fitted(network, recipe, train, folder, found, metrics, started)


def known_precision(network: nn.Module, recipe: Recipe, val: Dataset, device: torch.device) -> dict[str, Any] | None:
    """The average precision of a classifier's tags on the images of a set whose tags are known; None without any."""
    known = [index for index in range(len(val)) if val.tags(index) is not None]
    if not known:
        return None
    return {"tag_map": tag_average_precision(inference_copy(network), subset(val, known), recipe.seeds.size, device)}


def next_network(recipe: Recipe, start: str | Path | None, num_tags: int, **parts: Any) -> ImageTagClassifier:
    """A network with further parts that starts from the one before it, or from the recipe's backbone.

    Args:
        recipe: `classifier` says the backbone, its weights where there is no `start`, and what is frozen.
        start: `model.safetensors` of the network before; parts that it does not have are new.
        num_tags: number of classes that an image can be tagged with.
        **parts: of `ImageTagClassifier`, such as `recam_head=True`.

    Raises:
        RecipeError: a backbone, an option or weights that cannot be had, or a part of another kind than the network
            before has.
        DataError: the file holds another network.
    """
    torch.manual_seed(recipe.random_seed)
    made = recipe.classifier
    before = {} if start is None else load_metadata(start)
    had = {**made.options, **before.get("model", {})}
    had = {name: had[name] for name in PARTS if had.get(name)}
    for name in parts.keys() & had.keys():
        if parts[name] != had[name]:
            raise RecipeError(
                f"networks={recipe.networks}: one network needs {name}={parts[name]}, but the one before it, or "
                f"classifier.options, has {name}={had[name]}; leave one of them out"
            )
    parts = {**had, **parts}
    network = create_classifier(
        backbone=made.backbone,
        num_tags=num_tags,
        pretrained=made.pretrained if start is None else False,
        output_stride=made.output_stride,
        **{**made.options, **parts, **(map_of(before["model"]) if before else {})},
    )
    if start is not None:
        if made.options.get("freeze_stem") is None and made.pretrained and layers.has_stem(network.backbone):
            layers.freeze_stem(network.backbone)  # as in the first training, when weights were loaded
        weights, own = load_weights(start), network.state_dict()
        fresh = {name: own[name] for name in own if name not in weights and name.split(".")[0] in PARTS}
        load_into(network, {**weights, **fresh}, start)
        network.backbone.pretrained_weights = before.get(PRETRAINED)
    return network


def check_saliency(dataset: Dataset, what: str) -> None:
    """Refuse to begin what needs saliency maps without them.

    Raises:
        RecipeError: the first image has none; readers see to it that all have one, or none.
    """
    if len(dataset) and dataset[0].saliency is None:
        raise RecipeError(
            f"{what} needs saliency maps, but {dataset.names[0]} has none; give saliency=FOLDER, or the name of a "
            "built-in detector, saliency=barrier"
        )


def check_tags(recipe: Recipe, train: Any) -> None:
    """Refuse to train on tags without any.

    Raises:
        DataError: no image of the split has a tag.
    """
    if not any(train.tags(index) for index in range(len(train))):
        raise DataError(
            f"no image of split {recipe.data.train!r} has a tag; give tags=FILE (CSV or JSON) or tags=masks"
        )


def batch_saliency(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Saliency of a training batch, `(B, 1, H, W)` float32 in 0..1.

    Raises:
        DataError: some image of the batch has none.
    """
    if "saliency" not in batch:
        raise DataError("some images have no saliency map; give a map of every image, see `maskwright data check`")
    return batch["saliency"].float() / 255


def part_groups(
    settings: TrainSettings, *, old: Iterable[nn.Module | None], new: Iterable[nn.Module | None]
) -> list[dict[str, Any]]:
    """Groups for the optimiser where some parts count as the backbone, and parts that are None are not there.

    Args:
        settings: as for `parameter_groups`.
        old: what is trained already, at the backbone's rate.
        new: what is not.
    """
    parts = {"backbone": old, "head": new}
    return parameter_groups(
        nn.ModuleDict({name: nn.ModuleList(part for part in which if part) for name, which in parts.items()}), settings
    )


def fit_tags(
    network: ImageTagClassifier,
    step: Step,
    recipe: Recipe,
    settings: TrainSettings,
    train: Dataset,
    val: Dataset,
    folder: Path,
    device: torch.device,
    *,
    parameter_groups: list[dict[str, Any]],
    title: str,
    trainable_extra: Iterable[nn.Module] = (),
    shuffle: bool = True,
    validate: Validate | None = None,
) -> dict[str, Any]:
    """What all training on tags shares: the images, the score that is logged, and what the model file says of itself.

    Args:
        network: trained in place.
        step: as for `fit`.
        recipe: `networks`, `classifier`, `seeds.size`, `seeds.accumulate` and `random_seed` are read.
        settings: how to train.
        train: as for `train_classifier`.
        val: as for `train_classifier`.
        folder: as for `train_classifier`; and gets `snapshots/` of the network that maps are accumulated of.
        device: where to train.
        parameter_groups: as for `fit`; what no group holds keeps its weights.
        title: the network's word.
        trainable_extra: as for `fit`.
        shuffle: as for `fit`.
        validate: as for `fit`; the average precision on `val` by default.

    Returns:
        What `fit` returns.

    Raises:
        DataError: no image of the split has a tag.
    """
    check_tags(recipe, train)
    tagged = [index for index in range(len(train)) if train.tags(index) is not None]
    judged = any(val.tags(index) is not None for index in range(len(val)))
    trained = {id(parameter) for group in parameter_groups for parameter in group["params"]}
    for parameter in network.parameters():
        if id(parameter) not in trained:  # distributed training would wait for its gradient
            parameter.requires_grad_(False)

    def average_precision_on_val(network: nn.Module) -> dict[str, Any]:
        return known_precision(network, recipe, val, device) or {}

    made = {
        **recipe.classifier.model_dump(mode="json", exclude={"pretrained", "loss", "train"}),
        "num_tags": len(train.labels.foreground),
        **network.parts,
        "pooled": network.backbone.pooled,
    }
    augment = Augment(settings.augment, train.labels, mean=network.mean)
    metadata = describe("classifier", made, network, train.labels, recipe)
    validate = validate or (average_precision_on_val if judged else None)
    if recipe.seeds.accumulate != "none" and recipe.networks[-1] == title:
        settings = settings.model_copy(update={"validate_every": settings.validate_every or 1})
        validate = keeping_epochs(folder, metadata, validate)
    return fit(
        network,
        step,
        TrainingSet(without_masks(subset(train, tagged)), augment, settings.seed + recipe.random_seed),
        settings,
        folder,
        parameter_groups=parameter_groups,
        validate=validate,
        metadata=metadata,
        device=device,
        title=title,
        trainable_extra=trainable_extra,
        shuffle=shuffle,
    )


@torch.no_grad()
def tag_scores(network: Any, dataset: Dataset, size: Size, device: torch.device) -> np.ndarray:
    """Tag logits of every image, shared by all processes.

    Args:
        network: gives tag logits `(B, K)`.
        dataset: images; neither tags nor masks are read.
        size: images are resized to this `(height, width)`; None keeps their own.
        device: where to run.

    Returns:
        `(N, K)` float64, the same in every process.
    """
    unmasked = without_masks(dataset)
    scores = torch.zeros(len(dataset), len(dataset.labels.foreground), dtype=torch.float64, device=device)
    for index in range(distributed.rank(), len(dataset), distributed.world_size()):
        image = prepare(unmasked[index], size)["image"].to(device)
        scores[index] = network(normalise(image[None], network.mean, network.std))[0].double()
    return distributed.all_reduce_sum(scores).cpu().numpy()


def tag_average_precision(network: Any, dataset: Dataset, size: Size, device: torch.device) -> float | None:
    """Mean over classes of the average precision of the tag scores; classes never tagged are left out.

    Args:
        network: gives tag logits `(B, K)`.
        dataset: images with known tags.
        size: images are resized to this `(height, width)`; None keeps their own.
        device: where to run.

    Returns:
        A number in 0..1, higher is better, or None where no image has a tag. Every process gets the same number.
    """
    scores = tag_scores(network, dataset, size, device)
    truth = np.stack([dataset.labels.tag_vector(dataset.tags(index) or ()) for index in range(len(dataset))])
    found = [average_precision(scores[:, k], truth[:, k]) for k in range(truth.shape[1]) if truth[:, k].any()]
    return float(np.mean(found)) if found else None


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Mean, over the positives, of the precision at the rank where each is found.

    Args:
        scores: `(N,)`, higher means more likely.
        truth: `(N,)`, non-zero for positives; at least one.
    """
    hits = truth[np.argsort(-scores, kind="stable")] > 0
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())


CLASSIFIER = Network(
    "train the tag classifier",
    ClassifierSettings,
    train_classifier,
    parts=lambda settings: {"constant": True} if settings.train.frozen else {},
    frozen=True,
)
