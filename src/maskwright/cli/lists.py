"""Recipes and their settings as lines of text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from maskwright.errors import RecipeError
from maskwright.recipe.describe import recipe_groups, recipe_schema, settings_of
from maskwright.recipe.load import SHORT_KEYS
from maskwright.settings import Recipe

WIDEST_VALUE = 28


def recipe_lines(words: Sequence[str]) -> Iterator[str]:
    """Recipes in groups, one line each.

    Raises:
        RecipeError: the words leave none.
    """
    groups = recipe_groups(words)
    if not groups:
        raise RecipeError(f"no recipe has {' and '.join(map(repr, words))} in its line; maskwright recipes ls has all")
    width = max(len(name) for rows in groups.values() for name, _ in rows)
    for number, (title, rows) in enumerate(groups.items()):
        yield ("\n" if number else "") + title
        for name, about in rows:
            yield f"  {name:<{width}}  {about}"


def settings_lines(recipe: Recipe, word: str = "", *, every: bool = False) -> Iterator[str]:
    """Settings of a recipe, one line each: key, value, what it may be, meaning.

    Args:
        recipe: gives the values.
        word: only settings with this in key or meaning.
        every: also those of networks and refinements that the recipe does not use.

    Raises:
        RecipeError: the word leaves none.
    """
    short = {key: name for name, key in SHORT_KEYS.items()}
    rows = []
    for setting in settings_of(recipe, every=every):
        key = f"{setting.key} ({short[setting.key]})" if setting.key in short else setting.key
        if word.lower() not in f"{key} {setting.meaning}".lower():
            continue
        value = setting.value if len(setting.value) <= WIDEST_VALUE else setting.value[: WIDEST_VALUE - 3] + "..."
        default = f" (default {setting.default})" if setting.value != setting.default else ""
        rows.append((key, value, setting.kind + default, setting.meaning))
    if not rows:
        raise RecipeError(f"no setting of {recipe.name} has {word!r} in its key or meaning; all=true looks at all")
    wide = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for key, value, kind, meaning in rows:
        yield f"{key:<{wide[0]}}  {value:<{wide[1]}}  {kind}" + (f"; {meaning}" if meaning else "")


def schema_text(recipe: Recipe) -> str:
    """JSON schema of recipe files."""
    return json.dumps(recipe_schema(recipe), indent=2, ensure_ascii=False)
