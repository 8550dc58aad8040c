"""Labels brought to the logits' size, and logits to the labels'."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maskwright.data.sample import LabelSpace
from maskwright.losses import create_loss, cross_entropy, resize_labels
from maskwright.settings import LossSettings

SIDES = st.integers(1, 70)


@given(height=SIDES, width=SIDES, new_height=SIDES, new_width=SIDES)
@settings(max_examples=200, deadline=None)
def test_picks_the_pixels_that_pillow_picks(height, width, new_height, new_width):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width), np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize((new_width, new_height), Image.Resampling.NEAREST))
    found = resize_labels(torch.from_numpy(pixels)[None], (new_height, new_width))
    np.testing.assert_array_equal(found[0], expected)


def test_each_map_meets_labels_of_its_size_or_is_resized():
    names = LabelSpace(("a", "b", "c"))
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (2, 16, 24), generator=generator)
    outputs = {
        "logits": torch.randn(2, 3, 4, 6, generator=generator),
        "scale.1": torch.randn(2, 3, 4, 6, generator=generator),
        "scale.0.5": torch.randn(2, 3, 2, 3, generator=generator),
    }
    wanted = LossSettings(resize="labels", auxiliary={"scale": 1.0})
    loss, _ = create_loss(wanted, names)(outputs, labels)
    expected = sum(cross_entropy(z, resize_labels(labels, z.shape[2:])) for z in outputs.values())
    torch.testing.assert_close(loss, expected)
    loss, _ = create_loss(LossSettings(auxiliary={"scale": 1.0}), names)(outputs, labels)
    expected = sum(cross_entropy(F.interpolate(z, size=(16, 24), mode="bilinear"), labels) for z in outputs.values())
    torch.testing.assert_close(loss, expected)
