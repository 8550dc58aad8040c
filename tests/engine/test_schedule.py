from __future__ import annotations

import pytest
import torch

from maskwright.engine.schedule import linear_warmup, onecycle, poly, rate_factor
from maskwright.settings import TrainSettings


def test_poly_is_the_formula():
    assert [poly(t, 4, 1.0) for t in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert poly(30, 100, 0.9) == pytest.approx(0.7**0.9, rel=1e-15)
    assert poly(30, 100, 0.0) == 1.0


def test_poly_holds_its_last_value_where_asked():
    assert poly(20, 20) == 0.0
    assert poly(50, 20) == 0.0
    assert poly(50, 20, hold_last=True) == poly(19, 20) > 0


def test_poly_in_steps_of_ten():
    factors = [poly(t, 100, update_every=10) for t in range(100)]
    assert factors[:10] == [1.0] * 10
    assert factors[10:20] == [0.9**0.9] * 10
    assert len(set(factors)) == 10


def test_poly_decays_only_after_the_warmup():
    factors = [poly(t, 100, 0.9, 20, 0.1) for t in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[10] == pytest.approx(0.55)
    assert factors[20] == 1.0
    assert factors[60] == pytest.approx(0.5**0.9)
    assert factors[100] == 0.0


def test_warmup_longer_than_training_only_rises():
    factors = [poly(t, 5, 0.9, 10) for t in range(5)]
    assert factors == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize("total", [20, 100, 137])
def test_onecycle_agrees_with_torch(total):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=total, cycle_momentum=False)
    for t in range(total):
        assert onecycle(t, total) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        if t + 1 < total:
            theirs.step()


def test_onecycle_peaks_where_asked():
    factors = [onecycle(t, 50, warmup=10, start=0.1, end=0.01) for t in range(50)]
    assert factors[0] == pytest.approx(0.1)
    assert factors.index(max(factors)) == 10
    assert factors[10] == 1.0
    assert factors[49] == pytest.approx(0.01)


@pytest.mark.parametrize("total", [1, 2, 3])
def test_short_trainings_have_a_rate(total):
    for name in ("poly", "onecycle", "constant", "step"):
        factors = [rate_factor(TrainSettings(schedule=name), t, total) for t in range(total)]
        assert all(0 < factor <= 1 for factor in factors), name


@pytest.mark.parametrize(("total", "first"), [(10, 5), (7, 4), (1, 1)])
def test_one_step_at_half_of_the_steps(total, first):
    settings = TrainSettings(schedule="step")
    factors = [rate_factor(settings, t, total) for t in range(total)]
    assert factors == [1.0] * first + [0.1] * (total - first)
    warm = TrainSettings(schedule="step", warmup=4)
    assert [rate_factor(warm, t, 4) for t in range(4)] == pytest.approx([0, 0.25, 0.05, 0.075])


def test_settings_choose():
    poly_settings = TrainSettings(schedule="poly", power=0.5, warmup=2, warmup_start=0.5)
    assert rate_factor(poly_settings, 0, 10) == 0.5
    assert rate_factor(poly_settings, 6, 10) == poly(6, 10, 0.5, 2, 0.5)
    assert rate_factor(TrainSettings(schedule="onecycle", warmup=4), 4, 10) == 1.0
    assert rate_factor(TrainSettings(schedule="constant", warmup=4), 1, 10) == linear_warmup(1, 4) == 0.25
    assert rate_factor(TrainSettings(schedule="constant"), 9, 10) == 1.0
