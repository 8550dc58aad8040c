"""Settings of data, training, models and inference: what pixel masks need, and what image tags need as well."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from maskwright.settings.base import Autocast, CRFPreset, KernelScale, Settings


class DataSettings(Settings):
    """Which images, masks and tags; see `maskwright.data.open_dataset`."""

    root: str = Field(
        "", description="a folder, an address of shards, or the name of a built-in set, scenes; must be given"
    )
    layout: str = Field("auto", description="layout of the folder: voc, folder, ...; auto: found out")
    train: str = Field("train", description="split that is labelled and trained on")
    val: str = Field("val", description="split that scores are measured on")
    masks: str | None = Field(None, description="folder of ground-truth masks, relative to root or absolute")
    masks_are: Literal["predictions", "pseudo-masks"] | None = Field(
        None,
        description="what data.masks holds where it is not ground truth; needed to train on masks that maskwright "
        "wrote, and named beside every score against them",
    )
    classes: str | list[str] | None = Field(None, description="file with one class name per line, or the names")
    tags: str | None = Field(
        None,
        description="table (CSV, TSV, Excel, JSON) or folder of tags; masks: derived from the masks; none: the table "
        "or the folders that are there, where there are no masks",
    )
    rename: dict[str, str] | None = Field(
        None, description="other names of tags, as in {cwo: cow}; two tags of one name become one"
    )
    saliency: str | None = Field(
        None, description="folder of saliency maps, or a detector: `maskwright.data.saliency.DETECTORS`"
    )
    objects: bool = Field(False, description="all classes but the background are one, called object")
    background: str | int | None = Field(
        "auto", description="name or value of the background class; none: there is none; auto: found out"
    )
    ignore_index: int = Field(255, description="label value of pixels without a label")
    label_map: dict[int, int] | None = Field(
        None, description="label value of every value that occurs in the mask files"
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="settings of one reader alone, such as count of scenes"
    )

    @field_validator("rename", mode="before")
    @classmethod
    def _numbers_are_names(cls, value: Any) -> Any:
        """A tag may be a number, as in `{0: cat}`."""
        if not isinstance(value, dict):
            return value
        return {
            str(old) if isinstance(old, int) else old: str(new) if isinstance(new, int) else new
            for old, new in value.items()
        }


def _digits(name: Any) -> Any:
    return str(name) if isinstance(name, int) and not isinstance(name, bool) else name


class AugmentSettings(Settings):
    """How training examples are varied; sizes are `[height, width]` in pixels."""

    resize: tuple[int, int] | None = Field(
        None, description="height and width that images are resized to first, in pixels"
    )
    long_side: tuple[int, int] | None = Field(
        None, description="smallest and largest long side that images are resized to first, drawn at random"
    )
    short_side: tuple[int, int] | None = Field(
        None, description="smallest and largest short side that images are resized to first, drawn at random"
    )
    scale: tuple[float, float] = Field(
        (1.0, 1.0), description="smallest and largest factor of the random scale, drawn uniformly"
    )
    crop: tuple[int, int] | None = Field(
        None, description="height and width of a random crop in pixels, padded with mean colour and ignore"
    )
    class_uniform: float = Field(
        0.0, ge=0, le=1, description="probability of a crop around an evenly drawn class; for training on masks"
    )
    flip: float = Field(0.5, ge=0, le=1, description="probability of a left-right flip")
    color_jitter: float = Field(0.0, ge=0, le=1, description="strength of brightness, contrast, saturation changes")
    hue: float = Field(0.0, ge=0, le=0.5, description="strength of hue changes")


class TrainSettings(Settings):
    """How a network is trained. `batch_size` is the total over all processes."""

    earlier_defaults: ClassVar[dict[str, Any]] = {"channels_last": False}

    frozen: bool = Field(
        False,
        description="the backbone keeps its weights: its maps of every image are made once, and what stands on them is "
        "fitted; a tag head in seconds, by a convex fit that reads neither epochs nor rates",
    )
    epochs: float | None = Field(None, gt=0, description="passes over the training images; either epochs or steps")
    steps: int | None = Field(None, gt=0, description="optimiser steps; either epochs or steps")
    batch_size: int = Field(16, gt=0, description="images in a batch, over all processes together")
    accumulate: int = Field(1, gt=0, description="batches whose gradients are added up for one optimiser step")
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(0.01, gt=0, description="highest learning rate, of parameters without a factor of their own")
    backbone_lr: float = Field(1.0, ge=0, description="factor on lr for the backbone's parameters")
    bias_lr: float = Field(1.0, ge=0, description="factor on lr for biases")
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD")
    nesterov: bool = Field(False, description="Nesterov's form of momentum, for SGD")
    weight_decay: float = Field(1e-4, ge=0, description="in SGD added to the gradient, in AdamW apart from it")
    decay_norm_and_bias: bool = Field(True, description="weight decay also on biases and normalisation")
    schedule: Literal["poly", "onecycle", "constant", "step"] = Field(
        "poly", description="course of the learning rate; step: a tenth of lr in the second half"
    )
    power: float = Field(0.9, ge=0, description="exponent of the poly schedule")
    update_every: int = Field(1, gt=0, description="steps between changes of the poly rate; 10 in DeepLab's releases")
    warmup: int = Field(0, ge=0, description="steps over which the learning rate first rises, linearly")
    warmup_start: float = Field(0.0, ge=0, le=1, description="factor on lr at the first step of a warm-up")
    clip: float | None = Field(None, gt=0, description="largest norm of the gradient; none: not clipped")
    ema: float | None = Field(
        None, gt=0, lt=1, description="decay of an average of the weights, which is then the model; none: no average"
    )
    autocast: Autocast = "none"
    channels_last: bool | Literal["auto"] = Field(
        "auto",
        description="memory layout NHWC, faster on many devices; auto: for networks of convolutions on a CPU; it only "
        "changes how results are rounded",
    )
    compile: bool = Field(False, description="torch.compile, which takes minutes at the start")
    freeze_batchnorm: bool = Field(
        False, description="keep the running statistics of batch normalisation, as the weak methods do"
    )
    sync_batchnorm: bool = Field(False, description="batch statistics over all processes; CUDA only")
    deterministic: bool = Field(False, description="refuse operations whose result varies between runs")
    seed: int = Field(0, description="added to random_seed for this training")
    workers: int = Field(2, ge=0, description="data-loading processes per training process")
    validate_every: int = Field(0, ge=0, description="epochs between validations; 0: at the end only")
    snapshots: int = Field(
        0,
        ge=0,
        description="of a segmenter: images of the evaluation split whose predictions are kept at each validation, "
        "as a film strip in the report",
    )
    checkpoint_seconds: float = Field(
        60.0, ge=0, description="least seconds between points that a stopped training resumes from"
    )
    log_every: int = Field(10, gt=0, description="steps between lines of the log")
    augment: AugmentSettings = AugmentSettings()


class ModelSettings(Settings):
    """The segmenter; see `maskwright.create_model`."""

    name: str = Field("deeplabv3plus", description="architecture of the segmenter")
    backbone: str = Field("resnet18", description="any backbone of timm, or one of ours, such as vgg16 or resnet38")
    pretrained: bool | str = Field(
        False,
        description="pre-trained weights: true, a timm tag, a local file, or classifier, the recipe's own tag "
        "classifier; pretrained= sets them in every network of a recipe with tags",
    )
    output_stride: int | None = Field(16, description="pixels per position of the deepest map; none: its own")
    options: dict[str, Any] = Field(default_factory=dict, description="settings of one architecture alone")


class LossSettings(Settings):
    """The segmenter's loss; see `maskwright.losses`."""

    name: str = Field("cross_entropy", description="loss of the main output")
    class_weights: Literal["none", "inverse", "sqrt_inverse"] | list[float] = Field(
        "none", description="from the frequency of each class in the training masks, or one number per class"
    )
    auxiliary: dict[str, float] = Field(
        default_factory=dict, description="weight of the loss of each auxiliary output, by its name"
    )
    resize: Literal["logits", "labels"] = Field(
        "logits",
        description="logits: enlarged bilinearly to the labels' size; labels: reduced to the logits', nearest pixel",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="settings of one loss alone")


class InferenceSettings(Settings):
    """How a trained segmenter is applied."""

    size: tuple[int, int] | int | None = Field(
        None,
        description="height and width that images are resized to before the network, or their long side; none: native "
        "size",
    )
    scales: tuple[Annotated[float, Field(le=16)], ...] = Field(
        (1.0,), description="factors on the image size whose predictions are averaged"
    )
    flip: bool = Field(False, description="average the prediction with that of the mirrored image")
    window: tuple[int, int] | None = Field(
        None, description="height and width of a sliding window, in pixels; none: whole image"
    )
    stride: tuple[int, int] | None = Field(None, description="step of the sliding window, in pixels; none: 2/3 of it")
    batch_size: int = Field(8, gt=0, description="images or windows that are predicted at once")
    crf: CRFPreset | None = Field(
        None, description="dense CRF after the network, at its input size; see `maskwright.crf.dense_crf.PRESETS`"
    )
    crf_scale: KernelScale = "image"
    autocast: Autocast = "none"
