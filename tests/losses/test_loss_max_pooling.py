from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from maskwright.errors import RecipeError
from maskwright.losses.loss_max_pooling import LossMaxPooling, loss_max_pooling, loss_max_pooling_weights

from .contract import LossContract, example
from .two_processes import example as distributed_example

POWERS = st.sampled_from([1.0, 1.02, 1.1, 1.3, 1.7, 2.0, 3.0, 10.0, math.inf])


class TestLossMaxPooling(LossContract):
    def make(self, **arguments):
        return LossMaxPooling(**arguments)


class TestLossMaxPoolingOverTheBatch(LossContract):
    def make(self, **arguments):
        return LossMaxPooling(**arguments, p=1.3, scope="batch", ratio=0.5)


def random_losses(seed, n, kind):
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(n, generator=generator, dtype=torch.float64)
    losses = {"heavy": (3 * normal).exp(), "even": 1 + normal.abs(), "zeros": normal.clamp(min=0)}[kind]
    return losses.round(decimals=1) if seed % 3 == 0 else losses  # ties


def pooled(losses, **arguments):
    return (losses * loss_max_pooling_weights(losses, **arguments)).sum(-1)


@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 300),
    kind=st.sampled_from(["heavy", "even", "zeros"]),
    p=POWERS,
    ratio=st.floats(0.01, 1.0),
)
@settings(max_examples=120, deadline=None)
def test_what_the_paper_says_of_it(seed, n, kind, p, ratio):
    losses = random_losses(seed, n, kind)
    m = max(1.0, ratio * n)
    weights = loss_max_pooling_weights(losses, p=p, m=m)
    value = (weights * losses).sum()
    small = 1e-9 * (1 + losses.max())
    hardest = (losses * loss_max_pooling_weights(losses, p=1.0, m=m)).sum()
    assert losses.mean() <= value + small
    assert value <= hardest + small
    assert hardest <= losses.max() + small
    assert (weights >= 0).all()
    assert weights.sum() <= 1 + 1e-9
    exponent = 0.0 if math.isinf(p) else 1 / p
    gamma = n ** (exponent - 1)
    assert weights.max() <= gamma * m**-exponent * (1 + 1e-9)
    norm = weights.max() if math.isinf(p) else (weights**p).sum() ** (1 / p)
    assert norm <= gamma * (1 + 1e-6)
    torch.testing.assert_close(pooled(7 * losses, p=p, m=m), 7 * value)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(pooled(losses[order], p=p, m=m), value)
    assert pooled(losses, p=p, m=min(n, 1.5 * m)) <= value + small  # harder with smaller m ...
    if p < 10:
        assert pooled(losses, p=p + 0.5, m=m) <= value + small  # ... and with smaller p


@given(seed=st.integers(0, 10_000), n=st.integers(1, 200), p=POWERS)
@settings(max_examples=60, deadline=None)
def test_closed_forms(seed, n, p):
    losses = random_losses(seed, n, "heavy")
    assume(losses.max() > 0)
    torch.testing.assert_close(pooled(losses, p=p, m=n), losses.mean())
    torch.testing.assert_close(
        loss_max_pooling_weights(torch.full((n,), 2.5, dtype=torch.float64), p=max(p, 1.02), m=max(1.0, 0.3 * n)),
        torch.full((n,), 1 / n, dtype=torch.float64),
    )
    if 1 < p < math.inf:
        q = p / (p - 1)
        largest = losses.max()
        torch.testing.assert_close(pooled(losses, p=p, m=1), largest * ((losses / largest) ** q).mean() ** (1 / q))


def test_convex_in_the_losses():
    one, other = random_losses(1, 100, "heavy"), random_losses(2, 100, "even")
    for share in (0.1, 0.5, 0.9):
        mixed = pooled(share * one + (1 - share) * other, p=1.7)
        assert mixed <= share * pooled(one, p=1.7) + (1 - share) * pooled(other, p=1.7)


@pytest.mark.parametrize("p", [1.1, 1.7, 3.0])
def test_search_equals_full_sort_on_a_large_image(p):
    losses = torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64).exp()
    m, q = 0.25 * len(losses), p / (p - 1)
    ordered = losses.sort(descending=True).values
    powers = (ordered / ordered[0]) ** q
    tails = powers.flip(0).cumsum(0).flip(0)
    saturated = int(((m - torch.arange(len(losses))) * powers > tails).sum())
    alpha = ordered[0] * (tails[saturated] / (m - saturated)) ** (1 / q)
    tau = len(losses) ** (1 / p - 1) * m ** (-1 / p)
    expected = tau * (losses / alpha).clamp(max=1) ** (q - 1)
    torch.testing.assert_close(loss_max_pooling_weights(losses, p=p), expected, rtol=1e-8, atol=0)
    single = loss_max_pooling_weights(losses.float(), p=p)
    torch.testing.assert_close(single.double(), expected, rtol=1e-4, atol=1e-6 * float(expected.max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_powers_that_underflow_are_not_taken_for_zeros(dtype):
    losses = torch.tensor([1000.0, 0.1, 0.05], dtype=dtype)  # (0.1 / 1000)^51 is 0 in float32
    weights = loss_max_pooling_weights(losses, p=1.02, m=1.5)
    exact = loss_max_pooling_weights(losses.double().clamp(max=1.0), p=1.02, m=1.5)  # what is far above is saturated
    torch.testing.assert_close(weights.double(), exact, rtol=1e-4, atol=1e-7)
    assert 0.4 < weights[1] / weights[0] < 0.6


def test_zeros_give_zero_value_and_zero_weights():
    for p in (1.0, 1.5):
        weights = loss_max_pooling_weights(torch.zeros(3, 50), p=p)
        assert (weights == 0).all()


def test_rows_do_not_touch_each_other():
    rows = torch.stack([random_losses(seed, 400, kind) for seed, kind in ((1, "heavy"), (2, "zeros"), (4, "even"))])
    together = loss_max_pooling_weights(rows, p=1.4, ratio=0.1)
    for row, weights in zip(rows, together):
        torch.testing.assert_close(weights, loss_max_pooling_weights(row, p=1.4, ratio=0.1))


def test_invalid_losses_equal_absent_ones():
    losses = random_losses(5, 500, "heavy")
    valid = torch.rand(500, generator=torch.Generator().manual_seed(1)) < 0.7
    weights = loss_max_pooling_weights(losses, p=1.3, ratio=0.25, valid=valid)
    torch.testing.assert_close(weights[valid], loss_max_pooling_weights(losses[valid], p=1.3, ratio=0.25))
    assert (weights[~valid] == 0).all()


def test_images_without_a_valid_pixel_do_not_count_in_the_mean():
    losses = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(3, 8, 8, dtype=torch.bool)
    valid[1] = False
    torch.testing.assert_close(loss_max_pooling(losses, valid), loss_max_pooling(losses[[0, 2]]))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_non_finite_loss_is_not_hidden(bad):
    losses = torch.rand(2, 100)
    losses[0, 7] = bad
    assert not torch.isfinite(loss_max_pooling(losses))


def test_scope_batch_lets_hard_images_take_the_mass():
    losses = torch.stack([torch.full((8, 8), 0.1), torch.full((8, 8), 2.0)])
    assert loss_max_pooling(losses, scope="batch") > loss_max_pooling(losses, scope="image")


def test_works_on_any_pixel_loss():
    def squared(logits, labels, *, ignore_index, class_weights):
        valid = labels != ignore_index
        return logits.pow(2).sum(1).masked_fill(~valid, 0), valid

    logits, labels = example()
    value = LossMaxPooling(pixel_loss=squared)(logits, labels)
    losses, valid = squared(logits, labels, ignore_index=255, class_weights=None)
    torch.testing.assert_close(value, loss_max_pooling(losses, valid))


@pytest.mark.parametrize(
    ("arguments", "words"), [({"p": 0.9}, "1 <= p"), ({"ratio": 0.0}, "ratio"), ({"p": math.nan}, "p")]
)
def test_refuses_what_cannot_be(arguments, words):
    with pytest.raises(RecipeError, match=words):
        LossMaxPooling(**arguments)
    with pytest.raises(RecipeError, match="scope"):
        loss_max_pooling(torch.rand(1, 4), scope="pixel")


@pytest.mark.distributed
def test_under_ddp_images_pool_as_in_one_process_and_a_batch_is_the_process_own(tmp_path):
    scopes = ("image", "batch")
    script = Path(__file__).with_name("two_processes.py")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, str(script), *(word for scope in scopes for word in (scope, str(tmp_path / scope)))]
    subprocess.run(command, check=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
    network, images, labels = distributed_example()

    def gradient(scope, *parts):
        losses = [LossMaxPooling(p=1.3, scope=scope)(network(images[part]), labels[part]) for part in parts]
        return torch.autograd.grad(sum(losses) / len(parts), network.weight)[0]

    whole, halves = slice(0, 4), (slice(0, 2), slice(2, 4))
    found = {scope: torch.load(tmp_path / scope, weights_only=True) for scope in scopes}
    torch.testing.assert_close(found["image"], gradient("image", whole))
    torch.testing.assert_close(found["batch"], gradient("batch", *halves))
    assert (found["batch"] - gradient("batch", whole)).abs().max() > 1e-3
