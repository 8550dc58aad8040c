"""Score maps made visible: over their image, as colours and weights."""

from __future__ import annotations

import numpy as np
from PIL import Image

from maskwright.data.decode import as_rgb

# Anchors of a perceptually even black-purple-orange-yellow ramp: brightness alone carries the value, so it reads the
# same with any colour vision and in print.
_HEAT = np.array(
    [
        (0, 0, 4),
        (40, 11, 84),
        (101, 21, 110),
        (159, 42, 99),
        (212, 72, 66),
        (245, 125, 21),
        (250, 193, 39),
        (252, 255, 164),
    ],
    np.float32,
)


def heatmap(image: np.ndarray, score: np.ndarray) -> np.ndarray:
    """A score map over its image: the higher, the brighter and the more opaque.

    Args:
        image: `(H, W, 3)` uint8, RGB.
        score: `(h, w)` in 0..1; of any size, stretched to the image's.

    Returns:
        `(H, W, 3)` uint8, RGB.
    """
    image = as_rgb(image)
    levels = heat_levels(score, (image.shape[1], image.shape[0]), 256)
    colours, weights = heat_table(256)
    weight = weights[levels][..., None]
    return (image * (1 - weight) + colours[levels] * weight + 0.5).astype(np.uint8)


def heat_table(levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Colours `(levels, 3)` in 0..255 and weights `(levels,)` in 0..1 of the heat ramp."""
    at = np.linspace(0, 1, levels)
    anchors = np.linspace(0, 1, len(_HEAT))
    colours = np.stack([np.interp(at, anchors, _HEAT[:, channel]) for channel in range(3)], axis=1)
    return colours.astype(np.float32), (0.4 + 0.35 * at).astype(np.float32)


def heat_levels(score: np.ndarray, size: tuple[int, int], levels: int) -> np.ndarray:
    picture = Image.fromarray(np.nan_to_num(np.asarray(score, np.float32)))
    stretched = np.asarray(picture.resize(size, Image.Resampling.BILINEAR))
    return (stretched.clip(0, 1) * (levels - 1) + 0.5).astype(np.uint8)
