"""Does the verdict on a run agree with the true mIoU, on runs that were made bad on purpose?

    python -m benchmarks.claims.verdict DATA [out=DIR]

DATA is `scenes`, the built-in set, or the folder of MSRC-21 (objects task). One frozen ImageNet backbone gives feature
maps of all images; heads on it are fitted in a second, so that a row takes seconds. A row is a folder such as a run
leaves: maps and pseudo-masks of the training images, made and evaluated by the package itself, and predictions of the
validation images. No segmenter is trained: a prediction is the map of the classes that the tag classifier finds
(probability above one half, tags unread) at the row's threshold. The verdict reads the records of the folder without
their scores; the true mIoU of pseudo-masks and predictions stands beside it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.claims.runs import RESULTS, kind_of
from benchmarks.facts import as_lines, facts
from maskwright.data import open_dataset
from maskwright.data.dataset import Dataset
from maskwright.data.masks import write_mask
from maskwright.data.views import View
from maskwright.files import atomic_write, write_json
from maskwright.inference.tag_agreement import write_tag_agreement
from maskwright.metrics import ConfusionMatrix
from maskwright.models.classifier import create_classifier
from maskwright.report.verdict import verdict
from maskwright.runs.folder import RunFolder
from maskwright.settings import DataSettings, MaskSettings
from maskwright.weak.labels import seed_labels
from maskwright.weak.pseudo_masks import write_pseudo_masks
from maskwright.weak.seed_evaluation import evaluate_seeds
from maskwright.weak.seeds.cam import SeedMaps, finish, merge_flip
from maskwright.weak.seeds.extract import make_views, save_maps

BACKBONE = "tf_efficientnet_lite0"
SETS: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "scenes": ({"options": {"size": [128, 128], "count": 300}}, (192, 192)),
    "msrc21": (
        {"masks": "SegmentationClassObjects", "classes": "classes_objects.txt", "tags": "tags_objects.csv"},
        (160, 240),
    ),
}
FEW = 49
# What is made of an image's maps (n, H, W) in 0..1, and the image's number.
Change = Callable[[np.ndarray, int], np.ndarray]


def inverted(maps: np.ndarray, index: int) -> np.ndarray:
    return 1 - maps


def moved(maps: np.ndarray, index: int) -> np.ndarray:
    """Half an image to the side."""
    return np.roll(maps, maps.shape[2] // 2, axis=2)


def noise(maps: np.ndarray, index: int) -> np.ndarray:
    """Smooth, and with nothing of the image."""
    coarse = torch.rand(1, len(maps), 6, 8, generator=torch.Generator().manual_seed(index))
    found = F.interpolate(coarse, maps.shape[1:], mode="bilinear")[0].numpy()
    return found / found.max((1, 2), keepdims=True)


def blob(radius: float) -> Change:
    """The same in the middle of every image; `radius` is of one standard deviation, as a share of the sides."""

    def change(maps: np.ndarray, index: int) -> np.ndarray:
        rows, columns = (np.linspace(-1, 1, side) / (2 * radius) for side in maps.shape[1:])
        found = np.exp(-(rows[:, None] ** 2 + columns**2) / 2)
        return np.broadcast_to(found.astype(maps.dtype), maps.shape)

    return change


@dataclass(frozen=True)
class Variant:
    """How a row is made.

    Args:
        threshold: score of the background.
        head: `trained`; on `few` images; on tags that are `shuffled` over the images, or `half` of them, which then are
            also what masks are made from and what the verdict knows; `untrained`; trained on a `random` backbone.
        change: of the maps.
        truth: ground truth in the place of maps.
    """

    threshold: float
    head: str = "trained"
    change: Change | None = None
    truth: bool = False


VARIANTS = {
    "ground truth as masks": Variant(0.5, truth=True),
    **{f"CAM, threshold {value:g}": Variant(value) for value in (0.05, 0.1, 0.2, 0.3, 0.4)},
    **{f"CAM, threshold far too low, {value:g}": Variant(value) for value in (0.0, 0.02)},
    **{f"CAM, threshold far too high, {value:g}": Variant(value) for value in (0.6, 0.8, 0.95)},
    "inverted maps, threshold 0.2": Variant(0.2, change=inverted),
    "inverted maps, threshold 0.8": Variant(0.8, change=inverted),
    "maps moved by half an image": Variant(0.2, change=moved),
    "smooth noise for maps": Variant(0.7, change=noise),
    "large blobs in the centre": Variant(0.4, change=blob(0.21)),
    "small blobs in the centre": Variant(0.4, change=blob(0.106)),
    "tags of another image": Variant(0.2, head="shuffled"),
    "tags of another image for every second one": Variant(0.2, head="half"),
    f"head trained on {FEW} images": Variant(0.2, head="few"),
    "untrained head": Variant(0.2, head="untrained"),
    "random backbone": Variant(0.2, head="random"),
}


class Retagged(View):
    """A data set with other tags."""

    def __init__(self, dataset: Dataset, tags: Sequence[tuple[int, ...]]) -> None:
        super().__init__(dataset)
        self._tags = tags

    def tags(self, index: int) -> tuple[int, ...]:
        return self._tags[index]


def shuffled(dataset: Dataset, generator: np.random.Generator, every: int) -> Dataset:
    """Every image, or every second one, with the tags of another."""
    order = generator.permutation(len(dataset)).tolist()
    places = [order[index] if index % every == 0 else index for index in range(len(dataset))]
    return Retagged(dataset, [dataset.tags(place) or () for place in places])


@torch.inference_mode()
def feature_maps(network: Any, dataset: Dataset, size: tuple[int, int]) -> Tensor:
    """Of every image and its mirror, `(N, 2, D, h, w)` in half precision."""
    found = []
    for index in range(len(dataset)):
        views = make_views([dataset[index].image], [[0]], mean=network.mean, std=network.std, scales=(1.0,), size=size)
        found.append(network.features(views.images[0]).half())
    return torch.stack(found)


def fit_head(features: Tensor, dataset: Dataset, chosen: Sequence[int], decay: float = 0.01) -> Tensor:
    """Logistic regression of the tags on pooled features, divided by their standard deviation: weights `(K, D)`."""
    inputs = features[list(chosen)].float().mean((3, 4)).flatten(0, 1)
    rows = [[value in (dataset.tags(index) or ()) for value in dataset.labels.foreground] for index in chosen]
    targets = torch.tensor(rows, dtype=torch.float32).repeat_interleave(2, 0)
    spread = inputs.std(0).clamp(min=1e-6)
    weight = torch.zeros(targets.shape[1], inputs.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(inputs / spread @ weight.T, targets, reduction="none").sum(1).mean()
        loss = loss + decay / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return (weight / spread).detach()


def image_maps(
    dataset: Dataset, index: int, features: Tensor, weight: Tensor, tags: Sequence[int], variant: Variant
) -> SeedMaps:
    """Maps of one image's classes, as the row has them."""
    size = dataset.size(index)
    keys = [dataset.labels.foreground.index(value) for value in tags]
    if not keys:
        empty = torch.zeros(0, *size)
        return SeedMaps(torch.zeros(0, dtype=torch.int64), empty, empty)
    if variant.truth:
        mask: Any = dataset.mask(index)
        found = torch.from_numpy(np.stack([mask == value for value in tags]).astype(np.float32))
        return SeedMaps(torch.tensor(keys), found, found)
    scores = torch.einsum("bdhw,kd->bkhw", features[index].float(), weight[keys]).relu()
    maps = finish([merge_flip(scores)[0]], [keys], size)[0]
    if variant.change is not None:
        maps.high_res = torch.tensor(variant.change(maps.high_res.numpy(), index))
    return maps


def make_row(
    variant: Variant,
    sets: Sequence[Dataset],
    features: Sequence[Tensor],
    weight: Tensor,
    images: int,
    folder: Path,
) -> dict[str, Any]:
    """A folder as a run leaves it, what the verdict says of it, and the true mIoU."""
    train, val = sets
    labels, run = train.labels, RunFolder(folder)
    for index, name in enumerate(train.names):
        tags = train.tags(index) or ()
        save_maps(run.maps("seeds"), name, image_maps(train, index, features[0], weight, tags, variant))
    settings = MaskSettings(threshold=variant.threshold, sweep=(variant.threshold, variant.threshold, 1.0))
    pretrained = variant.head != "random"
    record = {"method": "cam", "weights": "", "saliency": None, "crf": False, "pretrained": pretrained}
    made = write_pseudo_masks(train, run.maps("seeds"), settings, run.pseudo_masks, record)
    judged = evaluate_seeds(train, {"pseudo_masks": run.pseudo_masks}, settings, folder)
    logits = torch.einsum("nbdhw,kd->nk", features[1].float(), weight)
    confusion = ConfusionMatrix(labels)
    for index, name in enumerate(val.names):
        tags = [value for value, logit in zip(labels.foreground, logits[index].tolist(), strict=True) if logit > 0]
        tags = list(labels.tags_in(val.mask(index))) if variant.truth else tags
        maps = image_maps(val, index, features[1], weight, tags, variant)
        keys = maps.keys.tolist()
        mask = seed_labels(maps.high_res.numpy(), keys, variant.threshold, labels.background, labels.foreground)
        write_mask(run.predictions() / f"{name}.png", mask, labels)
        confusion.update(mask, val.mask(index))
    agreement = write_tag_agreement(val, run.stage("evaluation"), trained_on=False)
    found = verdict(tags=agreement, judged=judged, images=images, pretrained=pretrained)
    assert found is not None
    last = judged["stages"]["pseudo_masks"]
    return {
        "pseudo_masks": made["miou"],
        "predictions": confusion.scores()["miou"],
        "score": found.score,
        "level": found.level,
        "reasons": found.reasons,
        "factors": found.factors,
        "boundary_agreement": last["boundary_agreement"]["mean"],
        "labelled": last["labelled"],
        "border": last["border"],
        "tags": {key: agreement[key] for key in ("precision", "recall", "f1", "f1_by_chance")},
    }


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's: Pearson's correlation of the ranks, equal values with their mean rank."""
    ranks = []
    for values in (one, other):
        _, place, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[place])
    return float(np.corrcoef(*ranks)[0, 1])


def correlations(rows: Sequence[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Of the score, its factors and boundary agreement with the true mIoU of predictions and of pseudo-masks."""
    known = {
        "the verdict's score": [row["score"] for row in rows],
        **{name: [row["factors"][name] for row in rows] for name in rows[0]["factors"]},
        "boundary agreement (not counted)": [row["boundary_agreement"] for row in rows],
    }
    truth = [[row[key] for row in rows] for key in ("predictions", "pseudo_masks")]
    return {
        name: (rank_correlation(values, truth[0]), rank_correlation(values, truth[1])) for name, values in known.items()
    }


def table(name: str, rows: dict[str, dict[str, Any]], found: dict[str, Any]) -> str:
    lines = [
        f"# The verdict against the true mIoU on {name}",
        "",
        *as_lines(found),
        "Runs made bad on purpose, from one frozen ImageNet backbone, best first. True mIoU of the pseudo-masks on "
        "`train`, and of stand-ins for predictions on `val` (maps of the classes that the tag classifier finds; no "
        "segmenter is trained). The verdict reads neither. Its constants were chosen on the scenes alone; which signs "
        "are counted, with both sets in view.",
        "",
        "| run | mIoU, pseudo-masks | mIoU, predictions | score | verdict | first reason |",
        "|---|---|---|---|---|---|",
    ]
    for row, has in sorted(rows.items(), key=lambda item: -item[1]["predictions"]):
        numbers = " | ".join(f"{has[key]:.3f}" for key in ("pseudo_masks", "predictions"))
        reason = (has["reasons"] or [""])[0]
        lines.append(f"| {row} | {numbers} | {has['score']:.2f} | {has['level']} | {reason} |")
    lines += [
        "",
        "Spearman's rank correlation with the true mIoU:",
        "",
        "| what | predictions | pseudo-masks |",
        "|---|---|---|",
    ]
    for what, pair in correlations(list(rows.values())).items():
        lines.append(f"| {what} | {pair[0]:.2f} | {pair[1]:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    data, *rest = sys.argv[1:] or [""]
    options = dict(argument.split("=", 1) for argument in rest)
    if data != "scenes" and not Path(data).is_dir():
        sys.exit(__doc__)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    name, said = kind_of(data), facts()
    settings, size = SETS[name]
    sets = [open_dataset(DataSettings(root=data, **settings), split) for split in ("train", "val")]
    features, weights = {}, {}
    for backbone in ("pretrained", "random"):
        network = create_classifier(
            backbone=BACKBONE,
            num_tags=len(sets[0].labels.foreground),
            pretrained=backbone == "pretrained",
            output_stride=16,
        ).eval()
        features[backbone] = [feature_maps(network, dataset, size) for dataset in sets]
    generator = np.random.default_rng(0)
    others = {
        word: [shuffled(dataset, generator, every) for dataset in sets]
        for word, every in (("shuffled", 1), ("half", 2))
    }
    everywhere = range(len(sets[0]))
    few = np.linspace(0, len(sets[0]) - 1, FEW).round().astype(int).tolist()
    weights = {
        "trained": fit_head(features["pretrained"][0], sets[0], everywhere),
        "few": fit_head(features["pretrained"][0], sets[0], few),
        "random": fit_head(features["random"][0], sets[0], everywhere),
        "untrained": torch.randn(len(sets[0].labels.foreground), features["pretrained"][0].shape[2]),
        **{word: fit_head(features["pretrained"][0], changed[0], everywhere) for word, changed in others.items()},
    }
    rows = {}
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(options.get("out", temporary))
        for number, (row, variant) in enumerate(VARIANTS.items()):
            head = variant.head
            rows[row] = make_row(
                variant,
                others.get(head, sets),
                features["random" if head == "random" else "pretrained"],
                weights[head],
                FEW if head == "few" else len(sets[0]),
                out / f"{number:02d}",
            )
            print(row, json.dumps(rows[row]), flush=True)
    write_json(
        RESULTS / f"verdict-{name}.json",
        {"facts": said, "rows": rows, "correlations": correlations(list(rows.values()))},
    )
    with atomic_write(RESULTS / f"verdict-{name}.md") as temporary_file:
        temporary_file.write_text(table(name, rows, said))


if __name__ == "__main__":
    main()
