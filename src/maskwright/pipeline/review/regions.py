"""Regions of one colour, which a person fills with a click: SLIC superpixels (Achanta et al., 2012)."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageFilter

from maskwright.pipeline.review.regions_cpu import assign

REGIONS = 400  # of an image, about
MOST_PIXELS = 2**19  # that are looked at; of larger images a smaller copy
COMPACTNESS = 30.0  # how many grey levels a distance of one cell counts
BLUR = 1.0  # pixels, so that texture does not fray the regions
ROUNDS = 6


def regions_of(image: np.ndarray) -> np.ndarray:
    """Which region each pixel is in.

    As in SLIC, centres begin on a grid and move to the mean of the pixels nearest to them in colour and place; a pixel
    is compared with the centres of its own cell of the grid and the eight around it alone. Parts of a region need not
    touch.

    Args:
        image: `(H, W, 3)` uint8.

    Returns:
        `(h, w)` int32 from 0, of an image that was made smaller where it has more than `MOST_PIXELS`.
    """
    height, width = image.shape[:2]
    scale = min(1.0, math.sqrt(MOST_PIXELS / (height * width)))
    picture = Image.fromarray(image)
    if scale < 1:
        height, width = max(1, round(height * scale)), max(1, round(width * scale))
        picture = picture.resize((width, height), Image.Resampling.BOX)
    image = np.array(picture.filter(ImageFilter.GaussianBlur(BLUR)))
    side = max(1.0, math.sqrt(height * width / REGIONS))
    rows, columns = max(1, round(height / side)), max(1, round(width / side))
    y, x = np.arange(height)[:, None], np.arange(width)[None]
    found = ((y * rows // height) * columns + x * columns // width).astype(np.int32)
    place = np.float32(COMPACTNESS / side)
    centres = np.zeros((rows * columns, 5), np.float32)
    for _ in range(ROUNDS):
        _move(centres, image, found, place)
        assign(image, centres, rows, columns, place, found)
    return found


def _move(centres: np.ndarray, image: np.ndarray, found: np.ndarray, place: np.float32) -> None:
    """Move centres to the means of their regions; one that has lost all pixels stays where it was."""
    flat, count = found.ravel(), len(centres)
    sizes = np.bincount(flat, minlength=count)
    kept = sizes > 0
    y, x = np.indices(found.shape, np.float32) * place
    for k, values in enumerate([*np.moveaxis(image, 2, 0), y, x]):
        sums = np.bincount(flat, values.ravel(), count)
        centres[kept, k] = (sums[kept] / sizes[kept]).astype(np.float32)
