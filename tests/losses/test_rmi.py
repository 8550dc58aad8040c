from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import maskwright.losses.rmi as rmi_module
import maskwright.losses.rmi_cpu as rmi_cpu
import maskwright.losses.rmi_region as rmi_region
from maskwright.data.sample import LabelSpace
from maskwright.errors import DataError, RecipeError
from maskwright.losses import create_loss, cross_entropy
from maskwright.losses.rmi import RMI, region_term, rmi_loss, sigmoid_cross_entropy
from maskwright.losses.rmi_region import EPSILON, conditional_logdet
from maskwright.settings import LossSettings

from .contract import LossContract, example, value_and_gradient

CONSTANT = 0.5 * math.log(EPSILON)


class TestRMI(LossContract):
    gradcheck_size = (1, 2, 7, 8)

    def make(self, **arguments):
        return RMI(**{"pool_size": 2, **arguments})


class TestRMIOfEveryPixelWithSoftmax(LossContract):
    gradcheck_size = (1, 3, 4, 5)

    def make(self, **arguments):
        return RMI(**arguments, pool="none", ce="softmax", form="added", weight=0.3)


def plain_region_term(logits, labels, pool_size=1, radius=3):
    """Every class of every image, float64, an explicit inverse and logdet."""
    batch, classes, _, _ = logits.shape
    valid = labels != 255
    logits = logits.double()
    predicted = logits.sigmoid() * valid[:, None] + 1e-6
    true = torch.stack([labels == value for value in range(classes)], 1).double()
    maps = [true, predicted]
    if pool_size > 1:
        maps = [torch.nn.functional.avg_pool2d(x, pool_size, padding=pool_size // 2) for x in maps]
    unfolded = [torch.nn.functional.unfold(x.flatten(0, 1)[:, None], radius) for x in maps]
    y, p = (x - x.mean(2, keepdim=True) for x in unfolded)
    eye = EPSILON * torch.eye(radius**2, dtype=torch.float64)
    left = y @ y.mT - y @ p.mT @ torch.linalg.inv(p @ p.mT + eye) @ p @ y.mT
    return torch.logdet(left + eye).view(batch, classes).mean(0).sum() / (2 * radius**2)


@pytest.mark.parametrize(("pool_size", "radius"), [(1, 3), (2, 2), (4, 3)])
def test_equals_inverse_and_determinant_over_all_classes(pool_size, radius):
    logits, labels = example(1, classes=5, height=23, width=18, dtype=torch.float64)
    labels[labels == 3] = 0  # a class that no image has
    labels[0][labels[0] == 4] = 1  # and one that only the second has
    found, gradient = value_and_gradient(
        lambda z, y: region_term(z, y, pool_size=pool_size, radius=radius), logits, labels
    )
    expected, expected_gradient = value_and_gradient(
        lambda z, y: plain_region_term(z, y, pool_size, radius), logits, labels
    )
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-7, atol=1e-12)
    assert (gradient[:, 3] == 0).all()
    assert (gradient[0, 4] == 0).all()
    assert gradient[1, 4].abs().sum() > 0


def test_an_absent_class_is_its_constant():
    logits, labels = example(2, classes=3, height=16, width=16)
    labels[labels == 2] = 1
    both = region_term(logits, labels)
    first = region_term(logits[:, :2], labels)
    torch.testing.assert_close(both, first + CONSTANT, rtol=1e-6, atol=1e-6)


def test_parts_of_the_batch_do_not_matter(monkeypatch):
    logits, labels = example(3, batch=3, height=20, width=24, dtype=torch.float64)
    whole = value_and_gradient(RMI(), logits, labels)
    monkeypatch.setattr(rmi_region, "VALUES_AT_ONCE", {"cpu": 1})
    for found, expected in zip(value_and_gradient(RMI(), logits, labels), whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("classes", "height", "width", "pool_size", "radius"),
    [(5, 23, 18, 4, 3), (3, 20, 31, 3, 2), (4, 16, 16, 2, 4), (1, 9, 15, 5, 1), (150, 12, 12, 4, 3)],
)
def test_the_compiled_kernels_agree_with_torch(monkeypatch, classes, height, width, pool_size, radius):
    """Rows and columns that no cell has, several blocks of classes, threads."""
    logits, labels = example(9, 3, classes, height, width)
    labels[0][labels[0] == classes - 1] = 255
    losses = [RMI(pool_size=pool_size, radius=radius), RMI(rmi=False)]
    losses.append(lambda z, y: region_term(z, y, pool_size=pool_size, radius=radius))
    compiled = [value_and_gradient(loss, logits, labels) for loss in losses]
    monkeypatch.setattr(rmi_cpu, "LEAST_ROWS", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    threaded = [value_and_gradient(loss, logits, labels) for loss in losses]
    monkeypatch.setattr(rmi_module, "_is_compiled", lambda *_: False)
    monkeypatch.setattr(rmi_cpu, "NeighbourhoodProducts", rmi_region.NeighbourhoodProducts)
    plain = [value_and_gradient(loss, logits.double(), labels) for loss in losses]
    for (value, gradient), again, (expected, expected_gradient) in zip(compiled, threaded, plain, strict=True):
        torch.testing.assert_close(again, (value, gradient), rtol=0, atol=0)
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(gradient.double(), expected_gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("height", "width", "radius"), [(7, 9, 3), (4, 6, 4), (6, 5, 1), (9, 8, 2)])
def test_compiled_products_of_neighbourhoods_agree_with_torch(height, width, radius):
    generator = torch.Generator().manual_seed(0)
    predicted, true = torch.rand(2, 3, height, width, generator=generator, dtype=torch.float64)
    predicted.requires_grad_()
    cross, own = rmi_cpu.NeighbourhoodProducts.apply(predicted, true, radius)
    expected, expected_own = rmi_region.NeighbourhoodProducts.apply(predicted, true, radius)
    slope = torch.randn(cross.shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(cross, expected)
    torch.testing.assert_close(own, expected_own)
    torch.testing.assert_close(*(torch.autograd.grad(value, predicted, slope)[0] for value in (cross, expected)))


def test_float32_keeps_the_digits_of_a_small_cross_entropy():
    labels = torch.randint(0, 19, (1, 16, 16), generator=torch.Generator().manual_seed(0))
    logits = torch.full((1, 19, 16, 16), -18.0).scatter_(1, labels.unsqueeze(1), 18.0)
    expected = sigmoid_cross_entropy(logits.double(), labels)
    assert 0 < expected < 1e-5
    torch.testing.assert_close(sigmoid_cross_entropy(logits, labels).double(), expected, rtol=1e-5, atol=0)


def test_a_compiled_graph_is_made_of_torch_alone(monkeypatch):
    logits, labels = example(10, height=20, width=20)
    expected = value_and_gradient(rmi_loss, logits, labels)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    monkeypatch.setattr(rmi_cpu, "in_parts", None)
    for found, value in zip(value_and_gradient(rmi_loss, logits, labels), expected, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-7)


def test_float32_is_as_good_as_float64_where_the_prediction_is_nearly_perfect():
    """The joint matrix is then close to singular: products in float32 would not be positive definite any more."""
    labels = torch.zeros(1, 256, 256, dtype=torch.long)
    labels[:, 100:] = 1  # one straight border: shifts along it are all alike
    logits = torch.stack([10.0 - 20 * labels, 20.0 * labels - 10], 1)
    logits += 0.1 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    single, gradient = value_and_gradient(lambda z, y: region_term(z, y, pool="none"), logits, labels)
    double, expected = value_and_gradient(lambda z, y: region_term(z, y, pool="none"), logits.double(), labels)
    torch.testing.assert_close(single.double(), double, rtol=1e-6, atol=0)
    assert (gradient - expected).norm() < 0.01 * expected.norm()  # probabilities of 1 - 5e-5 have few digits left


def test_sigmoid_cross_entropy_is_summed_over_classes():
    logits, labels = example(4, dtype=torch.float64)
    valid = labels != 255
    one_hot = torch.stack([labels == value for value in range(4)], 1).double()
    each = torch.nn.functional.binary_cross_entropy_with_logits(logits, one_hot, reduction="none").sum(1)
    torch.testing.assert_close(sigmoid_cross_entropy(logits, labels), each[valid].sum() / (valid.sum() + 1))


def test_forms_and_pixel_terms():
    logits, labels = example(5, height=20, width=20)
    region, sigmoid, softmax = (
        region_term(logits, labels),
        sigmoid_cross_entropy(logits, labels),
        cross_entropy(logits, labels),
    )
    torch.testing.assert_close(rmi_loss(logits, labels, weight=0.2), 0.2 * sigmoid + 0.8 * region)
    torch.testing.assert_close(rmi_loss(logits, labels, weight=0.2, form="added"), sigmoid + 0.2 * region)
    torch.testing.assert_close(rmi_loss(logits, labels, ce="softmax"), 0.5 * softmax + 0.5 * region)
    assert torch.equal(RMI(rmi=False)(logits, labels), sigmoid)
    assert torch.equal(RMI(rmi=False, ce="softmax")(logits, labels), softmax)


def test_auxiliary_outputs_get_the_pixel_term_alone():
    logits, labels = example(6, height=20, width=20)
    names = LabelSpace(tuple("abcd"), background=None)
    criterion = create_loss(LossSettings(name="rmi", auxiliary={"aux": 0.4}), names)
    loss, parts = criterion({"logits": logits, "aux": 2 * logits}, labels)
    torch.testing.assert_close(parts["aux"], sigmoid_cross_entropy(2 * logits, labels))
    torch.testing.assert_close(loss, rmi_loss(logits, labels) + 0.4 * parts["aux"])


def test_it_separates_maps_that_cross_entropy_does_not():
    """Equal pixel errors, once scattered and once along the border: the region term tells them apart."""
    labels = torch.zeros(1, 32, 32, dtype=torch.long)
    labels[:, 8:24, 8:24] = 1
    wrong = torch.zeros(32, 32, dtype=torch.bool)
    wrong[8:24, 8] = True
    scattered = torch.zeros(32 * 32, dtype=torch.bool)
    scattered[torch.randperm(32 * 32, generator=torch.Generator().manual_seed(0))[:16]] = True
    values = []
    for mask in (wrong, scattered.view(32, 32)):
        shown = labels[0].float() * 2 - 1
        shown = torch.where(mask, -shown, shown)[None]
        logits = 3 * torch.stack([-shown, shown], 1)
        values.append((sigmoid_cross_entropy(logits, labels), region_term(logits, labels, pool="none")))
    torch.testing.assert_close(values[0][0], values[1][0])
    assert abs(values[0][1] - values[1][1]) > 0.05


def test_conditional_logdet_of_independent_rows_is_that_of_the_truth():
    generator = torch.Generator().manual_seed(0)
    p, y = torch.randn(2, 1, 4, 4000, generator=generator, dtype=torch.float64)
    p -= p @ y.mT @ torch.linalg.inv(y @ y.mT) @ y  # nothing about y is left in p
    rows = torch.cat([p, y, torch.ones_like(y[:, :1])], 1)
    found = conditional_logdet(p @ rows.mT, rows[:, 4:] @ rows[:, 4:].mT)
    centred = y - y.mean(2, keepdim=True)
    expected = torch.logdet(centred @ centred.mT + EPSILON * torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)


def test_no_gradient_is_made_where_none_is_wanted():
    logits, labels = example(7, height=20, width=20)
    with torch.no_grad():
        value = RMI()(logits, labels)
    assert not value.requires_grad
    torch.testing.assert_close(value, RMI()(logits.clone().requires_grad_(), labels).detach())


def test_what_is_not_finite_is_not_hidden():
    logits, labels = example(8, height=20, width=20)
    logits[0, 0, 5, 5] = math.nan
    labels[0, 5, 5] = 0
    value, gradient = value_and_gradient(RMI(), logits, labels)
    assert value.isnan()
    assert gradient.isnan().any()


def test_too_small_images_say_what_to_do():
    logits, labels = example()
    with pytest.raises(DataError, match=r"at least 3 x 3 positions, found 2 x 2 from images of 5 x 6 pixels.*larger"):
        rmi_loss(logits[..., :5, :6], labels[:, :5, :6])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ce": "softmx"}, "pixel term.*Did you mean 'softmax'"),
        ({"pool": "averge"}, "pooling 'averge'"),
        ({"form": "mixed"}, "form 'mixed'"),
        ({"radius": 0}, "at least 1, found 4 and 0"),
        ({"pool_size": 0}, "at least 1, found 0 and 3"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    logits, labels = example(height=20, width=20)
    with pytest.raises(RecipeError, match=message):
        RMI(**arguments)
    with pytest.raises(RecipeError, match=message):
        rmi_loss(logits, labels, **arguments)


def test_equals_the_released_steps():
    """As timed by the benchmark."""
    import importlib.util

    path = Path(__file__).parents[2] / "benchmarks" / "speed" / "rmi.py"
    spec = importlib.util.spec_from_file_location("benchmark_rmi", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    logits, labels = benchmark.example(96, 6, 4)
    (ours, our_gradient), (released, gradient) = (
        benchmark.step(function, logits, labels) for function in (rmi_loss, benchmark.released_steps)
    )
    assert ours == pytest.approx(released, rel=2e-5)
    torch.testing.assert_close(our_gradient, gradient, rtol=1e-3, atol=1e-6)
