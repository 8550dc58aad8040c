"""`maskwright label photos/ tags.csv`: a folder in the place of a recipe."""

from __future__ import annotations

import json
from pathlib import Path

from maskwright.cli.words import QUICKEST, VERBS, Given
from maskwright.errors import DataError, RecipeError, unknown_name


def recipe_and_settings(name: str, given: Given) -> tuple[str, list[str]]:
    """The recipe that a verb works with, and its settings, where the first name may be a folder of images.

    What names give stands before the settings that were typed, which win.

    Args:
        name: of the verb.
        given: a recipe; or a folder or a built-in set, and perhaps its tags.

    Raises:
        RecipeError: the first name is neither, or names and settings that do not go together.
    """
    from maskwright.data.names import spelled
    from maskwright.data.readers import BUILT_IN
    from maskwright.data.shards.stores import is_remote
    from maskwright.recipe.load import recipe_names

    first, *rest = given.names
    chosen = given.options.get("recipe")
    usage = f"expected: maskwright {name} {VERBS[name].usage}"
    if first in recipe_names() or first.endswith((".yaml", ".yml")):
        if rest:
            raise RecipeError(f"{rest[0]!r} is one name too many: {first} is a recipe, which takes data= and tags=")
        if chosen is not None:
            raise RecipeError(f"two recipes are given: {first} and recipe={chosen}")
        return first, given.settings
    root = Path(first) if is_remote(first) else spelled(Path(first))
    if not is_remote(first) and not root.is_dir() and first not in BUILT_IN:
        if root.exists():
            raise RecipeError(f"{first} is a file; a folder of images comes first; {usage}")
        beside = [f"{path}/" for path in root.parent.iterdir() if path.is_dir()] if root.parent.is_dir() else []
        raise RecipeError(
            f"{first} is neither a folder nor a recipe: "
            + unknown_name("folder or recipe", first, [*recipe_names(), *BUILT_IN, *beside])
        )
    for key, typed in (("data", [first]), ("tags", rest)):
        twice = [
            word for word in given.settings if word.startswith((f"{key}=", f"data.{'root' if key == 'data' else key}="))
        ]
        if typed and twice:
            raise RecipeError(f"{twice[0]!r} is given as {typed[0]!r} already; {usage}")
    out = f"runs/{root.resolve().name}" + (f"-{Path(chosen).stem}" if chosen else "")
    fields = {"data": first, **({"tags": rest[0]} if rest else {}), "out": out}
    # Written as YAML, in which a folder called 2024 would be a number.
    words = [f"{key}={json.dumps(text, ensure_ascii=False)}" for key, text in fields.items()]
    return chosen or QUICKEST, [*words, *given.settings]


def all_of_a_folder(recipe: str, settings: list[str]) -> list[str]:
    """The settings that label every image, where no list and no folder makes splits and no mask could judge the rest.

    Args:
        recipe: name or file.
        settings: of it; where they choose a split, nothing is added.
    """
    from maskwright.data import open_dataset
    from maskwright.data.readers.splits import BY_HASH
    from maskwright.recipe.load import load_recipe

    data = load_recipe(recipe, settings).data
    if (data.train, data.val) != ("train", "val") or not Path(data.root).is_dir():
        return []
    try:
        sources = (open_dataset(data, split).source for split in (data.train, data.val))
        judged = any(source.get("mask_count", 1) or source.get("split_source") != BY_HASH for source in sources)
    except DataError:  # which the run says
        return []
    return [] if judged else ["data.train=all", "data.val=all"]
