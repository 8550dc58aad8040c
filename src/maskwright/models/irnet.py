"""IRNet: class boundaries and displacements to instance centroids, from image tags alone (Ahn et al., CVPR 2019).

Two branches of 1x1 convolutions read every stage of a backbone that is never trained. Which pixels belong together is
learnt from seed maps; the losses are in `maskwright.weak.refine.irn_loss`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskwright.engine.checkpoint import load_model
from maskwright.errors import RecipeError
from maskwright.models.backbone import Backbone
from maskwright.models.backbones import create_backbone

STRIDE = 4  # of both outputs
EDGE_WIDTH = 32
FINE_WIDTHS = (64, 128)  # of the displacement branch at stride 4: stem, first stage
COARSE_WIDTH = 256


class IRNet(nn.Module):
    """Edge and displacement heads on a frozen backbone.

    As published on a ResNet-50 of output stride 16; the same heads are built on any backbone with a map of stride 4 (or
    2, which is then max-pooled as in a ResNet) and coarser ones. The backbone stays in inference mode during training.

    Args:
        backbone: with weights that mean something: they are never trained.

    Raises:
        RecipeError: the backbone lacks a map of stride 4, or coarser ones.
    """

    mean_shift: Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        backbone.use_only(range(len(backbone.strides)))
        self.backbone = backbone.requires_grad_(False).eval()
        strides = [max(stride, STRIDE) for stride in backbone.strides]
        fine = [channels for channels, stride in zip(backbone.channels, strides) if stride == STRIDE]
        if not 1 <= len(fine) <= len(FINE_WIDTHS) or len(fine) == len(strides) or min(backbone.strides) < 2:
            raise RecipeError(
                f"IRNet needs a backbone with one or two feature maps of stride 2 to 4 and coarser ones; "
                f"{backbone.name} has strides {backbone.strides}. Take a ResNet"
            )
        coarse = backbone.channels[len(fine) :]
        # The coarse displacement maps meet at the finest coarse stride.
        self.strides, self.meeting = strides, strides[len(fine)]

        self.edge = nn.ModuleList([_block(channels, EDGE_WIDTH, 4) for channels in backbone.channels])
        self.edge_out = nn.Conv2d(EDGE_WIDTH * len(strides), 1, 1)
        widths = FINE_WIDTHS[-len(fine) :]
        self.fine = nn.ModuleList([_block(c, width, 8 if width == 64 else 16) for c, width in zip(fine, widths)])
        self.coarse = nn.ModuleList([_block(channels, COARSE_WIDTH, 16) for channels in coarse])
        self.merge_coarse = _block(COARSE_WIDTH * len(coarse), COARSE_WIDTH, 16)
        self.merge = _block(sum(widths) + COARSE_WIDTH, COARSE_WIDTH, 16)
        self.displacement_out = nn.Conv2d(COARSE_WIDTH, 2, 1, bias=False)
        self.register_buffer("mean_shift", torch.zeros(2))

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean that images are normalised with, one number per channel, 0 to 1."""
        return self.backbone.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation that images are normalised with, one number per channel, 0 to 1."""
        return self.backbone.std

    def train(self, mode: bool = True) -> IRNet:
        """Training mode for the heads only."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, images: Tensor, *, displacement: bool = True) -> tuple[Tensor, Tensor | None]:
        """Both outputs at a quarter of the image size, rounded up.

        Args:
            images: `(B, 3, H, W)`, normalised.
            displacement: whether that branch is computed; semantic masks need the edges only.

        Returns:
            Edge logits `(B, 1, h, w)`, and the way `(B, 2, h, w)` from each position to the centroid of its instance,
            (dy, dx) in positions, or None. In inference mode `mean_shift` is subtracted from the latter.
        """
        maps = self.taps(images)
        return self.edges(maps), self.displacements(maps) if displacement else None

    @torch.no_grad()
    def taps(self, images: Tensor) -> list[Tensor]:
        """What the branches read: every map of the backbone, those finer than stride 4 max-pooled to it."""
        return [
            F.max_pool2d(features, 3, 2, 1) if stride < STRIDE else features
            for features, stride in zip(self.backbone(images), self.backbone.strides)
        ]

    def edges(self, maps: Sequence[Tensor]) -> Tensor:
        """Edge logits `(B, 1, h, w)` from `taps`."""
        size = self._size(maps)
        branches = [
            _enlarged(block(features), stride // STRIDE, size).relu()
            for block, features, stride in zip(self.edge, maps, self.strides)
        ]
        return self.edge_out(torch.cat(branches, 1))

    def displacements(self, maps: Sequence[Tensor], *, shift: bool | None = None) -> Tensor:
        """Displacements `(B, 2, h, w)` from `taps`.

        Args:
            maps: the backbone's.
            shift: whether `mean_shift` is subtracted; by default in inference mode only.
        """
        size, count = self._size(maps), len(self.fine)
        meeting = tuple(maps[count].shape[-2:])
        coarse = [
            _enlarged(block(features), stride // self.meeting, meeting).relu()
            for block, features, stride in zip(self.coarse, maps[count:], self.strides[count:])
        ]
        merged = _enlarged(self.merge_coarse(torch.cat(coarse, 1)), self.meeting // STRIDE, size).relu()
        fine = [block(features).relu() for block, features in zip(self.fine, maps)]
        found = self.displacement_out(self.merge(torch.cat([*fine, merged], 1)).relu())
        if shift is None:
            shift = not self.training
        return found - self.mean_shift.to(found.dtype)[:, None, None] if shift else found

    def _size(self, maps: Sequence[Tensor]) -> tuple[int, int]:
        height, width = maps[len(self.fine) - 1].shape[-2:]
        return height, width


def create_irnet(
    *,
    backbone: str = "resnet50",
    pretrained: bool | str = False,
    output_stride: int | None = 16,
    dilate: bool = False,
    **options: Any,
) -> IRNet:
    """An IRNet with new heads, by default on the image-tag papers' ResNet-50.

    Args:
        backbone: as for `create_backbone`.
        pretrained: as for `create_backbone`.
        output_stride: as for `create_backbone`.
        dilate: dilation instead of the strides that are taken away; the paper has none.
        options: passed to `create_backbone`.

    Raises:
        RecipeError: as `create_backbone` and `IRNet`.
    """
    return IRNet(
        create_backbone(backbone, pretrained=pretrained, output_stride=output_stride, dilate=dilate, **options)
    )


def load_irnet(path: str | Path) -> IRNet:
    """A trained IRNet from the file that training wrote, in evaluation mode, on the CPU.

    Args:
        path: `model.safetensors` of an IRNet.

    Raises:
        DataError: as `load_model`.
    """

    def create(made: dict[str, Any]) -> IRNet:
        return create_irnet(backbone=made["backbone"], output_stride=made["output_stride"], **made["options"])

    return load_model(path, "irnet", create)[0]


def merge_edges(logits: Tensor) -> Tensor:
    """Edge probability `(B, 1, h, w)` from logits `(2B, 1, h, w)` of B images, then their mirrors: means of logits."""
    straight, mirrored = logits.chunk(2)
    return ((straight + mirrored.flip(-1)) / 2).sigmoid()


@torch.no_grad()
def infer_edges(
    network: IRNet, pairs: Tensor, *, pad_to: int | None = None, displacement: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Edge probabilities of images seen straight and mirrored.

    Args:
        network: in inference mode.
        pairs: `(2B, 3, H, W)` normalised, B images, then their mirrors.
        pad_to: images smaller than this are padded with zeros on the right and below, mirrors too, as in IRN's released
            code, where larger ones are lost; here they are seen as they are. None: as ReCAM's code, no padding.
        displacement: whether the displacements of the straight images are wanted as well.

    Returns:
        `(B, 1, h, w)` in 0..1 and `(B, 2, h, w)` or None, float32 or wider, at a quarter of the size, rounded up.
    """
    height, width = pairs.shape[-2:]
    if pad_to is not None:
        pairs = F.pad(pairs, (0, max(0, pad_to - width), 0, max(0, pad_to - height)))
    size = -(-height // STRIDE), -(-width // STRIDE)
    maps = network.taps(pairs)
    logits = network.edges(maps)[..., : size[0], : size[1]]
    edges = merge_edges(logits.to(torch.promote_types(logits.dtype, torch.float32)))
    if not displacement:
        return edges, None
    found = network.displacements([features.chunk(2)[0] for features in maps], shift=True)[..., : size[0], : size[1]]
    return edges, found.to(edges.dtype)


def _block(in_channels: int, out_channels: int, groups: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.GroupNorm(groups, out_channels))


def _enlarged(features: Tensor, factor: int, size: tuple[int, ...]) -> Tensor:
    """Bilinear enlargement by a whole factor, cut to a size; cheaper than to that size exactly, and as published."""
    if factor > 1:
        features = F.interpolate(features, scale_factor=factor, mode="bilinear", align_corners=False)
    return features[..., : size[0], : size[1]]
