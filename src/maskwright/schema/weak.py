"""Settings of tags to masks: the networks that maps come from, seeds, refinements, pseudo-masks."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from maskwright.schema.base import Settings
from maskwright.schema.training import TrainSettings


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


class L2GSettings(Settings):
    """L2G: a global network learns from the attention of a local one on views of the image."""

    train: TrainSettings = TrainSettings()


class SEAMSettings(Settings):
    """SEAM: class activation maps that agree over scales, refined by PCM."""

    train: TrainSettings = TrainSettings()


class EPSSettings(Settings):
    """EPS: the maps of tagged classes together must explain a saliency map."""

    train: TrainSettings = TrainSettings()


class EDAMSettings(Settings):
    """EDAM: a layer of discriminative activation with attention among the images of a batch."""

    train: TrainSettings = TrainSettings()


class CRFSettings(Settings):
    """A dense CRF between maps and pseudo-masks, or before another refinement; see `maskwright.weak.crf_maps`."""

    preset: str = Field("seam", description="kernels and iterations; see `maskwright.weak.dense_crf.PRESETS`")
    background: float | None = Field(
        None, gt=0, lt=1, description="score of the background; by default pseudo_masks.threshold"
    )
    alpha: float | None = Field(
        None,
        gt=0,
        description="instead: (1 - highest map) ** alpha; 4 in SEAM, PSA and EPS, whose other values are 24, 32",
    )
    mode: Literal["lattice", "exact", "fast"] = "lattice"


class SaliencySettings(Settings):
    """Saliency maps that overrule seed maps, as in EDAM and in the rows `-M` of ReCAM's table 4."""


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
