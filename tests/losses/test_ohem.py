"""Online hard example mining."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskwright.errors import RecipeError
from maskwright.losses.cross_entropy import cross_entropy, cross_entropy_map
from maskwright.losses.ohem import OHEM, hard_pixels, ohem_cross_entropy

from .contract import LossContract, example


class TestOHEM(LossContract):
    def make(self, **arguments):
        return OHEM(**{"threshold": 0.3, "min_kept": 0.25, **arguments})


class TestOHEMWithWeights(LossContract):
    gradcheck_size = (1, 4, 4, 5)

    def make(self, **arguments):
        return OHEM(**{"threshold": 0.6, "min_kept": 20, "class_weights": [1.0, 2.0, 0.5, 3.0], **arguments})


def by_sorting(losses, valid, threshold, count):
    """The definition: all up to the threshold, or the hardest `count` and what is as hard as the last of them."""
    values = losses[valid].sort(descending=True).values
    if len(values) == 0:
        return torch.zeros_like(valid)
    count = min(count, len(values))
    bound = -math.log(threshold) if threshold else math.inf
    if count and (values >= bound).sum() < count:
        bound = values[count - 1].item()
    return valid & (losses >= bound)


@given(
    seed=st.integers(0, 1000),
    threshold=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
    count=st.integers(0, 150),
    distinct=st.sampled_from([1, 3, 1000]),
    ignored=st.floats(0, 1),
)
@settings(max_examples=60, deadline=None)
def test_keeps_what_sorting_keeps(seed, threshold, count, distinct, ignored):
    generator = torch.Generator().manual_seed(seed)
    losses = torch.randint(0, distinct, (2, 7, 9), generator=generator) * (3.0 / distinct)
    valid = torch.rand(losses.shape, generator=generator) >= ignored
    found = hard_pixels(losses, valid, threshold=threshold, min_kept=count)
    assert torch.equal(found, by_sorting(losses, valid, threshold, count))
    assert found.sum() >= min(count, int(valid.sum()))


def test_is_the_mean_of_the_kept_losses():
    logits, labels = example(1)
    losses, valid = cross_entropy_map(logits, labels)
    kept = losses[valid & (losses > -math.log(0.4))]
    torch.testing.assert_close(ohem_cross_entropy(logits, labels, threshold=0.4, min_kept=0), kept.mean())
    hardest = losses[valid].sort(descending=True).values[: math.ceil(0.3 * int(valid.sum()))]
    torch.testing.assert_close(ohem_cross_entropy(logits, labels, threshold=0.0, min_kept=0.3), hardest.mean())


@pytest.mark.parametrize("weights", [None, [1.0, 0.0, 2.0, 5.0]])
def test_with_everything_kept_it_is_cross_entropy(weights):
    logits, labels = example(2)
    weights = None if weights is None else torch.tensor(weights)
    for settings_ in ({"threshold": 1.0}, {"threshold": 0.1, "min_kept": 10_000}):
        torch.testing.assert_close(
            ohem_cross_entropy(logits, labels, class_weights=weights, **settings_),
            cross_entropy(logits, labels, class_weights=weights),
        )


def test_equal_pixels_are_all_kept():
    """Where the released code compares with the threshold strictly, nothing is left here and the mean is NaN."""
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    value = ohem_cross_entropy(torch.zeros(1, 3, 4, 4), labels, threshold=0.1, min_kept=5)
    torch.testing.assert_close(value, torch.tensor(math.log(3)))


def test_easy_pixels_get_no_gradient():
    logits, labels = example(3, ignored=0.0)
    logits.requires_grad_()
    ohem_cross_entropy(logits, labels, threshold=0.2, min_kept=10).backward()
    easy = logits.softmax(1).gather(1, labels[:, None]) > 0.2
    assert logits.grad.abs().sum(1, keepdim=True)[easy].sum() == 0
    assert logits.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"threshold": 1.1}, "0 to 1, found 1.1"), ({"min_kept": -1}, "found -1"), ({"min_kept": 2.5}, "found 2.5")],
)
def test_settings_out_of_range(arguments, message):
    with pytest.raises(RecipeError, match=message):
        OHEM(**arguments)
