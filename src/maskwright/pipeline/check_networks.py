"""Every network of a recipe built without weights, and what each is asked for tried on it, before any is trained.

Networks are built on torch's `meta` device, where a tensor is a shape alone: building and one step forward of the whole
batch take a second and no memory, and say whether names, options, strides and sizes go together. Files of weights are
loaded for real, by the code that the training uses. What the `meta` device cannot do is done on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from maskwright.data.augment import Augment, collate
from maskwright.data.dataset import channels_of
from maskwright.data.loading import generator_for
from maskwright.data.sample import Sample
from maskwright.data.sizes import seen_size
from maskwright.engine.device import half_type
from maskwright.engine.fit import share_of_batch, total_steps
from maskwright.errors import MaskwrightError, RecipeError, unknown_name
from maskwright.inference.views import check_scales
from maskwright.inference.windows import window_starts
from maskwright.losses import LOSSES, create_loss
from maskwright.models import MODELS, ImageTagClassifier, create_classifier
from maskwright.models.backbone import Backbone
from maskwright.models.backbones import check_name, check_weights
from maskwright.models.classifier import PARTS, load_classifier
from maskwright.models.operations import multiply_adds
from maskwright.pipeline.frozen import check_frozen, frozen_size
from maskwright.pipeline.segment import build_segmenter, for_channels
from maskwright.pipeline.stages import oracle_images, with_mask_only
from maskwright.runs.context import RunContext
from maskwright.settings import InferenceSettings, Recipe, Settings, TrainSettings
from maskwright.settings.options import check_values
from maskwright.weak.methods import check_methods, seed_method, trained_blocks
from maskwright.weak.networks import NETWORKS, Network
from maskwright.weak.networks.classifier import check_saliency, check_tags
from maskwright.weak.pseudo_masks import check_thresholds
from maskwright.weak.refine import REFINEMENTS, Refinement
from maskwright.weak.seeds import SeedMethod
from maskwright.weak.seeds.cam import Views
from maskwright.weak.seeds.windows import in_windows

T = TypeVar("T", bound=nn.Module)

# What code that is handed a value of the wrong kind ends in; what it says is repeated with the setting's name.
WRONG_VALUE = (TypeError, ValueError, KeyError, IndexError, AttributeError, AssertionError, RuntimeError)
SIDE = 64  # pixels of the images that options are tried on


@dataclass(frozen=True)
class Need:
    """What training a network takes, roughly.

    Args:
        weights: bytes of the network.
        memory: bytes in all, for one process: weights, gradients, what the optimiser keeps, and what is kept for the
            backward pass of one batch in float32; 0 for the last where nobody can tell.
        operations: multiply-adds of one forward pass of one image at the size it is trained at, of a frozen network at
            that of its maps; 0 where nobody can tell.
    """

    weights: int
    memory: int
    operations: int


def check_networks(context: RunContext, left: set[str]) -> dict[str, Need]:
    """Refuse what some stage would refuse after others have worked: words, options, weights, sizes, labels that lack.

    Args:
        context: of the run.
        left: names of the stages that are not finished, without the number of a repeated refinement.

    Returns:
        What each training needs, by its stage.

    Raises:
        RecipeError: a name, an option, weights or settings that cannot be.
        DataError: images or labels that a stage needs and that are not there.
    """
    recipe, needs = context.recipe, {}
    with torch.random.fork_rng(devices=[]):
        if recipe.supervision != "masks":
            needs.update(_check_labelling(context, left))
        if left & {"segmenter", "oracle"}:
            needs["segmenter"] = _check_segmenter(context, left)
    if left & {"evaluation", "oracle_evaluation", "segmenter"}:
        check_inference(recipe.inference, context.device)
    return needs


def check_words(recipe: Recipe) -> None:
    """Refuse names that nobody knows, and methods that do not go together.

    Raises:
        RecipeError: the first that is found; the message names the nearest.
    """
    words: list[tuple[str, str, Iterable[str]]] = [
        ("model.name", recipe.model.name, MODELS),
        ("loss.name", recipe.loss.name, LOSSES),
    ]
    backbones = {"model.backbone": recipe.model.backbone}
    if recipe.supervision != "masks":
        check_methods(recipe)
        backbones["classifier.backbone"] = recipe.classifier.backbone
        for word in recipe.refine:
            if REFINEMENTS[word].network:
                backbones[f"{word}.backbone"] = getattr(recipe, word).backbone
    strange = [word for word, settings in trained_blocks(recipe).items() if settings.train.snapshots]
    if strange:
        raise RecipeError(f"{strange[0]}.train.snapshots: they are of the segmenter; write train.snapshots")
    if recipe.train.snapshots and not recipe.train.validate_every:
        raise RecipeError("train.snapshots are kept at each validation; give train.validate_every=1, too")
    for key, word, known in words:
        if word not in known:
            raise RecipeError(unknown_name(key, word, known))
    for key, name in backbones.items():
        check_name(name, key)


def _check_labelling(context: RunContext, left: set[str]) -> dict[str, Need]:
    recipe, train = context.recipe, context.train
    needs: dict[str, Need] = {}
    parts: dict[str, Any] = {}
    if left & set(recipe.networks):
        check_tags(recipe, train)
    for word in recipe.networks:
        parts |= NETWORKS[word].parts(getattr(recipe, word))
        if word in left:
            needs[word] = _check_network(context, word, parts)
    if "seeds" in left:
        with setting("seeds", {}):
            half_type(recipe.seeds.autocast, context.device)
        check_scales(recipe.seeds.scales, "seeds.scales")
        _check_saliency(context, f"seeds.method={recipe.seeds.method}", seed_method(recipe.seeds.method), recipe.seeds)
        check_seed_options(recipe, parts)
        if recipe.seeds.window is not None:
            in_windows(_build_network(context, parts, False), recipe.seeds)
        _check_signs(context, left, parts)
    others = {*recipe.networks, "seeds", "segmenter", "evaluation", "oracle", "oracle_evaluation"}
    for word in dict.fromkeys(recipe.refine) if left - others else ():
        refinement, settings = REFINEMENTS[word], getattr(recipe, word)
        _check_saliency(context, f"refine=[{word}]", refinement, settings)
        if refinement.check is not None:
            refinement.check(settings, train.labels)
        if refinement.network in left and refinement.build is not None:
            check_training(context, f"{word}.train", settings.train)
            pretrained = False if settings.pretrained == "classifier" else settings.pretrained
            with setting(word, settings.options):
                network = build(partial(refinement.build, settings), settings.backbone, pretrained)
            needs[refinement.network] = step_forward(context, network, settings.train, f"{word}.train")[0]
    if "pseudo_masks" in left:
        check_thresholds(train, recipe.pseudo_masks)
    return needs


def _check_saliency(
    context: RunContext, who: str, method: Network | SeedMethod | Refinement, settings: Settings
) -> None:
    if "saliency" in method.needs(settings):  # type: ignore[arg-type]
        check_saliency(context.train, who)


def _check_signs(context: RunContext, left: set[str], parts: dict[str, Any]) -> None:
    """Refuse seeds that need a feature map that is never negative, where that of the last network can be."""
    recipe = context.recipe
    if "unsigned_map" not in seed_method(recipe.seeds.method).needs(recipe.seeds):
        return
    trained = [word for word in recipe.networks if word not in left]  # a network keeps the map of the one before it
    if trained:
        signed = load_classifier(context.out.model(trained[-1])).signed_map
    else:
        signed = _build_network(context, parts, False).signed_map
    if signed:
        raise RecipeError(
            f"seeds.method={recipe.seeds.method} with weight: product needs features that are never negative; those of "
            f"classifier.backbone={recipe.classifier.backbone} can be, and there the product of both heads says "
            "nothing of a class. Write seeds.options.weight=agree, which keeps the signs"
        )


def _check_network(context: RunContext, word: str, parts: dict[str, Any]) -> Need:
    """One network of the chain, with the parts that it and those before it have."""
    recipe, network = context.recipe, NETWORKS[word]
    settings = getattr(recipe, word)
    if not settings.train.frozen:
        check_training(context, f"{word}.train", settings.train)
    _check_saliency(context, f"networks=[{word}]", network, settings)
    found = _build_network(context, parts, recipe.classifier.pretrained if word == recipe.networks[0] else False)
    if network.check is not None:
        network.check(settings, found)
    if settings.train.frozen:
        weights = sum(tensor.nbytes for tensor in [*found.parameters(), *found.buffers()])
        size = seen_size(recipe.seeds.size, context.train.size(0))
        try:
            operations = multiply_adds(found.to("meta"), size, channels_of(context.train))
        except RuntimeError:  # also that the `meta` device lacks an operation: no run fails for a figure of the plan
            operations = 0
        return Need(weights, 2 * weights, operations)  # memory for itself, and the copy that maps are made by
    return step_forward(context, found, settings.train, f"{word}.train")[0]


def _build_network(context: RunContext, parts: dict[str, Any], pretrained: bool | str) -> ImageTagClassifier:
    """The recipe's tag classifier with some parts, as `build` makes it."""
    made = context.recipe.classifier
    make = partial(
        create_classifier,
        backbone=made.backbone,
        num_tags=len(context.train.labels.foreground),
        output_stride=made.output_stride,
        **{**made.options, **parts},
    )
    with setting("classifier", made.options):
        return build(lambda pretrained: make(pretrained=pretrained), made.backbone, pretrained)


def _check_segmenter(context: RunContext, left: set[str]) -> Need:
    recipe, train = context.recipe, context.train
    if "segmenter" in left and recipe.supervision == "masks":
        with_mask_only(train, recipe.data.train)
    if "oracle" in left:
        oracle_images(train)
    if recipe.train.frozen:
        frozen_size(recipe.train.augment)
    else:
        check_training(context, "train", recipe.train)
    model = recipe.model
    pretrained = False if model.pretrained == "classifier" else model.pretrained
    counted = recipe.loss.class_weights in ("inverse", "sqrt_inverse")
    count = train.labels.num_classes
    frequencies = [1 / count] * count if counted else None  # counted when it is trained
    check_values(LOSSES[recipe.loss.name], recipe.loss.options, "loss.options")
    check_values(MODELS[model.name], model.options, "model.options")
    with setting("loss", recipe.loss.options):
        criterion = create_loss(recipe.loss, train.labels, frequencies)

    def make(pretrained: bool | str) -> nn.Module:
        fields = recipe.model_copy(update={"model": model.model_copy(update={"pretrained": pretrained})})
        return build_segmenter(for_channels(fields, train), train.labels, torch.device("cpu"), frequencies)[0]

    with setting("model", model.options):
        network = build(make, model.backbone, pretrained)
    if recipe.train.frozen:
        check_frozen(network, model.name, recipe.train.augment)
    need, outputs = step_forward(
        context, network, recipe.train, "train", auxiliary=True, upsample=recipe.loss.resize == "logits"
    )
    if outputs is not None:
        criterion.check(outputs)
    return need


def build(make: Callable[[bool | str], T], backbone: str, pretrained: bool | str) -> T:
    """A network on the `meta` device; with the weights where they are a file, which shows whether they fit.

    Args:
        make: builds it, called with what it is to begin from.
        backbone: as for `create_backbone`.
        pretrained: as for `create_backbone`.

    Raises:
        RecipeError: as `make`, and for weights that cannot be had.
    """
    if isinstance(pretrained, str) and Path(pretrained).is_file():
        return make(pretrained)
    check_weights(backbone, pretrained)
    try:
        with torch.device("meta"):
            return make(False)
    except RecipeError as error:
        if "do not lie on grids" not in str(error):  # found by running it, which not every network can on `meta`
            raise
    except NotImplementedError:
        pass
    return make(False)


def step_forward(
    context: RunContext, network: nn.Module, settings: TrainSettings, where: str, **arguments: Any
) -> tuple[Need, dict[str, Tensor] | None]:
    """One step forward of a whole batch of shapes, as in training.

    Args:
        context: of the run.
        network: without weights, or with them; it is moved to the `meta` device.
        settings: of its training.
        where: name of the settings, for messages.
        arguments: for the network beside images.

    Returns:
        What the training needs, and the network's outputs on the `meta` device, None where they cannot be had.

    Raises:
        RecipeError: images of a size that the network does not take, or too few of them for batch normalisation.
    """
    network = network.to("meta").train()
    if settings.freeze_batchnorm:
        for layer in network.modules():
            if isinstance(layer, _BatchNorm):
                layer.eval()
    size = settings.augment.crop or settings.augment.resize or context.train.size(0)
    if settings.frozen:
        size = seen_size(frozen_size(settings.augment), context.train.size(0))
    images = torch.zeros(share_of_batch(settings), channels_of(context.train), *size, device="meta")
    kept: dict[int, Tensor] = {}
    weights = {id(tensor) for tensor in [*network.parameters(), *network.buffers()]}

    def keep(tensor: Tensor) -> Tensor:
        if id(tensor) not in weights:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    outputs, operations = None, 0
    try:
        with saved_tensors_hooks(keep, lambda tensor: tensor), FlopCounterMode(display=False) as counter:
            outputs = network(images, **arguments)
        operations = counter.get_total_flops() // 2 // len(images)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise RecipeError(
            f"{where}.batch_size={settings.batch_size} leaves {len(images)} image in a batch of one process, which "
            f"batch normalisation cannot learn from ({error}); give a larger batch, or {where}.freeze_batchnorm=true"
        ) from error
    except NotImplementedError:
        kept.clear()  # the `meta` device lacks an operation of this network: nothing is known of its outputs
    saved = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    size_of = sum(tensor.nbytes for tensor in [*network.parameters(), *network.buffers()])
    trained = sum(tensor.nbytes for tensor in network.parameters() if tensor.requires_grad)
    copies = 1 + (2 if settings.optimizer == "adamw" else int(settings.momentum > 0))
    memory = size_of + copies * trained + (size_of if settings.ema else 0) + saved
    return Need(size_of, memory, operations), outputs if isinstance(outputs, dict) else None


def check_training(context: RunContext, where: str, settings: TrainSettings) -> None:
    """Settings of a training that contradict each other, the device, the processes or the images.

    Raises:
        RecipeError: how long is not said, float16 on a CPU, a batch that the processes cannot share, augmentation that
            cannot be.
        DataError: examples of a batch would have different sizes.
    """
    with setting(where, {}):
        total_steps(settings, 1)
        half_type(settings.autocast, context.device)
        share_of_batch(settings)
        channels = channels_of(context.train)
        augment = Augment(settings.augment, context.train.labels, mean=(0.5,) * channels)
        if settings.augment.crop is None and share_of_batch(settings) > 1 and len(context.train):
            shown = range(min(len(context.train), 2 * share_of_batch(settings)))
            shapes = list(dict.fromkeys(tuple(context.train.size(index)) for index in shown))
            images = [np.zeros((*shape, channels), np.uint8) for shape in (shapes * 2)[: max(2, len(shapes))]]
            collate([augment(Sample("", image), generator_for(number)) for number, image in enumerate(images)])


def check_inference(settings: InferenceSettings, device: torch.device) -> None:
    """Settings of how the model is applied.

    Raises:
        RecipeError: float16 on a CPU, no scale, or windows that leave pixels out.
    """
    with setting("inference", {}):
        half_type(settings.autocast, device)
        _check_windows(settings)
    check_scales(settings.scales, "inference.scales")


def _check_windows(settings: InferenceSettings) -> None:
    if settings.window is not None:
        for window, stride in zip(settings.window, settings.stride or settings.window, strict=True):
            window_starts(2 * window, window, stride)


class _Small(Backbone):
    """Three feature maps of few channels: enough for every seed method to be called in milliseconds."""

    def __init__(self) -> None:
        super().__init__("small", [8, 8, 8], [4, 8, 16])
        shapes = ((3, 8, 3, 4), (8, 8, 3, 2), (8, 8, 3, 2))
        self.layers = nn.ModuleList(nn.Conv2d(*shape, padding=1) for shape in shapes)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = []
        for layer in self.layers:
            images = layer(images).relu()
            maps.append(images)
        return maps


def check_seed_options(recipe: Recipe, parts: dict[str, Any]) -> None:
    """The seed method run on one small image by a small network with the parts of the recipe's last.

    Args:
        recipe: `seeds` is read.
        parts: of the network that the maps come from; see `ImageTagClassifier`.

    Raises:
        RecipeError: an unknown method or option, a value that the method refuses, or a network that lacks what it
            reads.
    """
    method, options = seed_method(recipe.seeds.method), recipe.seeds.options
    method.check(recipe.seeds)
    with setting("seeds", options):
        own = {name: kind for name, kind in recipe.classifier.options.items() if name in PARTS}
        network = ImageTagClassifier(_Small(), 2, **{**own, **parts}).eval()
        views = Views([torch.zeros(1, 3, SIDE, SIDE)], (1.0,), [(0,)], (SIDE, SIDE))
        method.maps(network, views, **options)


@contextmanager
def setting(block: str, options: Mapping[str, Any]) -> Iterator[None]:
    """Errors inside name the block of settings that they come from, and those of the wrong kind its free options.

    Raises:
        MaskwrightError: what was raised, with the name before it; a `RecipeError` for a value of the wrong kind.
    """
    try:
        yield
    except MaskwrightError as error:
        if f"{block}." in str(error):
            raise
        raise type(error)(f"{block}: {error}") from error
    except WRONG_VALUE as error:
        if not options:  # then it is no value that a person gave
            raise
        raise RecipeError(f"{block}.options={dict(options)} cannot be used: {error or type(error).__name__}") from error
