from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import maskwright.losses as losses
from maskwright.data.sample import LabelSpace
from maskwright.errors import DataError, RecipeError
from maskwright.losses import CrossEntropy, class_weights_from, create_loss, cross_entropy
from maskwright.losses.cross_entropy import cross_entropy_map
from maskwright.losses.ignore import flatten_valid, index_labels, mean_over_valid, valid_pixels
from maskwright.losses.resizing import resize_labels
from maskwright.settings import LossSettings

from .contract import LossContract, example, value_and_gradient

NAMES = LabelSpace(("background", "car", "tree", "sky"))


class TestCrossEntropy(LossContract):
    def make(self, **arguments):
        return CrossEntropy(**arguments)


class TestWeightedCrossEntropy(LossContract):
    def make(self, **arguments):
        classes = [1.0, 0.5, 2.0, 4.0]
        loss = CrossEntropy(**arguments, class_weights=classes)
        small = CrossEntropy(**arguments, class_weights=classes[:3])
        return Either(loss, small)


class Either(nn.Module):
    def __init__(self, four, three):
        super().__init__()
        self.four, self.three = four, three

    def forward(self, logits, labels):
        return (self.three if logits.shape[1] == 3 else self.four)(logits, labels)


@pytest.mark.parametrize("weights", [None, [1.0, 0.5, 2.0, 4.0]])
def test_equals_torch_and_the_definition(weights):
    logits, labels = example(dtype=torch.float64)
    weight = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    value = cross_entropy(logits, labels, class_weights=weight)
    torch.testing.assert_close(value, F.cross_entropy(logits, labels, weight, ignore_index=255))
    rows, targets = flatten_valid(logits, labels)
    terms = -rows.log_softmax(1)[torch.arange(len(rows)), targets]
    factors = torch.ones_like(terms) if weight is None else weight[targets]
    torch.testing.assert_close(value, (factors * terms).sum() / factors.sum())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_map_has_the_gradient_of_torch_in_the_layout_of_the_logits(layout):
    logits, labels = example()
    scale = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1))
    ours, theirs = logits.clone(memory_format=layout).requires_grad_(), logits.clone().requires_grad_()
    (found,) = torch.autograd.grad((cross_entropy_map(ours, labels)[0] * scale).sum(), ours)
    pixels = F.cross_entropy(theirs, labels, ignore_index=255, reduction="none")
    (expected,) = torch.autograd.grad((pixels * scale).sum(), theirs)
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous(memory_format=layout)


def test_map_can_be_gone_through_twice_where_the_graph_is_retained():
    logits, labels = example()
    logits.requires_grad_()
    total = cross_entropy_map(logits, labels)[0].sum()
    (first,) = torch.autograd.grad(total, logits, retain_graph=True)
    (second,) = torch.autograd.grad(3 * total, logits, retain_graph=True)
    torch.testing.assert_close(second, 3 * first)


def test_map_compiles_to_the_same():
    logits, labels = example()
    compiled = torch.compile(lambda *inputs: cross_entropy_map(*inputs)[0], backend="eager")
    torch.testing.assert_close(compiled(logits, labels), cross_entropy_map(logits, labels)[0])


def test_map_averages_to_the_loss():
    logits, labels = example()
    pixels, valid = cross_entropy_map(logits, labels)
    assert (pixels[~valid] == 0).all()
    torch.testing.assert_close(mean_over_valid(pixels, valid), cross_entropy(logits, labels))


def test_weight_zero_is_ignored_entirely():
    logits, labels = example()
    weights = torch.tensor([0.0, 1, 1, 1])
    value = cross_entropy(logits, labels, class_weights=weights)
    torch.testing.assert_close(value, cross_entropy(logits, labels.masked_fill(labels == 0, 255)))
    only_zero = cross_entropy(logits, torch.zeros_like(labels), class_weights=weights)
    assert only_zero == 0


def test_wrong_number_of_weights():
    logits, labels = example()
    with pytest.raises(DataError, match=r"must be \(4,\), found \(3,\)"):
        cross_entropy(logits, labels, class_weights=torch.ones(3))


def test_ignore_helpers():
    labels = torch.tensor([[0, 255, 2], [1, 2, 255]])
    valid = valid_pixels(labels, 3)
    assert valid.tolist() == [[True, False, True], [True, True, False]]
    assert index_labels(labels, valid).tolist() == [[0, 0, 2], [1, 2, 0]]
    values = torch.tensor([[1.0, math.nan, 3.0], [5.0, 7.0, math.inf]], requires_grad=True)
    mean = mean_over_valid(values, valid)
    assert mean == 4
    assert torch.autograd.grad(mean, values)[0].tolist() == [[0.25, 0, 0.25], [0.25, 0.25, 0]]
    logits = torch.arange(2 * 3 * 1 * 3.0).view(2, 3, 1, 3)
    rows, targets = flatten_valid(logits, labels.view(2, 1, 3))
    assert targets.tolist() == [0, 2, 1, 2]
    assert rows.tolist() == [[0, 3, 6], [2, 5, 8], [9, 12, 15], [10, 13, 16]]


@pytest.mark.parametrize(("kind", "power"), [("inverse", -1.0), ("sqrt_inverse", -0.5)])
def test_class_weights_from(kind, power):
    frequencies = [0.5, 0.0, 0.3, 0.2]
    weights = class_weights_from(frequencies, kind)
    present = [weights[i] for i in (0, 2, 3)]
    assert sum(present) / 3 == pytest.approx(1)
    assert weights[1] == 1
    assert weights[2] / weights[0] == pytest.approx((0.3 / 0.5) ** power)
    assert class_weights_from([1000 * f for f in frequencies], kind) == pytest.approx(weights)


def test_class_weights_are_bounded():
    weights = class_weights_from([1e9, 1.0, 1e8], "inverse")
    assert max(weights) / min(weights) == pytest.approx(50)
    assert sum(weights) / 3 == pytest.approx(1)


@pytest.mark.parametrize("wrong", [[0, 0], [1, -1], [1, math.nan]])
def test_impossible_frequencies(wrong):
    with pytest.raises(DataError, match="frequencies must be"):
        class_weights_from(wrong, "inverse")


def outputs_of(logits):
    return {
        "logits": logits,
        "aux": F.avg_pool2d(logits, 3),
        "scale.0.5": logits[:, :, ::2, ::2],
        "scale.1": 2 * logits,
    }


def test_create_loss_main_only():
    logits, labels = example()
    loss, parts = create_loss(LossSettings(), NAMES)({"logits": logits}, labels)
    torch.testing.assert_close(loss, cross_entropy(logits, labels))
    assert list(parts) == ["main"]
    assert not parts["main"].requires_grad


def test_create_loss_resizes_logits_of_another_size():
    logits, labels = example()
    small = logits[:, :, :5, :6]
    loss, _ = create_loss(LossSettings(), NAMES)({"logits": small}, labels)
    resized = F.interpolate(small, size=labels.shape[1:], mode="bilinear", align_corners=False)
    torch.testing.assert_close(loss, cross_entropy(resized, labels))


def test_auxiliary_outputs_are_added_with_their_weights():
    logits, labels = example()
    outputs = outputs_of(logits)
    loss, parts = create_loss(LossSettings(auxiliary={"aux": 0.4, "scale": 0.1}), NAMES)(outputs, labels)

    def term(name):
        return create_loss(LossSettings(), NAMES)({"logits": outputs[name]}, labels)[0]

    torch.testing.assert_close(parts["aux"], term("aux"))
    torch.testing.assert_close(parts["scale"], term("scale.0.5") + term("scale.1"))
    torch.testing.assert_close(loss, parts["main"] + 0.4 * parts["aux"] + 0.1 * parts["scale"])


def test_gradient_reaches_auxiliary_outputs():
    logits, labels = example()
    criterion = create_loss(LossSettings(auxiliary={"aux": 0.4}), NAMES)

    class AuxiliaryOnly(nn.Module):
        def forward(self, aux, labels):
            return criterion({"logits": logits, "aux": aux}, labels)[0]

    _, gradient = value_and_gradient(AuxiliaryOnly(), logits, labels)
    assert gradient.abs().sum() > 0


def test_auxiliary_output_with_its_own_loss(monkeypatch):
    class Own(nn.Module):
        def __init__(self, *, ignore_index):
            super().__init__()
            self.ignore_index = ignore_index

        def forward(self, logits, labels):
            return logits.shape[-1] * (labels == self.ignore_index).sum().float()

    monkeypatch.setitem(losses.AUXILIARY_LOSSES, "own", Own)
    logits, labels = example()
    _, parts = create_loss(LossSettings(auxiliary={"own": 1.0}), NAMES)(
        {"logits": logits, "own.8": logits[..., :2], "own.16": logits[..., :1]}, labels
    )
    assert parts["own"] == 3 * (labels == 255).sum()


def test_a_nearest_head_learns_the_labels_nearest_to_its_cells():
    logits, labels = example()
    coarse = logits[..., ::2, ::2].contiguous()
    criterion = create_loss(LossSettings(auxiliary={"nearest": 1.0}), NAMES)
    _, parts = criterion({"logits": logits, "nearest.8": coarse}, labels)
    reduced = resize_labels(labels, tuple(coarse.shape[2:]))
    assert reduced.shape != labels.shape
    torch.testing.assert_close(parts["nearest"], F.cross_entropy(coarse, reduced.long(), ignore_index=255))


def test_missing_auxiliary_output_names_what_there_is():
    logits, labels = example()
    with pytest.raises(DataError, match=r"unknown auxiliary output 'auz'\. Did you mean 'aux'\?"):
        create_loss(LossSettings(auxiliary={"auz": 1.0}), NAMES)(outputs_of(logits), labels)


def test_class_weights_from_settings():
    logits, labels = example()
    weights = [1.0, 2.0, 3.0, 4.0]
    loss, _ = create_loss(LossSettings(class_weights=weights), NAMES)({"logits": logits}, labels)
    torch.testing.assert_close(loss, cross_entropy(logits, labels, class_weights=torch.tensor(weights)))
    frequencies = [40, 30, 20, 10]
    loss, _ = create_loss(LossSettings(class_weights="inverse"), NAMES, frequencies)({"logits": logits}, labels)
    expected = torch.tensor(class_weights_from(frequencies, "inverse"))
    torch.testing.assert_close(loss, cross_entropy(logits, labels, class_weights=expected))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "cross_entropi"}, r"unknown loss 'cross_entropi'\. Did you mean 'cross_entropy' or"),
        ({"options": {"temperature": 2}}, r"unknown option of loss 'cross_entropy'"),
        ({"class_weights": [1.0, 2.0]}, r"2 numbers for 4 classes; .*background, car, tree, sky"),
        ({"class_weights": [1.0, 2.0, -1.0, 1.0]}, r"not negative.*'tree': -1\.0"),
        ({"class_weights": [0.0, 0.0, 0.0, 0.0]}, r"not all 0"),
        ({"class_weights": "inverse"}, r"pixel frequency of each of the 4 classes.*found none"),
        ({"auxiliary": {"aux": -1.0}}, r"not negative, found \{'aux': -1\.0\}"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(RecipeError, match=message):
        create_loss(LossSettings(**settings), NAMES)


def test_loss_without_class_weights_says_so(monkeypatch):
    class Unweighted(nn.Module):
        def __init__(self, *, ignore_index=255):
            super().__init__()

    monkeypatch.setitem(losses.LOSSES, "unweighted", Unweighted)
    with pytest.raises(RecipeError, match="'unweighted' cannot use class weights"):
        create_loss(LossSettings(name="unweighted", class_weights=[1.0, 1, 1, 1]), NAMES)


def test_labels_of_every_device_are_used_without_a_check_under_compile():
    logits, labels = example()
    compiled = torch.compile(cross_entropy, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(logits, labels), cross_entropy(logits, labels))
