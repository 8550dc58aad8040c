"""What ReCAM's weights of the maps are worth on a frozen backbone, where its map can be negative and where it cannot.

    python -m benchmarks.claims.recam_weights DATA

DATA is `scenes`, the built-in set, or the folder of MSRC-21 (objects task). Nothing but the heads is learned, each to
the optimum of its loss: the first on the tags, which alone is plain CAM; the second with softmax on the features under
the first's maps, one class at a time. So no weight is worse for too short a training.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.claims.runs import RESULTS, kind_of
from benchmarks.claims.verdict import BACKBONE, SETS, feature_maps, fit_head
from benchmarks.facts import as_lines, facts
from maskwright.data import open_dataset
from maskwright.data.dataset import Dataset
from maskwright.files import atomic_write, write_json
from maskwright.metrics import ConfusionMatrix
from maskwright.models.classifier import create_classifier
from maskwright.settings import DataSettings, MaskSettings
from maskwright.weak.labels import sweep_row, threshold_counts
from maskwright.weak.networks.recam import class_features, sce_loss, soft_masks
from maskwright.weak.pseudo_masks import sweep_thresholds
from maskwright.weak.seeds.cam import class_maps, finish, merge_flip
from maskwright.weak.seeds.classes import WEIGHT_OPTIONS, class_weight, positive_classes

# Options of the classifier, and how the table calls the map that its heads read.
MAPS = {
    "signed": ({"pooled": False}, "without the last convolution: can be negative"),
    "unsigned": ({"pooled": True}, "that is pooled, after a ReLU6: never negative"),
}
GIVEN = 0.25  # threshold of `cam`, fixed beforehand


def second_head(features: Tensor, dataset: Dataset, first: Tensor, decay: float = 0.01) -> Tensor:
    """ReCAM's second head at the optimum of its softmax loss, features and first head as they are.

    Args:
        features: of `feature_maps`, `(N, 2, D, h, w)`.
        dataset: whose tags are learned.
        first: the first head, `(K, D)`.
        decay: half of it times the squared weights, of features divided by their standard deviation, is added.

    Returns:
        `(K, D)`.
    """
    rows = [
        [value in (dataset.tags(index) or ()) for value in dataset.labels.foreground] for index in range(len(dataset))
    ]
    classes = positive_classes(torch.tensor(rows, dtype=torch.float32))
    under = [class_features(both.float(), soft_masks(both.float(), first, keys.expand(2, -1)))
             for both, keys in zip(features, classes, strict=True)]  # fmt: skip
    inputs, classes = torch.cat(under), classes.repeat_interleave(2, 0)
    spread = inputs[classes >= 0].std(0).clamp(min=1e-6)
    weight = torch.zeros_like(first, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = sce_loss(inputs / spread @ weight.mT, classes) + decay / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return (weight / spread).detach()


def seed_scores(dataset: Dataset, features: Tensor, weight: Tensor) -> dict[str, float]:
    """mIoU of the seeds that a class weight `(K, D)` gives: at the best threshold, at which, and at the given one."""
    thresholds, labels = np.array(sweep_thresholds(MaskSettings())), dataset.labels
    counts = np.zeros((len(thresholds), labels.num_classes, labels.num_classes), np.int64)
    for index in range(len(dataset)):
        keys = [labels.foreground.index(value) for value in dataset.tags(index) or ()]
        maps = merge_flip(class_maps(features[index].float(), weight).relu())[0, keys]
        (found,) = finish([maps], [keys], dataset.size(index))
        counts += threshold_counts(found.high_res.numpy(), keys, dataset.mask(index), thresholds, labels)
    rows = [sweep_row(t, ConfusionMatrix.from_matrix(c, labels)) for t, c in zip(thresholds, counts, strict=True)]
    best = max(rows, key=lambda row: row["miou"])
    given = next(row for row in rows if row["threshold"] == GIVEN)
    return {"best": best["miou"], "threshold": best["threshold"], "given": given["miou"]}


def judge(sets: dict[str, Dataset], features: dict[str, Tensor], say: Callable[[str], None]) -> dict[str, Any]:
    """Both heads learned on `train`, and the scores of every weight on every set."""
    first = fit_head(features["train"], sets["train"], range(len(sets["train"])))
    second = second_head(features["train"], sets["train"], first)
    found: dict[str, Any] = {"negative": float((features["train"] < 0).float().mean()), "weights": {}}
    for option in WEIGHT_OPTIONS:
        weight = class_weight(first, second, option)
        scores = {split: seed_scores(sets[split], features[split], weight) for split in sets}
        found["weights"][option] = scores
        say(f"{option}: {scores}")
    return found


def table(name: str, result: dict[str, Any], found: dict[str, Any]) -> str:
    lines = [
        f"# ReCAM's weights on a frozen backbone, {name}",
        "",
        *as_lines(found),
        f"{BACKBONE} with ImageNet weights, frozen; both heads at the optimum of their losses (L-BFGS, with decay); "
        f"one scale and its mirror. mIoU of the seeds at the best threshold (in brackets) and at {GIVEN}. `w1` is "
        "plain CAM.",
    ]
    for key, (_, words) in MAPS.items():
        has = result[key]
        lines += [
            "",
            f"Map {words}; {100 * has['negative']:.0f} % of its values are below 0.",
            "",
            f"| weight | train, best | train, {GIVEN} | val, best | val, {GIVEN} |",
            "|---|---|---|---|---|",
        ]
        for option, scores in has["weights"].items():
            cells = [
                f"{scores[split]['best']:.3f} ({scores[split]['threshold']:g}) | {scores[split]['given']:.3f}"
                for split in ("train", "val")
            ]
            lines.append(f"| {option} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    data = sys.argv[1] if len(sys.argv) == 2 else ""
    if data != "scenes" and not Path(data).is_dir():
        sys.exit(__doc__)
    torch.set_num_threads(1)
    name, said, result = kind_of(data), facts(), {}
    settings, size = SETS[name]
    sets = {split: open_dataset(DataSettings(root=data, **settings), split) for split in ("train", "val")}
    tags = len(sets["train"].labels.foreground)
    for key, (options, _) in MAPS.items():
        network = create_classifier(
            backbone=BACKBONE, num_tags=tags, pretrained=True, output_stride=16, **options
        ).eval()
        features = {split: feature_maps(network, dataset, size) for split, dataset in sets.items()}
        result[key] = judge(sets, features, lambda line: print(line, flush=True))
    write_json(RESULTS / f"recam-weights-{name}.json", {"facts": said, **result})
    with atomic_write(RESULTS / f"recam-weights-{name}.md") as temporary:
        temporary.write_text(table(name, result, said), encoding="utf-8")


if __name__ == "__main__":
    main()
