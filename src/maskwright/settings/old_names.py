"""Settings that had other names once: recipes and run folders with the old ones still open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from maskwright.errors import RecipeError

# Old -> new, dotted. Stages go on by the old name (`serialization_alias`), so that finished runs stay as they are.
OLD_NAMES = {
    "seed": "random_seed",
    "oracle": "fully_supervised",
    "judged_on": "expected_split",
    "recam.lam": "recam.sce_weight",
    "recam.masks": "recam.soft_masks",
    "recam.eps": "recam.saliency_weight",
    "l2g.shared_trunk": "l2g.shared_backbone",
    "pseudo_masks.unsure_below": "pseudo_masks.ignore_below",
    "saliency": "saliency_background",
}
# Words in a list that had other names.
OLD_WORDS = {"refine": {"saliency": "saliency_background"}}


def _silent(old: str, new: str) -> None:
    """For fields that nobody typed."""


def new_name(key: str) -> str:
    """The dotted key of a setting as it is called now."""
    for old, new in OLD_NAMES.items():
        if key == old or key.startswith(f"{old}."):
            return new + key[len(old) :]
    return key


def with_new_names(fields: dict[str, Any], tell: Callable[[str, str], None] = _silent) -> dict[str, Any]:
    """Nested fields of a recipe with every setting as it is called now; what is given is left alone.

    Args:
        fields: as in a recipe file, or in the recipe of an old run.
        tell: called with the old and the new spelling of each that was found.

    Raises:
        RecipeError: a setting under both of its names.
    """
    result = dict(fields)
    for old, new in OLD_NAMES.items():
        *parents, last = old.split(".")
        block = result.get(parents[0]) if parents else result
        if not isinstance(block, dict) or last not in block:
            continue
        renamed = new.rpartition(".")[2]
        if renamed in block:
            raise RecipeError(f"{old} is now called {new}, and both are given; leave {old} out")
        changed = {renamed if key == last else key: value for key, value in block.items()}
        result = {**result, parents[0]: changed} if parents else changed
        tell(old, new)
    for key, words in OLD_WORDS.items():
        if not isinstance(result.get(key), list):
            continue
        for word in {word for word in result[key] if isinstance(word, str)} & words.keys():
            tell(f"{key}: {word}", f"{key}: {words[word]}")
        result[key] = [words.get(word, word) if isinstance(word, str) else word for word in result[key]]
    return result
