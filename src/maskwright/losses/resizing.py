"""Logits and labels of different sizes: which of the two is resized, and how."""

from __future__ import annotations

import math
from itertools import accumulate, repeat
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels of another size by picking the nearest pixel, exactly as Pillow's `Image.resize(..., NEAREST)`.

    Args:
        labels: `(B, H, W)`.
        size: height and width of the result.

    Returns:
        `(B, height, width)`, the same dtype.
    """
    rows, columns = (_nearest(old, new, labels.device) for old, new in zip(labels.shape[1:], size, strict=True))
    return labels.index_select(1, rows).index_select(2, columns)


def of_one_size(logits: Tensor, labels: Tensor, resize: Literal["logits", "labels"]) -> tuple[Tensor, Tensor]:
    """Logits `(B, C, h, w)` and labels `(B, H, W)` of one size: either the logits bilinearly or the labels by picking.

    What does not fit in another way is left alone; the loss refuses it with the reason.
    """
    if logits.ndim != 4 or labels.ndim != 3 or logits.shape[2:] == labels.shape[1:]:
        return logits, labels
    if resize == "labels":
        return logits, resize_labels(labels, (logits.shape[2], logits.shape[3]))
    return F.interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=False), labels


def _nearest(old: int, new: int, device: torch.device) -> Tensor:
    """Pixel that each new pixel's centre falls on; steps are added up as Pillow does, whose rounding decides ties."""
    step = old / new
    places = accumulate(repeat(step, new - 1), initial=step * 0.5)
    return torch.tensor([min(math.floor(place), old - 1) for place in places], device=device)


def pooled_side(side: int, size: int) -> int:
    """Cells along a side of the image, with half a cell of padding at both ends."""
    return (side + 2 * (size // 2) - size) // size + 1
