"""Settings of tags to masks that no method has to itself: the tag classifier, seeds, pseudo-masks."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from maskwright.settings.base import Autocast, Settings
from maskwright.settings.training import TrainSettings

# Ways to say the size that an image is brought to before anything else; at most one is given.
FIRST_SIZES = ("resize", "long_side", "short_side")


class PaperTraining(Settings):
    """Settings with a training, of which what is not said is the paper's."""

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
    """The same, on tags: a training that never sees a mask."""

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
        """The trunk alone, for networks that begin without a classifier."""
        return self.model_copy(update={"train": TrainSettings(), "loss": "bce"})

    backbone: str = "resnet50"
    pretrained: bool | str = Field(False, description="true, a timm tag, or a local file")
    output_stride: int | None = 16
    options: dict[str, Any] = Field(default_factory=dict, description="what only some backbones know")
    loss: Literal["bce", "sce", "sce_single"] = Field(
        "bce",
        description="the last two are ablations of ReCAM's study; see `weak.networks.recam.first_head_loss`",
    )
    train: TrainSettings = TrainSettings()


class SeedSettings(Settings):
    """How maps are taken from the classifier."""

    method: str = "cam"
    size: tuple[int, int] | None = Field(None, description="images are resized to this first; none: native size")
    scales: tuple[float, ...] = (1.0, 0.5, 1.5, 2.0)
    flip: bool = True
    autocast: Autocast = "none"
    options: dict[str, Any] = Field(default_factory=dict)


class MaskSettings(Settings):
    """How maps become pseudo-masks."""

    threshold: float | Literal["best"] = Field(0.15, description="score of the background; best: tuned on true masks")
    sweep: tuple[float, float, float] = Field((0.05, 0.6, 0.05), description="first, last, step of the sweep reported")
    ignore_below: float = Field(
        0.0,
        ge=0,
        le=1,
        serialization_alias="unsure_below",
        description="pixels of lower confidence become ignore",
    )
