"""Recipes by name or file: unknown keys refused, `key=value` overrides, recipes that rest on others."""

from __future__ import annotations

import copy
import reprlib
import sys
from collections.abc import Mapping
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from maskwright.errors import RecipeError, unknown_name
from maskwright.recipe.short_keys import SHORT_KEYS, spelled_out
from maskwright.recipe.types import in_order, keys_at, recipe_type
from maskwright.settings import Recipe
from maskwright.settings.old_names import new_name, with_new_names

RECIPE_FOLDER = Path(__file__).parent / "presets"

YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same, six times as fast
MOST_PROBLEMS = 8  # of a recipe, that one message names
SHORT = reprlib.Repr()  # values in messages are cut: a small YAML file can hold gigabytes of aliases
SHORT.maxlevel, SHORT.maxlist, SHORT.maxdict, SHORT.maxstring, SHORT.maxother = 2, 6, 6, 80, 80

# What a file may say beside a recipe's own keys, and what the second takes from the recipe that it names.
SEGMENTER = "segmenter"
FILE_KEYS = ("extends", SEGMENTER)
SEGMENTER_BLOCKS = ("model", "loss", "train", "inference")


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in RECIPE_FOLDER.glob("*.yaml"))


def recipe_file(name: str) -> Path:
    """The file behind a recipe's name, or behind a path to a YAML file.

    Raises:
        RecipeError: neither a known recipe nor an existing file.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise RecipeError(f"recipe file {name} does not exist")
        return path
    path = RECIPE_FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise RecipeError(unknown_name("recipe", name, recipe_names()))
    return path


def recipe_text(name: str) -> str:
    """A recipe's file as text; one that rests on others is written out, below its own comments at the top.

    Raises:
        RecipeError: as `load_recipe`, but for keys and values, which are not checked.
    """
    path = recipe_file(name)
    text = path.read_text(encoding="utf-8")
    if not set(FILE_KEYS) & set(file_fields(path)):
        return text
    head = "".join(takewhile(lambda line: line.startswith("#"), text.splitlines(keepends=True)))
    fields = {"name": path.stem, **recipe_fields(path)}
    written = {key: fields[key] for key in in_order(fields)}
    return head + yaml.safe_dump(written, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None)


@cache
def _tell(old: str, new: str) -> None:
    """Say once that a setting has another name now."""
    print(f"{old} is now called {new}; the old name still works", file=sys.stderr)


def load_recipe(name: str, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """A recipe by name or file, with overrides such as `data=photos/` or `train.lr=0.02` applied.

    `segmenter=RECIPE` takes the model, its loss, training and inference of another recipe; other overrides win over it.

    The recipe that a run folder holds resumes in that folder, wherever it was moved to.

    Raises:
        RecipeError: unknown recipe, a file that is not YAML, an unknown key (the message names the nearest), or a value
            of the wrong type.
    """
    from maskwright.runs.folder import RunFolder  # with PyTorch, which lists of recipes do without

    path = recipe_file(name)
    fields = recipe_fields(path)
    fields.setdefault("name", path.stem)
    run = RunFolder(path.parent)
    if path == run.recipe and run.facts.is_file():
        fields["out"] = str(run)
    keys = [override.partition("=")[0].strip() for override in overrides]
    for key, override in zip(keys, overrides, strict=True):
        if key == SEGMENTER and "=" in override:
            fields = with_segmenter(fields, recipe_fields(recipe_file(override.partition("=")[2].strip())))
            fields["expected"] = {name: score for name, score in fields.get("expected", {}).items() if name != "miou"}
    overrides = [override for key, override in zip(keys, overrides, strict=True) if key != SEGMENTER]
    known = copy.deepcopy(fields)
    for override in overrides:
        apply_override(known, override)  # all of them say what kind of recipe it is, before any is understood
    typed = {}
    for override, said in spelled_out(known, overrides):
        apply_override(fields, override)
        typed[new_name(override.partition("=")[0])] = said.partition("=")[0].strip()
    recipe = build_recipe(fields, source=str(path), typed=typed)
    check_weights(recipe, typed)
    return recipe


def recipe_fields(path: Path, extended_by: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The nested fields of a recipe file, with those of the recipes that it rests on.

    `extends: RECIPE` takes everything that the file itself does not say, `segmenter: RECIPE` the model, its loss,
    training and inference. Blocks of settings are merged; all else (lists, `options`, free keys) is replaced whole.

    Args:
        path: of the file; YAML files that it names are looked for beside it.
        extended_by: files on the way to this one.

    Raises:
        RecipeError: not YAML, unknown recipes, or recipes that rest on each other.
    """
    if path in extended_by:
        raise RecipeError("recipes extend each other in a circle: " + " -> ".join(str(p) for p in (*extended_by, path)))
    fields = file_fields(path)

    def other(key: str) -> dict[str, Any]:
        name = fields.pop(key, None)
        if name is None:
            return {}
        if not isinstance(name, str):
            raise RecipeError(f"{path}: {key} must be a recipe's name or a YAML file, found {name!r}")
        beside = path.parent / name
        try:
            found = beside if beside.suffix in (".yaml", ".yml") and beside.is_file() else recipe_file(name)
        except RecipeError as error:
            raise RecipeError(f"{path}: {key}: {error}") from None
        return recipe_fields(found, (*extended_by, path))

    base = with_segmenter(other("extends"), other(SEGMENTER))
    base.pop("name", None)
    return _merged(base, fields)


def with_segmenter(fields: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a recipe with the model, loss, training and inference of another one, where that says any."""
    taken = {key: other[key] for key in SEGMENTER_BLOCKS if key in other}
    kept = {key: value for key, value in fields.items() if not taken or key not in SEGMENTER_BLOCKS}
    return {**kept, **taken}


def file_fields(path: Path) -> dict[str, Any]:
    """What a recipe file itself says.

    Raises:
        RecipeError: not YAML, or no keys and values.
    """
    try:
        fields = yaml.load(path.read_text(encoding="utf-8"), YAML_LOADER) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(fields, dict):
        raise RecipeError(f"{path} must hold keys and values, found {type(fields).__name__}")
    if isinstance(fields.get("data"), str):
        fields["data"] = {"root": fields["data"]}
    return with_new_names(fields) if path.parent == RECIPE_FOLDER else with_new_names(fields, _tell)


def _merged(base: dict[str, Any], over: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Fields of `base` with those of `over` in their place; only blocks of settings are merged."""
    result = dict(base)
    for key, value in over.items():
        where = f"{path}.{key}".lstrip(".")
        both = isinstance(value, dict) and isinstance(base.get(key), dict) and keys_at(where)
        result[key] = _merged(base[key], value, where) if both else value
    return result


def check_weights(recipe: Recipe, typed: Mapping[str, str]) -> None:
    """Refuse weights that are typed once for networks whose backbones differ: they fit one of them at most.

    Raises:
        RecipeError: the backbones differ, and `pretrained` is a file or a tag.
    """
    given = [key.rpartition(".")[0] for key, said in typed.items() if said == "pretrained"]
    backbones = {f"{word}.pretrained": getattr(recipe, word).backbone for word in given}
    value = getattr(recipe, given[0]).pretrained if given else None
    if isinstance(value, str) and value != "classifier" and len(set(backbones.values())) > 1:
        raise RecipeError(
            f"pretrained={value} cannot fit backbones that differ; say which is meant: "
            + ", ".join(f"{key}={value} ({backbone})" for key, backbone in backbones.items())
        )


def build_recipe(fields: dict[str, Any], source: str = "recipe", typed: Mapping[str, str] | None = None) -> Recipe:
    """A `Recipe` from nested fields.

    Args:
        fields: nested, as in a recipe file.
        source: where they come from, for messages.
        typed: dotted settings that were typed, each as it was spelled; messages name these without the source.

    Raises:
        RecipeError: an unknown key or a value of the wrong type, each named with what was expected.
    """
    from maskwright.weak.methods import check_methods  # not at the top: it takes PyTorch

    try:
        recipe = recipe_type().model_validate(with_new_names(fields))
    except ValidationError as error:
        lines = [_said(problem, source, typed or {}) for problem in error.errors()]
        more = f"; and {len(lines) - MOST_PROBLEMS} more" if len(lines) > MOST_PROBLEMS else ""
        raise RecipeError("; ".join(dict.fromkeys(lines[:MOST_PROBLEMS])) + more) from None
    check_methods(recipe)
    return recipe


def _said(problem: Any, source: str, typed: Mapping[str, str]) -> str:
    """What pydantic found, in words: a typed setting as it was typed, others with the file that they are in."""
    where = ".".join(str(part) for part in problem["loc"] if isinstance(part, str | int))
    said = next((said for key, said in typed.items() if where == key or where.startswith(f"{key}.")), None)
    if problem["type"] == "extra_forbidden":
        parent, _, key = where.rpartition(".")
        keys = keys_at(parent) if parent else [*keys_at(""), *FILE_KEYS]
        return f"{source}: " + unknown_name("key", key, keys) + (f" (in {parent})" if parent else "")
    message = problem["msg"].removeprefix("Value error, ")
    if not where:
        return message if typed else f"{source}: {message}"
    message = f"{message}, found {SHORT.repr(problem['input'])}"
    if said is None:
        return f"{source}: {where}: {message}"
    return f"{said if said in SHORT_KEYS else where}: {message}"


def apply_override(fields: dict[str, Any], override: str) -> None:
    """Set one `key=value` in nested fields; the value is read as YAML, `none` stands for nothing.

    Raises:
        RecipeError: no `=`, or a key that no recipe has.
    """
    key, separator, text = override.partition("=")
    if not separator:
        raise RecipeError(f"expected key=value, found {override!r}")
    typed = key.strip()
    key = SHORT_KEYS.get(typed) or new_name(typed)
    if key not in (typed, SHORT_KEYS.get(typed)):
        _tell(typed, key)
    try:
        value = None if text.strip().lower() in ("none", "null") else yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"the value of {key} cannot be read: {error}") from error
    *parents, last = key.split(".")
    walked = ""
    inner = fields
    for parent in parents:
        known = keys_at(walked)
        if known and parent not in known:
            raise RecipeError(unknown_name("key", parent, known))
        child = inner.get(parent)
        inner[parent] = inner = dict(child) if isinstance(child, dict) else {}
        walked = f"{walked}.{parent}" if walked else parent
    known = keys_at(walked)
    if known and last not in known:
        extra = [] if walked else list(SHORT_KEYS)
        raise RecipeError(unknown_name("key", last, [*known, *extra]) + (f" (in {walked})" if walked else ""))
    if isinstance(inner.get(last), dict) and not isinstance(value, dict):
        raise RecipeError(f"{key} holds several settings ({', '.join(keys_at(key))}); set one of them")
    inner[last] = value


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML, without the settings of networks and refinements that it does not name."""
    fields = recipe.model_dump(mode="json", exclude=set(recipe.unused_blocks()))
    written = {key: fields[key] for key in in_order(fields)}
    return yaml.safe_dump(written, sort_keys=False, allow_unicode=True, width=100)
