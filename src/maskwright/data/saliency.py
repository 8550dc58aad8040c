"""Saliency maps from the image alone: detectors that need neither training nor labels.

A detector turns an image `(H, W, 3)` uint8 into a map `(H, W)` uint8, 0 to 255. A new one is one function and one line
in `DETECTORS`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

LONG_SIDE = 300  # pixels that an image is reduced to, as in the paper
BORDER = 0.1  # width of the border strips as a share of the image's side
PASSES = 3
STEEPNESS = 10.0  # of the last step, which pushes values apart


def barrier(image: np.ndarray) -> np.ndarray:
    """Minimum barrier salient object detection (Zhang et al., ICCV 2015; its MB+): what differs from the border.

    A pixel is salient where every path from it to the border crosses a change of colour, and where its colour is not
    that of the border; more so in the middle. Unlike the paper colours are YCbCr instead of Lab, and the map is not
    smoothed by morphological reconstruction.

    Args:
        image: `(H, W, 3)` uint8, RGB.

    Returns:
        `(H, W)` uint8.
    """
    from maskwright.data.barrier_cpu import barrier_distance

    height, width = image.shape[:2]
    scale = min(1.0, LONG_SIDE / max(height, width))
    size = max(3, round(width * scale)), max(3, round(height * scale))
    small = Image.fromarray(image).convert("YCbCr").resize(size, Image.Resampling.BOX)
    colours = np.asarray(small, np.float32)
    distance = sum(barrier_distance(np.ascontiguousarray(colours[:, :, c]), PASSES) for c in range(3))
    found = (_unit(distance) + _unit(border_contrast(colours))) * centre_weight(colours.shape[:2])
    sharp = 1 / (1 + np.exp(-STEEPNESS * (_unit(found) - 0.5)))
    values = Image.fromarray(np.rint(255 * sharp).astype(np.uint8))
    return np.asarray(values.resize((width, height), Image.Resampling.BILINEAR))


def border_contrast(colours: np.ndarray) -> np.ndarray:
    """How far each pixel's colour is from those of the four border strips, in standard deviations of a strip.

    The strip that a pixel differs from most is left out, since an object may touch one side of the image.

    Args:
        colours: `(H, W, C)`.

    Returns:
        `(H, W)`.
    """
    height, width, channels = colours.shape
    rows, columns = max(1, round(BORDER * height)), max(1, round(BORDER * width))
    strips = colours[:rows], colours[-rows:], colours[:, :columns], colours[:, -columns:]
    distances = []
    for strip in strips:
        pixels = strip.reshape(-1, channels)
        offset = colours - pixels.mean(0)
        spread = np.cov(pixels.T, bias=True) + np.eye(channels)  # one grey level at least
        squares = (offset @ np.linalg.inv(spread).astype(np.float32) * offset).sum(2)
        distances.append(_unit(np.sqrt(np.maximum(squares, 0))))
    return np.sum(distances, 0) - np.max(distances, 0)


def centre_weight(size: tuple[int, ...]) -> np.ndarray:
    """1 in the middle of an image of this `(height, width)`, falling off to 0.5 at a distance of half its longer side
    (our numbers; the paper gives none)."""
    rows, columns = ((np.arange(length) - (length - 1) / 2) / (max(size) / 2) for length in size)
    return np.exp2(-np.hypot(rows[:, None], columns[None]))


def _unit(values: np.ndarray) -> np.ndarray:
    return values / max(float(values.max()), 1e-6)


DETECTORS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"barrier": barrier}
