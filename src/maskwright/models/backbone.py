"""What every backbone gives: feature maps, fine to coarse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


class Backbone(nn.Module):
    """Base of every backbone; a subclass implements `forward`.

    Args:
        name: as given to `create_backbone`.
        channels: channels of each feature map, fine to coarse.
        strides: pixels of the image per position of each feature map, ascending.
        mean: what images are normalised with, one number per channel, 0 to 1.
        std: the same.
        in_channels: channels of the images; where `mean` and `std` have another number, each gets their mean.

    Attributes:
        pretrained_weights: the record of the weights that it began with, as `weights_record` makes it; None: none.
        maps_read: indices of the feature maps that heads said they read; none: nobody said.
    """

    pooled = True  # whether the coarsest map is the one that a classifier pools

    def __init__(
        self,
        name: str,
        channels: Sequence[int],
        strides: Sequence[int],
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        *,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if in_channels != len(mean):
            mean, std = (sum(mean) / len(mean),) * in_channels, (sum(std) / len(std),) * in_channels
        self.in_channels = in_channels
        self.name = name
        self.channels = list(channels)
        self.strides = list(strides)
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.pretrained_weights: dict[str, Any] | None = None
        self.maps_read: set[int] = set()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps, fine to coarse.

        Args:
            images: `(B, 3, H, W)`, normalised.

        Returns:
            `(B, channels[i], ceil(H / strides[i]), ceil(W / strides[i]))` for each i.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement forward(images)")

    def chain(self) -> list[tuple[str, nn.Module, int | None]]:
        """Name, module and the stride of the feature map it ends in, in the order in which they run.

        Empty where the backbone is no plain chain of modules.
        """
        return []

    def use_only(self, indices: Sequence[int]) -> None:
        """Say which feature maps a head reads, so that weights that only serve the others are not trained, nor the
        others kept where maps are made once.

        Several heads may say so; what one of them reads is trained.
        """
        self.maps_read |= {index % len(self.strides) for index in indices}
