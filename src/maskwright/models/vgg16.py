"""VGG16 (Simonyan and Zisserman, ICLR 2015) dilated as for DeepLab-LargeFOV (Chen et al., ICLR 2015): stride 8.

Max-pools are 3x3 with a border, so that images of any size give maps of the size that their stride says; the fourth has
no stride, and the convolutions after it are dilated by 2. Convolutions have the names of torchvision's and timm's
weights.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from maskwright.errors import RecipeError
from maskwright.models import layers
from maskwright.models.backbone import Backbone
from maskwright.models.backbones import import_timm
from maskwright.models.pretrained import SUFFIXES, find_weights, load_local, load_tensors

# Channels and number of the convolutions of each stage; a pool stands between stages.
STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))

FIRST = "features.0.weight"
NEW = ("fc6.", "fc7.")  # what files of the plain network do not have


class VGG16(Backbone):
    """Gives the last convolution of each of the five stages, after its ReLU.

    Args:
        name: as given to `create_backbone`.
        output_stride: 8, or 16: the fourth pool keeps its stride and nothing is dilated.
        in_channels: channels of the images.
        width: factor on all channels.
        large_fov: also have DeepLab-LargeFOV's pool5 without stride, fc6 (3x3, dilated by 12) and fc7 (1x1), of 1024
            channels and with dropout; fc7 then is the last map, in place of the fifth stage.
    """

    def __init__(
        self,
        name: str,
        *,
        output_stride: int = 8,
        in_channels: int = 3,
        width: float = 1.0,
        large_fov: bool = False,
    ) -> None:
        def scaled(channels: int) -> int:
            return max(1, round(width * channels))

        channels = [scaled(count) for count, _ in STAGES]
        strides = [1, 2, 4, 8, output_stride]
        last = scaled(1024) if large_fov else channels[-1]
        super().__init__(name, [*channels[:-1], last], strides, in_channels=in_channels)
        dilation = 16 // output_stride
        modules: list[nn.Module] = []
        self.ends: list[int] = []  # of each stage in `features`
        before = in_channels
        for stage, (out, (_, count)) in enumerate(zip(channels, STAGES, strict=True)):
            if stage:
                modules.append(_pool(strides[stage] // strides[stage - 1]))
            step = dilation if stage == 4 else 1
            for _ in range(count):
                modules += [nn.Conv2d(before, out, 3, padding=step, dilation=step), nn.ReLU(inplace=True)]
                before = out
            self.ends.append(len(modules))
        self.features = nn.Sequential(*modules)
        self.large_fov = large_fov
        if large_fov:
            reach = 12 * 8 // output_stride
            self.pool5 = nn.Sequential(_pool(1), nn.AvgPool2d(3, stride=1, padding=1))
            self.fc6 = nn.Conv2d(before, last, 3, padding=reach, dilation=reach)
            self.fc7 = nn.Conv2d(last, last, 1)
            self.dropout = nn.Dropout(0.5)
        layers.initialise(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        found, x = [], images
        for index, module in enumerate(self.features, 1):
            x = module(x)
            if index in self.ends:
                found.append(x)
        if self.large_fov:
            x = self.dropout(self.fc6(self.pool5(x)).relu())
            found[-1] = self.dropout(self.fc7(x).relu())
        return found

    def chain(self) -> list[tuple[str, nn.Module, int | None]]:
        """The first stage counts as the stem."""
        starts = [0, *self.ends[:-1]]
        parts = [self.features[start:end] for start, end in zip(starts, self.ends, strict=True)]
        names = ["conv1", *(f"stage{number}" for number in range(2, 6))]
        found: list[tuple[str, nn.Module, int | None]] = list(zip(names, parts, self.strides, strict=True))
        if self.large_fov:
            found[-1] = (*found[-1][:2], None)
            found += [("stage6", self.fc6, None), ("stage7", self.fc7, self.strides[-1])]
        return found


def _pool(stride: int) -> nn.MaxPool2d:
    return nn.MaxPool2d(3, stride, padding=1)


def vgg16(
    name: str,
    *,
    pretrained: bool | str = False,
    output_stride: int | None = None,
    in_channels: int = 3,
    width: float = 1.0,
    large_fov: bool = False,
) -> VGG16:
    """The backbone `vgg16`; with a weight tag in its name, such as `vgg16.tv_in1k`, it is timm's, which is not dilated.

    Args:
        name: as given to `create_backbone`.
        pretrained: a local file of torchvision's or timm's layout, with or without a head; a model saved by maskwright;
            True or a weight tag for timm's weights. A file without fc6 and fc7 leaves them random.
        output_stride: 8, 16 or None, which is 8.
        in_channels: channels of the images; pre-trained stems are adapted.
        width: see `VGG16`.
        large_fov: see `VGG16`.

    Raises:
        RecipeError: another output stride, or weights that cannot be had or do not fit.
    """
    if output_stride not in (None, 8, 16):
        raise RecipeError(
            f"{name} has output stride 8 or 16, found output_stride={output_stride}; set one of these, or take timm's "
            "undilated vgg16.tv_in1k"
        )
    backbone = VGG16(name, output_stride=output_stride or 8, in_channels=in_channels, width=width, large_fov=large_fov)
    if isinstance(pretrained, str) and (pretrained.endswith(SUFFIXES) or Path(pretrained).is_file()):
        load_local(import_timm(), backbone, pretrained, stem=FIRST, optional=NEW)
    elif pretrained:
        timm = import_timm()
        weights, record, finish = find_weights(timm, "vgg16", "", pretrained)
        network = timm.create_model("vgg16", **weights)
        finish(network)
        load_tensors(timm, backbone, network.state_dict(), "timm's vgg16", stem=FIRST, optional=NEW)
        backbone.pretrained_weights = record
    return backbone
