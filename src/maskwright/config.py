"""The recipe schema: every setting a run has, typed, with unknown keys refused and `key=value` overrides."""

from __future__ import annotations

import types
import typing
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from maskwright.errors import RecipeError, unknown_name

RECIPE_FOLDER = Path(__file__).parent / "recipes"


def _words(annotation: Any) -> set[Any]:
    """The literal values that an annotation allows."""
    if typing.get_origin(annotation) is Literal:
        return set(typing.get_args(annotation))
    return {word for part in typing.get_args(annotation) for word in _words(part)}


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    @model_validator(mode="before")
    @classmethod
    def _none_may_be_a_word(cls, values: Any) -> Any:
        """`key=none` stands for nothing, but where `none` is one of a setting's words it is that word."""
        if not isinstance(values, dict):
            return values
        empty = [key for key, value in values.items() if value is None and key in cls.model_fields]
        return {**values, **{key: "none" for key in empty if "none" in _words(cls.model_fields[key].annotation)}}


class DataSettings(Settings):
    """Which images, masks and tags; see `maskwright.data.open_dataset`."""

    root: str = Field("scenes", description="a folder, or the name of a built-in set")
    layout: str = Field("auto", description="auto, or a reader's name: voc, folder, scenes, ...")
    train: str = Field("train", description="split that is labelled and trained on")
    val: str = Field("val", description="split that scores are measured on")
    masks: str | None = Field(None, description="mask folder, relative to root or absolute")
    classes: str | list[str] | None = Field(None, description="file with one class name per line, or the names")
    tags: str | None = Field(None, description="CSV, JSON or folder of tags; 'masks' derives them from the masks")
    saliency: str | None = Field(None, description="folder of saliency maps")
    background: str | int | None = Field("auto", description="name or value of the background class; none; auto")
    ignore_index: int = 255
    label_map: dict[int, int] | None = Field(None, description="value in the mask file -> label value")
    options: dict[str, Any] = Field(
        default_factory=dict, description="what only one reader knows, e.g. count of scenes"
    )


class AugmentSettings(Settings):
    """How training examples are varied; sizes are `[height, width]` in pixels."""

    resize: tuple[int, int] | None = Field(None, description="first resize to this size")
    long_side: tuple[int, int] | None = Field(None, description="first resize the long side to a random value in here")
    scale: tuple[float, float] = Field((1.0, 1.0), description="random scale, uniform in here")
    crop: tuple[int, int] | None = Field(None, description="random crop, padded with mean colour and ignore")
    class_uniform: float = Field(
        0.0, ge=0, le=1, description="probability of a crop around an evenly drawn class; for training on masks"
    )
    flip: float = Field(0.5, ge=0, le=1, description="probability of a left-right flip")
    color_jitter: float = Field(0.0, ge=0, le=1, description="strength of brightness, contrast, saturation changes")
    hue: float = Field(0.0, ge=0, le=0.5, description="strength of hue changes")


class TrainSettings(Settings):
    """How a network is trained. `batch_size` is the total over all processes."""

    epochs: float | None = Field(None, gt=0)
    steps: int | None = Field(None, gt=0, description="instead of epochs")
    batch_size: int = Field(16, gt=0)
    accumulate: int = Field(1, gt=0, description="optimiser step every this many batches")
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(0.01, gt=0)
    backbone_lr: float = Field(1.0, ge=0, description="factor on lr for the backbone's parameters")
    bias_lr: float = Field(1.0, ge=0, description="factor on lr for biases")
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(1e-4, ge=0)
    decay_norm_and_bias: bool = Field(True, description="weight decay also on biases and normalisation")
    schedule: Literal["poly", "onecycle", "constant"] = "poly"
    power: float = Field(0.9, ge=0)
    update_every: int = Field(1, gt=0, description="steps between changes of the poly rate; 10 in DeepLab's releases")
    warmup: int = Field(0, ge=0, description="steps of linear warm-up")
    warmup_start: float = Field(0.0, ge=0, le=1, description="factor on lr at the first warm-up step")
    clip: float | None = Field(None, gt=0, description="largest gradient norm")
    ema: float | None = Field(None, gt=0, lt=1, description="decay of the weight average that is kept as the model")
    autocast: Literal["none", "bfloat16", "float16"] = "none"
    channels_last: bool = False
    compile: bool = False
    freeze_batchnorm: bool = Field(False, description="running statistics are used and kept, as the weak methods need")
    sync_batchnorm: bool = Field(False, description="statistics over all processes; CUDA only")
    deterministic: bool = Field(False, description="refuse operations that vary between runs")
    seed: int = 0
    workers: int = Field(2, ge=0, description="loader processes per training process")
    validate_every: int = Field(0, ge=0, description="epochs between validations; 0: only at the end")
    checkpoint_seconds: float = Field(60.0, ge=0, description="least time between resume points")
    log_every: int = Field(10, gt=0, description="steps between log lines")
    augment: AugmentSettings = AugmentSettings()


class ClassifierSettings(Settings):
    """The image-tag classifier whose head gives class activation maps."""

    @model_validator(mode="after")
    def _no_masks_here(self) -> ClassifierSettings:
        if self.train.augment.class_uniform:
            raise ValueError("train.augment.class_uniform needs masks, which the classifier is trained without")
        return self

    backbone: str = "resnet50"
    pretrained: bool | str = Field(False, description="true, a timm tag, or a local file")
    output_stride: int | None = 16
    options: dict[str, Any] = Field(default_factory=dict, description="what only some backbones know")
    loss: Literal["bce", "sce", "sce_single"] = Field(
        "bce", description="the last two are ablations of ReCAM's study; see `maskwright.weak.recam.first_head_loss`"
    )
    train: TrainSettings = TrainSettings()


# The momentum is that of the released code, which hands the weight decay over in its place.
PAPER_RECAM = {
    "epochs": 4,
    "lr": 5e-4,
    "backbone_lr": 0.1,
    "momentum": 1e-4,
    "weight_decay": 1e-4,
    "freeze_batchnorm": True,
}


class RecamSettings(Settings):
    """ReCAM's training, which goes on from the trained tag classifier; what is not said of `train` is the paper's."""

    @model_validator(mode="before")
    @classmethod
    def _paper(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("train", {}), dict):
            values = {**values, "train": {**PAPER_RECAM, **values.get("train", {})}}
        return values

    @model_validator(mode="after")
    def _no_masks_here(self) -> RecamSettings:
        if self.train.augment.class_uniform:
            raise ValueError("train.augment.class_uniform needs masks, which ReCAM is trained without")
        return self

    lam: float = Field(1.0, ge=0, description="weight of the new head's loss; 1 on VOC, 0.1 on COCO in the paper")
    train: TrainSettings = Field(
        TrainSettings(), description="lr is the new head's rate, backbone_lr the factor on it for everything else"
    )


# Momentum as for ReCAM: the weight decay in its place.
PAPER_IRN: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 32,
    "lr": 0.1,
    "momentum": 1e-4,
    "weight_decay": 1e-4,
    "freeze_batchnorm": True,
    "augment": {"scale": (0.5, 1.5), "crop": (512, 512), "flip": 0.5},
}


class IRNSettings(Settings):
    """IRN's refinement of seed maps: IR labels, IRNet, random walk. Defaults are IRN's on VOC but for `pretrained`.

    What the papers' released codes set:

    |                            | IRN  | ReCAM                 | AdvCAM |
    |----------------------------|------|-----------------------|--------|
    | `foreground_threshold`     | 0.30 | 0.35                  | 0.35   |
    | `background_threshold`     | 0.05 | 0.10                  | 0.15   |
    | `cam_power`                | 1    | 1                     | 1.5    |
    | `pad_to`                   | 512  | none                  | 512    |
    | `pseudo_masks.threshold`   | 0.25 | 0.28 (VOC; COCO 0.25) | 0.25   |

    All three: `pretrained: true` (ImageNet's weights on a ResNet-50, not the classifier's), beta 10, 2^8 steps, radius
    10 in training and 5 in the walk. What is not said of `train` is the paper's; its lr is the edge branch's.
    """

    @model_validator(mode="before")
    @classmethod
    def _paper(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("train", {}), dict):
            train = {**PAPER_IRN, **values.get("train", {})}
            if isinstance(train["augment"], dict):
                train["augment"] = {**PAPER_IRN["augment"], **train["augment"]}
            values = {**values, "train": train}
        return values

    @model_validator(mode="after")
    def _thresholds_in_order(self) -> IRNSettings:
        if self.background_threshold > self.foreground_threshold:
            raise ValueError("background_threshold must not be above foreground_threshold")
        return self

    backbone: str = "resnet50"
    pretrained: bool | str = Field(
        "classifier", description="true, a timm tag, a local file, or classifier: the tag classifier's; never trained"
    )
    output_stride: int | None = 16
    options: dict[str, Any] = Field(default_factory=dict, description="what only some backbones know")
    foreground_threshold: float = Field(0.30, ge=0, le=1, description="above it a class is certain")
    background_threshold: float = Field(0.05, ge=0, le=1, description="where no class is above it, background is")
    crf: str | None = Field("irn", description="dense CRF preset that the IR labels go through, or none")
    train: TrainSettings = TrainSettings()
    displacement_lr: float = Field(10.0, gt=0, description="factor on train.lr for the displacement branch")
    train_radius: float = Field(10, gt=1, description="pairs of training are nearer than this, in positions")
    pad_to: int | None = Field(None, gt=0, description="smaller images are padded to this side; none: native size")
    cam_power: float = Field(1.0, gt=0, description="exponent of the maps before the walk")
    radius: float = Field(5, gt=1, description="neighbours of a step of the walk are nearer than this, in positions")
    beta: float = Field(10.0, gt=0, description="exponent of the affinities")
    exp_times: int = Field(8, ge=0, le=16, description="the walk has 2^exp_times steps")
    tolerance: float = Field(0.0, ge=0, lt=1, description="above 0: fewer products, see `random_walk`; 1e-7 is safe")


class SeedSettings(Settings):
    """How maps are taken from the classifier."""

    method: str = "cam"
    size: tuple[int, int] | None = Field(None, description="images are resized to this first; none: native size")
    scales: tuple[float, ...] = (1.0, 0.5, 1.5, 2.0)
    flip: bool = True
    options: dict[str, Any] = Field(default_factory=dict)


class MaskSettings(Settings):
    """How maps become pseudo-masks."""

    threshold: float | Literal["best"] = Field(0.15, description="score of the background; best: tuned on true masks")
    sweep: tuple[float, float, float] = Field((0.05, 0.6, 0.05), description="first, last, step of the sweep reported")
    unsure_below: float = Field(0.0, ge=0, le=1, description="pixels of lower confidence become ignore")


class ModelSettings(Settings):
    """The segmenter; see `maskwright.create_model`."""

    name: str = "deeplabv3plus"
    backbone: str = "resnet18"
    pretrained: bool | str = Field(
        False, description="true, a timm tag, a local file, or classifier: the recipe's own tag classifier"
    )
    output_stride: int | None = 16
    options: dict[str, Any] = Field(default_factory=dict)


class LossSettings(Settings):
    """The segmenter's loss; see `maskwright.losses`."""

    name: str = "cross_entropy"
    class_weights: Literal["none", "inverse", "sqrt_inverse"] | list[float] = Field(
        "none", description="from the frequencies of the training masks, or one number per class"
    )
    auxiliary: dict[str, float] = Field(default_factory=dict, description="weight of each auxiliary output's loss")
    resize: Literal["logits", "labels"] = Field(
        "logits", description="what is brought to the other's size: logits bilinearly, or labels by the nearest pixel"
    )
    options: dict[str, Any] = Field(default_factory=dict)


class InferenceSettings(Settings):
    """How a trained segmenter is applied."""

    size: tuple[int, int] | None = Field(None, description="images are resized to this before the network")
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    window: tuple[int, int] | None = Field(None, description="sliding window size; none: whole image")
    stride: tuple[int, int] | None = Field(None, description="sliding window step; default 2/3 of the window")
    batch_size: int = Field(8, gt=0)


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
    classifier: ClassifierSettings = ClassifierSettings()
    recam: RecamSettings | None = Field(None, description="train ReCAM's second head as well; `{}` as in the paper")
    seeds: SeedSettings = SeedSettings()
    irn: IRNSettings | None = Field(None, description="refine the seeds as IRN does; `{}` for IRN's settings")
    pseudo_masks: MaskSettings = MaskSettings()
    model: ModelSettings = ModelSettings()
    loss: LossSettings = LossSettings()
    train: TrainSettings = TrainSettings()
    inference: InferenceSettings = InferenceSettings()
    oracle: bool = Field(False, description="also train the same model on true masks, as the ceiling to compare with")
    source: str = Field("", description="paper, table and row that the recipe follows, and how sure its numbers are")
    expected: dict[str, float] = Field(
        default_factory=dict,
        description="published scores, 0 to 1; `miou` is what a run's own evaluation compares with",
    )
    notes: str = ""

    @model_validator(mode="before")
    @classmethod
    def _short_data(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("data"), str):
            values = {**values, "data": {"root": values["data"]}}
        return values


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


def load_recipe(name: str, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """A recipe by name or file, with overrides such as `data=photos/` or `train.lr=0.02` applied.

    Raises:
        RecipeError: unknown recipe, a file that is not YAML, an unknown key (the message names the nearest), or a value
            of the wrong type.
    """
    path = recipe_file(name)
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(fields, dict):
        raise RecipeError(f"{path} must hold keys and values, found {type(fields).__name__}")
    if isinstance(fields.get("data"), str):
        fields["data"] = {"root": fields["data"]}
    fields.setdefault("name", path.stem)
    for override in overrides:
        apply_override(fields, override)
    return build_recipe(fields, source=str(path))


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
                keys = _keys_at(parent)
                lines.append(unknown_name("key", key, keys) + (f" (in {parent})" if parent else ""))
            else:
                lines.append(f"{where}: {problem['msg']}, found {problem['input']!r}")
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
    """The resolved recipe as YAML."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)
