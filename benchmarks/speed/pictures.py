"""Made-up label maps and photographs that compress and segment about as real ones do."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


def label_maps(
    count: int, height: int, width: int, classes: int, *, ignored: float = 0.0, shown: int | None = None, seed: int = 0
) -> Tensor:
    """Regions with smooth borders, some of the classes in each map, the first of them in about half of it.

    Args:
        count: B.
        height: H.
        width: W.
        classes: C.
        ignored: share of the pixels that are 255.
        shown: classes in each map; default a third of all.
        seed: of the maps.

    Returns:
        `(B, H, W)` uint8.
    """
    generator = torch.Generator().manual_seed(seed)
    shown = shown or max(2, classes // 3)
    maps = []
    for _ in range(count):
        values = torch.randperm(classes, generator=generator)[:shown]
        noise = torch.randn(1, shown, height // 32 + 2, width // 32 + 2, generator=generator)
        noise[:, 0] += 0.8
        maps.append(values[F.interpolate(noise, (height, width), mode="bicubic")[0].argmax(0)])
    labels = torch.stack(maps).to(torch.uint8)
    return labels.masked_fill_(torch.rand(labels.shape, generator=generator) < ignored, 255)


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colour fields with noise, `(H, W, 3)` uint8: about the file size of a photograph."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 30 + 2, width // 30 + 2, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    return np.clip(smooth + rng.normal(0, 8, (height, width, 3)), 0, 255).astype(np.uint8)
