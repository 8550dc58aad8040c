"""The type of a recipe: the settings that all have, and a block for each network and refinement that there is."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Literal

from pydantic import BaseModel, Field, create_model

from maskwright.settings import Recipe, Settings

Blocks = tuple[tuple[str, type[Settings]], ...]


def recipe_type() -> type[Recipe]:
    """A recipe's type with the methods of this moment: those of `NETWORKS` and `REFINEMENTS`, plug-ins included."""
    from maskwright.weak.networks import NETWORKS  # not at the top: names of recipes are listed without PyTorch
    from maskwright.weak.refine import REFINEMENTS

    return _recipe_type(
        tuple((word, network.settings) for word, network in NETWORKS.items()),
        tuple((word, refinement.settings) for word, refinement in REFINEMENTS.items()),
    )


@lru_cache
def _recipe_type(networks: Blocks, refinements: Blocks) -> type[Recipe]:
    blocks = [block for block in (*networks, *refinements) if block[0] not in Recipe.model_fields]
    places = {word: "networks" if (word, kind) in networks else "refine" for word, kind in blocks}
    made: dict[str, Any] = {word: (kind, Field(default_factory=kind)) for word, kind in blocks}
    for name, known in (("networks", networks), ("refine", refinements)):
        words = Literal[tuple(word for word, _ in known)]  # type: ignore[valid-type]
        made[name] = (list[words], Recipe.model_fields[name])  # type: ignore[valid-type]
    full: type[Recipe] = create_model("Recipe", __base__=Recipe, __module__=__name__, **made)
    full.method_blocks = places
    full.__doc__ = Recipe.__doc__
    full.__reduce__ = _reduced  # type: ignore[assignment]
    return full


def _reduced(recipe: Recipe) -> tuple[Any, ...]:
    """What another process is sent, which has another type of the same name."""
    return _from_fields, (recipe.model_dump(mode="json", exclude=set(recipe.unused_blocks())),)


def _from_fields(fields: dict[str, Any]) -> Recipe:
    """A recipe that another process has sent, of the type that is made here."""
    return recipe_type().model_validate(fields)


def in_order(fields: Iterable[str]) -> list[str]:
    """Names of fields as a person reads a recipe: each method's block after the setting that names it."""
    full = recipe_type()
    ordered: list[str] = []
    for name in Recipe.model_fields:
        ordered.append(name)
        follows = {"classifier": "networks", "refine": "refine"}.get(name)
        ordered += [word for word, place in full.method_blocks.items() if place == follows]
    given = list(fields)
    return [name for name in dict.fromkeys([*ordered, *given]) if name in given]


def keys_at(path: str) -> list[str]:
    """Field names of the settings at a dotted path; empty where anything goes (`options`)."""
    model: Any = recipe_type()
    for part in filter(None, path.split(".")):
        if not _has_fields(model) or part not in model.model_fields:
            return []
        model = model.model_fields[part].annotation
        if typing.get_origin(model) in (typing.Union, types.UnionType):
            model = next(filter(_has_fields, typing.get_args(model)), None)
    return list(model.model_fields) if _has_fields(model) else []


def _has_fields(kind: Any) -> bool:
    """Whether a type is that of settings; to Python 3.10 `list[str]` is a class, too, which `issubclass` refuses."""
    return isinstance(kind, type) and typing.get_origin(kind) is None and issubclass(kind, BaseModel)
