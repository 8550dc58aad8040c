"""The picture rows of a report: which examples are shown, and what is seen of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from maskwright.data.dataset import Dataset
from maskwright.data.masks import read_mask
from maskwright.data.provenance import reference
from maskwright.data.sample import LabelSpace
from maskwright.files import read_arrays
from maskwright.report.pictures import heat_uri, mask_uri, photo_uri, spread
from maskwright.runs.contents import RunContents

# Ranking reads a ground-truth mask per example; of a larger split an evenly spaced part is ranked.
RANKED_AT_MOST = 400


@dataclass(frozen=True)
class Ranked:
    """An example's place in the ranking.

    Args:
        name: of the sample.
        index: in its dataset; -1 without a dataset.
        score: 0..1, the higher the better; None where there is nothing to compare with.
        kind: what the score is, in words.
    """

    name: str
    index: int
    score: float | None
    kind: str


@dataclass
class Layer:
    """One picture of a cell: a transparent image over the row's photograph.

    Args:
        uri: data URI of what lies over the photograph; "" for the photograph alone.
        alt: what is seen, in words.
        caption: a few words, for cells with several pictures.
        colour: CSS colour of the class, for cells with several pictures.
        heat: whether it is a score map, which has its own opacity.
    """

    uri: str
    alt: str
    caption: str = ""
    colour: str = ""
    heat: bool = False


@dataclass
class Row:
    """One example: `cells` holds, per column of the gallery, its pictures (several for maps of several tags)."""

    name: str
    score: float | None
    kind: str
    tags: list[tuple[str, str]] | None
    photo: str
    ratio: float
    cells: dict[str, list[Layer]] = field(default_factory=dict)


def training_rows(
    run: RunContents, dataset: Dataset | None, labels: LabelSpace, items: list[Ranked], side: int
) -> list[Row]:
    """Rows of training examples: seeds, refined maps, pseudo-mask, and prediction and ground truth where they exist."""
    folder = run.folder
    rows = []
    for item in items:
        masks = {
            "pseudo-mask": stored_mask(folder.masks, item.name),
            "prediction": stored_mask(folder.predictions(), item.name),
        }
        maps = {
            "seed": read_maps(folder.maps("seeds"), item.name),
            **{title: read_maps(folder.maps(name), item.name) for name, title in run.refined.items()},
        }
        rows.append(picture_row(item, dataset, labels, masks, maps, side))
    return rows


def validation_rows(
    run: RunContents, dataset: Dataset | None, labels: LabelSpace, items: list[Ranked], side: int
) -> list[Row]:
    """Rows of validation examples: the predictions of the model and of the fully supervised one, and ground truth."""
    rows = []
    for item in items:
        masks = {
            "prediction": stored_mask(run.folder.predictions(), item.name),
            "fully supervised": stored_mask(run.folder.predictions("oracle_evaluation"), item.name),
        }
        rows.append(picture_row(item, dataset, labels, masks, {}, side))
    return rows


def rank_training_images(run: RunContents, dataset: Dataset | None = None) -> list[Ranked]:
    """Examples with a pseudo-mask, worst first: by mIoU where ground truth is known, else by confidence."""
    folder = run.folder
    ranked = []
    for name, index in _evenly(names_with_file(folder.masks, dataset)):
        if dataset is not None and dataset.has_mask(index):
            mask, truth = stored_mask(folder.masks, name), dataset.mask(index)
            if mask is not None and truth is not None and mask.shape == truth.shape:
                ranked.append(Ranked(name, index, image_miou(mask, truth, dataset.labels), "mIoU"))
                continue
        confidence = stored_mask(folder.confidence, name)
        score = None if confidence is None else float(confidence.mean()) / 255
        ranked.append(Ranked(name, index, score, "mean confidence"))
    return worst_first(ranked)


def worst_first(items: Iterable[Ranked]) -> list[Ranked]:
    """Examples by their score, those without one last."""
    return sorted(items, key=_worst_first)


def select(ranked: list[Ranked], count: int) -> list[Ranked]:
    """The worst two thirds of `count`, and the rest spread evenly up to the best, in the order of the ranking."""
    if len(ranked) <= count:
        return ranked
    worst = count - count // 3
    rest = ranked[worst:]
    return ranked[:worst] + [rest[place] for place in spread(len(rest), count - worst)]


def image_miou(prediction: np.ndarray, truth: np.ndarray, labels: LabelSpace) -> float | None:
    """The mean IoU of `image_scores`."""
    scores = image_scores(prediction, truth, labels)
    return None if scores is None else scores[0]


def image_scores(prediction: np.ndarray, truth: np.ndarray, labels: LabelSpace) -> tuple[float, float] | None:
    """Mean IoU over the classes that occur in one image's ground truth or prediction, and the share of wrong pixels.

    As in the score of the whole set, pixels where either has no label do not count. None where no pixel counts, or the
    two are of different sizes.
    """
    if prediction.shape != truth.shape:
        return None
    classes = labels.num_classes
    counted = (truth != labels.ignore_index) & (prediction != labels.ignore_index)
    target, guess = truth[counted].astype(np.int64), prediction[counted].astype(np.int64)
    if target.size == 0:
        return None
    matrix = np.bincount(target * classes + guess, minlength=classes * classes).reshape(classes, classes)
    hit = matrix.diagonal()
    union = matrix.sum(1) + matrix.sum(0) - hit
    return float((hit[union > 0] / union[union > 0]).mean()), 1 - float(hit.sum() / target.size)


def stored_mask(folder: Path, name: str) -> np.ndarray | None:
    """Values `(H, W)` uint8 of a PNG of a folder; None where it does not exist.

    Raises:
        DataError: it is damaged.
    """
    path = folder / f"{name}.png"
    return read_mask(path) if path.is_file() else None


def read_maps(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Tag positions `(n,)` and their maps `(n, h, w)` in 0..1 of one example; None where there are none."""
    path = folder / f"{name}.npz"
    if not path.is_file():
        return None
    arrays = read_arrays(path)
    kind = "high_res" if "high_res" in arrays else "cam"
    if kind not in arrays or "keys" not in arrays:
        return None
    keys, maps = arrays["keys"], arrays[kind]
    return (keys, maps.astype(np.float32)) if len(keys) and maps.size else None


def css(colour: tuple[int, int, int]) -> str:
    """An RGB triple as a CSS colour."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def picture_row(
    item: Ranked,
    dataset: Dataset | None,
    labels: LabelSpace,
    masks: Mapping[str, np.ndarray | None],
    maps: Mapping[str, tuple[np.ndarray, np.ndarray] | None],
    side: int,
) -> Row:
    """One example as it is shown.

    Args:
        item: which example.
        dataset: its photograph, tags and ground truth; None for masks alone.
        labels: names and colours.
        masks: column -> mask `(H, W)`, or None for an empty place; the data set's own is added where there is one.
        maps: column -> what `read_maps` gives; where there is any column of maps, tags are shown.
        side: long side of a picture, in pixels.
    """
    sample = dataset[item.index] if dataset is not None else None
    # Tags are shown where they were used: never beside a prediction on the validation split.
    tags = dataset.tags(item.index) if dataset is not None and maps else None
    seen = next((mask for mask in masks.values() if mask is not None), None)
    if dataset is not None and sample is not None:
        height, width = sample.image.shape[:2]
        masks = {**masks, reference(dataset.source): sample.mask}
    elif seen is not None:
        height, width = seen.shape
    else:
        height = width = 1
    row = Row(
        name=item.name,
        score=item.score,
        kind=item.kind,
        tags=None if tags is None else [(labels.names[value], css(labels.palette[value])) for value in tags],
        photo="" if sample is None else photo_uri(sample.image, side),
        ratio=round(width / height, 4),
    )
    if sample is not None:
        row.cells["image"] = [Layer("", f"Photograph {item.name}")]
    for column, found in maps.items():
        if found is not None:
            row.cells[column] = [
                Layer(
                    heat_uri(score, (width, height), max(96, side // (1 if len(found[0]) == 1 else 2))),
                    f"{column} map of {labels.names[labels.foreground[key]]} in {item.name}",
                    caption=labels.names[labels.foreground[key]],
                    colour=css(labels.palette[labels.foreground[key]]),
                    heat=True,
                )
                for key, score in zip(found[0].tolist(), found[1])
            ]
    for column, mask in masks.items():
        if mask is not None:
            uri = mask_uri(mask, labels, side, opaque=sample is None)
            row.cells[column] = [Layer(uri, f"{column} of {item.name}: {_shares(mask, labels)}")]
    return row


def _shares(mask: np.ndarray, labels: LabelSpace) -> str:
    """The classes of a mask with their share of its pixels, largest first, in words."""
    counts = np.bincount(mask.ravel(), minlength=256)
    total = counts.sum()
    order = [value for value in np.argsort(-counts, kind="stable").tolist() if counts[value]]
    names = {labels.ignore_index: "uncertain or unlabelled", **dict(enumerate(labels.names))}
    return ", ".join(f"{names.get(value, value)} {100 * counts[value] / total:.0f} %" for value in order[:8])


def names_with_file(folder: Path, dataset: Dataset | None) -> list[tuple[str, int]]:
    """Names and dataset indices of the examples that have a PNG in a folder."""
    if not folder.is_dir():
        return []
    there = {path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.png")}
    if dataset is None:
        return [(name, -1) for name in sorted(there)]
    return [(name, index) for index, name in enumerate(dataset.names) if name in there]


def _evenly(items: list[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    return (items[place] for place in spread(len(items), RANKED_AT_MOST))


def _worst_first(item: Ranked) -> tuple[bool, float, str]:
    return item.score is None, item.score or 0.0, item.name
