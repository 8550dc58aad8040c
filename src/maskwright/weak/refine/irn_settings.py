"""Settings of refinements that learn from certain pixels of maps: IRN, PSA."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from maskwright.settings import CRFPreset, KernelScale, PaperTraining

LABEL_SETTINGS = ("foreground_threshold", "background_threshold", "crf", "crf_scale")  # what certain labels depend on

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


class LearnedRefinement(PaperTraining):
    """Settings of certain labels, and of a network that is trained on them."""

    @model_validator(mode="after")
    def _thresholds_in_order(self) -> LearnedRefinement:
        if self.background_threshold > self.foreground_threshold:
            raise ValueError("background_threshold must not be above foreground_threshold")
        return self

    backbone: str = Field("resnet50", description="of its network; IRNet wants a ResNet of timm")
    pretrained: bool | str = Field(
        "classifier",
        description="weights of its backbone, which IRNet does not train: true, a timm tag, a local file, or "
        "classifier, the recipe's own tag classifier; pretrained= sets them too",
    )
    output_stride: int | None = Field(16, description="pixels per position of the deepest map; none: its own")
    options: dict[str, Any] = Field(default_factory=dict, description="settings of one backbone alone")
    foreground_threshold: float = Field(
        0.30, ge=0, le=1, description="score above which a pixel is certain to be of its class"
    )
    background_threshold: float = Field(
        0.05, ge=0, le=1, description="score that no class exceeds where background is certain"
    )
    crf: CRFPreset | None = Field("irn", description="preset of the dense CRF that the labels go through; none: no CRF")
    crf_scale: KernelScale = "image"


class IRNSettings(LearnedRefinement):
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
    10 in training and 5 in the walk. Defaults of `train` are the paper's; its lr is the edge branch's.
    """

    paper = PAPER_IRN

    displacement_lr: float = Field(10.0, gt=0, description="factor on train.lr for the displacement branch")
    train_radius: float = Field(10, gt=1, description="distance below which positions are paired in training")
    pad_to: int | None = Field(
        None, gt=0, description="side that smaller images are padded to, in pixels; none: native size"
    )
    cam_power: float = Field(1.0, gt=0, description="exponent of the maps before the walk")
    radius: float = Field(5, gt=1, description="distance that one step of the walk stays below, in positions")
    beta: float = Field(10.0, gt=0, description="exponent of the affinities")
    exp_times: int = Field(8, ge=0, le=16, description="the walk has 2^exp_times steps")
    tolerance: float = Field(
        0.0, ge=0, lt=1, description="error allowed for a faster walk; 0: exact, 1e-7: no visible change"
    )


# The released code's, on its ResNet-38: the backbone at 0.1, its biases at twice that, new layers at ten times these.
PAPER_PSA: dict[str, Any] = {
    "epochs": 8,
    "batch_size": 8,
    "lr": 1.0,
    "backbone_lr": 0.1,
    "bias_lr": 2.0,
    "momentum": 5e-4,
    "weight_decay": 5e-4,
    "freeze_batchnorm": True,
    "augment": {"crop": (448, 448), "flip": 0.5, "color_jitter": 0.3, "hue": 0.1},
}


class PSASettings(LearnedRefinement):
    """PSA's refinement of seed maps: certain labels, AffinityNet, random walk (Ahn and Kwak, CVPR 2018).

    Certain labels are made as for IRN, of two constant scores of the background; the released code has
    `(1 - highest map) ** 4` and `** 32` in their place, through a CRF. Defaults of `train` are the released code's, as
    remembered, with its momentum, which is the weight decay.
    """

    paper = PAPER_PSA

    radius: float = Field(5, gt=1, description="distance below which positions are paired, in training and in the walk")
    beta: float = Field(8.0, gt=0, description="exponent of the affinities")
    exp_times: int = Field(8, ge=0, le=16, description="the walk has 2^exp_times steps")
    background_alpha: float = Field(
        16.0, gt=0, description="the background that walks is (1 - highest map) ** background_alpha"
    )
