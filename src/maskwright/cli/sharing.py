"""Options of a verb that say how labelling is shared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maskwright.cli.words import SHARING
from maskwright.errors import RecipeError


def sharing_of(options: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was said of sharing, by the names of `maskwright.runs.sharing.Sharing`; None where nothing was.

    Raises:
        RecipeError: options without the engine that they are of, or values that cannot be.
    """
    said = {key: options[key] for key in SHARING if options[key] != SHARING[key].default}
    if not said:
        return None
    engine = said.setdefault("engine", "local") if set(said) <= {"skip_failed"} else said.get("engine")
    if engine is None:
        raise RecipeError(f"{next(iter(said))}= says how labelling is shared; give engine=local, torchrun, task or ray")
    for key, least in (("part", 1), ("sample", 1), ("workers", 0)):
        if said.get(key, least) < least:
            raise RecipeError(f"{key} must be at least {least}, found {said[key]}")
    for key, own in (("task", "task"), ("address", "ray")):
        if key in said and engine != own:
            raise RecipeError(f"{key}={said[key]} goes with engine={own}, found engine={engine}")
    if (kept := said.pop("keep", None)) is not None:
        if kept != "maps":
            raise RecipeError(f"keep must be maps, or left out, found {kept!r}")
        said["keep_maps"] = True
    return said
