"""Class shares of the cells of a label map (CPP pooling) against a one-hot map and average pooling.

python -m benchmarks.speed.cpp_pooling
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from benchmarks.speed.pictures import label_maps
from benchmarks.speed.timer import Bar, Comparison, Row, main
from maskwright.losses import pool_labels


def one_hot(labels: Tensor, classes: int, stride: int) -> Tensor:
    """Shares `(B, C + 1, h, w)`, ignored pixels being one class more."""
    indicators = F.one_hot(labels.where(labels < classes, classes), classes + 1)
    return F.avg_pool2d(indicators.permute(0, 3, 1, 2).float(), stride)


def build(device: str, *, height: int, width: int, classes: int, stride: int) -> Comparison:
    labels = label_maps(1, height, width, classes, ignored=0.05).long().to(device)

    def check(results: dict[str, Any]) -> dict[str, float]:
        apart = (results["pool_labels"].probabilities - results["one-hot"]).abs().max().item()
        assert apart < 1e-6, f"the shares differ by {apart:.1e}"
        return {"difference of the shares": apart}

    cells = (height // stride) * (width // stride) * (classes + 1)
    return Comparison(
        {
            "pool_labels": lambda: pool_labels(labels, classes, stride=stride),
            "one-hot": lambda: one_hot(labels, classes, stride),
        },
        check,
        [Bar("one-hot", 20), Bar("one-hot", 20, of="memory")],
        moved=labels.nbytes + 4 * cells,
    )


ROW = Row(
    "CPP pooling of 1024x2048 labels, 20 classes, stride 8",
    build,
    {"1024x2048": {"height": 1024, "width": 2048, "classes": 20, "stride": 8}},
    {"height": 64, "width": 128},
)

if __name__ == "__main__":
    main(ROW)
