from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from maskwright.errors import DataError, RecipeError
from maskwright.losses.cpp import (
    CPPLoss,
    _counts_anywhere,
    cell_counts,
    count_pyramid,
    cpp_loss,
    cpp_loss_map,
    pool_labels,
    pool_to,
)

from .contract import LossContract, example


class TestCPPLossRenormalised(LossContract):
    def make(self, **arguments):
        return CPPLoss(**arguments, ignore="renormalise")


def labels_of(seed, batch, classes, height, width, ignored=0.2):
    return example(seed, batch, classes, height, width, ignored)[1]


def one_hot(labels, classes):
    return F.one_hot(labels.where(labels != 255, classes), classes + 1).permute(0, 3, 1, 2).double()


@given(
    seed=st.integers(0, 10_000),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    stride=st.integers(1, 9),
    classes=st.integers(1, 6),
)
@settings(max_examples=60, deadline=None)
def test_counts_equal_one_hot_and_pooling(seed, height, width, stride, classes):
    labels = labels_of(seed, 2, classes, height, width)
    hot = one_hot(labels, classes)
    ceil = cell_counts(labels, classes, stride=stride)
    room = (0, -width % stride, 0, -height % stride)
    expected = F.avg_pool2d(F.pad(hot, room), stride) * stride**2
    torch.testing.assert_close(ceil.double(), expected, rtol=0, atol=1e-9)
    assert ceil.sum() == labels.numel()
    floor = cell_counts(labels, classes, stride=stride, policy="floor")
    rows, columns = height // stride, width // stride
    assert floor.shape[2:] == (rows, columns)
    torch.testing.assert_close(floor, ceil[:, :, :rows, :columns].to(floor.dtype), rtol=0, atol=0)


@given(
    seed=st.integers(0, 10_000),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
)
@settings(max_examples=60, deadline=None)
def test_adaptive_cells_equal_adaptive_average_pooling(seed, height, width, rows, columns):
    labels = labels_of(seed, 2, 4, height, width)
    shares, valid = pool_to(labels, (rows, columns), 4)
    expected = F.adaptive_avg_pool2d(one_hot(labels, 4), (rows, columns))
    torch.testing.assert_close(shares.double(), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(valid.double(), 1 - expected[:, -1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
@pytest.mark.parametrize(
    "where", [{"stride": 3}, {"stride": 4, "policy": "floor"}, {"size": (5, 7), "policy": "adaptive"}]
)
def test_compiled_counts_equal_those_of_torch(where, dtype, monkeypatch):
    labels = labels_of(3, 2, 5, 22, 31).to(dtype)
    compiled = cell_counts(labels, 5, **where)
    assert torch.equal(cell_counts(labels.permute(0, 2, 1).contiguous().permute(0, 2, 1), 5, **where), compiled)
    monkeypatch.setattr("maskwright.losses.cpp._counts_cpu", _counts_anywhere)
    plain = cell_counts(labels, 5, **where)
    assert plain.stride() == compiled.stride()
    assert torch.equal(plain, compiled)


def test_pooling_compiles():
    labels = labels_of(4, 2, 5, 24, 32)
    pooled = torch.compile(pool_labels, backend="eager")(labels, 5, stride=4)
    torch.testing.assert_close(pooled, pool_labels(labels, 5, stride=4))


@pytest.mark.parametrize("policy", ["ceil", "floor"])
@pytest.mark.parametrize("strides", [(4, 8, 16, 32), (2, 3, 6), (5,)])
@pytest.mark.parametrize("size", [(64, 96), (65, 97), (33, 31)])
def test_pyramid_equals_each_stride_by_itself(policy, strides, size):
    labels = labels_of(0, 2, 5, *size)
    for stride, counts in count_pyramid(labels, 5, strides, policy=policy).items():
        expected = cell_counts(labels, 5, stride=stride, policy=policy)
        torch.testing.assert_close(counts, expected, rtol=0, atol=0)


@given(seed=st.integers(0, 10_000), stride=st.integers(1, 7))
@settings(max_examples=30, deadline=None)
def test_shares_sum_to_one_and_relabelling_permutes_them(seed, stride):
    labels = labels_of(seed, 1, 4, 23, 17)
    shares, _ = pool_labels(labels, 4, stride=stride)
    torch.testing.assert_close(shares.sum(1), torch.ones_like(shares[:, 0]))
    order = torch.tensor([2, 0, 3, 1])
    renamed = torch.where(labels == 255, labels, order[labels.clamp(max=3)])
    moved, _ = pool_labels(renamed, 4, stride=stride)
    torch.testing.assert_close(moved[:, order], shares[:, :4])
    mirrored, _ = pool_labels(labels[:, :, : 17 // stride * stride].flip(2), 4, stride=stride)
    plain, _ = pool_labels(labels[:, :, : 17 // stride * stride], 4, stride=stride)
    torch.testing.assert_close(mirrored.flip(3), plain)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_labels_of_every_type_are_counted_and_left_alone(dtype):
    labels = labels_of(0, 2, 5, 13, 9).to(dtype)
    before = labels.clone()
    counts = cell_counts(labels, 5, stride=4)
    assert torch.equal(counts, cell_counts(before.long(), 5, stride=4))
    assert torch.equal(labels, before)


def test_a_one_pixel_pole_keeps_its_share():
    labels = torch.zeros(1, 32, 32, dtype=torch.long)
    labels[0, :, 13] = 1
    shares, _ = pool_labels(labels, 2, stride=8)
    torch.testing.assert_close(shares[0, 1, :, 1], torch.full((4,), 1 / 8))
    assert labels[0, ::8, ::8].sum() == 0  # picking one pixel per cell would lose it


def test_renormalised_cells_without_a_valid_pixel_are_empty():
    labels = torch.full((1, 8, 8), 255)
    labels[0, 0, 0] = 2
    shares, valid = pool_labels(labels, 3, stride=4, ignore="renormalise")
    torch.testing.assert_close(shares[0, :, 0, 0], torch.tensor([0.0, 0.0, 1.0]))
    assert shares[0, :, 1, 1].sum() == 0
    torch.testing.assert_close(valid[0], torch.tensor([[1 / 16, 0.0], [0.0, 0.0]]))


def test_loss_is_zero_at_a_perfect_fit_and_its_gradient_is_p_less_q():
    labels = labels_of(3, 2, 3, 16, 16)
    pooled = pool_labels(labels, 3, stride=4)
    fit = pooled.probabilities.clamp(min=1e-30).log()
    assert cpp_loss(fit, pooled).abs() < 1e-6
    logits = torch.randn(2, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    cpp_loss_map(logits, pooled.probabilities.double()).sum().backward()
    torch.testing.assert_close(logits.grad, logits.detach().softmax(1) - pooled.probabilities.double())


def test_fraction_weighting_makes_the_pixel_the_unit():
    labels = torch.full((1, 4, 8), 255)
    labels[:, :, :4] = 1  # sixteen pixels in one cell
    labels[0, 0, 4] = 0  # one in the other
    pooled = pool_labels(labels, 2, stride=4, ignore="renormalise")
    logits = torch.zeros(1, 2, 1, 2)
    logits[0, 1] = 2.0
    divergence = cpp_loss_map(logits, pooled.probabilities)[0, 0]
    expected = (16 * divergence[0] + divergence[1]) / 17
    torch.testing.assert_close(cpp_loss(logits, pooled, weighting="fraction"), expected)
    torch.testing.assert_close(cpp_loss(logits, pooled, weighting="cells"), divergence.mean())


@pytest.mark.parametrize("size", [(16, 16), (17, 16), (13, 11), (64, 64)])
def test_module_pools_to_the_grid_of_the_head(size):
    labels = labels_of(1, 2, 3, 64, 64)
    logits = torch.randn(2, 4, *size, requires_grad=True)
    loss = CPPLoss()(logits, labels)
    loss.backward()
    assert loss > 0
    assert logits.grad.abs().sum() > 0


@pytest.mark.parametrize(("size", "stride"), [((65, 97), 8), ((33, 50), 4), ((61, 97), 16)])
def test_module_finds_the_stride_of_the_head_where_sizes_are_no_multiple(size, stride):
    """The last cells are cut off by the image's border; none of the others changes its size for that."""
    labels = labels_of(1, 2, 3, *size)
    logits = torch.randn(2, 4, *(-(-side // stride) for side in size))
    expected = cpp_loss(logits, pool_labels(labels, 3, stride=stride))
    torch.testing.assert_close(CPPLoss()(logits, labels), expected, rtol=0, atol=0)


def test_wrong_input_is_refused():
    labels = labels_of(0, 1, 3, 8, 8)
    with pytest.raises(RecipeError, match="either stride or size"):
        pool_labels(labels, 3)
    with pytest.raises(RecipeError, match="policy"):
        cell_counts(labels, 3, stride=2, policy="round")
    with pytest.raises(RecipeError, match="ignore"):
        CPPLoss(ignore="mask")
    with pytest.raises(DataError, match="one channel per class"):
        cpp_loss(torch.zeros(1, 3, 4, 4), pool_labels(labels, 3, stride=2))
    with pytest.raises(DataError, match="found 3"):
        cell_counts(labels.where(labels != 255, 3), 3, stride=2)
    labels[0, 7, 2] = -1
    for policy in ("ceil", "floor"):  # also where the pixel is in no cell
        with pytest.raises(DataError, match="found -1"):
            cell_counts(labels, 3, stride=3, policy=policy)
