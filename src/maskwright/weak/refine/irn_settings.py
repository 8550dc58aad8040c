"""Settings of IRN."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from maskwright.settings import CRFPreset, KernelScale, PaperTraining

# Momentum as in ReCAM's code: the weight decay in its place.
PAPER_IRN: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 32,
    "lr": 0.1,
    "momentum": 1e-4,
    "weight_decay": 1e-4,
    "freeze_batchnorm": True,
    "augment": {"scale": (0.5, 1.5), "crop": (512, 512), "flip": 0.5},
}


class IRNSettings(PaperTraining):
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

    paper = PAPER_IRN

    @model_validator(mode="after")
    def _thresholds_in_order(self) -> IRNSettings:
        if self.background_threshold > self.foreground_threshold:
            raise ValueError("background_threshold must not be above foreground_threshold")
        return self

    backbone: str = "resnet50"
    pretrained: bool | str = Field(
        "classifier",
        description="true, a timm tag, a local file, or classifier: the tag classifier's; never trained; the short key "
        "pretrained= sets it as well",
    )
    output_stride: int | None = 16
    options: dict[str, Any] = Field(default_factory=dict, description="what only some backbones know")
    foreground_threshold: float = Field(0.30, ge=0, le=1, description="above it a class is certain")
    background_threshold: float = Field(0.05, ge=0, le=1, description="where no class is above it, background is")
    crf: CRFPreset | None = Field("irn", description="dense CRF preset that the IR labels go through, or none")
    crf_scale: KernelScale = "image"
    displacement_lr: float = Field(10.0, gt=0, description="factor on train.lr for the displacement branch")
    train_radius: float = Field(10, gt=1, description="pairs of training are nearer than this, in positions")
    pad_to: int | None = Field(None, gt=0, description="smaller images are padded to this side; none: native size")
    cam_power: float = Field(1.0, gt=0, description="exponent of the maps before the walk")
    radius: float = Field(5, gt=1, description="neighbours of a step of the walk are nearer than this, in positions")
    beta: float = Field(10.0, gt=0, description="exponent of the affinities")
    exp_times: int = Field(8, ge=0, le=16, description="the walk has 2^exp_times steps")
    tolerance: float = Field(0.0, ge=0, lt=1, description="above 0: fewer products, see `random_walk`; 1e-7 is safe")
