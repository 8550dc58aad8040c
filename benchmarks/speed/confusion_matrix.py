"""Counting a confusion matrix against torchmetrics' Jaccard index, which does the same before it takes ratios.

    python -m benchmarks.speed.confusion_matrix

Both get label maps as arg-max and loaders give them (int64), and bytes as our evaluation keeps them. torchmetrics looks
at the values first, as we do; its form without that is shown as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import maskwright._torchvision_guard  # noqa: F401
from benchmarks.speed.pictures import label_maps
from benchmarks.speed.timer import Bar, Comparison, Row, main
from maskwright.metrics import ConfusionMatrix


def build(device: str, *, batch: int, size: int, classes: int, dtype: str) -> Comparison:
    truth = label_maps(batch, size, size, classes, ignored=0.05)
    predicted = label_maps(batch, size, size, classes, seed=1)
    predicted = torch.where((torch.rand(truth.shape) < 0.7) & (truth < classes), truth, predicted)
    truth, predicted = (value.to(device, getattr(torch, dtype)) for value in (truth, predicted))

    def ours() -> torch.Tensor:
        counts = ConfusionMatrix(classes)
        counts.update(predicted, truth)
        return counts.matrix

    functions: dict[str, Callable[[], torch.Tensor]] = {"ConfusionMatrix": ours}
    notes = []
    try:
        from torchmetrics.classification import MulticlassJaccardIndex
    except ImportError as error:
        notes.append(f"SKIPPED: torchmetrics cannot be imported ({error})")
    else:

        def theirs(validate: bool) -> torch.Tensor:
            metric = MulticlassJaccardIndex(classes, ignore_index=255, validate_args=validate).to(device)
            metric.update(predicted, truth)
            return metric.confmat

        functions["torchmetrics"] = lambda: theirs(True)
        functions["torchmetrics, no validation"] = lambda: theirs(False)

    def check(results: dict[str, Any]) -> dict[str, float]:
        counted = truth != 255
        index = truth[counted].long() * classes + predicted[counted].long()
        plain = torch.bincount(index, minlength=classes**2).view(classes, classes)
        for name, counts in results.items():
            assert torch.equal(counts.cpu(), plain.cpu()), f"the counts of {name} differ"
        return {"difference of the counts": 0.0}

    return Comparison(
        functions,
        check,
        [Bar("torchmetrics", 12), Bar("torchmetrics, no validation", 1, words="faster")],
        moved=truth.nbytes + predicted.nbytes,
        notes=notes,
    )


SIZES = {"batch": 8, "size": 512, "classes": 21}
ROW = Row(
    "Confusion matrix of 8x512x512 labels, 21 classes",
    build,
    {"int64": {**SIZES, "dtype": "int64"}, "bytes": {**SIZES, "dtype": "uint8"}},
    {"batch": 2, "size": 64},
)

if __name__ == "__main__":
    main(ROW)
