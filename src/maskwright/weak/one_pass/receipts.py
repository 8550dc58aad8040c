"""Receipts: what the masks of one part say in numbers. Figures of a whole set are sums over them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from maskwright.data.dataset import Dataset
from maskwright.data.sample import LabelSpace
from maskwright.data.shards.stores import join, read, remove, write
from maskwright.errors import DataError
from maskwright.metrics import ConfusionMatrix
from maskwright.weak.pseudo_masks import Result

FORMAT = "maskwright receipt 1"
COUNTED = ("images", "labelled", "judged")
BY_CLASS = ("pixels", "tagged", "vanished")


class Totals:
    """Figures of some masks.

    Args:
        labels: of the set.
    """

    def __init__(self, labels: LabelSpace) -> None:
        self.labels = labels
        self.labelled = self.judged = 0
        self.unsure = 0.0
        self.pixels, self.tagged, self.vanished = (np.zeros(labels.num_classes, np.int64) for _ in range(3))
        self.confusion = ConfusionMatrix(labels)

    def add(self, dataset: Dataset, index: int, result: Result, mask: np.ndarray) -> None:
        """Add one image's mask `(H, W)` uint8, and what it says beside tags and ground truth."""
        self.labelled += 1
        self.unsure += result.unsure
        self.pixels += np.bincount(mask.ravel(), minlength=256)[: self.labels.num_classes]
        self.tagged[list(dataset.tags(index) or ())] += 1
        self.vanished[result.vanished] += 1
        if result.confusion is not None:
            self.judged += 1
            self.confusion = self.confusion + result.confusion


def write_receipt(
    place: str,
    part: str,
    fingerprint: str,
    images: int,
    totals: Totals,
    failed: dict[str, str],
    facts: dict[str, Any],
) -> None:
    """Write `PART.receipt.json`, the last file of a part.

    Args:
        place: folder or address.
        part: its name.
        fingerprint: of all that the masks depend on.
        images: of the part, labelled or not.
        totals: of its masks.
        failed: names of images that could not be labelled, each with why.
        facts: of the tar file.
    """
    matrix = totals.confusion.matrix.numpy()
    rows, columns = np.nonzero(matrix)
    counts = matrix[rows, columns]
    record = {
        "format": FORMAT,
        "part": part,
        "fingerprint": fingerprint,
        "images": images,
        "labelled": totals.labelled,
        "judged": totals.judged,
        "unsure": totals.unsure,
        "failed": failed,
        **{key: getattr(totals, key).tolist() for key in BY_CLASS},
        "confusion": [rows.tolist(), columns.tolist(), counts.tolist()],  # ground truth, mask, pixels
        "tar": facts,
    }
    write(_place(place, part), (json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n").encode())


def read_receipt(place: str, part: str, fingerprint: str) -> dict[str, Any] | None:
    """The receipt of a part; None where there is none, or it is damaged or of another work: the part is to be done."""
    try:
        record = json.loads(read(_place(place, part)))
    except (FileNotFoundError, ValueError):
        return None
    there = isinstance(record, dict) and record.get("format") == FORMAT and record.get("fingerprint") == fingerprint
    return record if there else None


def write_failure(place: str, part: str, why: str) -> None:
    """Note beside a part why it could not be done."""
    write(join(place, f"{part}.failed.json"), (json.dumps({"part": part, "why": why}) + "\n").encode())


def read_failure(place: str, part: str) -> str:
    """Why a part could not be done; empty where nobody said."""
    try:
        return str(json.loads(read(join(place, f"{part}.failed.json")))["why"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return ""


def discard_failure(place: str, part: str) -> None:
    """Take back what was noted of a part that is done now."""
    remove(join(place, f"{part}.failed.json"))


def summed(labels: LabelSpace, receipts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The figures of a set, from the receipts of its parts; one is looked at at a time.

    Args:
        labels: of the set.
        receipts: of its parts.

    Returns:
        As `weak.pseudo_masks.finish` has them: `miou`, `scores`, `vanished_tags`, `unsure_share`, `images`,
        `images_judged`; and `pixels` of each class, `failed`, how many images could not be labelled, with the first of
        them in `failures`.

    Raises:
        DataError: a receipt is of other classes.
    """
    failures: dict[str, str] = {}
    counted, unsure, failed = dict.fromkeys(COUNTED, 0), 0.0, 0
    by_class = {key: np.zeros(labels.num_classes, np.int64) for key in BY_CLASS}
    matrix = np.zeros((labels.num_classes, labels.num_classes), np.int64)
    for receipt in receipts:
        try:
            for key in COUNTED:
                counted[key] += receipt[key]
            for key, total in by_class.items():
                total += np.array(receipt[key], np.int64)
            rows, columns, counts = receipt["confusion"]
            np.add.at(matrix, (rows, columns), counts)
            unsure += receipt["unsure"]
            failed += len(receipt["failed"])
            for name, why in receipt["failed"].items():
                if len(failures) < 20:
                    failures[name] = why
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DataError(
                f"the receipt of part {receipt.get('part')} does not fit the set: {error}. Delete it and run again"
            ) from None
    scores = ConfusionMatrix.from_matrix(matrix, labels).scores() if counted["judged"] else None
    names = labels.names
    return {
        "miou": scores["miou"] if scores else None,
        "scores": scores,
        "vanished_tags": {
            names[value]: [int(by_class["vanished"][value]), int(by_class["tagged"][value])]
            for value in labels.foreground
        },
        "unsure_share": unsure / counted["labelled"] if counted["labelled"] else 0.0,
        "images": counted["labelled"],
        "images_judged": counted["judged"],
        "pixels": dict(zip(names, by_class["pixels"].tolist(), strict=True)),
        "failed": failed,
        "failures": failures,
    }


def _place(place: str, part: str) -> str:
    return join(place, f"{part}.receipt.json")
