"""Seed scores: IoU with false positive and false negative shares, and a sweep over background thresholds."""

import tempfile

import numpy as np
import torch
from numpy.testing import assert_allclose, assert_array_equal

from maskwright.data.sample import LabelSpace, Sample
from maskwright.metrics import ConfusionMatrix
from maskwright.weak.labels import seed_labels, sweep


class OneImage:
    """A set of one image that is said to show the classes of its maps."""

    def __init__(self, labels: LabelSpace, mask: np.ndarray, keys: np.ndarray) -> None:
        self.names, self.labels, self.truth, self.keys = ["image"], labels, mask, keys

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Sample:
        return Sample("image", np.zeros((*self.truth.shape, 3), np.uint8), self.truth, self.tags(index))

    def mask(self, index: int) -> np.ndarray:
        return self.truth

    def tags(self, index: int) -> tuple[int, ...]:
        return tuple(self.labels.foreground[key] for key in self.keys)

    def has_mask(self, index: int) -> bool:
        return True


def as_float(value):
    return np.nan if value is None else value


def check(arrays: dict[str, np.ndarray]) -> None:
    exact = {"rtol": 0, "atol": 1e-10}
    labels = LabelSpace(tuple(str(value) for value in range(int(arrays["n_classes"]))))
    confusion = ConfusionMatrix(labels)
    pairs = sorted(key for key in arrays if key.startswith("pred") and key[4:].isdigit())
    for key in pairs:
        confusion.update(torch.from_numpy(arrays[key]), torch.from_numpy(arrays[f"gt{key[4:]}"]))
    assert_array_equal(confusion.matrix.numpy(), arrays["confusion"])
    rates, scores = confusion.rates(), confusion.scores()
    for key in ("iou", "recall", "precision", "fp_rate", "fn_rate"):
        assert_allclose(rates[key], arrays[key], **exact, err_msg=key)
    for ours, theirs in (
        ("miou", "miou_nanmean"),
        ("pixel_accuracy", "pixel_acc"),
        ("frequency_weighted_iou", "fw_iou"),
    ):
        assert_allclose(as_float(scores[ours]), arrays[theirs], **exact, err_msg=ours)

    maps, keys, truth, thresholds = (arrays[f"sweep_{key}"] for key in ("cam", "keys", "gt", "thresholds"))
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/image.npz", keys=keys, high_res=maps)
        rows = sweep(OneImage(labels, truth, keys), folder, thresholds)
    assert_allclose([row["threshold"] for row in rows], thresholds, **exact)
    for ours, theirs in (("miou", "sweep_miou"), ("fp", "sweep_fp_fg"), ("fn", "sweep_fn_fg")):
        assert_allclose([as_float(row[ours]) for row in rows], arrays[theirs], **exact, err_msg=ours)
    for threshold, miou in zip(thresholds, arrays["sweep_miou"], strict=True):
        single = ConfusionMatrix(labels)
        single.update(seed_labels(maps, keys, threshold, labels.background, labels.foreground), truth)
        assert_allclose(as_float(single.scores()["miou"]), miou, **exact)
