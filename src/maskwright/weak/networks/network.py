"""What a network is: one object that says how it is trained, and what recipes and plans must know of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from maskwright.errors import RecipeError
from maskwright.models import ImageTagClassifier
from maskwright.settings import Recipe, Settings
from maskwright.weak.seeds.method import SeedMethod, needs_nothing

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class Network:
    """A network that is trained on tags and gives maps.

    Args:
        title: what its stage does, in words, for the person who waits.
        settings: of the recipe's block under the network's word; it has `train`, a `TrainSettings`.
        train: called as `train(recipe, settings, start, train, val, folder, device)`, where `start` is the file of the
            network before it in the recipe's chain, or None. It writes a classifier that `load_classifier` reads.
        maps: the seed method that takes maps as only this network gives them; it goes by the network's word.
        parts: called with its settings; what it makes beside backbone and head, by names of `models.classifier.PARTS`.
        needs: called with its settings; what must be there, in the words of `maskwright.weak.methods`: `saliency`,
            `network` for a trained one before it, or a part of that, as `background` or `pcm=cam`.
        check: called with its settings and the network before it is trained, perhaps without weights; refuses settings
            that do not suit the network, with a `RecipeError`.
        frozen: whether it can be fitted on maps of a backbone that keeps its weights, as `train.frozen` asks.
        shrink: called with its settings, height and width of a training example in a run and in a plan's trial, and the
            stride of its maps; settings to change beside `train`, where they depend on the example's size.
    """

    title: str
    settings: type[Settings]
    train: Callable[..., dict[str, Any]]
    maps: SeedMethod | None = None
    parts: Callable[[Any], dict[str, Any]] = lambda settings: {}
    needs: Callable[[Any], tuple[str, ...]] = needs_nothing
    check: Callable[[Any, ImageTagClassifier], None] | None = None
    frozen: bool = False
    shrink: Callable[[Any, tuple[int, int], tuple[int, int], int], dict[str, Any]] | None = None


def settings_of(recipe: Recipe, word: str, kind: type[S]) -> S:
    """A recipe's settings of another network or refinement.

    Raises:
        RecipeError: the recipe has none of that word.
    """
    found = getattr(recipe, word, None)
    if not isinstance(found, kind):
        raise RecipeError(f"the recipe has no settings of {word}; load it with maskwright.load_recipe")
    return found
