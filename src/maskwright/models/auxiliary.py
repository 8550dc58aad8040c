"""Auxiliary heads for training, on any feature map of any segmenter: plain ones, and coarse ones for the CPP loss.

The CPP paper (SeeThroughNet, CVPR 2022) put its heads on seven segmenters; here every model takes them:
`create_model("deeplabv3plus", ..., auxiliary={"aux": [16], "cpp": [8, 16]})`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor, nn

from maskwright.errors import RecipeError, unknown_name
from maskwright.models.backbone import Backbone
from maskwright.models.layers import ConvBNReLU, initialise, initialise_classifier

# What the first part of an output's name says about its head; `maskwright.losses` reads it the same way.
KINDS = ("aux", "cpp", "nearest")


class FCNHead(nn.Sequential):
    """3x3 convolution, batch normalisation, ReLU, dropout, 1x1 convolution to the classes.

    Args:
        in_channels: channels of the feature map.
        channels: width in between.
        num_classes: channels of the logits.
        dropout: probability that a value is dropped before the classifier.
    """

    def __init__(self, in_channels: int, channels: int, num_classes: int, *, dropout: float = 0.1) -> None:
        classifier = nn.Conv2d(channels, num_classes, 1)
        super().__init__(ConvBNReLU(in_channels, channels), nn.Dropout(dropout), classifier)
        initialise(self)
        initialise_classifier(classifier)


class AuxiliaryHeads(nn.Module):
    """Heads on some of a backbone's feature maps.

    Args:
        backbone: gives the feature maps; it is told that these are read.
        num_classes: C.
        heads: per kind, the maps that get such a head: the stride in pixels (the last map of that stride), or a
            negative number counted from the coarsest map (-1). "aux": a plain head with C channels, for the main loss.
            "cpp": a coarse head without dropout, for the CPP loss. "nearest": the same with C channels, for labels at
            its own size by the nearest pixel, which the paper compares CPP pooling with.
        channels: width of a plain head; a coarse head has that of its map, at least 64.
        cpp_ignore: "channel" (the paper) gives coarse heads C + 1 channels, the last for ignored pixels; "renormalise"
            C channels, for a loss in which ignored pixels never matter.

    Raises:
        RecipeError: an unknown kind or mode, or a map that the backbone does not have.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        heads: Mapping[str, Sequence[int]],
        *,
        channels: int = 256,
        cpp_ignore: Literal["channel", "renormalise"] = "channel",
    ) -> None:
        super().__init__()
        if cpp_ignore not in ("channel", "renormalise"):
            raise RecipeError(f"cpp_ignore must be channel or renormalise, found {cpp_ignore!r}")
        self.places: dict[str, int] = {}
        self.heads = nn.ModuleDict()
        for kind, maps in heads.items():
            if kind not in KINDS:
                raise RecipeError(unknown_name("kind of auxiliary head", kind, KINDS))
            for number in maps:
                index = _find_map(backbone, number)
                width = backbone.channels[index]
                self.places[f"{kind}.{number}"] = index
                if kind == "aux":
                    head = FCNHead(width, channels, num_classes)
                else:
                    ignored = kind == "cpp" and cpp_ignore == "channel"
                    head = FCNHead(width, max(64, width), num_classes + ignored, dropout=0.0)
                self.heads[f"{kind}{number}"] = head
        backbone.use_only(sorted(set(self.places.values())))

    def forward(self, features: list[Tensor]) -> dict[str, Tensor]:
        """Logits `(B, C or C + 1, h_i, w_i)` of every head at its map's own size, by name, such as "cpp.8".

        Args:
            features: the backbone's maps `(B, C_i, h_i, w_i)`, fine to coarse.
        """
        return {name: self.heads[name.replace(".", "")](features[index]) for name, index in self.places.items()}


def _find_map(backbone: Backbone, number: int) -> int:
    strides = backbone.strides
    if number < 0 and -number <= len(strides):
        return len(strides) + number
    if number not in strides:
        raise RecipeError(
            f"auxiliary head on the feature map {number}: backbone {backbone.name} has maps of strides {strides}; give "
            f"one of these, or -1 (the coarsest) to -{len(strides)}"
        )
    return max(index for index, stride in enumerate(strides) if stride == number)
