"""Backbones: any timm model that gives feature maps, and our own, behind one interface.

timm (https://github.com/huggingface/pytorch-image-models) is imported when the first backbone is built.
"""

from __future__ import annotations

import functools
import gc
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskwright.errors import RecipeError, unknown_name
from maskwright.models.backbone import Backbone
from maskwright.models.layers import exporting
from maskwright.models.pretrained import file_record, find_weights, refuse_sources, weights_file, why_unreadable
from maskwright.models.probe import probe, weights_behind

# Names that timm does not know -> function(name, *, pretrained, output_stride, in_channels, **options) -> Backbone.
BACKBONES: dict[str, Callable[..., Backbone]] = {}


class TimmBackbone(Backbone):
    """A timm model made into feature maps `(B, C, h, w)`, for images of any size.

    Args:
        name: timm's name.
        network: what timm gives for `features_only`; or the whole network, as `_whole_network` leaves it: then the last
            map is the one that timm's own classifier pools.
        in_channels: channels of the images.
        multiple: image sides are padded on the right and at the bottom, with the mean colour, to a multiple of this;
            the feature maps are cut back.
    """

    def __init__(self, name: str, network: nn.Module, *, in_channels: int = 3, multiple: int = 1) -> None:
        info: Any = _taps(network)
        settings: dict[str, Any] = getattr(network, "pretrained_cfg", None) or network.model.pretrained_cfg  # type: ignore
        mean, std = settings["mean"], settings["std"]
        super().__init__(name, info.channels(), info.reduction(), mean, std, in_channels=in_channels)
        self.network = network
        self.pooled = hasattr(network, "pooled_taps")
        self.settings = settings
        self.multiple = multiple
        self.image_size: tuple[int, ...] | None = None
        self.channels_last = str(getattr(network, "output_fmt", "NCHW")).endswith("NHWC")

    def forward(self, images: Tensor) -> list[Tensor]:
        height, width = images.shape[-2:]
        if self.image_size and (height, width) != self.image_size:
            raise RecipeError(
                f"backbone {self.name} takes images of {self.image_size[0]}x{self.image_size[1]} pixels only, found "
                f"{height}x{width}; crop or resize to that size, build it with img_size=[{height}, {width}], "
                "or take another backbone"
            )
        below, right = -height % self.multiple, -width % self.multiple
        padded = exporting() and self.multiple > 1  # by nothing, where an image needs none
        if padded or below or right:
            images = F.pad(images, (0, right, 0, below))
        features = self._pooled(images) if self.pooled else self.network(images)
        if self.channels_last and not self.pooled:
            features = [feature.permute(0, 3, 1, 2) for feature in features]
        if padded or below or right:
            features = [
                feature[..., : math.ceil(height / stride), : math.ceil(width / stride)]
                for feature, stride in zip(features, self.strides, strict=True)
            ]
        return features

    def _pooled(self, images: Tensor) -> list[Tensor]:
        """The maps that are tapped, the last of them as it is before timm's own classifier pools it."""
        network: Any = self.network
        last, features = network.forward_intermediates(images, indices=network.pooled_taps.out_indices)
        if not isinstance(last, Tensor):
            raise ValueError(f"{self.name} pools several maps")
        if last.ndim == 3:  # tokens, those of no place in the image first
            height, width = features[-1].shape[-2:]
            last = last[:, -height * width :].transpose(1, 2).unflatten(2, (height, width))
        elif self.channels_last:
            last = last.permute(0, 3, 1, 2)
        return [*features[:-1], last]

    def chain(self) -> list[tuple[str, nn.Module, int | None]]:
        network: Any = self.network
        if not self.pooled:
            taps = list(getattr(network, "return_layers", ()))
            steps = dict(network.named_children())
        else:
            taps = network.pooled_taps.module_name()
            steps = {}
            for name, module in network.named_children():
                opened = network.pooled_opened and isinstance(module, nn.Sequential)
                steps |= {f"{name}.{key}": part for key, part in module.named_children()} if opened else {name: module}
        if not taps or not set(taps) <= set(steps):
            return []
        strides = dict(zip(taps, self.strides))
        names = list(steps)[: list(steps).index(taps[-1]) + 1]
        return [(name, steps[name], strides.get(name)) for name in names]

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Take the weights of the same network in its other form too, whose modules have other names."""
        prefix += "network."
        own = {_flat(name): name for name in self.network.state_dict()}
        given = {name: _flat(name.removeprefix(prefix)) for name in state_dict if name.startswith(prefix)}
        if given.keys() != {prefix + name for name in own.values()}:
            parts = {_flat(name.removeprefix("model.").partition(".")[0]) for name in own.values()}
            for name, flat in given.items():
                if flat in own:
                    state_dict[prefix + own[flat]] = state_dict.pop(name)
                elif not self.pooled and not flat.startswith(tuple(f"{part}_" for part in parts)):
                    del state_dict[name]  # of modules after the last map, which only the whole network has
        super()._load_from_state_dict(state_dict, prefix.removesuffix("network."), *args)

    def use_only(self, indices: Sequence[int]) -> None:
        super().use_only(indices)
        stage = getattr(self.network, "stage4", None)
        if self.pooled or stage is None or not hasattr(stage[-1], "fuse_layers"):
            return
        # HRNet's last fusion makes every branch; weights for one that nobody reads would never get a gradient, which
        # distributed training refuses. Map 0 is the stem, map i + 1 branch i.
        for branch, layers in enumerate(stage[-1].fuse_layers):
            layers.requires_grad_(branch + 1 in self.maps_read)


def create_backbone(
    name: str,
    *,
    pretrained: bool | str = False,
    output_stride: int | None = None,
    in_channels: int = 3,
    dilate: bool = True,
    dilations: Sequence[int] | None = None,
    pad_to: int | None = None,
    pooled: bool = False,
    **options: Any,
) -> Backbone:
    """A backbone by name: one of `BACKBONES`, or any timm model that gives feature maps.

    ResNets give [stem before its max-pool, layer1, ..., layer4], HRNets [stem, the four raw branches] (`pooled`: the
    branches widened, the last with all of them in it), plain vision transformers four evenly spaced blocks at one
    stride. Our own have their dilations built in; of the settings below they take `pretrained`, `output_stride`,
    `in_channels` and options of their own.

    Args:
        name: e.g. "resnet50", "convnext_tiny", "swin_tiny_patch4_window7_224", "hrnet_w48"; also with timm's weight tag
            ("resnet50.a1_in1k"). Ours are "resnet38" and "vgg16".
        pretrained: True for timm's default weights, or a timm weight tag: from its cache or hub, else from an installed
            package that has them; "hf-hub:owner/repository"; or a local file (.pth, .pt, .bin, .safetensors; wrapped in
            "state_dict" or "model" and with "module." prefixes too; or a model saved by maskwright).
        output_stride: stride of the coarsest map; None keeps the network's own. Strides are taken away from the last
            stages and, as in DeepLab, replaced by dilation.
        in_channels: channels of the images; pre-trained stems are adapted.
        dilate: False takes the strides away without dilation: the image-tag classifiers' ResNet-50 of stride 16.
        dilations: ResNets only: one dilation for each of layer1..layer4; the first block of a stage keeps 1. With
            output stride 8, (1, 1, 2, 2) is the stride-8 backbone of the image-tag papers.
        pad_to: image sides are padded to a multiple of this; by default what the network needs.
        pooled: the coarsest map is the one that timm's own classifier pools (its `forward_features`): after the last
            convolution of an EfficientNet or HRNet, and after the last norm of a transformer, its patches alone. False:
            timm's `features_only`, which ends before these. No difference in ResNets and in ours.
        options: of our own backbones, e.g. `width=0.5`; otherwise passed to timm, e.g. `drop_path_rate=0.1` or
            `img_size=512`.

    Raises:
        RecipeError: unknown name, weights that cannot be had, an output stride or an option that the network does not
            have.
    """
    refuse_sources(options)
    arguments = {"pretrained": pretrained, "output_stride": output_stride, "in_channels": in_channels}
    if name in BACKBONES:
        known = list(inspect.signature(BACKBONES[name]).parameters)[1:]
        for option in options:
            if option not in known:
                raise RecipeError(unknown_name(f"option of backbone {name}", option, known))
        return BACKBONES[name](name, **arguments, **options)

    check_name(name)
    timm = import_timm()
    architecture, _, tag = name.partition(".")
    weights, record, finish = find_weights(timm, architecture, tag, pretrained)
    if architecture.startswith("hrnet") and not pooled:
        options = {"feature_location": "", **options}
    given = {**weights, "in_chans": in_channels, **options, **({"feature_cls": _whole_network()} if pooled else {})}
    network = _build(timm, architecture, output_stride, given)
    if dilations is not None or not dilate:
        _set_dilations(name, network, dilations)
    if "out_indices" not in options:
        _spread_taps(network)
    backbone = TimmBackbone(name, network, in_channels=in_channels, multiple=pad_to or 1)
    if pad_to is None:
        _find_multiple(backbone)
    if pooled:
        _drop_unused(backbone)
    finish(backbone)
    backbone.pretrained_weights = record
    return backbone


def check_weights(name: str, pretrained: bool | str) -> dict[str, Any] | None:
    """Refuse weights of a backbone that cannot be had; nothing is downloaded.

    Args:
        name: as for `create_backbone`.
        pretrained: as for `create_backbone`.

    Returns:
        The record of the weights that the backbone would begin with, as `weights_record` makes it; None: of none.

    Raises:
        RecipeError: no such backbone, file, tag or weights, or a download that cannot work.
    """
    if not pretrained:
        return None
    timm = import_timm()
    if name in BACKBONES and not timm.is_model(name):  # our vgg16 takes the weights of timm's
        return file_record(weights_file(name, pretrained))
    check_name(name)
    architecture, _, tag = name.partition(".")
    return find_weights(timm, architecture, tag, pretrained)[1]


def check_name(name: str, kind: str = "backbone") -> None:
    """Refuse a backbone that nobody knows.

    Args:
        name: as for `create_backbone`.
        kind: what the name stands for, for the message.

    Raises:
        RecipeError: there is none of that name.
    """
    architecture = name.partition(".")[0]
    if name not in BACKBONES and not import_timm().is_model(architecture):
        raise RecipeError(unknown_name(kind, architecture, [*BACKBONES, *import_timm().list_models()]))


def import_timm() -> Any:
    """timm, imported behind the guard for torchvision builds that do not match torch."""
    collects = gc.isenabled()
    gc.disable()  # nothing that an import makes is garbage, and looking for some takes a quarter of its 1.3 seconds
    try:
        import maskwright._torchvision_guard  # noqa: F401, I001
        import timm
    finally:
        if collects:
            gc.enable()
    return timm


def _build(timm: Any, architecture: str, output_stride: int | None, options: dict[str, Any]) -> nn.Module:
    """The timm network for feature maps, of any image size where timm can do that, of the wanted output stride."""
    network = _try_build(timm, architecture, output_stride, options)
    if network is not None and output_stride in (None, _taps(network).reduction()[-1]):
        return network
    if output_stride is not None:
        # Networks without the setting are right as they are where their own stride is the wanted one.
        network = _try_build(timm, architecture, None, options)
        if network is not None and _taps(network).reduction()[-1] == output_stride:
            return network
    if network is None:
        raise RecipeError(f"timm's {architecture} does not give feature maps; take another backbone")
    own = _taps(network).reduction()[-1]
    options = {**options, "pretrained": False}
    built = {stride: _try_build(timm, architecture, stride, options) for stride in (8, 16, 32)}
    possible = {s for s, network in built.items() if network is not None and _taps(network).reduction()[-1] == s}
    strides = ", ".join(map(str, sorted(possible | {own})))
    raise RecipeError(
        f"{architecture} cannot have output stride {output_stride}, only {strides}. "
        f"Set output_stride=none for {own}, or take a backbone that can, e.g. a ResNet (8, 16, 32)."
    )


def _try_build(timm: Any, architecture: str, output_stride: int | None, options: dict[str, Any]) -> Any:
    """The network, or None where timm refuses the output stride or feature maps.

    Raises:
        RecipeError: an option that the network does not have, or weights that do not fit it.
    """
    sizes: list[dict[str, Any]] = [{}]
    settings = timm.models.get_pretrained_cfg(architecture)  # none of some names of old
    if settings is not None and settings.fixed_input_size and "img_size" not in options:
        # Windowed and plain transformers have a setting each that lets them take images of any size.
        sizes = [{"strict_img_size": False}, {"dynamic_img_size": True}, {}]
    stride = {} if output_stride is None else {"output_stride": output_stride}
    for size in sizes:
        try:
            return timm.create_model(architecture, features_only=True, **stride, **size, **options)
        except TypeError as error:
            text = str(error)
            if any(key in text for key in size):
                continue
            if "output_stride" in text:
                return _with_strided_stages(timm, architecture, output_stride, options)
            refused = next((key for key in options if f"'{key}'" in text), None)
            if refused is None:
                raise
            raise RecipeError(f"backbone {architecture} has no option {refused!r} ({text})") from error
        except AssertionError:
            return None
        except (RuntimeError, OSError) as error:
            if "features_only" in str(error):
                return None
            if not options.get("pretrained"):
                raise
            raise RecipeError(f"the weights do not fit {architecture}: {why_unreadable(error)}") from error
    return None


def _with_strided_stages(timm: Any, architecture: str, output_stride: int | None, options: dict[str, Any]) -> Any:
    """A whole network that has no output stride, with the stages of its feature form, which has one (MobileNetV3);
    None where there is no such form."""
    options = dict(options)
    stages = _try_build(timm, architecture, output_stride, options) if options.pop("feature_cls", None) else None
    if stages is None:
        return None
    whole = _try_build(timm, architecture, None, {**options, "feature_cls": _whole_network()})
    if not stages.state_dict().keys() <= whole.state_dict().keys():
        return None
    for name, module in stages.named_children():
        if type(module) is type(getattr(whole, name, None)):  # others differ in an activation that is apart in one form
            setattr(whole, name, module)
    whole.pooled_taps = stages.feature_info
    return whole


def _set_dilations(name: str, network: nn.Module, dilations: Sequence[int] | None) -> None:
    """Replace the dilations that timm put in place of strides: by 1, or by one per ResNet stage."""
    if dilations is None:
        convolutions = [(layer, 1) for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    else:
        stages = [stage for key, stage in network.named_children() if key in ("layer1", "layer2", "layer3", "layer4")]
        if len(stages) != 4 or len(dilations) != 4:
            raise RecipeError(
                f"dilations={list(dilations)} with backbone {name}: expected four numbers and a ResNet; "
                "other networks take output_stride and dilate=false"
            )
        convolutions = [
            (layer, 1 if number == 0 else dilation)
            for stage, dilation in zip(stages, dilations, strict=True)
            for number, block in enumerate(stage.children())
            for layer in block.modules()
            if isinstance(layer, nn.Conv2d)
        ]
    for layer, dilation in convolutions:
        if layer.kernel_size == (1, 1) or layer.dilation == (dilation, dilation):
            continue
        layer.dilation = (dilation, dilation)
        if any(layer.padding):  # without: timm's convolutions that find their padding in `forward`
            layer.padding = tuple(dilation * (side // 2) for side in layer.kernel_size)


def _spread_taps(network: Any) -> None:
    """Tap a network of one stride (a plain transformer) after each quarter of its blocks, not after its last few."""
    entries = _taps(network).info
    getter = hasattr(network, "out_indices") or hasattr(network, "pooled_taps")
    if not getter or len({entry["reduction"] for entry in entries}) > 1:
        return
    indices = sorted({max(0, len(entries) * quarter // 4 - 1) for quarter in (1, 2, 3, 4)})
    taps = _taps(network).from_other(indices)
    if hasattr(network, "pooled_taps"):
        network.pooled_taps = taps
    else:
        network.feature_info, network.out_indices = taps, indices


def _taps(network: Any) -> Any:
    """timm's description of the maps that a network for features gives."""
    return getattr(network, "pooled_taps", None) or network.feature_info


@functools.cache
def _whole_network() -> type:
    """A class for timm's `feature_cls` that leaves the network as it is, and says in it where it is to be tapped."""
    timm = import_timm()

    class WholeNetwork(timm.models.FeatureListNet):  # type: ignore[name-defined]  # timm asks what it is
        def __new__(cls, network: Any, out_indices: Any, *, flatten_sequential: bool = False, **unused: Any) -> Any:
            network.pooled_taps = timm.models.FeatureInfo(network.feature_info, out_indices)
            network.pooled_opened = flatten_sequential  # whether taps may lie in a sequence of modules
            return network

    return WholeNetwork


def _flat(name: str) -> str:
    """The name of a weight as it is in every form of a timm network: some have `stages_0` for `stages.0`."""
    return name.removeprefix("model.").replace(".", "_")


def _drop_unused(backbone: TimmBackbone) -> None:
    """Take away what only timm's own classifier needs; where it is within other modules, it is not trained."""
    network, maps = backbone.network, probe(backbone)
    backbone.channels, used = [feature.shape[1] for feature in maps], weights_behind(maps)
    for name, module in list(network.named_children()):
        weights = list(module.parameters())
        if weights and used.isdisjoint(weights):
            setattr(network, name, nn.Identity())
    for weight in network.parameters():
        weight.requires_grad_(weight in used)


@torch.no_grad()
def _find_multiple(backbone: TimmBackbone) -> None:
    """Find by trial what image sides must be a multiple of for every map to have the size that its stride says.

    Many networks round odd sizes down, want whole patches or windows, or (HRNet, DLA) add maps of different rounding.
    An image of 65 x 97 leaves a remainder at every stride. A network that only takes its own size says so later, when
    it gets another one.

    Raises:
        RecipeError: the maps have no regular size whatever the image's.
    """
    network, reach = backbone.network, max(backbone.strides)
    patch = getattr(getattr(getattr(network, "model", network), "patch_embed", None), "patch_size", 1)
    side = max(patch) if isinstance(patch, tuple) else int(patch)
    _, *own_size = backbone.settings["input_size"]
    parameter = next(backbone.parameters())
    training = backbone.training
    backbone.eval()
    trials = [(m, (65 + -65 % m, 97 + -97 % m)) for m in sorted({1, side, reach, 2 * reach})]
    for multiple, size in [*trials, (0, tuple(own_size))]:
        try:
            features = backbone(parameter.new_zeros(1, backbone.in_channels, *size))
        except (RuntimeError, AssertionError, ValueError):
            continue
        expected = [tuple(-(-length // stride) for length in size) for stride in backbone.strides]
        if [tuple(feature.shape[-2:]) for feature in features] == expected:
            if multiple:
                backbone.multiple = multiple
            else:
                backbone.image_size = size
            backbone.train(training)
            return
    instead = " or, in a tag classifier, options={pooled: false}, which reads timm's last feature map"
    raise RecipeError(
        f"the feature maps of {backbone.name} do not lie on grids of strides {backbone.strides}; take another backbone"
        + (instead if backbone.pooled else "")
    )
