"""Label maps from maps, their confidence, and the sweep over thresholds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from maskwright.data.sample import LabelSpace
from maskwright.errors import DataError
from maskwright.metrics import ConfusionMatrix
from maskwright.weak.labels import best_two, labels_and_confidence, seed_labels, sweep, threshold_counts

LABELS = LabelSpace(("background", "cat", "dog", "cow"))
STUFF = LabelSpace(("sky", "road", "tree"), background=None)
MIDDLE = LabelSpace(("cat", "background", "dog"), background=1)


def planes(maps, threshold) -> np.ndarray:
    plane = np.full((1, *maps.shape[1:]), threshold, np.float32)
    return np.concatenate([plane, maps.astype(np.float32)])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_argmax_over_planes_first_one_wins(random_maps, count, dtype):
    maps = random_maps(count).astype(dtype)
    keys = np.array([0, 1, 2])[:count]
    for threshold in (0.0, 0.25, 0.5, 0.95):
        expected = np.array([0, 1, 2, 3])[planes(maps, threshold).argmax(0)]
        found = seed_labels(maps, keys, threshold, 0, LABELS.foreground)
        assert found.dtype == np.uint8
        assert_array_equal(found, expected)


def test_ties_go_to_the_background_then_to_the_first_class():
    maps = np.full((2, 1, 1), 0.5, np.float16)
    assert seed_labels(maps, [0, 2], 0.5, 0, LABELS.foreground) == 0
    assert seed_labels(maps, [0, 2], 0.25, 0, LABELS.foreground) == 1


def test_keys_are_positions_among_the_taggable_classes(random_maps):
    found = seed_labels(random_maps(2), [0, 1], 0.5, MIDDLE.background, MIDDLE.foreground)
    assert_array_equal(found, np.array([1, 0, 2])[planes(random_maps(2), 0.5).argmax(0)])


def test_without_background_class_the_threshold_has_no_effect(random_maps):
    found = seed_labels(random_maps(2), [0, 2], 0.9, None, STUFF.foreground)
    assert_array_equal(found, np.array([0, 2])[random_maps(2).argmax(0)])


def test_without_maps():
    none = np.zeros((0, 2, 3), np.float16)
    labels, confidence = labels_and_confidence(none, [], 0.3, 0, LABELS.foreground)
    assert_array_equal(labels, np.zeros((2, 3)))
    assert_array_equal(confidence, np.ones((2, 3)))
    labels, confidence = labels_and_confidence(none, [], 0.3, None, STUFF.foreground)
    assert_array_equal(labels, np.full((2, 3), 255))
    assert_array_equal(confidence, np.zeros((2, 3)))


def test_best_two(random_maps):
    maps = random_maps(4).astype(np.float32)
    best, winner, second = best_two(maps)
    ordered = np.sort(maps, 0)
    assert_array_equal(best, ordered[-1])
    assert_array_equal(second, ordered[-2])
    assert_array_equal(winner, maps.argmax(0))
    assert_array_equal(best_two(maps[:1])[2], np.zeros(maps.shape[1:]))


def test_confidence_is_the_share_of_the_largest_margin():
    maps = np.array([[[1.0, 0.6, 0.6, 0.1, 0.0, 0.2]], [[0.0, 0.5, 0.1, 0.0, 0.0, 0.2]]], np.float32)
    labels, confidence = labels_and_confidence(maps, [0, 1], 0.2, 0, LABELS.foreground)
    assert_array_equal(labels, [[1, 1, 1, 0, 0, 0]])
    assert_allclose(confidence, [[1, 0.1 / 0.8, 0.4 / 0.8, 0.5, 1, 0]], atol=1e-6)
    confidence = labels_and_confidence(maps, [0, 1], 0.2, None, STUFF.foreground)[1]
    assert_allclose(confidence, [[1, 0.1, 0.5, 0.1, 0, 0]], atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.sampled_from([0.0, 0.15, 0.5, 1.0, 1.5]))
def test_confidence_is_between_0_and_1_and_0_exactly_at_ties(seed, count, threshold):
    rng = np.random.default_rng(seed)
    maps = (rng.integers(0, 9, (count, 6, 7)) / 8).astype(np.float32)
    _, confidence = labels_and_confidence(maps, range(count), threshold, 0, range(1, count + 1))
    assert confidence.min() >= 0
    assert confidence.max() <= 1
    ordered = np.sort(planes(maps, threshold), 0)
    assert_array_equal(confidence == 0, ordered[-1] == ordered[-2])


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 3),
    st.sampled_from([LABELS, STUFF, MIDDLE]),
    st.sampled_from(["float16", "float32", "float64"]),
)
def test_counts_at_every_threshold_are_those_of_one_at_a_time(seed, count, labels, dtype):
    rng = np.random.default_rng(seed)
    count = min(count, len(labels.foreground))
    keys = np.sort(rng.choice(len(labels.foreground), count, replace=False))
    maps = (rng.integers(0, 21, (count, 9, 8)) / 20).astype(dtype)
    truth = rng.integers(0, labels.num_classes, (9, 8)).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.2] = 255
    thresholds = np.arange(0, 1.2, 0.05)
    found = threshold_counts(maps, keys, truth, thresholds, labels)
    for threshold, counts in zip(thresholds, found, strict=True):
        confusion = ConfusionMatrix(labels)
        predicted = seed_labels(maps, keys, threshold, labels.background, labels.foreground)
        confusion.update(predicted, np.where(predicted == 255, predicted, truth))
        assert_array_equal(counts, confusion.matrix)


def test_sweep_over_a_set(memory_set, save_all, tmp_path):
    dataset = memory_set(sizes=((24, 40), (32, 24), (24, 40), (24, 24)))
    dataset.masks[3] = None
    dataset._tags[2] = None
    save_all(dataset, tmp_path)
    rows = sweep(dataset, tmp_path, [0.5, 0.25])
    assert [row["threshold"] for row in rows] == [0.25, 0.5]
    for row in rows:
        confusion = ConfusionMatrix(dataset.labels)
        for index in (0, 1):
            with np.load(tmp_path / f"{dataset.names[index]}.npz") as arrays:
                found = seed_labels(arrays["high_res"], arrays["keys"], row["threshold"], 0, LABELS.foreground)
            confusion.update(found, dataset.masks[index])
        scores = confusion.scores()
        assert row["miou"] == scores["miou"]
        assert row["fp"] == scores["foreground"]["fp_rate"]
        assert row["fn"] == scores["foreground"]["fn_rate"]
        assert row["background_share"] == scores["foreground"]["background_share"]
        background = scores["per_class"]["background"]
        assert (row["background_fp"], row["background_fn"]) == (background["fp_rate"], background["fn_rate"])


def test_sweep_without_true_masks_or_background(memory_set, save_all, tmp_path):
    assert sweep(memory_set(masks=False), tmp_path, [0.5]) == []
    dataset = memory_set(STUFF)
    save_all(dataset, tmp_path)
    rows = sweep(dataset, tmp_path, [0.2, 0.8])
    assert rows[0]["miou"] == rows[1]["miou"] > 0
    assert rows[0]["fp"] is None


def test_maps_that_do_not_fit(random_maps):
    thresholds = np.array([0.5])
    with pytest.raises(DataError, match="at the size of the mask"):
        threshold_counts(random_maps(1), [0], np.zeros((3, 4), np.uint8), thresholds, LABELS)
    truth = np.zeros((24, 40), np.uint8)
    truth[0, :2] = 200
    with pytest.raises(DataError, match=r"no class: 200 \(2 pixels\); expected 0..3 or 255"):
        threshold_counts(random_maps(1), [0], truth, thresholds, LABELS)
