from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from maskwright.engine.optimizer import WeightAverage, create_optimizer, set_rates
from maskwright.errors import RecipeError
from maskwright.settings import TrainSettings


def parameters():
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(3, 4, generator=generator)) for _ in range(2)]


def run(optimizer, values, steps=5):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for value in values:
            value.grad = torch.randn(value.shape, generator=generator)
        optimizer.step()
    return torch.stack([value.detach() for value in values])


def test_sgd_is_torch_sgd():
    ours, theirs = parameters(), parameters()
    fields = {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.01}
    found = run(create_optimizer(ours, TrainSettings(**fields)), ours)
    expected = run(torch.optim.SGD(theirs, **fields, foreach=False), theirs)
    torch.testing.assert_close(found, expected)


def test_adamw_is_torch_adamw():
    ours, theirs = parameters(), parameters()
    settings = TrainSettings(optimizer="adamw", lr=0.01, weight_decay=0.05)
    found = run(create_optimizer(ours, settings), ours)
    expected = run(torch.optim.AdamW(theirs, lr=0.01, weight_decay=0.05, foreach=False), theirs)
    torch.testing.assert_close(found, expected)


def test_groups_keep_their_own_rate_and_decay():
    first, second = parameters()
    groups = [{"params": [first], "lr": 0.5, "weight_decay": 0.0}, {"params": [second]}]
    optimizer = create_optimizer(groups, TrainSettings(lr=0.1, weight_decay=0.02))
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.1]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.02]
    set_rates(optimizer, [0.5, 0.1], 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.05]


def test_errors_say_what_to_change():
    with pytest.raises(RecipeError, match="momentum above 0"):
        create_optimizer(parameters(), TrainSettings(nesterov=True, momentum=0))
    with pytest.raises(RecipeError, match="no parameter"):
        create_optimizer([], TrainSettings())


def test_average_is_the_formula_with_warmup():
    model = nn.Linear(3, 2)
    average = WeightAverage(model, 0.6)
    expected = model.weight.detach().double().clone()
    for step in range(1, 12):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3))
        average.update(step)
        decay = min(0.6, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach().double()
    torch.testing.assert_close(average.state_dict()["weight"].double(), expected, rtol=1e-5, atol=1e-6)


def test_average_stays_float32_under_half_weights():
    model = nn.Linear(3, 2).bfloat16()
    average = WeightAverage(model, 0.999)
    with torch.no_grad():
        model.weight.add_(1)
    average.update(10_000)
    assert all(value.dtype == torch.float32 for value in average.averages)
    assert not torch.equal(average.averages[0], average.averages[0].bfloat16().float())


def test_swap_twice_changes_nothing():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    average = WeightAverage(model, 0.9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    before, averaged = copy.deepcopy(model.state_dict()), copy.deepcopy(average.state_dict())
    average.swap()
    torch.testing.assert_close(dict(model.named_parameters()), averaged, rtol=0, atol=0, check_dtype=False)
    average.swap()
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(average.state_dict(), averaged, rtol=0, atol=0)
