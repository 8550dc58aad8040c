"""One confusion matrix, one definition of every score."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from maskwright.data.sample import LabelSpace
from maskwright.errors import DataError
from maskwright.metrics import ConfusionMatrix, end_of_sweep

LABELS = LabelSpace(("background", "cat", "dog"))


def counted(prediction, target, labels=5, ignore_index=None) -> np.ndarray:
    confusion = ConfusionMatrix(labels, ignore_index)
    confusion.update(prediction, target)
    return confusion.matrix.numpy()


def slow(prediction, target, classes=5, ignore_index=255) -> np.ndarray:
    matrix = np.zeros((classes, classes), np.int64)
    for true, predicted in zip(np.ravel(target).tolist(), np.ravel(prediction).tolist(), strict=True):
        if true != ignore_index:
            matrix[true, predicted] += 1
    return matrix


def random_pair(seed=0, classes=5, ignored=0.1, shape=(2, 9, 11)):
    rng = np.random.default_rng(seed)
    target = rng.integers(0, classes, shape)
    prediction = np.where(rng.random(shape) < 0.7, target, rng.integers(0, classes, shape))
    target[rng.random(shape) < ignored] = 255
    return prediction, target


@pytest.mark.parametrize("target_type", ["uint8", "int16", "int32", "int64", "uint16"])
@pytest.mark.parametrize("prediction_type", ["uint8", "int64"])
def test_every_integer_type_counts_alike(prediction_type, target_type):
    prediction, target = random_pair()
    expected = slow(prediction, target)
    prediction, target = prediction.astype(prediction_type), target.astype(target_type)
    assert_array_equal(counted(prediction, target), expected)
    if target_type != "uint16":
        assert_array_equal(counted(torch.from_numpy(prediction), torch.from_numpy(target)), expected)


@pytest.mark.parametrize("classes", [1, 2, 127, 128, 129, 255, 300])
def test_any_number_of_classes(classes):
    rng = np.random.default_rng(classes)
    prediction, target = rng.integers(0, classes, (2, 40, 40))
    ignore = 255 if classes <= 255 else 1000
    target[0] = ignore
    assert_array_equal(counted(prediction, target, classes, ignore), slow(prediction, target, classes, ignore))


@pytest.mark.parametrize("at_once", [1, 50, 198])
def test_counted_in_parts(at_once, monkeypatch):
    monkeypatch.setattr("maskwright.metrics.CACHED_PIXELS", at_once)
    prediction, target = random_pair()
    assert_array_equal(counted(prediction, target), slow(prediction, target))


@pytest.mark.parametrize("ignore_index", [-1, -100, 255, 256, 300, 5, 4, 1, 0])
def test_any_ignore_value(ignore_index):
    prediction, target = random_pair()
    target = np.where(target == 255, ignore_index, target)
    expected = slow(prediction, target, 5, ignore_index)
    assert_array_equal(counted(prediction, target, 5, ignore_index), expected)
    # With a prediction in int32 of no class elsewhere, counts take the other way.
    assert_array_equal(counted(np.where(target == ignore_index, 500, prediction), target, 5, ignore_index), expected)


@pytest.mark.parametrize("ignore_index", [0, 1, 2, 3, 255, -1, 256])
def test_a_value_outside_the_classes_is_never_swallowed(ignore_index):
    for value in {253, 254, 255, 3} - {ignore_index}:
        with pytest.raises(DataError, match=rf"no class: {value} \(1 pixels\)"):
            counted(np.zeros(4, np.uint8), np.array([0, 1, 2, value], np.uint8), 3, ignore_index)


def test_views_and_read_only_arrays():
    prediction, target = random_pair(shape=(12, 9))
    prediction, target = prediction.astype(np.uint8), target.astype(np.uint8)
    target.setflags(write=False)
    assert_array_equal(counted(prediction[::-1].T, target[::-1].T), slow(prediction, target))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 9), st.floats(0, 1))
def test_ignored_pixels_never_matter(seed, classes, share):
    prediction, target = random_pair(seed, classes, share)
    other = np.where(target == 255, np.random.default_rng(seed + 1).integers(0, 256, target.shape), prediction)
    assert_array_equal(counted(prediction, target, classes), counted(other, target, classes))
    kept = target != 255
    assert_array_equal(counted(prediction, target, classes), counted(prediction[kept], target[kept], classes))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 16))
def test_additive(seed, cut):
    prediction, target = random_pair(seed, shape=(18, 7))
    whole = ConfusionMatrix(5)
    whole.update(prediction, target)
    first, second = ConfusionMatrix(5), ConfusionMatrix(5)
    first.update(prediction[:cut], target[:cut])
    second.update(prediction[cut:], target[cut:])
    assert_array_equal((first + second).matrix, whole.matrix)
    assert (first + second).scores() == whole.scores()
    first.update(prediction[cut:], target[cut:])
    assert_array_equal(first.matrix, whole.matrix)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_shares_of_the_union_add_up(seed):
    confusion = ConfusionMatrix(6)
    confusion.update(*random_pair(seed, 6))
    rates = confusion.rates()
    total = rates["iou"] + rates["fp_rate"] + rates["fn_rate"]
    assert_allclose(total[~np.isnan(total)], 1, atol=1e-12)
    assert_allclose(rates["f1"], 2 * rates["iou"] / (1 + rates["iou"]), atol=1e-12)


def test_absent_class_is_left_out_and_a_predicted_one_is_not():
    perfect = ConfusionMatrix(LABELS)
    perfect.update(np.array([0, 0, 1]), np.array([0, 0, 1]))
    scores = perfect.scores()
    assert scores["miou"] == 1
    assert scores["absent"] == ["dog"]
    assert scores["per_class"]["dog"]["iou"] is None
    perfect.update(np.array([2]), np.array([0]))
    scores = perfect.scores()
    assert scores["per_class"]["dog"]["iou"] == 0
    assert scores["absent"] == []
    assert scores["miou"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert scores["per_class"]["dog"]["recall"] is None


def test_one_matrix_not_a_mean_over_images():
    confusion = ConfusionMatrix(2)
    confusion.update(np.array([0, 0, 0, 0]), np.array([0, 0, 0, 1]))
    confusion.update(np.array([1, 1]), np.array([1, 1]))
    assert confusion.scores()["miou"] == pytest.approx((3 / 4 + 2 / 3) / 2)


def test_foreground_rates():
    confusion = ConfusionMatrix(LABELS)
    confusion.update(np.array([0, 1, 1, 1, 2]), np.array([0, 0, 1, 2, 2]))
    foreground = confusion.scores()["foreground"]
    assert foreground["background_share"] == pytest.approx(1 / 4)
    assert foreground["fp_rate"] == pytest.approx((2 / 3 + 0) / 2)
    assert foreground["fn_rate"] == pytest.approx((0 + 1 / 2) / 2)
    stuff = ConfusionMatrix(LabelSpace(("sky", "road"), background=None))
    assert "foreground" not in stuff.scores()


def test_nothing_counted_gives_none_everywhere_and_strict_json():
    confusion = ConfusionMatrix(LABELS)
    confusion.update(np.zeros((4, 4), np.uint8), np.full((4, 4), 255, np.uint8))
    confusion.update(np.zeros((0, 4), np.uint8), np.zeros((0, 4), np.uint8))
    scores = confusion.scores()
    assert scores["miou"] is scores["pixel_accuracy"] is scores["frequency_weighted_iou"] is None
    assert scores["pixels"] == 0
    assert scores["absent"] == list(LABELS.names)
    json.dumps(scores, allow_nan=False)


def test_label_space_names_and_ignore_value():
    labels = LabelSpace(("a", "b"), background=None, ignore_index=7)
    confusion = ConfusionMatrix(labels)
    confusion.update(np.array([0, 1, 1]), np.array([0, 1, 7]))
    assert list(confusion.scores()["per_class"]) == ["a", "b"]
    assert confusion.scores()["pixels"] == 2


@pytest.mark.parametrize("kind", ["uint8", "int64"])
def test_values_that_are_no_class(kind):
    with pytest.raises(
        DataError, match=r"ground truth holds values that are no class: 9 \(2 pixels\); expected 0..4 or 255"
    ):
        counted(np.zeros(3, kind), np.array([9, 9, 255], kind))
    with pytest.raises(DataError, match=r"prediction holds values that are no class: 200 \(1 pixels\); expected 0..4"):
        counted(np.array([200, 77, 1], kind), np.array([1, 255, 1], kind))
    with pytest.raises(DataError, match="-1 "):
        counted(np.array([0, 1]), np.array([-1, 1]))
    with pytest.raises(DataError, match="70000"):
        counted(np.array([0, 1]), np.array([70000, 1]))


def test_shapes_and_floats_are_refused():
    with pytest.raises(DataError, match="same shape"):
        counted(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8))
    with pytest.raises(DataError, match="argmax"):
        counted(torch.zeros(3), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(DataError, match="integer"):
        counted(np.zeros(3), np.zeros(3, np.uint8))
    with pytest.raises(DataError, match="cannot add"):
        ConfusionMatrix(2) + ConfusionMatrix(3)


def test_from_matrix():
    confusion = ConfusionMatrix.from_matrix([[3, 1, 0], [0, 2, 0], [0, 0, 0]], LABELS)
    assert confusion.scores()["pixel_accuracy"] == pytest.approx(5 / 6)
    with pytest.raises(DataError, match="shape"):
        ConfusionMatrix.from_matrix([[1]], LABELS)


def _reduce(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    confusion = ConfusionMatrix(3)
    confusion.update(np.array([rank, 2]), np.array([rank, 1]))
    assert_array_equal(confusion.all_reduce().matrix, [[1, 0, 0], [0, 1, 2], [0, 0, 0]])
    torch.distributed.destroy_process_group()


@pytest.mark.distributed
def test_all_reduce(tmp_path):
    confusion = ConfusionMatrix(3)
    confusion.update(np.array([1]), np.array([1]))
    assert_array_equal(confusion.all_reduce().matrix, np.diag([0, 1, 0]))
    torch.multiprocessing.start_processes(_reduce, args=(str(tmp_path),), nprocs=2, start_method="fork")


@pytest.mark.parametrize(
    ("mious", "best", "words"),
    [
        ([0.3, 0.2, 0.1], 0.1, "the first that was tried"),
        ([0.1, 0.2, 0.3], 0.3, "the last that was tried"),
        ([0.1, 0.3, 0.2], 0.2, ""),
        ([None, 0.3, 0.2], 0.2, "the first that was tried"),
        ([0.3, 0.3, 0.1], 0.1, ""),  # nothing says that it falls off
        ([0.3], 0.1, ""),
        ([None, None], None, ""),
        ([], None, ""),
    ],
)
def test_a_best_threshold_at_the_end_of_its_sweep(mious, best, words):
    rows = [{"threshold": 0.1 * (place + 1), "miou": miou} for place, miou in enumerate(mious)]
    found = next((row["threshold"] for row in rows if best is not None and abs(row["threshold"] - best) < 1e-9), None)
    assert end_of_sweep(rows, found) == words
