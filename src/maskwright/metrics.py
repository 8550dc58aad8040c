"""One confusion matrix over the whole set, and every score read off it.

Policy, printed with every result: pixels whose ground truth is the ignore value are left out; counts are added up over
all images before any ratio is taken (never a mean of per-image scores); a class that occurs neither in the ground truth
nor in the prediction has no score and is left out of every mean; a class that is only predicted has IoU 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import ArrayLike
from torch import Tensor

from maskwright.data.sample import LabelSpace
from maskwright.errors import DataError

POLICY = (
    "one confusion matrix over the whole data set, without ignored pixels and classes in neither ground truth nor "
    "prediction"
)
CACHED_PIXELS = 2**19  # counted at once, so that what is made of them stays in the processor's cache


class ConfusionMatrix:
    """Counts of pixels by true class (row) and predicted class (column), int64, kept where the predictions are.

    Args:
        labels: the label space, or just the number of classes (named "0", "1", ... then, without a background).
        ignore_index: label value of pixels that do not count; by default the label space's, or 255. Where it is one of
            the classes, that class's pixels do not count, and predicting it elsewhere is wrong.
    """

    def __init__(self, labels: LabelSpace | int, ignore_index: int | None = None) -> None:
        if isinstance(labels, LabelSpace):
            self.names, self.background = labels.names, labels.background
            self.ignore_index = labels.ignore_index if ignore_index is None else ignore_index
        else:
            self.names, self.background = tuple(str(value) for value in range(labels)), None
            self.ignore_index = 255 if ignore_index is None else ignore_index
        self.matrix = torch.zeros(len(self.names), len(self.names), dtype=torch.int64)

    @property
    def num_classes(self) -> int:
        return len(self.names)

    def update(self, prediction: Tensor | np.ndarray, target: Tensor | np.ndarray) -> None:
        """Add the pixels of a prediction and its ground truth, label values of equal shape, any integer type.

        Raises:
            DataError: shapes differ, values are not integers, or a value outside the classes where the ground truth is
                not ignored (the message lists the values with their counts).
        """
        predicted, true = _integers(prediction, "prediction"), _integers(target, "ground truth")
        if predicted.shape != true.shape:
            raise DataError(
                f"prediction {tuple(predicted.shape)} and ground truth {tuple(true.shape)} must have the same shape: "
                "label values, after argmax and at the size of the ground truth"
            )
        true = true.to(predicted.device)
        counts = _count(predicted.reshape(-1), true.reshape(-1), self.num_classes, self.ignore_index)
        if not self.matrix.is_cuda:  # nothing but zeros or CPU counts so far: go where the predictions are
            self.matrix = self.matrix.to(counts.device)
        self.matrix += counts.to(self.matrix.device)

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        if self.names != other.names:
            raise DataError(f"cannot add scores over the classes {self.names} and {other.names}")
        total = self.from_matrix(self.matrix + other.matrix.to(self.matrix.device), self.num_classes, self.ignore_index)
        total.names, total.background = self.names, self.background
        return total

    @classmethod
    def from_matrix(
        cls, matrix: Tensor | ArrayLike, labels: LabelSpace | int, ignore_index: int | None = None
    ) -> ConfusionMatrix:
        """From counts `(C, C)` that were made elsewhere."""
        total = cls(labels, ignore_index)
        counts = matrix if isinstance(matrix, Tensor) else torch.from_numpy(np.array(matrix, dtype=np.int64))
        if counts.shape != total.matrix.shape:
            raise DataError(f"expected counts of shape {tuple(total.matrix.shape)}, found {tuple(counts.shape)}")
        total.matrix = counts
        return total

    def all_reduce(self) -> ConfusionMatrix:
        """Add up the counts of all processes in place, once, at the end; without distribution nothing changes."""
        if dist.is_available() and dist.is_initialized():
            # A process without any image still has its zeros on the CPU, so all meet on one kind of device.
            shared = self.matrix.cuda() if dist.get_backend() == "nccl" else self.matrix.cpu()
            dist.all_reduce(shared)
            self.matrix = shared
        return self

    def rates(self) -> dict[str, np.ndarray]:
        """Per-class ratios, float64 `(C,)` each, NaN where undefined.

        `iou`, `f1`, `precision`, `recall`, and the shares of the union of ground truth and prediction that are wrong:
        `fp_rate` (predicted but not true) and `fn_rate` (true but not predicted); iou + fp_rate + fn_rate = 1.
        """
        counts = self.matrix.cpu().numpy().astype(np.float64)
        hit, true, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
        union = true + predicted - hit
        return {
            "iou": _ratio(hit, union),
            "f1": _ratio(2 * hit, true + predicted),
            "precision": _ratio(hit, predicted),
            "recall": _ratio(hit, true),
            "fp_rate": _ratio(predicted - hit, union),
            "fn_rate": _ratio(true - hit, union),
        }

    def scores(self) -> dict[str, Any]:
        """Every score as JSON-able numbers between 0 and 1, None where undefined.

        Returns:
            `miou`, `pixel_accuracy`, `mean_accuracy` (mean recall), `mean_f1`, `frequency_weighted_iou`, `pixels` (that
            counted), `per_class` (name: `rates()` and ground-truth `pixels`), `absent` (names in neither),
            `policy`; with a background class also `foreground`: mean `fp_rate` and `fn_rate` over the other classes,
            and `background_share`, the part of the pixels predicted as one of them that is background in ground truth.
        """
        rates = self.rates()
        counts = self.matrix.cpu().numpy().astype(np.float64)
        true, total = counts.sum(1), counts.sum()
        result: dict[str, Any] = {
            "miou": _mean(rates["iou"]),
            "pixel_accuracy": _number(_ratio(np.trace(counts), total)),
            "mean_accuracy": _mean(rates["recall"]),
            "mean_f1": _mean(rates["f1"]),
            "frequency_weighted_iou": _number(np.nansum(true / total * rates["iou"]) if total else np.nan),
            "pixels": int(total),
            "per_class": {
                name: {**{key: _number(values[index]) for key, values in rates.items()}, "pixels": int(true[index])}
                for index, name in enumerate(self.names)
            },
            "absent": [name for name, iou in zip(self.names, rates["iou"], strict=True) if np.isnan(iou)],
            "policy": POLICY,
        }
        if self.background is not None:
            others = np.arange(self.num_classes) != self.background
            result["foreground"] = {
                "fp_rate": _mean(rates["fp_rate"][others]),
                "fn_rate": _mean(rates["fn_rate"][others]),
                "background_share": _number(_ratio(counts[self.background, others].sum(), counts[:, others].sum())),
            }
        return result


def _count(predicted: Tensor, true: Tensor, classes: int, ignore_index: int) -> Tensor:
    """Confusion counts `(C, C)` of two flat label vectors."""
    narrow_predicted, narrow_true = _bytes(predicted), _bytes(true)
    if (
        predicted.numel() > 0
        and 0 <= ignore_index < 256
        and narrow_predicted is not None
        and narrow_true is not None
        and int(narrow_predicted.max()) < classes
    ):
        # Every value has a row of its own, the ignored one too, so nothing is gathered or masked, and two bytes per
        # pixel are moved; the rows of values that are no class tell whether the ground truth is in range.
        index_type = torch.int16 if 256 * classes <= 2**15 else torch.int32
        counts = torch.zeros(256, classes, dtype=torch.int64, device=true.device)
        at_once = CACHED_PIXELS if true.device.type == "cpu" else true.numel()
        for pixels, values in zip(narrow_true.split(at_once), narrow_predicted.split(at_once)):
            index = (pixels.to(index_type) * classes).add_(values)
            counts += torch.bincount(index, minlength=256 * classes).view(256, classes)
        counts[ignore_index] = 0
        if int(counts[classes:].sum()) == 0:
            return counts[:classes]
    counted = true.long() != ignore_index
    _check_range("ground truth", true[counted], classes, f"0..{classes - 1} or {ignore_index} (ignored)")
    _check_range("prediction", predicted[counted], classes, f"0..{classes - 1}")
    spare = classes * classes
    index = torch.where(counted, true.long() * classes + predicted.long(), spare)
    return torch.bincount(index, minlength=spare + 1)[:spare].view(classes, classes)


def _integers(values: Tensor | np.ndarray, what: str) -> Tensor:
    """Labels as a tensor.

    Raises:
        DataError: the values are not integers.
    """
    if not isinstance(values, Tensor):
        array = np.asarray(values)
        if array.dtype.kind not in "iub":
            raise DataError(f"{what} must hold integer label values, found {array.dtype}")
        if array.dtype not in (np.uint8, np.int16, np.int32, np.int64):
            array = array.astype(np.int64)
        return torch.from_numpy(np.require(array, requirements=["C", "W"]))
    if values.is_floating_point() or values.is_complex():
        raise DataError(f"{what} must hold integer label values, found {values.dtype}; take the argmax of logits first")
    return values.to(torch.uint8) if values.dtype == torch.bool else values


def _bytes(values: Tensor) -> Tensor | None:
    """The values as uint8, or None where they do not fit."""
    if values.dtype == torch.uint8 or values.numel() == 0:
        return values
    low, high = torch.aminmax(values)
    return values.to(torch.uint8) if int(low) >= 0 and int(high) < 256 else None


def end_of_sweep(rows: Sequence[Mapping[str, Any]], best: float | None) -> str:
    """At which end of a sweep over thresholds its best lies, in words: beyond that end there may be a better one.

    Args:
        rows: `threshold` and `miou` (None where there is no ground truth), thresholds ascending.
        best: the threshold of the highest.

    Returns:
        "the first that was tried" or "the last that was tried"; empty where the scores fall to both sides.
    """
    scored = [row for row in rows if row.get("miou") is not None]
    ends = [("first", scored[:2]), ("last", scored[:-3:-1])]
    for word, pair in ends:
        if len(pair) == 2 and pair[0]["threshold"] == best and pair[0]["miou"] > pair[1]["miou"]:
            return f"the {word} that was tried"
    return ""


def _check_range(what: str, values: Tensor, classes: int, expected: str) -> None:
    wrong = values[(values < 0) | (values >= classes)]
    if len(wrong):
        found, counts = torch.unique(wrong, return_counts=True)
        listed = ", ".join(f"{value} ({count} pixels)" for value, count in zip(found.tolist(), counts.tolist()))
        raise DataError(
            f"{what} holds values that are no class: {listed}; expected {expected}. "
            "Check the number of classes, and the label map or ignore value of the masks"
        )


def _ratio(part: ArrayLike, whole: ArrayLike) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.float64(1) * part / whole)


def _mean(values: np.ndarray) -> float | None:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None


def _number(value: ArrayLike) -> float | None:
    return None if np.isnan(value) else float(np.asarray(value))
