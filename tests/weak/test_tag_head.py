"""Heads of a frozen classifier: at the minimum, and held down by as much as serves images that were left out."""

from __future__ import annotations

import math

import pytest
import torch

from maskwright.weak.networks import tag_head
from maskwright.weak.networks.tag_head import DECAYS, choose_decay, class_loss, fit_head, tag_loss

COUNT, CHANNELS = 3, 10


def examples(count: int = 120, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of very different deviations, and tags that follow from them but for noise."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(COUNT, CHANNELS, generator=torch.Generator().manual_seed(99))
    features = torch.randn(count, CHANNELS, generator=generator).relu()
    noise = torch.randn(count, COUNT, generator=generator)
    return features * torch.logspace(-1, 1, CHANNELS), (features @ truth.mT + noise - 1 > 0).float()


def objective(weight, bias, features, targets, loss, decay):
    scaled = weight * features.std(0)  # no channel here is nearly constant
    return loss(features @ weight.mT + bias, targets).mean() + decay / 2 * scaled.square().sum()


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("loss", [tag_loss, class_loss])
def test_the_fit_is_at_the_minimum(decay, constant, loss):
    features, targets = examples()
    targets = targets if loss is tag_loss else targets.argmax(1)
    weight, bias = fit_head(features, targets, loss, decay, COUNT, constant=constant)
    assert constant or not bias.any()
    w, b = weight.double().requires_grad_(), bias.double().requires_grad_()
    value = objective(w, b, features.double(), targets if loss is class_loss else targets.double(), loss, decay)
    by_weight, by_bias = torch.autograd.grad(value, [w, b])
    assert (by_weight / features.std(0)).abs().max() < 2e-3
    if constant:
        assert by_bias.abs().max() < 2e-3
    for seed in range(5):  # whatever way one goes from there, it is upwards
        away = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)) / features.std(0)
        assert objective(weight + 0.1 * away, bias, features, targets, loss, decay) > value


def test_the_fit_is_better_than_descent_from_nothing():
    features, targets = examples()
    found = float(objective(*fit_head(features, targets, tag_loss, 1e-3, COUNT), features, targets, tag_loss, 1e-3))
    weight, bias = torch.zeros(COUNT, CHANNELS, requires_grad=True), torch.zeros(COUNT, requires_grad=True)
    start = float(objective(weight, bias, features, targets, tag_loss, 1e-3).detach())
    optimizer = torch.optim.SGD([weight, bias], 1e-4, momentum=0.9)
    for _ in range(100):
        optimizer.zero_grad()
        objective(weight, bias, features, targets, tag_loss, 1e-3).backward()
        optimizer.step()
    descended = float(objective(weight, bias, features, targets, tag_loss, 1e-3).detach())
    assert start == pytest.approx(COUNT * math.log(2), rel=1e-5)
    assert found < descended
    assert found < 0.7 * start


def test_the_constant_is_not_held_down():
    """Where weights are held at nothing, the constants alone say how frequent each tag is."""
    features, _ = examples()
    targets = torch.zeros(len(features), COUNT)
    targets[:12, 0], targets[:60, 1], targets[:108, 2] = 1, 1, 1
    weight, bias = fit_head(features[torch.randperm(len(features))], targets, tag_loss, 1e6, COUNT)
    assert weight.mul(features.std(0)).abs().max() < 1e-4
    torch.testing.assert_close(bias.sigmoid(), torch.tensor([0.1, 0.5, 0.9]), rtol=0, atol=1e-3)


def test_a_channel_that_is_constant_gets_no_weight_worth_mentioning():
    features, targets = examples()
    features[:, 4] = 0.0
    features[:, 5] = 7.0
    weight, bias = fit_head(features, targets, tag_loss, 1e-2, COUNT)
    assert weight.isfinite().all()
    assert bias.isfinite().all()
    assert not weight[:, 4].any()


def test_an_images_views_are_in_one_fold(monkeypatch):
    features, targets = examples(60)
    groups = torch.arange(20).repeat_interleave(3)
    fitted, fit = [], tag_head.fit_head

    def watched(given, *arguments, **options):
        fitted.append({tuple(row.tolist()) for row in given})
        return fit(given, *arguments, **options)

    monkeypatch.setattr(tag_head, "fit_head", watched)
    decay, losses = choose_decay(features, targets, tag_loss, COUNT, groups)
    assert len(fitted) == tag_head.FOLDS * len(DECAYS)
    for rows in fitted:
        there = torch.tensor([tuple(row.tolist()) in rows for row in features]).view(20, 3)
        assert torch.equal(there.all(1), there.any(1))
        assert int(there[:, 0].sum()) == 15
    assert decay == min(losses, key=losses.__getitem__)


def test_the_decay_that_is_chosen_is_best_on_images_that_were_left_out():
    """Of views that repeat an image, one that is fitted on says all about the others: the least decay would win."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(24, 40, generator=generator).repeat_interleave(4, 0)
    targets = (torch.rand(24, COUNT, generator=generator) < 0.5).float().repeat_interleave(4, 0)  # nothing to learn
    together = torch.arange(24).repeat_interleave(4)
    decay, losses = choose_decay(features, targets, tag_loss, COUNT, together)
    assert decay == max(DECAYS)
    assert sorted(losses, key=losses.__getitem__) == sorted(DECAYS, reverse=True)
    apart, _ = choose_decay(features, targets, tag_loss, COUNT, torch.arange(96))
    assert apart < decay


def test_with_one_image_there_is_nothing_to_choose_by():
    features, targets = examples(4)
    assert choose_decay(features, targets, tag_loss, COUNT, torch.zeros(4, dtype=torch.int64)) == (DECAYS[0], {})
    decay, losses = choose_decay(features, targets, tag_loss, COUNT, torch.tensor([0, 0, 1, 1]))
    assert decay in DECAYS
    assert set(losses) == set(DECAYS)
