"""Options of a verb that say how labelling is shared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maskwright.cli.words import SHARING
from maskwright.errors import RecipeError
from maskwright.runs.sharing import Sharing


def sharing_of(options: Mapping[str, Any]) -> Sharing | None:
    """What was said of sharing; None where nothing was, or nothing that the engine goes with.

    Raises:
        RecipeError: options without the engine that they are of, or values that cannot be.
    """
    given = {key: options[key] for key in SHARING if options[key] != SHARING[key].default}
    if not given:
        return None
    if set(given) <= {"skip_failed"}:
        given["engine"] = "local"
    if "engine" not in given:
        raise RecipeError(
            f"{next(iter(given))}= says how labelling is shared; give engine=local, torchrun, task or ray"
        )
    for key in ("part", "sample"):
        if options[key] < 1:
            raise RecipeError(f"{key} must be at least 1, found {options[key]}")
    if options["workers"] < 0:
        raise RecipeError(f"workers must be 0 or more, found {options['workers']}")
    if given.pop("keep", "maps") != "maps":
        raise RecipeError(f"keep must be maps, or left out, found {options['keep']!r}")
    if "task" in given and given["engine"] != "task":
        raise RecipeError(f"task={given['task']} goes with engine=task, found engine={given['engine']}")
    if "address" in given and given["engine"] != "ray":
        raise RecipeError(f"address={given['address']} goes with engine=ray, found engine={given['engine']}")
    return Sharing(**given, keep_maps=options["keep"] == "maps")
