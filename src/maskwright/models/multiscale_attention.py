"""Hierarchical multi-scale attention (Tao, Sapra, Catanzaro, 2020): the network says where to believe which scale.

One head predicts, for each pixel of an image scaled down, how much of its own prediction to take there instead of the
next larger scale's. It is trained on neighbouring scales, 0.5 and 1, and combines any chain of scales at inference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from maskwright.data.sizes import half_up, scaled_size
from maskwright.errors import DataError, RecipeError
from maskwright.models.backbone import Backbone
from maskwright.models.base import SegmentationModel
from maskwright.models.layers import ConvBNReLU, initialise, initialise_classifier, resize
from maskwright.models.ocr import OCRHead, concatenated, levels_to_read


def combine_two_scales(low: Tensor, attention: Tensor, high: Tensor, *, align_corners: bool = False) -> Tensor:
    """`U(a * low) + (1 - U(a)) * high`: the product is resized, not its factors.

    Args:
        low: logits of the coarser `(B, C, h, w)`.
        attention: of the coarser `(B, 1, h, w)`, 0 to 1.
        high: logits of the finer `(B, C, H, W)`.
        align_corners: how U resizes bilinearly; false means half-pixel centres.

    Returns:
        `(B, C, H, W)`.
    """
    size = high.shape[-2:]
    return _resize(attention * low, size, align_corners) + (1 - _resize(attention, size, align_corners)) * high


def combine_scales(
    logits: Mapping[float, Tensor], attentions: Mapping[float, Tensor], *, align_corners: bool = False
) -> Tensor:
    """Logits of an image seen at several scales, made into one map.

    From the largest scale to the smallest, starting with the largest: while s >= 1, `P = a_s P_s + (1 - a_s) D(P)`; for
    s < 1, `P = U(a_s P_s) + (1 - U(a_s)) P`. U and D resize bilinearly.

    Args:
        logits: scale -> `(B, C, h_s, w_s)`; 1 must be among the scales.
        attentions: scale -> `(B, 1, h_s, w_s)`, 0 to 1, for all scales but the largest.
        align_corners: how maps are resized; false means half-pixel centres.

    Returns:
        `(B, C, h_1, w_1)`.

    Raises:
        DataError: scale 1 or an attention is missing.
    """
    scales = sorted(logits, reverse=True)
    missing = [scale for scale in scales[1:] if scale not in attentions]
    if 1.0 not in scales or missing:
        raise DataError(
            f"expected logits at scale 1 and an attention at every scale but the largest, found logits at {scales} and "
            f"attentions at {sorted(attentions, reverse=True)}"
        )
    joint = logits[scales[0]]
    for scale in scales[1:]:
        if scale >= 1:
            own, attention = logits[scale], attentions[scale]
            joint = attention * own + (1 - attention) * _resize(joint, own.shape[-2:], align_corners)
        else:
            joint = combine_two_scales(logits[scale], attentions[scale], joint, align_corners=align_corners)
    return joint


class AttentionHead(nn.Sequential):
    """Two 3x3 convolutions with batch normalisation and ReLU, one 1x1 without bias, sigmoid: `(B, 1, h, w)`, 0 to 1.

    It starts undecided, at one half.

    Args:
        in_channels: channels of the features.
        channels: width in between.
    """

    def __init__(self, in_channels: int, channels: int = 256) -> None:
        last = nn.Conv2d(channels, 1, 1, bias=False)
        super().__init__(ConvBNReLU(in_channels, channels), ConvBNReLU(channels, channels), last, nn.Sigmoid())
        initialise(self)
        initialise_classifier(last)


class MultiScaleModel(SegmentationModel):
    """Base of segmenters that see the image at several scales with shared weights; see `HierarchicalAttention`.

    A subclass's `head` also gives "features" `(B, feature_channels, h, w)`, which the attention is predicted from.

    Args:
        backbone: gives the feature maps.
        num_classes: channels of the logits.
        feature_channels: channels of "features".
        attention_channels: width of the attention head.
        train_scales: scales in training, 1 among them; (1.0,) trains on one scale, without attention.
        inference_scales: scales in evaluation, 1 among them; None: those of the training.
        full_size: bring each scale's maps to the size of its image before they are combined, as the released code does;
            otherwise they are combined at the head's resolution, with a sixteenth of the memory at stride 4.

    Raises:
        RecipeError: scales that are not positive, occur twice or lack 1, or several of them without attention.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        feature_channels: int,
        *,
        attention_channels: int = 256,
        train_scales: Sequence[float] = (0.5, 1.0),
        inference_scales: Sequence[float] | None = None,
        full_size: bool = False,
    ) -> None:
        super().__init__(backbone, num_classes)
        self.train_scales = _checked_scales("train_scales", train_scales)
        self.inference_scales = _checked_scales("inference_scales", inference_scales or train_scales)
        self.full_size = full_size
        self.attention: AttentionHead | None = None
        if len(self.train_scales) > 1:
            self.attention = AttentionHead(feature_channels, attention_channels)
        elif len(self.inference_scales) > 1:
            raise RecipeError(
                f"inference_scales {self.inference_scales} need an attention, which training on scale 1 alone does not "
                "give; set train_scales to two scales or more"
            )

    def outputs(self, images: Tensor, *, auxiliary: bool = False) -> dict[str, Tensor]:
        """Every output, at the resolution that the head has at scale 1.

        Args:
            images: `(B, 3, H, W)`, normalised.
            auxiliary: also what is there for training and for looking at.

        Returns:
            "logits", the joint map; with `auxiliary` also "aux", the joint map of the region logits; each scale's own
            logits ("scale.0.5", "scale.1") and attention ("attention.0.5", none of the largest scale); what else the
            head gives at scale 1; and the auxiliary heads' outputs at scale 1.
        """
        found: dict[float, dict[str, Tensor]] = {}
        attentions: dict[float, Tensor] = {}
        others: dict[str, Tensor] = {}
        scales = self.train_scales if self.training else self.inference_scales
        for scale in scales:
            scaled = resize(images, scaled_size((images.shape[-2], images.shape[-1]), scale, half_up))
            size = (scaled.shape[-2], scaled.shape[-1])
            features = self.backbone(scaled)
            outputs = self.head(features, size)
            represented = outputs.pop("features")
            if self.attention is not None and scale != scales[0]:
                attentions[scale] = self.attention(represented)
            found[scale] = {name: outputs.pop(name) for name in ("logits", "aux") if auxiliary or name == "logits"}
            if self.full_size:
                found[scale] = {name: resize(value, size) for name, value in found[scale].items()}
                if scale in attentions:
                    attentions[scale] = resize(attentions[scale], size)
            if scale == 1 and auxiliary:
                outputs.pop("aux", None)
                others = self.with_auxiliary(outputs, features)
        joint = {
            name: combine_scales({scale: values[name] for scale, values in found.items()}, attentions)
            for name in found[1.0]
        }
        if not auxiliary:
            return joint
        own = {f"scale.{scale:g}": values["logits"] for scale, values in found.items()}
        weights = {f"attention.{scale:g}": attention for scale, attention in attentions.items()}
        return {**joint, **own, **weights, **others}


class HierarchicalAttention(MultiScaleModel):
    """Hierarchical multi-scale attention on OCR: with HRNet-W48 and the RMI loss, NVIDIA's network.

    Trained on the joint map (RMI), with 0.4 on the joint region logits and, if wanted, 0.05 on each scale's own map:
    `loss={"name": "rmi", "auxiliary": {"aux": 0.4, "scale": 0.05}}`.

    Args:
        backbone: gives the feature maps.
        num_classes: channels of the logits.
        channels: width of the object-contextual features.
        key_channels: width of OCR's attention.
        fuse: maps that OCR reads, as in `OCRNet`.
        dropout: probability that a channel is dropped before the classifier.
        attention_channels: width of the attention head.
        train_scales: as in `MultiScaleModel`.
        inference_scales: as in `MultiScaleModel`; the paper's best numbers have (0.5, 1.0, 2.0).
        full_size: as in `MultiScaleModel`.

    Raises:
        RecipeError: as `MultiScaleModel`.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        channels: int = 512,
        key_channels: int = 256,
        fuse: int | None = None,
        dropout: float = 0.05,
        attention_channels: int = 256,
        train_scales: Sequence[float] = (0.5, 1.0),
        inference_scales: Sequence[float] | None = None,
        full_size: bool = False,
    ) -> None:
        super().__init__(
            backbone,
            num_classes,
            channels,
            attention_channels=attention_channels,
            train_scales=train_scales,
            inference_scales=inference_scales,
            full_size=full_size,
        )
        self.levels = levels_to_read(backbone, fuse)
        backbone.use_only(self.levels)
        width = sum(backbone.channels[level] for level in self.levels)
        self.ocr = OCRHead(width, num_classes, channels=channels, key_channels=key_channels, dropout=dropout)

    def head(self, features: list[Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        """One scale: "logits", "aux" and "features" at the resolution of the finest map that is read."""
        return self.ocr(concatenated([features[level] for level in self.levels]))


def _checked_scales(name: str, scales: Sequence[float]) -> tuple[float, ...]:
    """From the largest to the smallest.

    Raises:
        RecipeError: scales that are not positive, occur twice or lack 1.
    """
    found = tuple(sorted((float(scale) for scale in scales), reverse=True))
    if 1.0 not in found or len(set(found)) < len(found) or min(found) <= 0:
        raise RecipeError(f"{name} must be different positive numbers with 1 among them, found {list(scales)}")
    return found


def _resize(maps: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    if align_corners:
        return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=True)
    return resize(maps, size)
