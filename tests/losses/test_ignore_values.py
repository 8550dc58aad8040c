"""The ignored value may be any integer, also one of the classes: the same losses as with 255."""

from __future__ import annotations

import pytest
import torch

from maskwright.losses import LOSSES, CPPLoss, cell_counts
from maskwright.losses.cpp import _counts_anywhere
from maskwright.losses.ignore import valid_pixels
from maskwright.models.dupsampling import compress_labels, compressed_label_loss

from .contract import example, value_and_gradient

VALUES = (0, 2, 3, 4, 17, 200, 256, 300, -1, -100)
BUILT = {**LOSSES, "cpp": CPPLoss, "cpp renormalised": lambda **given: CPPLoss(**given, ignore="renormalise")}


def with_ignored(value, height=9, width=11, channels=4):
    """Logits, labels whose pixels of `value` are ignored, and the same labels with 255 in their place."""
    logits = example(height=height, width=width, classes=channels)[0]
    labels = example(height=height, width=width)[1]
    labels = labels.where(labels != 255, value)
    return logits, labels, labels.where(labels != value, 255)


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("name", BUILT)
def test_any_value_ignores_the_same_pixels_in_every_loss(name, value):
    logits, labels, usual = with_ignored(value, channels=4 + (name == "cpp"))  # one more, for ignored pixels
    found = value_and_gradient(BUILT[name](ignore_index=value), logits, labels)
    expected = value_and_gradient(BUILT[name](), logits, usual)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("value", VALUES)
def test_any_value_in_what_models_make_of_labels(value):
    _, labels, usual = with_ignored(value, 8, 12)
    weight = torch.linalg.qr(torch.randn(4 * 4, 5, generator=torch.Generator().manual_seed(0)))[0]
    found = compress_labels(labels, weight, 4, 2, ignore_index=value)
    assert torch.equal(found, compress_labels(usual, weight, 4, 2))
    loss = compressed_label_loss(0.5 * found, labels, weight, 4, 2, ignore_index=value)
    assert torch.equal(loss, compressed_label_loss(0.5 * found, usual, weight, 4, 2))
    for stride in (2, 5):
        counts = cell_counts(labels, 4, stride=stride, ignore_index=value)
        assert torch.equal(counts, cell_counts(usual, 4, stride=stride))
    assert torch.equal(
        _counts_anywhere(labels, 4, [0, 3, 8], [0, 12], value), _counts_anywhere(usual, 4, [0, 3, 8], [0, 12], 255)
    )


@pytest.mark.parametrize(("ignored", "wrapped"), [(256, 0), (-1, 255), (258, 2), (-254, 2)])
def test_a_value_that_bytes_cannot_hold_ignores_no_byte(ignored, wrapped):
    labels = torch.tensor([[[wrapped, 1]]], dtype=torch.uint8)
    assert valid_pixels(labels, 256, ignored).all()
    assert not valid_pixels(labels, 256, wrapped)[0, 0, 0]
