"""Sliding windows: where they begin, and the mean of what a network makes of them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from maskwright.errors import DataError, RecipeError


def window_starts(length: int, crop: int, stride: int) -> list[int]:
    """Where windows begin along one axis: every `stride` pixels, the last one moved back to end with the image.

    Args:
        length: pixels along the axis.
        crop: window size in pixels.
        stride: step in pixels, 1 to `crop`.

    Returns:
        `[0]` where the window covers the axis, else `min(i * stride, length - crop)` for i from 0 to
        `ceil((length - crop) / stride)`.

    Raises:
        RecipeError: a crop below 1, or a stride that would leave pixels out.
    """
    if crop < 1 or not 1 <= stride <= crop:
        raise RecipeError(f"window must be at least 1 pixel and its stride 1..window, found {crop} and {stride}")
    if length <= crop:
        return [0]
    return [min(i * stride, length - crop) for i in range(math.ceil((length - crop) / stride) + 1)]


def sliding_window(
    function: Callable[[Tensor], Tensor],
    images: Tensor,
    crop: tuple[int, int],
    stride: tuple[int, int] | None = None,
    *,
    batch_size: int = 8,
) -> Tensor:
    """Logits from overlapping windows, averaged at every pixel over the windows that see it.

    Where an image is smaller than the window it is padded below and on the right with 0 (the mean colour of a
    normalised image), and the result is cut back.

    Args:
        function: `(n, 3, crop height, crop width)` -> logits `(n, C, crop height, crop width)`.
        images: `(B, 3, H, W)`, normalised.
        crop: window height and width, pixels.
        stride: step down and across, pixels; default 2/3 of the window, rounded.
        batch_size: the most windows given to `function` at once (at least one from each image).

    Returns:
        Logits `(B, C, H, W)`; float32 where `function` gives half precision.

    Raises:
        RecipeError: a stride that leaves pixels out.
        DataError: `function` gives another size than it was given.
    """
    count, _, height, width = images.shape
    step = stride or (max(1, round(crop[0] * 2 / 3)), max(1, round(crop[1] * 2 / 3)))
    tops, lefts = window_starts(height, crop[0], step[0]), window_starts(width, crop[1], step[1])
    padded = F.pad(images, (0, max(0, crop[1] - width), 0, max(0, crop[0] - height)))
    windows = [(top, left) for top in tops for left in lefts]
    at_once = max(1, batch_size // count)
    total: Tensor | None = None
    for first in range(0, len(windows), at_once):
        chosen = windows[first : first + at_once]
        parts = torch.cat([padded[:, :, top : top + crop[0], left : left + crop[1]] for top, left in chosen])
        logits = function(parts)
        if logits.ndim != 4 or logits.shape[0] != len(parts) or tuple(logits.shape[2:]) != tuple(crop):
            raise DataError(
                f"the network must give logits ({len(parts)}, C, {crop[0]}, {crop[1]}) for windows of that size, "
                f"found {tuple(logits.shape)}"
            )
        if total is None:
            kind = torch.promote_types(logits.dtype, torch.float32)
            total = torch.zeros(count, logits.shape[1], *padded.shape[2:], dtype=kind, device=logits.device)
        for (top, left), part in zip(chosen, logits.split(count)):
            total[:, :, top : top + crop[0], left : left + crop[1]] += part
    assert total is not None
    rows = visits(tops, crop[0], padded.shape[2]).to(total)
    columns = visits(lefts, crop[1], padded.shape[3]).to(total)
    total /= rows[:, None] * columns
    return total[:, :, :height, :width]


def visits(starts: list[int], crop: int, length: int) -> Tensor:
    """How many windows cover each position of an axis; the count at a pixel is the product of its two axes'.

    Args:
        starts: of the windows.
        crop: their size.
        length: of the axis.

    Returns:
        `(length,)` int64, on the CPU.
    """
    count = torch.zeros(length, dtype=torch.int64, device="cpu")
    for start in starts:
        count[start : start + crop] += 1
    return count
