"""SeeThroughNet (CVPR 2022): no class is forgotten on the way from coarse to fine.

Every branch of the backbone predicts a class map of its own. From the coarsest to the finest, relative attention says
where the coarser of two neighbours is believed; the aggregated map gives the regions of an OCR head. The coarser class
maps learn class shares (CPP pooling, `maskwright.losses.cpp`), so a thing that is small in a cell still counts there.
The whole network sees the image at two scales, and is trained with cross-entropy and region mutual information.

The full objective as loss settings (w = 0.4 for the CPP terms, the weight that OCR's auxiliary loss has, since the
paper's was not published where we could read it):

    {"name": "rmi", "options": {"ce": "softmax"}, "auxiliary": {"cpp": 0.4}}

It puts no loss on the aggregated map: the finest class map and the relative attention learn only from what OCR's
regions pass on, which is little at first, and next to nothing where the heads are narrow. `"auxiliary": {"cpp": 0.4,
"aux": 0.4}` adds the loss of the aggregated map, as OCR has it for its own regions; what that changes is in
docs/results.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from maskwright.errors import RecipeError
from maskwright.models.auxiliary import FCNHead
from maskwright.models.backbone import Backbone
from maskwright.models.fcn import stages
from maskwright.models.layers import ConvBNReLU, initialise
from maskwright.models.multiscale_attention import AttentionHead, MultiScaleModel, combine_two_scales
from maskwright.models.ocr import OCRHead, concatenated


def aggregate(class_maps: Sequence[Tensor], masks: Sequence[Tensor], *, align_corners: bool = False) -> Tensor:
    """Class maps from coarse to fine, each next to the aggregate of the coarser ones.

    `A <- U(a_s A) + (1 - U(a_s)) X_(s-1)` from the coarsest on: the one convex combination of neighbours that fits what
    is published of the paper's equation 3.

    Args:
        class_maps: logits X `(B, C, h_s, w_s)`, fine to coarse.
        masks: relative attention a `(B, 1, h_s, w_s)`, 0 to 1, of all but the finest, in the same order.
        align_corners: how U resizes bilinearly; false means half-pixel centres.

    Returns:
        `(B, C, h_0, w_0)`.
    """
    joint = class_maps[-1]
    for finer, mask in zip(reversed(class_maps[:-1]), reversed(masks), strict=True):
        joint = combine_two_scales(joint, mask, finer, align_corners=align_corners)
    return joint


class SeeThroughNet(MultiScaleModel):
    """SeeThroughNet on any backbone; the paper's is HRNetV2-W48, whose branches are used as they are.

    One branch per stride of 4 or more, the deepest map of that stride. A backbone of one stride (a plain vision
    transformer) gets a simple pyramid: its maps are resized to a quarter, a half, once and twice that stride.

    Choices where the paper could not be read: coarse heads are as wide as their branch, at least 64; all but the finest
    get the CPP loss; the finest, and relative attention, get none of their own, only what OCR's regions pass on and,
    where `loss.auxiliary` has "aux", the loss of the aggregated map; relative attention reads the coarser branch's
    features; the CPP terms are those of scale 1.

    Args:
        backbone: gives the feature maps.
        num_classes: channels of the logits.
        branch_channels: branches wider than this are reduced by a 1x1 convolution first; None: an HRNet's never, those
            of others to 256.
        channels: width of OCR's features.
        key_channels: width of OCR's attention.
        attention_channels: width of the attention heads, between branches and between scales.
        cpp_ignore: "channel" (the paper) gives the coarser heads one channel more, for ignored pixels, which is left
            out of the aggregation; "renormalise" does not, and ignored pixels never matter.
        dropout: probability that a channel is dropped before the classifier.
        train_scales: as in `MultiScaleModel`; (1.0,) trains on one scale.
        inference_scales: as in `MultiScaleModel`.
        full_size: as in `MultiScaleModel`.

    Raises:
        RecipeError: an unknown mode, or as `MultiScaleModel`.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        branch_channels: int | None = None,
        channels: int = 512,
        key_channels: int = 256,
        attention_channels: int = 256,
        cpp_ignore: Literal["channel", "renormalise"] = "channel",
        dropout: float = 0.05,
        train_scales: Sequence[float] = (0.5, 1.0),
        inference_scales: Sequence[float] | None = None,
        full_size: bool = False,
    ) -> None:
        if cpp_ignore not in ("channel", "renormalise"):
            raise RecipeError(f"cpp_ignore must be channel or renormalise, found {cpp_ignore!r}")
        super().__init__(
            backbone,
            num_classes,
            channels,
            attention_channels=attention_channels,
            train_scales=train_scales,
            inference_scales=inference_scales,
            full_size=full_size,
        )
        found = {backbone.strides[level]: level for level in stages(backbone)}
        self.one_stride = len(found) == 1
        self.levels = stages(backbone) if self.one_stride else list(found.values())
        stride = float(max(found))
        # Stride of each branch, fine to coarse.
        self.strides = [stride * 2.0 ** (i - 2) for i in range(len(self.levels))] if self.one_stride else list(found)
        backbone.use_only(self.levels)
        if branch_channels is None and not backbone.name.startswith("hrnet"):
            branch_channels = 256
        own = [backbone.channels[level] for level in self.levels]
        widths = [min(width, branch_channels or width) for width in own]
        self.reduce = nn.ModuleList(
            ConvBNReLU(before, after, 1) if after < before else nn.Identity()
            for before, after in zip(own, widths, strict=True)
        )
        extra = [0] + [int(cpp_ignore == "channel")] * (len(widths) - 1)
        self.coarse = nn.ModuleList(
            FCNHead(width, max(64, width), num_classes + more, dropout=0.0)
            for width, more in zip(widths, extra, strict=True)
        )
        self.relative = nn.ModuleList(AttentionHead(width, attention_channels) for width in widths[1:])
        self.ocr = OCRHead(
            sum(widths), num_classes, channels=channels, key_channels=key_channels, dropout=dropout, own_regions=False
        )
        initialise(self.reduce)

    def add_auxiliary(self, heads: Mapping[str, Sequence[int]], **options: Any) -> None:
        """Other auxiliary heads than "cpp", which the network has as a part of itself.

        Raises:
            RecipeError: heads of kind "cpp", or as in `SegmentationModel`.
        """
        if "cpp" in heads:
            names = [f"cpp.{stride:g}" for stride in self.strides[1:]]
            raise RecipeError(f"seethrough has its own heads {', '.join(names)}; leave cpp out of auxiliary")
        super().add_auxiliary(heads, **options)

    def branches(self, features: list[Tensor], size: tuple[int, int]) -> list[Tensor]:
        """What the heads read, `(B, C_i, ceil(H / stride_i), ceil(W / stride_i))`, fine to coarse.

        Args:
            features: the backbone's maps, fine to coarse.
            size: H and W, of the image.
        """
        maps = [reduce(features[level]) for reduce, level in zip(self.reduce, self.levels, strict=True)]
        if not self.one_stride:
            return maps
        return [
            _restrided(found, 2.0 ** (i - 2), stride, size) for i, (found, stride) in enumerate(zip(maps, self.strides))
        ]

    def head(self, features: list[Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        """One scale: "logits", "aux" (the aggregated class map) and "features" at the finest branch's resolution.

        Also the coarser class maps by stride, "cpp.8", "cpp.16", "cpp.32" `(B, C + 1 or C, h, w)`.
        """
        branches = self.branches(features, size)
        class_maps = [head(branch) for head, branch in zip(self.coarse, branches, strict=True)]
        masks = [head(branch) for head, branch in zip(self.relative, branches[1:], strict=True)]
        regions = aggregate([class_map[:, : self.num_classes] for class_map in class_maps], masks)
        pooled = {f"cpp.{stride:g}": found for stride, found in zip(self.strides[1:], class_maps[1:], strict=True)}
        return {**self.ocr(concatenated(branches), regions), **pooled}


def _restrided(features: Tensor, factor: float, stride: float, size: tuple[int, int]) -> Tensor:
    """A map whose positions lie `factor` times as far apart, cut to what the image covers."""
    if factor > 1:
        features = F.avg_pool2d(features, round(factor), ceil_mode=True, count_include_pad=False)
    elif factor < 1:
        features = F.interpolate(features, scale_factor=round(1 / factor), mode="bilinear", align_corners=False)
    return features[..., : math.ceil(size[0] / stride), : math.ceil(size[1] / stride)]
