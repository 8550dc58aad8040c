from __future__ import annotations

import pytest

from maskwright.data.augment import prepare
from maskwright.data.batches import equal_batches
from maskwright.data.scenes import scenes
from maskwright.data.sizes import seen_size


@pytest.mark.parametrize(
    ("size", "own", "seen"),
    [
        (None, (30, 70), (30, 70)),
        ((8, 9), (30, 70), (8, 9)),
        (140, (30, 70), (60, 140)),
        (35, (70, 30), (35, 15)),
        (10, (1, 4000, 3), (1, 10)),
        (100, (333, 500), (67, 100)),
    ],
)
def test_the_size_that_is_seen(size, own, seen):
    assert seen_size(size, own) == seen


def test_a_long_side_resizes_the_image_and_leaves_the_mask():
    example = prepare(scenes("val", count=1, size=(48, 64))[0], 32)
    assert example["image"].shape == (3, 24, 32)
    assert example["mask"].shape == (48, 64)


def test_batches_by_the_long_side_have_one_shape():
    class Two:
        shapes = ((40, 80), (30, 30), (20, 40), (60, 60))

        def size(self, index):
            return self.shapes[index]

    assert equal_batches(Two(), range(4), 40, 8) == [[0, 2], [1, 3]]
