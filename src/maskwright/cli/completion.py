"""What a shell may complete: recipes, run folders, keys of settings. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from maskwright.cli.words import EVERY, VERBS

RUN_FOLDERS = ("*", "runs/*", "runs/*/*")


def complete(name: str, before: Sequence[str], incomplete: str) -> list[str]:
    """Words that may stand where the cursor is; paths are left to the shell.

    Args:
        name: of the verb, a key of `VERBS`.
        before: the words between the verb and the cursor.
        incomplete: what is typed of the word.
    """
    verb = VERBS[name]
    names = [word for word in before if "=" not in word]
    place = next(iter(verb.names[len(names) :]), verb.names[-1] if verb.names and "..." in verb.names[-1] else "")
    found: list[str] = []
    if place in ("RECIPE", "RECIPE|DATA", "METHODS..."):
        found += _recipes()
    if place in ("RUN", "METHODS..."):
        found += _runs()
    if place not in ("RECIPE", "RUN"):
        found += [f"{key}=" for key in [*verb.options, *_keys(verb.settings, names)]]
    return [word for word in found if word.startswith(incomplete)]


def _recipes() -> list[str]:
    from maskwright.recipe.load import recipe_names

    return [*recipe_names(), *(str(path) for path in Path().glob("*.y*ml"))]


def _runs() -> list[str]:
    return sorted(str(path.parent) for pattern in RUN_FOLDERS for path in Path().glob(f"{pattern}/recipe.yaml"))


def _keys(blocks: tuple[str, ...], names: Sequence[str]) -> list[str]:
    """Keys of a recipe's settings, of the named recipe where there is one."""
    if not blocks:
        return []
    from maskwright.errors import RecipeError
    from maskwright.recipe.describe import quick_keys
    from maskwright.recipe.load import SHORT_KEYS

    try:
        keys = quick_keys(names[0] if names and blocks == EVERY else None)
    except RecipeError:
        keys = quick_keys()
    return [key for key in keys if blocks == EVERY or SHORT_KEYS.get(key, key).partition(".")[0] in blocks]
