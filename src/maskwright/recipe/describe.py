"""What recipes and their settings are, in words: read from the recipes and the schema, kept nowhere else."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from maskwright.recipe.load import SEGMENTER, SHORT_KEYS, build_recipe, file_fields, recipe_file, recipe_names
from maskwright.settings import Recipe

# What a recipe reads only where something is learned from tags.
FROM_TAGS = ("networks", "classifier", "seeds", "refine", "pseudo_masks")

# Headings of the groups that a recipe's data decide, in order; published sets are called by their layout.
OWN, DEMO = "Your own photographs", "No data needed: the built-in scenes"
SETS = {
    "voc": "PASCAL VOC 2012",
    "coco": "COCO 2014",
    "cityscapes": "Cityscapes",
    "ade20k": "ADE20K",
    "pascal_context": "PASCAL Context",
    "nyu_depth": "NYU-Depth-v2",
}
BOUNDS = {"gt": "> {}", "ge": ">= {}", "lt": "< {}", "le": "<= {}"}


@dataclass(frozen=True)
class Setting:
    """One setting of a recipe.

    Args:
        key: dotted, as it is typed.
        kind: the values that it takes, in words.
        default: as it is typed.
        value: the recipe's, as it is typed.
        meaning: in words, or nothing where the key says it.
    """

    key: str
    kind: str
    default: str
    value: str
    meaning: str


def settings_of(recipe: Recipe, *, every: bool = False) -> list[Setting]:
    """The settings of a recipe, in the schema's order.

    Args:
        recipe: gives the values.
        every: also those of networks and refinements that it does not use.
    """
    unused = set() if every else {*recipe.unused_blocks(), *(FROM_TAGS if recipe.supervision == "masks" else ())}
    return list(_settings(type(recipe).model_validate({}), recipe, "", unused))


def _settings(default: BaseModel, value: BaseModel, path: str, unused: set[str]) -> Iterator[Setting]:
    for name, field in type(default).model_fields.items():
        if name in unused:
            continue
        key, plain, now = f"{path}{name}", getattr(default, name), getattr(value, name)
        if isinstance(plain, BaseModel):
            yield from _settings(plain, now, f"{key}.", set())
            continue
        yield Setting(key, _kind(field), typed(plain), typed(now), field.description or "")


def typed(value: Any) -> str:
    """A value as it is typed after `key=`."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {typed(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(typed, value)) + "]"
    return str(value.value if isinstance(value, Enum) else value)


def _kind(field: FieldInfo) -> str:
    bounds = [
        words.format(getattr(limit, name))
        for limit in field.metadata
        for name, words in BOUNDS.items()
        if hasattr(limit, name)
    ]
    bounded = {kind: f"{kind} {', '.join(bounds)}".rstrip() for kind in ("number", "integer")}
    return " | ".join(bounded.get(part, part) for part in _words(field.annotation).split(" | "))


def _words(annotation: Any) -> str:
    """The values that an annotation allows."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _words(inner[0])
    if origin in (typing.Union, types.UnionType):
        return " | ".join(dict.fromkeys(map(_words, inner)))
    if origin is typing.Literal:
        return " | ".join(map(str, inner))
    if origin in (list, tuple):
        many = origin is list or inner[-1] is Ellipsis
        return "[" + (f"{_words(inner[0])}, ..." if many else ", ".join(map(_words, inner))) + "]"
    if origin is dict:
        return f"{{{_words(inner[0])}: {_words(inner[1])}, ...}}"
    words: dict[Any, str] = {
        str: "text",
        int: "integer",
        float: "number",
        bool: "true | false",
        type(None): "none",
        Any: "value",
    }
    return words.get(annotation, str(annotation))


def known_keys() -> list[str]:
    """Every key that can be typed, short ones first."""
    return [*SHORT_KEYS, SEGMENTER, *(setting.key for setting in settings_of(build_recipe({}), every=True))]


def quick_keys(name: str | None = None) -> list[str]:
    """The keys that all recipes have, and those that one recipe's files say; found without PyTorch, for a shell.

    Raises:
        RecipeError: no such recipe, or its file cannot be read.
    """
    said = [key for fields in _files(name) for key in _dotted(fields)] if name else []
    everywhere = [setting.key for setting in settings_of(Recipe(), every=True)]
    return list(dict.fromkeys([*SHORT_KEYS, SEGMENTER, *everywhere, *said]))


def _files(name: str) -> list[dict[str, Any]]:
    """What a recipe's files say: its own first, then that which it extends, and so on."""
    found: dict[str, dict[str, Any]] = {}
    while name and name not in found:
        found[name] = file_fields(recipe_file(name))
        name = found[name].pop("extends", "")
    return list(found.values())


def _dotted(fields: dict[str, Any], path: str = "") -> Iterator[str]:
    for key, value in fields.items():
        if isinstance(value, dict):
            yield from _dotted(value, f"{path}{key}.")
        else:
            yield f"{path}{key}"


def recipe_schema(recipe: Recipe) -> dict[str, Any]:
    """JSON schema of a recipe file, for editors that complete and check YAML."""
    schema = type(recipe).model_json_schema()
    name = {"type": "string", "description": "a recipe's name or a YAML file"}
    schema["properties"] |= {
        "extends": {**name, "description": f"{name['description']}, which gives all that is not said here"},
        "segmenter": {**name, "description": f"{name['description']}, whose model, loss and training are taken"},
        "data": {"anyOf": [schema["properties"]["data"], {"type": "string", "description": "data.root alone"}]},
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def recipe_groups(words: Sequence[str] = ()) -> dict[str, list[tuple[str, str]]]:
    """Name and description of the recipes that come with the package, by what data they are for.

    A recipe that names no data is for one's own; one that names a layout is for that published set.

    Args:
        words: only recipes in whose name, description or group all of them occur.
    """
    found: dict[str, list[tuple[str, str]]] = {title: [] for title in (OWN, DEMO, *SETS.values())}
    for name in recipe_names():
        data = [fields.get("data", {}) for fields in _files(name)]
        layout = next((one["layout"] for one in data if "layout" in one), None)
        title = SETS.get(layout, layout) if layout else DEMO if any("root" in one for one in data) else OWN
        about = recipe_file(name).read_text(encoding="utf-8").partition("\n")[0].lstrip("# ").partition(": `")[0]
        if all(word.lower() in f"{name} {about} {title}".lower() for word in words):
            found.setdefault(title, []).append((name, about))
    return {title: rows for title, rows in found.items() if rows}
