"""Whether predictions show what tags say: a score of a model that needs no mask.

A class counts as predicted in an image where it has more than `SHOWN` of the pixels, so that a few stray pixels are no
mistake. Where a class lies in its image, tags do not say.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskwright.data.dataset import Dataset
from maskwright.data.masks import read_mask
from maskwright.data.sample import LabelSpace
from maskwright.files import write_json
from maskwright.runs.folder import PREDICTIONS, TAG_AGREEMENT

SHOWN = 0.005  # share of the image's pixels


def known_tags(dataset: Dataset) -> list[int]:
    """Positions of the images whose tags somebody gave; none where tags follow from masks, which are ground truth."""
    if dataset.tags_from_masks:
        return []
    return [index for index in range(len(dataset)) if dataset.tags(index) is not None]


def predicted_tags(mask: np.ndarray, labels: LabelSpace) -> set[int]:
    """The classes but for the background that have more than `SHOWN` of a mask's pixels, `(H, W)` label values."""
    counts = np.bincount(mask.ravel(), minlength=labels.num_classes)
    return {value for value in labels.foreground if counts[value] > SHOWN * mask.size}


def score_tags(
    predicted: Sequence[Collection[int]], tags: Sequence[Collection[int]], labels: LabelSpace
) -> dict[str, Any]:
    """Predicted classes against tags, over all images and classes at once, and per class.

    Args:
        predicted: per image, label values.
        tags: per image, label values.
        labels: what they mean.

    Returns:
        `precision`, `recall`, `f1`, and `f1_by_chance`, what the same predictions would have on images in random
        order; `per_class` (name: `precision`, `recall`, and in how many images it is `tagged`, `predicted`, `both`);
        `images`. None where undefined.
    """
    per_class, chance = {}, 0.0
    totals = np.zeros(3, np.int64)
    for value in labels.foreground:
        said, found = ([value in each for each in per_image] for per_image in (tags, predicted))
        counts = tagged, shown, both = sum(said), sum(found), sum(map(min, said, found))
        totals += counts
        chance += tagged * shown / max(1, len(tags))
        rates = {"precision": _ratio(both, shown), "recall": _ratio(both, tagged)}
        per_class[labels.names[value]] = {**rates, "tagged": tagged, "predicted": shown, "both": both}
    tagged, shown, both = totals.tolist()
    return {
        "precision": _ratio(both, shown),
        "recall": _ratio(both, tagged),
        "f1": _ratio(2 * both, tagged + shown),
        "f1_by_chance": _ratio(2 * chance, tagged + shown),
        "per_class": per_class,
        "images": len(tags),
    }


def write_tag_agreement(dataset: Dataset, folder: str | Path, *, trained_on: bool) -> dict[str, Any]:
    """Compare the predictions of a folder with the tags of their images, and write `tags.json` beside them.

    Args:
        dataset: images with known tags, all of them predicted.
        folder: what `inference.views.evaluate` was given; the masks lie in its `predictions/`.
        trained_on: the model has learned from these images.

    Returns:
        What is written: that of `score_tags`, with `split`, `tag_source`, `trained_on`, and `shown_above`, the share of
        the pixels from which a class counts.

    Raises:
        DataError: a prediction is missing or cannot be read.
    """
    labels, source = dataset.labels, dict(dataset.source)
    masks = (read_mask(Path(folder) / PREDICTIONS / f"{name}.png") for name in dataset.names)
    tags = [dataset.tags(index) or () for index in range(len(dataset))]
    found = {
        "split": source.get("split"),
        "tag_source": source.get("tag_source", source.get("tags")),
        "trained_on": trained_on,
        "shown_above": SHOWN,
        **score_tags([predicted_tags(mask, labels) for mask in masks], tags, labels),
    }
    write_json(Path(folder) / TAG_AGREEMENT, found)
    return found


def tag_line(found: dict[str, Any]) -> str:
    """Precision and recall in words, with what they were measured on."""
    words = [
        f"{name} {'-' if found[key] is None else format(found[key], '.3f')}"
        for name, key in (("precision", "precision"), ("recall", "recall"), ("F1 by chance", "f1_by_chance"))
    ]
    seen = ", which it was trained on" if found["trained_on"] else ""
    return f"tags of predictions  {', '.join(words)}  on {found['split']} ({found['images']} images{seen})"


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
