"""Settings of tags to masks: the networks that maps come from, seeds, refinements, pseudo-masks."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from maskwright.settings.base import Autocast, CRFPreset, KernelScale, Settings
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


# The momentum is that of the released code, which hands the weight decay over in its place.
PAPER_RECAM = {
    "epochs": 4,
    "lr": 5e-4,
    "backbone_lr": 0.1,
    "momentum": 1e-4,
    "weight_decay": 1e-4,
    "freeze_batchnorm": True,
}


class RecamSettings(PaperTagTraining):
    """ReCAM's training, which goes on from the trained tag classifier; what is not said of `train` is the paper's."""

    paper = PAPER_RECAM

    lam: float = Field(1.0, ge=0, description="weight of the new head's loss; 1 on VOC, 0.1 on COCO in the paper")
    masks: str = Field("cam", description="seed method of the soft masks; see `weak.networks.soft_masks.SOFT_MASKS`")
    eps: float = Field(
        0.0, ge=0, description="weight of the saliency loss of a network `eps` before it; 1 for the paper's rows -E"
    )
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
        "classifier", description="true, a timm tag, a local file, or classifier: the tag classifier's; never trained"
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


# The released code's on VOC: weights of the trunk at 1e-3, its biases at twice that, new layers at ten times these.
PAPER_L2G: dict[str, Any] = {
    "epochs": 10,
    "batch_size": 3,
    "lr": 0.01,
    "backbone_lr": 0.1,
    "bias_lr": 2.0,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 5e-4,
    "schedule": "step",
    "freeze_batchnorm": True,
    "augment": {"short_side": (512, 512), "crop": (448, 448), "flip": 0.0, "color_jitter": 0.3, "hue": 0.1},
}

# Where the paper is not what its code does.
L2G_PAPER: dict[str, Any] = {
    "views": 4,
    "sampling": "random",
    "winner_takes_all": False,
    "alignment": "crop",
    "background": "none",
    "threshold": 0.1,
    "binary_saliency": True,
    "attention_where_empty": True,
}


class L2GSettings(PaperTagTraining):
    """L2G: a global network learns from the attention of a local one on views of the image; only the former is kept.

    Defaults are the released code's on VOC, but for the order of the images, which it does not shuffle. On COCO the
    code has `views: 4, sampling: corners, background: continuous, threshold: 0.1, weight: 30` and trains otherwise. The
    paper's trunk is a ResNet-38 of stride 8; any other can be had. What is not said of `train` is the code's on VOC;
    its lr is that of the heads and of PCM.
    """

    paper = PAPER_L2G

    @model_validator(mode="before")
    @classmethod
    def _form(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("form") == "paper":
            values = {**L2G_PAPER, **values}
        return values

    @model_validator(mode="after")
    def _views_fit(self) -> L2GSettings:
        whole = self.train.augment.crop or self.train.augment.resize
        if whole is not None and any(view > side for view, side in zip(self.view_size, whole, strict=True)):
            raise ValueError(
                f"view_size={list(self.view_size)} does not fit into the images of {list(whole)} pixels that "
                "train.augment gives"
            )
        return self

    form: Literal["code", "paper"] = Field(
        "code", description="whose defaults the settings below have; any of them can be set by itself"
    )
    views: int = Field(6, gt=0, description="local views of each image; 4 in the paper")
    sampling: Literal["random", "corners", "corners_random", "uniform"] = Field(
        "corners_random",
        description="where they lie; random in the paper, see `weak.networks.l2g.draw_corners`",
    )
    winner_takes_all: bool = Field(True, description="only the highest class attends to a position; not in the paper")
    alignment: Literal["roi", "crop"] = Field(
        "roi", description="roi: aligned, then softmax; crop: softmax, then cut out exactly, as in the paper"
    )
    background: Literal["binary", "continuous", "none"] = Field(
        "binary", description="the background's target with saliency; none: there is none at all, as in the paper"
    )
    threshold: float = Field(0.001, ge=0, lt=1, description="attention above it takes the saliency's shape; paper 0.1")
    binary_saliency: bool = Field(False, description="saliency is cut at one half, as in the paper")
    attention_where_empty: bool = Field(
        False, description="attention is the target of a view without any saliency, as in the paper"
    )
    view_size: tuple[int, int] = Field((320, 320), description="of a local view, height and width in pixels")
    transfer: Literal["attention", "shape"] = Field("attention", description="shape needs saliency maps")
    weight: float = Field(10.0, gt=0, description="of the transfer; 30 in the code on COCO")
    global_classification: float = Field(
        0.0, ge=0, description="weight of a tag loss on the global network, which the paper finds to do harm"
    )
    shared_trunk: bool = Field(False, description="one trunk for both networks, which have a head each")
    pcm: bool = Field(True, description="pixel correlation module on the features of both, as in the code")
    shuffle: bool = Field(True, description="false: images always in the set's order, as in the code")


# As the released code has it: weights of the trunk at 0.01, its biases at twice that, new layers at ten times these.
PAPER_SEAM: dict[str, Any] = {
    "epochs": 8,
    "batch_size": 8,
    "lr": 0.1,
    "backbone_lr": 0.1,
    "bias_lr": 2.0,
    "momentum": 5e-4,
    "weight_decay": 5e-4,
    "decay_norm_and_bias": False,
    "freeze_batchnorm": True,
    "augment": {"long_side": (448, 768), "crop": (448, 448), "flip": 0.5, "color_jitter": 0.3, "hue": 0.1},
}


class SEAMSettings(PaperTagTraining):
    """SEAM: class activation maps that agree over scales, refined by PCM; what is not said of `train` is the paper's.

    The paper's trunk is a ResNet-38 of stride 8; any other can be had.
    """

    paper = PAPER_SEAM

    scale: float = Field(0.3, gt=0, lt=1, description="size of the second branch's image as a share of the first's")


# Steps and sizes are the released code's on VOC (the paper has 20k steps); where no source says, as SEAM.
PAPER_EPS: dict[str, Any] = {
    **{key: value for key, value in PAPER_SEAM.items() if key != "epochs"},
    "steps": 10000,
    "augment": {**PAPER_SEAM["augment"], "long_side": (256, 512)},
}


class EPSSettings(PaperTagTraining):
    """EPS: the maps of tagged classes together must explain a saliency map; needs `data.saliency`.

    The paper's trunk is a ResNet-38 of stride 8; any other can be had. Its masks are made with a threshold of 0.20.
    What is not said of `train` is the code's on VOC.
    """

    paper = PAPER_EPS

    weight: float = Field(1.0, ge=0, description="of the saliency loss")
    threshold: float = Field(
        0.5, ge=0, le=1, description="share of a class that is salient, above which it is foreground"
    )
    blend: float = Field(0.5, ge=0, le=1, description="weight of the foreground's estimate beside the background's")


class EDAMSettings(PaperTagTraining):
    """EDAM: masks of the classes as a layer, learned with attention among the images of a batch.

    Our sources do not say how it is trained: what is not said of `train` is SEAM's.
    """

    paper = PAPER_SEAM

    width: int = Field(64, gt=0, description="channels of the attention")
    heads: int = Field(4, gt=0, description="of each class's attention")
    grid: int = Field(16, gt=0, description="rows and columns of tokens in an image, at most; paper: all positions")


class CRFSettings(Settings):
    """A dense CRF between maps and pseudo-masks, or before another refinement; see `weak.refine.crf_maps`."""

    preset: CRFPreset = Field("seam", description="kernels and iterations; see `maskwright.crf.dense_crf.PRESETS`")
    background: float | None = Field(
        None, gt=0, lt=1, description="score of the background; by default pseudo_masks.threshold"
    )
    alpha: float | None = Field(
        None,
        gt=0,
        description="instead: (1 - highest map) ** alpha; 4 in SEAM, PSA and EPS, whose other values are 24, 32",
    )
    scale: KernelScale = "image"
    mode: Literal["lattice", "exact", "fast"] = "lattice"


class SaliencySettings(Settings):
    """Saliency maps S that overrule seed maps, as in EDAM and in the rows `-M` of ReCAM's table 4.

    A class must score higher than the background, whose score at a pixel is, with `soft`, 1 - S; with `hard`, as in
    EDAM's algorithm 1, `salient` where S is at least `threshold` and `elsewhere` where it is not. No source has the
    numbers: they are ours.
    """

    mode: Literal["soft", "hard"] = "soft"
    threshold: float = Field(0.5, ge=0, le=1, description="saliency from which on a pixel is foreground (hard)")
    salient: float = Field(0.05, ge=0, le=1, description="score that a class needs there; 0: the highest always wins")
    elsewhere: float = Field(0.9, ge=0, le=1, description="score that a class needs elsewhere; 1: none ever wins")


class SeedSettings(Settings):
    """How maps are taken from the classifier."""

    method: str = "cam"
    size: tuple[int, int] | None = Field(None, description="images are resized to this first; none: native size")
    scales: tuple[float, ...] = (1.0, 0.5, 1.5, 2.0)
    flip: bool = True
    autocast: Autocast = "none"
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _gradients_fit(self) -> SeedSettings:
        if self.method == "advcam" and self.autocast == "float16":
            raise ValueError(
                "seeds.autocast=float16: the gradients that advcam climbs by are too small for it; use bfloat16 or none"
            )
        return self


class MaskSettings(Settings):
    """How maps become pseudo-masks."""

    threshold: float | Literal["best"] = Field(0.15, description="score of the background; best: tuned on true masks")
    sweep: tuple[float, float, float] = Field((0.05, 0.6, 0.05), description="first, last, step of the sweep reported")
    unsure_below: float = Field(0.0, ge=0, le=1, description="pixels of lower confidence become ignore")
