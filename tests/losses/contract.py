"""What every segmentation loss must keep; a new loss is tested by a subclass that overrides `make`."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from maskwright.errors import DataError

torch.set_num_threads(1)


def example(seed=0, batch=2, classes=4, height=9, width=11, ignored=0.2, dtype=torch.float32):
    """Random logits `(B, C, H, W)` and labels `(B, H, W)` with a share of ignored pixels."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(batch, classes, height, width, generator=generator, dtype=dtype)
    labels = torch.randint(0, classes, (batch, height, width), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < ignored] = 255
    return logits, labels


def value_and_gradient(loss: nn.Module, logits: torch.Tensor, labels: torch.Tensor):
    logits = logits.detach().clone().requires_grad_()
    value = loss(logits, labels)
    (gradient,) = torch.autograd.grad(value, logits)
    return value.detach(), gradient


class LossContract:
    """Subclass as `TestX` and override `make`; switch a property off only where the maths says so."""

    gradcheck_size = (1, 3, 4, 5)
    perfect_is_lower = True  # confident true predictions give a lower loss than random ones
    other_ignore_values = (255, -1)

    def make(self, **arguments) -> nn.Module:
        """A loss taking `(logits, labels)`; keyword arguments are passed to its class."""
        raise NotImplementedError

    def test_scalar_finite_differentiable(self):
        logits, labels = example()
        value, gradient = value_and_gradient(self.make(), logits, labels)
        assert value.shape == ()
        assert torch.isfinite(value)
        assert torch.isfinite(gradient).all()
        assert gradient.abs().sum() > 0

    def test_true_predictions_lower_it(self):
        if not self.perfect_is_lower:
            pytest.skip("not a property of this loss")
        logits, labels = example()
        true = torch.zeros_like(logits).scatter_(1, labels.where(labels != 255, 0).unsqueeze(1), 12.0)
        loss = self.make()
        assert loss(true, labels) < loss(logits, labels)

    def test_ignored_pixels_never_matter(self):
        loss = self.make()

        @given(seed=st.integers(0, 10_000), scale=st.sampled_from([0.1, 3.0, 100.0]), ignored=st.floats(0.05, 0.95))
        @settings(max_examples=15, deadline=None)
        def holds(seed, scale, ignored):
            logits, labels = example(seed, ignored=ignored)
            mask = (labels == 255).unsqueeze(1)
            noise = scale * torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed + 1))
            value, gradient = value_and_gradient(loss, logits, labels)
            changed_value, changed_gradient = value_and_gradient(loss, torch.where(mask, noise, logits), labels)
            torch.testing.assert_close(changed_value, value, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(changed_gradient, gradient, rtol=1e-5, atol=1e-7)
            assert (gradient.masked_select(mask) == 0).all()

        holds()

    def test_ignore_value_is_a_choice(self):
        logits, labels = example()
        values = [
            self.make(ignore_index=ignore)(logits, labels.where(labels != 255, ignore))
            for ignore in self.other_ignore_values
        ]
        for value in values:
            torch.testing.assert_close(value, values[0], rtol=0, atol=0)

    def test_no_valid_pixel_gives_a_connected_zero(self):
        logits, labels = example()
        value, gradient = value_and_gradient(self.make(), logits, torch.full_like(labels, 255))
        assert value == 0
        assert (gradient == 0).all()

    def test_an_image_without_valid_pixel_is_finite(self):
        logits, labels = example()
        labels[0] = 255
        value, gradient = value_and_gradient(self.make(), logits, labels)
        assert torch.isfinite(value)
        assert torch.isfinite(gradient).all()
        assert (gradient[0] == 0).all()
        assert gradient[1].abs().sum() > 0

    def test_extreme_logits_stay_finite(self):
        logits, labels = example()
        value, gradient = value_and_gradient(self.make(), 1e4 * logits, labels)
        assert torch.isfinite(value)
        assert torch.isfinite(gradient).all()

    def test_gradcheck(self):
        batch, classes, height, width = self.gradcheck_size
        logits, labels = example(3, batch, classes, height, width, ignored=0.2, dtype=torch.float64)
        loss = self.make()
        assert torch.autograd.gradcheck(lambda z: loss(z, labels), logits.requires_grad_(), atol=1e-6, rtol=1e-4)

    def test_keeps_float64(self):
        logits, labels = example(dtype=torch.float64)
        assert self.make()(logits, labels).dtype == torch.float64

    def test_autocast(self):
        logits, labels = example()
        loss = self.make()
        half = logits.bfloat16()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value, gradient = value_and_gradient(loss, half, labels)
        expected, expected_gradient = value_and_gradient(loss, half.float(), labels)
        torch.testing.assert_close(value.float(), expected, rtol=1e-5, atol=1e-6)
        assert gradient.dtype == torch.bfloat16
        torch.testing.assert_close(gradient.float(), expected_gradient, rtol=2e-2, atol=1e-4)

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
    def test_any_integer_labels(self, dtype):
        logits, labels = example()
        loss = self.make()
        torch.testing.assert_close(loss(logits, labels.to(dtype)), loss(logits, labels), rtol=0, atol=0)

    def test_memory_format_does_not_matter(self):
        logits, labels = example()
        loss = self.make()
        channels_last = loss(logits.contiguous(memory_format=torch.channels_last), labels)
        torch.testing.assert_close(channels_last, loss(logits, labels), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(
        ("logits_shape", "labels_shape"),
        [
            ((2, 4, 9), (2, 9, 11)),
            ((2, 4, 9, 11), (2, 1, 9, 11)),
            ((2, 4, 9, 11), (3, 9, 11)),
            ((2, 4, 9, 11), (2, 9, 10)),
        ],
    )
    def test_wrong_shapes_say_found_and_expected(self, logits_shape, labels_shape):
        with pytest.raises(DataError, match=r"must be .*found"):
            self.make()(torch.zeros(logits_shape), torch.zeros(labels_shape, dtype=torch.long))

    def test_float_labels_are_refused(self):
        logits, labels = example()
        with pytest.raises(DataError, match=r"labels must be integer.*found .*float32"):
            self.make()(logits, labels.float())

    @pytest.mark.parametrize("value", [4, 200, -2])
    def test_labels_out_of_range_are_named(self, value):
        logits, labels = example()
        labels[0, :2, 0] = value
        with pytest.raises(DataError, match=rf"0\.\.3 or 255.*found {value} \(2 pixels\)"):
            self.make()(logits, labels)
