"""Settings of data, training, models and inference: what pixel masks need, and what image tags need as well."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from maskwright.settings.base import Autocast, CRFPreset, KernelScale, Settings


class DataSettings(Settings):
    """Which images, masks and tags; see `maskwright.data.open_dataset`."""

    root: str = Field("", description="a folder, or the name of a built-in set, scenes; must be given")
    layout: str = Field("auto", description="auto, or a reader's name: voc, folder, scenes, ...")
    train: str = Field("train", description="split that is labelled and trained on")
    val: str = Field("val", description="split that scores are measured on")
    masks: str | None = Field(None, description="mask folder, relative to root or absolute")
    masks_are: Literal["predictions", "pseudo-masks"] | None = Field(
        None,
        description="what the masks are where they are not ground truth; masks that maskwright wrote are used only if "
        "this says so, for training, and scores against them are called so",
    )
    classes: str | list[str] | None = Field(None, description="file with one class name per line, or the names")
    tags: str | None = Field(None, description="CSV, JSON or folder of tags; 'masks' derives them from the masks")
    saliency: str | None = Field(
        None, description="folder of saliency maps, or a detector: `maskwright.data.saliency.DETECTORS`"
    )
    objects: bool = Field(False, description="all classes but the background are one, called object")
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
    short_side: tuple[int, int] | None = Field(None, description="the same for the short side")
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
    schedule: Literal["poly", "onecycle", "constant", "step"] = Field(
        "poly", description="step: a tenth of lr in the second half"
    )
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


class ModelSettings(Settings):
    """The segmenter; see `maskwright.create_model`."""

    name: str = "deeplabv3plus"
    backbone: str = "resnet18"
    pretrained: bool | str = Field(
        False,
        description="true, a timm tag, a local file, or classifier: the recipe's own tag classifier; the short key "
        "pretrained= sets it in every network of a recipe with tags, in place of classifier",
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
    scales: tuple[Annotated[float, Field(le=16)], ...] = (1.0,)
    flip: bool = False
    window: tuple[int, int] | None = Field(None, description="sliding window size; none: whole image")
    stride: tuple[int, int] | None = Field(None, description="sliding window step; default 2/3 of the window")
    batch_size: int = Field(8, gt=0)
    crf: CRFPreset | None = Field(
        None, description="dense CRF after the network, at the size that it sees; see `weak.dense_crf.PRESETS`"
    )
    crf_scale: KernelScale = "image"
    autocast: Autocast = "none"
