"""Seeds from sliding windows: the network sees a part of the image at a time, and attends to more of an object in it.

What is put together is what the network makes of the windows, its feature maps: each position is the mean over the
windows that see it. Scores of classes are linear in them, so they are the mean of the windows' scores, before any ReLU
and before a map is divided by its maximum: in a window that does not show a class its map stays low, where a map of the
window's own would have its maximum there. All that reads feature maps goes on from these: PCM, softmax, gradients.
"""

from __future__ import annotations

import copy
from itertools import product
from typing import Any

import torch
from torch import Tensor

from maskwright.errors import RecipeError
from maskwright.inference.windows import visits, window_starts
from maskwright.models.backbone import Backbone
from maskwright.settings import SeedSettings


def in_windows(network: Any, settings: SeedSettings) -> Any:
    """The network that seeds are taken of: itself, or, with `seeds.window`, one that sees images window by window.

    Args:
        network: has a `backbone`, which stays as it is and is not copied.
        settings: `window` and `stride` are read.

    Raises:
        RecipeError: a window or a step that the network's maps cannot be put together with.
    """
    if settings.window is None:
        return network
    windowed = WindowedBackbone(network.backbone, settings.window, settings.stride)
    return copy.deepcopy(network, {id(network.backbone): windowed})  # a copy with that in its place


class WindowedBackbone(Backbone):
    """A backbone that sees images window by window.

    Windows begin on the grid of the coarsest map. Along an axis where it is no larger than the window, an image is seen
    whole. The last window ends with the image, so it is narrower by less than a position where the grid does not.

    Args:
        backbone: sees the windows.
        window: height and width in pixels, multiples of the stride of the backbone's coarsest map.
        step: down and across, in pixels, likewise; by default about 2/3 of the window.

    Raises:
        RecipeError: they are no such multiples, or would leave pixels out.
    """

    def __init__(self, backbone: Backbone, window: tuple[int, int], step: tuple[int, int] | None = None) -> None:
        super().__init__(
            backbone.name,
            backbone.channels,
            backbone.strides,
            backbone.mean,
            backbone.std,
            in_channels=backbone.in_channels,
        )
        self.pooled, self.backbone, self.cell = backbone.pooled, backbone, backbone.strides[-1]
        # In positions of the coarsest map.
        self.window = self._positions("window", window)
        self.step = (
            tuple(max(1, round(side * 2 / 3)) for side in self.window)
            if step is None
            else self._positions("stride", step)
        )
        if any(down > side for down, side in zip(self.step, self.window, strict=True)):
            raise RecipeError(
                f"seeds.stride={list(step or ())} leaves pixels out between windows of {list(window)}; it may be as "
                "large as seeds.window at most"
            )

    def _positions(self, key: str, sides: tuple[int, int]) -> tuple[int, ...]:
        if any(side < 1 or side % self.cell for side in sides):
            nearest = [max(1, round(side / self.cell)) * self.cell for side in sides]
            raise RecipeError(
                f"seeds.{key}={list(sides)} must be multiples of {self.cell}, the pixels between positions of this "
                f"network's maps, which are put together position by position; the nearest are {nearest}"
            )
        return tuple(side // self.cell for side in sides)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps of the images, fine to coarse, as every backbone gives them; see `Backbone`.

        Args:
            images: `(B, 3, H, W)`, normalised.

        Returns:
            At least float32 where there is more than one window.
        """
        size = images.shape[-2:]
        starts = [
            window_starts(-(-length // self.cell), window, step)
            for length, window, step in zip(size, self.window, self.step, strict=True)
        ]
        if len(starts[0]) == len(starts[1]) == 1:
            return self.backbone(images)
        totals: list[Tensor] = []
        for place in product(*starts):
            rows, columns = self._slices(place, self.cell)
            found = self.backbone(images[..., rows, columns])
            totals = totals or [self._empty(maps, stride, size) for maps, stride in zip(found, self.strides)]
            for total, maps, stride in zip(totals, found, self.strides, strict=True):
                rows, columns = self._slices(place, self.cell // stride)
                total[..., rows, columns] += maps
        for total, stride in zip(totals, self.strides, strict=True):
            times = self.cell // stride
            down, across = (
                visits([start * times for start in axis], window * times, length).to(total)
                for axis, window, length in zip(starts, self.window, total.shape[-2:], strict=True)
            )
            total /= down[:, None] * across
        return totals

    def _slices(self, place: tuple[int, ...], times: int) -> tuple[slice, slice]:
        """What a window sees, in a map with so many positions for one of the coarsest."""
        rows, columns = (slice(at * times, (at + side) * times) for at, side in zip(place, self.window, strict=True))
        return rows, columns

    @staticmethod
    def _empty(maps: Tensor, stride: int, size: tuple[int, ...]) -> Tensor:
        kind = torch.promote_types(maps.dtype, torch.float32)
        return maps.new_zeros(*maps.shape[:2], *(-(-length // stride) for length in size), dtype=kind)
