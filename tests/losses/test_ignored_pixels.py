"""Ignored pixels have no effect on the value or a gradient of any loss of the registry, whatever is predicted there."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskwright.data.sample import LabelSpace
from maskwright.losses import LOSSES, create_loss
from maskwright.settings import LossSettings

from .contract import example

NAMES = LabelSpace(tuple("abcd"), background=None)


@pytest.mark.parametrize("name", LOSSES)
def test_of_every_loss_with_auxiliary_outputs(name):
    criterion = create_loss(LossSettings(name=name, auxiliary={"aux": 0.4, "cpp": 1.0}), NAMES)

    def step(logits, aux, labels):
        inputs = [value.clone().requires_grad_() for value in (logits, aux)]
        value, _ = criterion({"logits": inputs[0], "aux": inputs[1], "cpp.1": inputs[1]}, labels)
        return value.detach(), torch.autograd.grad(value, inputs)

    @given(seed=st.integers(0, 10_000), ignored=st.floats(0.05, 1.0), noise=st.sampled_from([0.1, 100.0, 1e6]))
    @settings(max_examples=12, deadline=None)
    def holds(seed, ignored, noise):
        logits, labels = example(seed, height=17, width=20, ignored=ignored)
        aux = example(seed + 1, height=17, width=20)[0]
        mask = (labels == 255).unsqueeze(1)
        there = noise * torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed + 2))
        value, gradients = step(logits, aux, labels)
        changed_value, changed = step(torch.where(mask, there, logits), torch.where(mask, there, aux), labels)
        assert torch.isfinite(value)
        torch.testing.assert_close(changed_value, value, rtol=1e-6, atol=1e-6)
        for one, other in zip(changed, gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
            assert (one.masked_select(mask) == 0).all()

    holds()
