"""What a refinement is: one object with its stages, and what recipes, plans and reports must know of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from maskwright.data.sample import LabelSpace, Sample
from maskwright.errors import RecipeError
from maskwright.runs.context import RunContext
from maskwright.runs.stages import Stage
from maskwright.settings import ClassifierSettings, Settings
from maskwright.weak.seeds.cam import SeedMaps
from maskwright.weak.seeds.method import needs_nothing

N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class Work:
    """What a plan takes time and memory of a stage to be in proportion to.

    Args:
        amount: called with the refinement's settings, the sizes that networks see `(N, 2)` and the number of tags
            `(N,)` of each image; `(N,)`. None: the pixels of each image whose tags are known.
        at_once: images that are in memory together, or by type of device the pixels, mirrors included.
    """

    amount: Callable[[Any, np.ndarray, np.ndarray], np.ndarray] | None = None
    at_once: int | Mapping[str, int] = 1


# Maps of a batch of images of one size, all of which have tags, from maps of them; samples have no masks.
Refiner = Callable[[Sequence[Sample], Sequence[SeedMaps]], list[SeedMaps]]


@dataclass(frozen=True)
class Refinement:
    """Maps in, maps out.

    Args:
        title: how a report calls its maps.
        settings: of the recipe's block under the refinement's word.
        stages: called as `stages(context, settings, source, suffix)`: its stages on the maps of stage `source`, each
            with `suffix` at the end of its name. The last has the refined maps.
        needs: called with its settings; what must be there, in the words of `maskwright.weak.methods`, as for a seed
            method.
        reads_threshold: whether it needs the background's score, which must then be chosen before it.
        network: name of its stage that trains a network, if any; settings then has `train`, `backbone`, `pretrained`.
        build: called with its settings and what to begin from; that network as it is before it is trained.
        check: called with its settings and the classes; refuses classes that it cannot work on, with a `DataError`.
        work: by the name of a stage; one that is not here takes one image at a time, as long as it has pixels.
        cheap: settings that a plan's trial changes.
        crf: called with its settings; where it lets a dense CRF have a part in the pseudo-masks, in words, or "".
        refiner: called as `refiner(context, settings, suffix)` when the stages that train its network, if any, are
            finished; does in memory what the other stages do with folders of maps. None: images cannot be labelled in
            one pass with it.
    """

    title: str
    settings: type[Settings]
    stages: Callable[[RunContext, Any, str, str], list[Stage]]
    needs: Callable[[Any], tuple[str, ...]] = needs_nothing
    reads_threshold: bool = False
    network: str = ""
    build: Callable[[Any, bool | str], nn.Module] | None = None
    check: Callable[[Any, LabelSpace], object] | None = None
    work: Mapping[str, Work] = field(default_factory=dict)
    cheap: Mapping[str, Any] = field(default_factory=dict)
    crf: Callable[[Any], str] = lambda settings: ""
    refiner: Callable[[RunContext, Any, str], Refiner] | None = None


def check_start(word: str, settings: Any, classifier: ClassifierSettings) -> None:
    """Refuse a network that is to start from the tag classifier but has another backbone.

    Args:
        word: of the refinement.
        settings: of it, with `pretrained` and `backbone`.
        classifier: of the recipe.

    Raises:
        RecipeError: the backbones differ.
    """
    if settings.pretrained == "classifier" and settings.backbone != classifier.backbone:
        raise RecipeError(
            f"{word}.pretrained=classifier takes the tag classifier's backbone: set {word}.backbone="
            f"{classifier.backbone}, found {settings.backbone}; or give {word}.pretrained=true or a file"
        )


def build_network(word: str, create: Callable[..., N], settings: Any, seed: int, classifier: str | Path | None) -> N:
    """A refinement's network as it is before training.

    Args:
        word: of the refinement.
        create: takes what `create_backbone` takes, by keyword.
        settings: of the refinement, with `backbone`, `pretrained`, `output_stride` and `options`.
        seed: of new weights.
        classifier: file of the tag classifier, where there is one.

    Raises:
        RecipeError: as `create`; or it is to start from the classifier, and no file of it is given.
    """
    pretrained = settings.pretrained
    if pretrained == "classifier":
        if classifier is None:
            raise RecipeError(
                f"{word}.pretrained=classifier needs the tag classifier's file; give {word}.pretrained=FILE"
            )
        pretrained = str(classifier)
    torch.manual_seed(seed)
    return create(
        backbone=settings.backbone, pretrained=pretrained, output_stride=settings.output_stride, **settings.options
    )
