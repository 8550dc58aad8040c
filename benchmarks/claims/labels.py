"""Cheaper labels, made from true masks: masks of some images, strokes, boxes; and the time that each takes people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from maskwright.data.dataset import Dataset
from maskwright.data.masks import write_mask
from maskwright.data.sample import LabelSpace
from maskwright.files import atomic_write
from maskwright.weak.refine.instances import connected_regions

# Seconds of an image on PASCAL VOC: tags, strokes and masks by Bearman et al. (ECCV 2016); of a box by extreme
# clicking, Papadopoulos et al. (ICCV 2017).
TAGS, STROKES, MASK, BOX = 20.0, 34.9, 239.7, 7.0
SHARES = (0, 1, 2, 5, 10, 20, 50)  # of the images that get a mask beside tags, in per cent
STROKE = 5  # pixels wide
SMALLEST = 20  # pixels of a part that gets a box


def with_masks(count: int, share: float) -> int:
    """How many of `count` images a share in per cent is; at least one where it is above 0."""
    return max(1, round(count * share / 100)) if share else 0


def at_the_cost(count: int, share: float) -> int:
    """How many masks take as long as tags of all images and masks of a share of them."""
    return round((count * TAGS + with_masks(count, share) * MASK) / MASK)


def hours(row: str, count: int, boxes: int) -> float:
    """What the labels of a row take, where its name begins with `labels: `.

    Args:
        row: its name.
        count: of training images.
        boxes: in all of them.
    """
    words = row.removeprefix("labels: ")
    if words.startswith("masks at the cost of"):
        seconds = at_the_cost(count, float(words.split()[-2])) * MASK
    elif words.startswith("tags"):
        share = float(words.split()[-2]) if "masks" in words else 0
        seconds = count * TAGS + with_masks(count, share) * MASK
    else:
        seconds = {"masks of all": count * MASK, "strokes": count * STROKES, "boxes": boxes * BOX}[words]
    return seconds / 3600


def write_labels(train: Dataset, val: Dataset, names: Sequence[str], folder: Path, repetition: int) -> None:
    """Write what rows of cheaper labels read: `masks-P.txt` and `cost-P.txt`, lists of images; `strokes/`, `boxes/`.

    Args:
        train: holds the images that are trained on.
        val: whose masks stay as they are.
        names: of the training images of this repetition.
        folder: of the repetition.
        repetition: its number, for the order in which images get a mask.
    """
    order = [sorted(names)[place] for place in np.random.default_rng(1000 + repetition).permutation(len(names))]
    for share in SHARES:
        for word, count in (("masks", with_masks(len(names), share)), ("cost", at_the_cost(len(names), share))):
            with atomic_write(folder / f"{word}-{share}.txt") as temporary:
                temporary.write_text("".join(f"{name}\n" for name in sorted(order[:count])))
    drawn, count = np.random.default_rng(repetition), 0
    chosen = set(names)
    for index, name in enumerate(train.names):
        if name in chosen:
            mask = train.mask(index)
            write_mask(folder / "strokes" / f"{name}.png", strokes(mask, train.labels, drawn), train.labels)
            painted, found = boxes(mask, train.labels)
            write_mask(folder / "boxes" / f"{name}.png", painted, train.labels)
            count += found
    for index, name in enumerate(val.names):
        for kind in ("strokes", "boxes"):
            write_mask(folder / kind / f"{name}.png", val.mask(index), val.labels)
    with atomic_write(folder / "boxes.txt") as temporary:
        temporary.write_text(f"{count}\n")


def strokes(mask: np.ndarray, labels: LabelSpace, drawn: np.random.Generator) -> np.ndarray:
    """One stroke through each class, background included, along the middle of a long run of its pixels.

    All other pixels are ignored.

    Args:
        mask: `(H, W)` uint8.
        labels: what its values mean.
        drawn: where along the longest runs.
    """
    found = np.full_like(mask, labels.ignore_index)
    for value in sorted(set(np.unique(mask).tolist()) - {labels.ignore_index}):
        inside = np.pad(mask == value, ((0, 0), (1, 1)))
        edges = np.diff(inside.astype(np.int8), axis=1)
        rows, starts = np.nonzero(edges == 1)
        stops = np.nonzero(edges == -1)[1]
        longest = np.argsort(starts - stops)[: max(1, len(rows) // 10)]
        place = longest[drawn.integers(len(longest))]
        row, start, stop = int(rows[place]), int(starts[place]), int(stops[place])
        margin = (stop - start) // 5
        span = (slice(max(0, row - STROKE // 2), row + STROKE // 2 + 1), slice(start + margin, stop - margin))
        found[span][mask[span] == value] = value
    return found


def boxes(mask: np.ndarray, labels: LabelSpace) -> tuple[np.ndarray, int]:
    """Every connected part of a class as a full box, smaller ones over larger ones, the rest background; how many.

    Args:
        mask: `(H, W)` uint8; ignored pixels belong to no box.
        labels: what its values mean.
    """
    found = np.full_like(mask, labels.background if labels.background is not None else labels.ignore_index)
    parts = []
    for value in sorted(set(np.unique(mask).tolist()) & set(labels.foreground)):
        regions = connected_regions(mask == value)
        for number in range(1, int(regions.max()) + 1):
            rows, columns = np.nonzero(regions == number)
            if len(rows) >= SMALLEST:
                parts.append((value, rows.min(), rows.max() + 1, columns.min(), columns.max() + 1))
    for value, top, bottom, left, right in sorted(parts, key=lambda part: -(part[2] - part[1]) * (part[4] - part[3])):
        found[top:bottom, left:right] = value
    return found, len(parts)
