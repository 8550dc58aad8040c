"""Settings of tags to masks that no method has to itself: the tag classifier, seeds, pseudo-masks."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from maskwright.settings.base import Autocast, Settings
from maskwright.settings.training import TrainSettings

# Ways to say the size that an image is brought to before anything else; at most one is given.
FIRST_SIZES = ("resize", "long_side", "short_side")


class PaperTraining(Settings):
    """Settings with a training, whose defaults are the paper's."""

    paper: ClassVar[dict[str, Any]] = {}

    @model_validator(mode="before")
    @classmethod
    def _paper(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("train", {}), dict):
            said = values.get("train", {})
            paper = {key: value for key, value in cls.paper.items() if key != "steps" or "epochs" not in said}
            train = {**paper, **said}
            augment = said.get("augment", {})
            if isinstance(augment, dict):
                sized = any(augment.get(name) is not None for name in FIRST_SIZES)
                taken = {k: v for k, v in cls.paper.get("augment", {}).items() if not (sized and k in FIRST_SIZES)}
                train["augment"] = {**taken, **augment}
            values = {**values, "train": train}
        return values

    train: TrainSettings = TrainSettings()


class PaperTagTraining(PaperTraining):
    """Settings with a training on tags, which never sees a mask, with the paper's defaults."""

    @model_validator(mode="after")
    def _no_masks_here(self) -> PaperTagTraining:
        if self.train.augment.class_uniform:
            raise ValueError("train.augment.class_uniform needs masks, which this network is trained without")
        return self


class ClassifierSettings(Settings):
    """The image-tag classifier whose head gives class activation maps."""

    @model_validator(mode="after")
    def _no_masks_here(self) -> ClassifierSettings:
        if self.train.augment.class_uniform:
            raise ValueError("train.augment.class_uniform needs masks, which the classifier is trained without")
        return self

    def without_training(self) -> ClassifierSettings:
        """The backbone alone, for networks that begin without a classifier."""
        return self.model_copy(update={"train": TrainSettings(), "loss": "bce"})

    backbone: str = Field("resnet50", description="any backbone of timm, or one of ours, such as vgg16 or resnet38")
    pretrained: bool | str = Field(False, description="pre-trained weights: true, a timm tag, or a local file")
    output_stride: int | None = Field(16, description="pixels per position of the maps; none: the backbone's")
    options: dict[str, Any] = Field(default_factory=dict, description="settings of one backbone alone")
    loss: Literal["bce", "sce", "sce_single"] = Field(
        "bce",
        description="bce: sigmoid; sce: softmax; sce_single: softmax for images with one tag, from ReCAM's ablation",
    )
    train: TrainSettings = TrainSettings()


class SeedSettings(Settings):
    """How maps are taken from the classifier."""

    method: str = Field("cam", description="how maps are made from the last network")
    size: tuple[int, int] | int | None = Field(
        None, description="height and width that images are resized to first, or their long side; none: native size"
    )
    scales: tuple[float, ...] = Field(
        (1.0, 0.5, 1.5, 2.0), description="factors on the image size; their maps are added"
    )
    flip: bool = Field(True, description="add the maps of the mirrored image")
    window: tuple[int, int] | None = Field(
        None,
        description="height and width of a sliding window, in pixels at each scale; none, and along an axis that is no "
        "longer: whole image",
    )
    stride: tuple[int, int] | None = Field(None, description="step of the sliding window, in pixels; none: 2/3 of it")
    accumulate: Literal["none", "max", "mean"] = Field(
        "none",
        description="maps of the last network after each epoch of its training, which are kept: their maximum, as in "
        "OAA, or mean; none: of the trained network alone",
    )
    autocast: Autocast = "none"
    options: dict[str, Any] = Field(default_factory=dict, description="settings of one method alone")


class MaskSettings(Settings):
    """How maps become pseudo-masks."""

    earlier_defaults: ClassVar[dict[str, Any]] = {"sweep": (0.05, 0.6, 0.05)}

    threshold: float | Literal["auto", "best"] = Field(
        0.15, description="score of the background; auto: chosen from tags alone; best: tuned on ground truth"
    )
    lowest: float = Field(
        0.0, ge=0, lt=1, description="the lowest score that threshold=auto may choose, for maps that spread"
    )
    sweep: tuple[float, float, float] = Field(
        (0.05, 0.95, 0.05), description="first, last and step of the thresholds that are reported"
    )
    ignore_below: float = Field(
        0.0,
        ge=0,
        le=1,
        serialization_alias="unsure_below",
        description="pixels of lower confidence are ignored; 0: none",
    )
