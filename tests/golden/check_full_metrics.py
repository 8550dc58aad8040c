"""Scores per class and over the set, from one confusion matrix."""

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from maskwright.metrics import ConfusionMatrix

UNUSED = {"names": "one line of text per case"}


def indifferent(key, arrays):
    """Where every pixel is ignored no prediction can matter."""
    case, _, field = key.partition("__")
    return field == "pred" and bool((arrays[f"{case}__target"] == 255).all())


def as_float(value):
    return np.nan if value is None else value


def check(arrays: dict[str, np.ndarray]) -> None:
    cases = sorted({key.split("__")[0] for key in arrays if "__" in key})
    assert cases
    for case in cases:
        field = {key.split("__")[1]: array for key, array in arrays.items() if key.startswith(f"{case}__")}
        classes = int(field["num_classes"])
        confusion = ConfusionMatrix(classes)
        for predicted, true in zip(field["pred"], field["target"], strict=True):
            confusion.update(predicted, true)
        assert_array_equal(confusion.matrix.numpy(), field["confusion"])
        scores, rates = confusion.scores(), confusion.rates()
        for key in ("iou", "f1", "recall", "precision"):
            assert_allclose(rates[key], field[key], rtol=0, atol=1e-12, err_msg=key)
            listed = [as_float(score[key]) for score in scores["per_class"].values()]
            assert_allclose(listed, field[key], rtol=0, atol=1e-12, err_msg=key)
        pairs = {
            "miou": "miou",
            "mean_f1": "mean_f1",
            "pixel_accuracy": "pixel_acc",
            "mean_accuracy": "mean_recall",
            "frequency_weighted_iou": "freq_weighted_iou",
        }
        for ours, theirs in pairs.items():
            assert_allclose(as_float(scores[ours]), field[theirs], rtol=0, atol=1e-12, err_msg=ours)
