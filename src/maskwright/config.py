"""A recipe: every setting a run has, typed, with unknown keys refused and `key=value` overrides."""

from __future__ import annotations

import types
import typing
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from maskwright.errors import RecipeError, unknown_name
from maskwright.schema.base import Settings
from maskwright.schema.training import (
    AugmentSettings,
    DataSettings,
    InferenceSettings,
    LossSettings,
    ModelSettings,
    TrainSettings,
)
from maskwright.schema.weak import (
    ClassifierSettings,
    CRFSettings,
    EDAMSettings,
    EPSSettings,
    IRNSettings,
    L2GSettings,
    MaskSettings,
    RecamSettings,
    SaliencySettings,
    SEAMSettings,
    SeedSettings,
)

__all__ = [
    "AugmentSettings",
    "CRFSettings",
    "ClassifierSettings",
    "DataSettings",
    "EDAMSettings",
    "EPSSettings",
    "IRNSettings",
    "InferenceSettings",
    "L2GSettings",
    "LossSettings",
    "MaskSettings",
    "ModelSettings",
    "RecamSettings",
    "Recipe",
    "SEAMSettings",
    "SaliencySettings",
    "SeedSettings",
    "Settings",
    "TrainSettings",
    "apply_override",
    "build_recipe",
    "dump_recipe",
    "load_recipe",
    "recipe_fields",
    "recipe_file",
    "recipe_names",
    "recipe_text",
]

Network = Literal["classifier", "recam", "l2g", "seam", "eps", "edam"]
Refinement = Literal["irn", "crf", "saliency"]

RECIPE_FOLDER = Path(__file__).parent / "recipes"

# What a file may say beside a recipe's own keys, and what the second takes from the recipe that it names.
FILE_KEYS = ("extends", "segmenter")
SEGMENTER_BLOCKS = ("model", "loss", "train", "inference")


class Recipe(Settings):
    """One run, from data to report."""

    name: str = "custom"
    supervision: Literal["tags", "masks", "mixed"] = Field(
        "masks", description="tags: masks only judge; masks: train on masks; mixed: real masks win where they exist"
    )
    mixed_list: str | None = Field(None, description="file with the names whose real masks may be trained on (mixed)")
    out: str = Field("", description="run folder; default runs/<recipe name>")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    seed: int = 0
    data: DataSettings = DataSettings()
    networks: list[Network] = Field(
        ["classifier"], description="networks trained on tags, each from the one before; maps come from the last"
    )
    classifier: ClassifierSettings = Field(ClassifierSettings(), description="also the trunk of all other networks")
    recam: RecamSettings = Field(default_factory=RecamSettings)
    l2g: L2GSettings = Field(default_factory=L2GSettings)
    seam: SEAMSettings = Field(default_factory=SEAMSettings)
    eps: EPSSettings = Field(default_factory=EPSSettings)
    edam: EDAMSettings = Field(default_factory=EDAMSettings)
    seeds: SeedSettings = SeedSettings()
    refine: list[Refinement] = Field([], description="what the maps go through, in this order, before masks are made")
    irn: IRNSettings = Field(default_factory=IRNSettings)
    crf: CRFSettings = Field(default_factory=CRFSettings)
    saliency: SaliencySettings = Field(default_factory=SaliencySettings)
    pseudo_masks: MaskSettings = MaskSettings()
    model: ModelSettings = ModelSettings()
    loss: LossSettings = LossSettings()
    train: TrainSettings = TrainSettings()
    inference: InferenceSettings = InferenceSettings()
    oracle: bool = Field(False, description="also train the same model on true masks, as the ceiling to compare with")
    source: str = Field("", description="paper, table and row that the recipe follows, and how sure its numbers are")
    expected: dict[str, float] = Field(
        default_factory=dict,
        description="published mIoU, 0 to 1: `miou` of the model, by a stage's name (seeds, irn, crf) of its maps; "
        "other names are only shown; see `maskwright.expected`",
    )
    tolerance: float = Field(0.01, ge=0, le=1, description="a score so far below what is expected still agrees with it")
    judged_on: str | None = Field(
        None, description="split whose images the maps' expected scores are for; none: all that get maps"
    )
    notes: str = ""

    @model_validator(mode="before")
    @classmethod
    def _short_data(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("data"), str):
            values = {**values, "data": {"root": values["data"]}}
        return values

    @model_validator(mode="after")
    def _words_fit(self) -> Recipe:
        if not self.networks:
            raise ValueError("networks is empty; maps come from at least one, such as networks=[classifier]")
        if len(set(self.networks)) < len(self.networks) or "classifier" in self.networks[1:]:
            raise ValueError(f"networks: each once, classifier first; found {self.networks}")
        if self.networks[0] == "recam":
            raise ValueError("networks: recam goes on from a trained network; write networks=[classifier, recam]")
        if self.seeds.method == "recam" and "recam" not in self.networks:
            raise ValueError("seeds.method=recam needs a second head; write networks=[classifier, recam]")
        for word in self.unused_blocks():
            if word in self.model_fields_set:
                place = "networks" if word in get_args(Network) else "refine"
                raise ValueError(
                    f"settings of {word} are given, but {place}={getattr(self, place)} does not have it; add {word} to "
                    f"{place}"
                )
        return self

    def unused_blocks(self) -> list[str]:
        """Settings blocks of networks and refinements that this recipe does not name."""
        words = [word for word in (*get_args(Network), *get_args(Refinement)) if word != "classifier"]
        return [word for word in words if word not in self.networks and word not in self.refine]


# What a person types most, spelled short: `data=photos/ tags=tags.csv epochs=3`.
SHORT_KEYS = {
    "data": "data.root",
    "layout": "data.layout",
    "masks": "data.masks",
    "classes": "data.classes",
    "tags": "data.tags",
    "saliency": "data.saliency",
    "background": "data.background",
    "split": "data.val",
    "epochs": "train.epochs",
    "steps": "train.steps",
    "batch_size": "train.batch_size",
    "lr": "train.lr",
    "workers": "train.workers",
    "backbone": "model.backbone",
    "pretrained": "model.pretrained",
}


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
    if not set(FILE_KEYS) & set(_file_fields(path)):
        return text
    head = "".join(takewhile(lambda line: line.startswith("#"), text.splitlines(keepends=True)))
    fields = {"name": path.stem, **recipe_fields(path)}
    written = {key: fields[key] for key in dict.fromkeys([*Recipe.model_fields, *fields]) if key in fields}
    return head + yaml.safe_dump(written, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None)


def load_recipe(name: str, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """A recipe by name or file, with overrides such as `data=photos/` or `train.lr=0.02` applied.

    Raises:
        RecipeError: unknown recipe, a file that is not YAML, an unknown key (the message names the nearest), or a value
            of the wrong type.
    """
    path = recipe_file(name)
    fields = recipe_fields(path)
    fields.setdefault("name", path.stem)
    for override in overrides:
        apply_override(fields, override)
    return build_recipe(fields, source=str(path))


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
    fields = _file_fields(path)

    def other(key: str) -> dict[str, Any]:
        name = fields.pop(key, None)
        if name is None:
            return {}
        if not isinstance(name, str):
            raise RecipeError(f"{path}: {key} must be a recipe's name or a YAML file, found {name!r}")
        beside = path.parent / name
        found = beside if beside.suffix in (".yaml", ".yml") and beside.is_file() else recipe_file(name)
        return recipe_fields(found, (*extended_by, path))

    base, segmenter = other("extends"), other("segmenter")
    segmenter = {key: segmenter[key] for key in SEGMENTER_BLOCKS if key in segmenter}
    if segmenter:
        base = {key: value for key, value in base.items() if key not in SEGMENTER_BLOCKS}
    base.pop("name", None)
    return _merged(_merged(base, segmenter), fields)


def _file_fields(path: Path) -> dict[str, Any]:
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(fields, dict):
        raise RecipeError(f"{path} must hold keys and values, found {type(fields).__name__}")
    if isinstance(fields.get("data"), str):
        fields["data"] = {"root": fields["data"]}
    return fields


def _merged(base: dict[str, Any], over: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Fields of `base` with those of `over` in their place; only blocks of settings are merged."""
    result = dict(base)
    for key, value in over.items():
        where = f"{path}.{key}".lstrip(".")
        both = isinstance(value, dict) and isinstance(base.get(key), dict) and _keys_at(where)
        result[key] = _merged(base[key], value, where) if both else value
    return result


def build_recipe(fields: dict[str, Any], source: str = "recipe") -> Recipe:
    """A `Recipe` from nested fields.

    Raises:
        RecipeError: an unknown key or a value of the wrong type, each named with what was expected.
    """
    try:
        return Recipe.model_validate(fields)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            where = ".".join(str(part) for part in problem["loc"] if isinstance(part, str | int))
            if problem["type"] == "extra_forbidden":
                parent, _, key = where.rpartition(".")
                keys = _keys_at(parent) if parent else [*_keys_at(""), *FILE_KEYS]
                lines.append(unknown_name("key", key, keys) + (f" (in {parent})" if parent else ""))
            else:
                said = problem["msg"].removeprefix("Value error, ")
                lines.append(f"{where}: {said}, found {problem['input']!r}" if where else said)
        raise RecipeError(f"{source}: " + "; ".join(lines)) from None


def apply_override(fields: dict[str, Any], override: str) -> None:
    """Set one `key=value` in nested fields; the value is read as YAML, `none` stands for nothing.

    Raises:
        RecipeError: no `=`, or a key that no recipe has.
    """
    key, separator, text = override.partition("=")
    if not separator:
        raise RecipeError(f"expected key=value, found {override!r}")
    key = SHORT_KEYS.get(key.strip(), key.strip())
    try:
        value = None if text.strip().lower() in ("none", "null") else yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"the value of {key} cannot be read: {error}") from error
    *parents, last = key.split(".")
    walked = ""
    inner = fields
    for parent in parents:
        known = _keys_at(walked)
        if known and parent not in known:
            raise RecipeError(unknown_name("key", parent, known))
        child = inner.get(parent)
        inner[parent] = inner = dict(child) if isinstance(child, dict) else {}
        walked = f"{walked}.{parent}" if walked else parent
    known = _keys_at(walked)
    if known and last not in known:
        extra = [] if walked else list(SHORT_KEYS)
        raise RecipeError(unknown_name("key", last, [*known, *extra]) + (f" (in {walked})" if walked else ""))
    if isinstance(inner.get(last), dict) and not isinstance(value, dict):
        raise RecipeError(f"{key} holds several settings ({', '.join(_keys_at(key))}); set one of them")
    inner[last] = value


def _keys_at(path: str) -> list[str]:
    """Field names of the settings at a dotted path; empty where anything goes (`options`)."""
    model: Any = Recipe
    for part in filter(None, path.split(".")):
        if not (isinstance(model, type) and issubclass(model, BaseModel)) or part not in model.model_fields:
            return []
        model = model.model_fields[part].annotation
        if typing.get_origin(model) in (typing.Union, types.UnionType):
            model = next((a for a in typing.get_args(model) if isinstance(a, type) and issubclass(a, BaseModel)), None)
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML, without the settings of networks and refinements that it does not name."""
    return yaml.safe_dump(
        recipe.model_dump(mode="json", exclude=set(recipe.unused_blocks())),
        sort_keys=False,
        allow_unicode=True,
        width=100,
    )
