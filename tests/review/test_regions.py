"""Regions of one colour."""

from __future__ import annotations

import numpy as np
import pytest

from maskwright.pipeline.review.regions import MOST_PIXELS, REGIONS, regions_of


def test_regions_keep_to_the_edges_of_what_is_seen():
    image = np.full((120, 160, 3), 40, np.uint8)
    disc = (np.arange(120)[:, None] - 57) ** 2 + (np.arange(160)[None] - 83) ** 2 < 37**2
    image[disc] = (200, 60, 60)
    found = regions_of(image)
    assert found.shape == (120, 160)
    inside = np.bincount(found.ravel(), disc.ravel())
    sizes = np.bincount(found.ravel())
    wrong = np.minimum(inside, sizes - inside).sum()  # pixels that a click on each region would get wrong
    assert wrong < 0.01 * disc.size
    assert REGIONS / 2 < (sizes > 0).sum() < 2 * REGIONS
    cells = (np.arange(120)[:, None] // 7) * 23 + np.arange(160)[None] // 7  # what a plain grid would get wrong
    inside, sizes = np.bincount(cells.ravel(), disc.ravel()), np.bincount(cells.ravel())
    assert 3 * wrong < np.minimum(inside, sizes - inside).sum()


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (3, 2), (1100, 1300)])
def test_images_of_any_size(size):
    found = regions_of(np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8))
    assert found.size <= 1.01 * MOST_PIXELS
    assert found.shape == size or size[0] > 1000
    assert found.min() >= 0
