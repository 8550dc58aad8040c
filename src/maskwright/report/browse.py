"""All images of a run for its page: small pictures and what is known of each, which a browser filters and compares.

What is to be seen of an image is two strings: its photograph as a JPEG data URI, and, as base64 of zlib, its masks
(label values, a byte a pixel, row by row), then its maps and the confidence, smaller, in per cent, each value less the
one before it. So a page can name the class under the pointer, draw outlines and errors, and move the threshold.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from maskwright.data.dataset import Dataset
from maskwright.data.pictures import heat_levels, heat_table
from maskwright.data.provenance import REFERENCES, reference
from maskwright.data.sample import LabelSpace, Sample
from maskwright.files import atomic_write
from maskwright.inference.tag_agreement import SHOWN, predicted_tags
from maskwright.report.gallery import Ranked, css, image_scores, names_with_file, read_maps, stored_mask
from maskwright.report.pictures import nearest, photo_uri, spread, within
from maskwright.runs.contents import RunContents

MOST_IMAGES = 5000  # of a split; of a larger one as many, evenly spread
# With more bytes of pictures than this, they lie beside the page.
INSIDE_BYTES = 12_000_000
# Of all that is seen of an image, as text, by the square of its long side; photographs took 0.25, those of many leaves
# take more.
BYTES_OF_SQUARE = 0.36
SIDES = (208, 448)  # least and most pixels of a long side
MAP_SIDE = 64
PER_PART = 25  # images that a browser loads at once
QUALITY = 66
HEAT_LEVELS = 101
PART = "pictures-{}.js"


@dataclass(frozen=True)
class Example:
    """An image with what a run made of it.

    Args:
        record: what the page knows of it before it is seen.
        pictures: photograph and packed masks, as the module says.
        training: its place among the training images; None where it is not one.
        validation: its place among the predictions; None where it has none.
    """

    record: dict[str, Any]
    pictures: tuple[str, str]
    training: Ranked | None
    validation: Ranked | None


def read_examples(
    run: RunContents, dataset_train: Dataset | None, dataset_val: Dataset | None, labels: LabelSpace
) -> list[Example]:
    """Every image with a pseudo-mask or a prediction, read and drawn once.

    Args:
        run: the run.
        dataset_train: the split that was labelled; None for masks alone.
        dataset_val: the split that was evaluated on, likewise.
        labels: names and colours.

    Raises:
        DataError: an image or a mask that cannot be read.
    """
    training = _at_most(names_with_file(run.folder.masks, dataset_train))
    validation = dict(_at_most(names_with_file(run.folder.predictions(), dataset_val)))
    labelled = {name for name, _ in training}
    # An image of both splits is shown once, with its tags and maps.
    work: list[tuple[str, int | None, int | None]] = [(name, index, validation.get(name)) for name, index in training]
    work += [(name, None, index) for name, index in validation.items() if name not in labelled]
    side = picture_side(len(work))
    return [_example(run, (dataset_train, dataset_val), labels, name, places, side) for name, *places in work]


def picture_side(count: int) -> int:
    """The long side of pictures, in pixels, with which so many images fit into a page or, beside it, are small."""
    least, most = SIDES
    return int(np.clip((INSIDE_BYTES / max(1, count) / BYTES_OF_SQUARE) ** 0.5, least, most))


def browser_context(run: RunContents, examples: Sequence[Example], labels: LabelSpace, beside: Path) -> dict[str, Any]:
    """What the template of the gallery of all images shows; pictures that are too large for a page go into a folder.

    Args:
        run: the run.
        examples: as `read_examples` gives them.
        labels: names and colours.
        beside: that folder, beside the page; what an earlier page had there is deleted.

    Returns:
        `index`, JSON of all but the pictures, and `parts`, JSON of the pictures; empty where they lie in the folder.
    """
    groups = [examples[start : start + PER_PART] for start in range(0, len(examples), PER_PART)]
    parts = [_json([example.pictures for example in group]) for group in groups]
    inside = sum(map(len, parts)) <= INSIDE_BYTES
    _write_beside(beside, [] if inside else parts)
    records = [example.record for example in examples]
    masks = {mask for record in records for mask in record["masks"]}
    splits = list(dict.fromkeys(split for record in records for split in record["splits"]))
    index: dict[str, Any] = {
        "classes": [[name, css(colour)] for name, colour in zip(labels.names, labels.palette)],
        "background": labels.background,
        "ignore": labels.ignore_index,
        "masks": [name for name in ("pseudo-mask", "prediction", "fully supervised", *REFERENCES) if name in masks],
        "references": list(REFERENCES),
        "maps": list(dict.fromkeys(title for record in records for title in record["maps"])),
        "splits": splits,
        "threshold": run.pseudo_masks.get("threshold"),
        "shownAbove": SHOWN,
        "heat": [css((int(red), int(green), int(blue))) for red, green, blue in heat_table(HEAT_LEVELS)[0]],
        "beside": "" if inside else beside.name,
        "perPart": PER_PART,
        "images": records,
    }
    total = {split: sum(split in record["splits"] for record in records) for split in splits}
    return {
        "count": len(records),
        "splits": [f"{count} of {split}" for split, count in total.items()],
        "beside": index["beside"],
        "index": Markup(_json(index)),
        "parts": [Markup(part) for part in parts] if inside else [],
    }


def _example(
    run: RunContents,
    datasets: tuple[Dataset | None, Dataset | None],
    labels: LabelSpace,
    name: str,
    places: Sequence[int | None],
    side: int,
) -> Example:
    """One image; `places` are its indices in the two splits, None where it is not in one."""
    folder = run.folder
    is_training = places[0] is not None
    dataset, index = (datasets[0], places[0]) if is_training else (datasets[1], places[1])
    sample = None if dataset is None or index is None else dataset[index]
    masks = {
        "pseudo-mask": stored_mask(folder.masks, name) if is_training else None,
        "prediction": stored_mask(folder.predictions(), name),
        "fully supervised": stored_mask(folder.predictions("oracle_evaluation"), name),
    }
    found = {key: mask for key, mask in masks.items() if mask is not None}
    judged = "prediction" if "prediction" in found else "pseudo-mask"
    truth = None if sample is None else sample.mask
    scores = {key: image_scores(mask, truth, labels) for key, mask in found.items() if truth is not None}
    said = run.image_scores["evaluation"].get(name, {})
    if said.get("miou") is not None:
        scores["prediction"] = (said["miou"], 1 - said.get("accuracy", 1.0))
    grey = stored_mask(folder.confidence, name) if is_training else None
    confidence = None if grey is None else float(grey.mean()) / 255
    if dataset is not None and truth is not None:
        found[reference(dataset.source)] = truth
    maps = _maps(run, name) if is_training else {}
    height, width = (sample.image if sample is not None else found[judged]).shape[:2]
    size = within((width, height), side)
    small = within(size, MAP_SIDE)
    miou, wrong = scores.get(judged) or (None, None)
    record = {
        "name": name,
        "splits": _splits(run, places),
        "size": size,
        "mapSize": small,
        "tags": None if sample is None or sample.tags is None else list(sample.tags),
        "judged": judged,
        "shown": sorted(predicted_tags(found[judged], labels)),
        "true": None if truth is None else sorted(predicted_tags(truth, labels)),
        "miou": _rounded(miou),
        "wrong": _rounded(wrong),
        "confidence": _rounded(confidence),
        "masks": list(found),
        "maps": {title: [labels.foreground[key] for key in keys.tolist()] for title, (keys, _) in maps.items()},
        "sure": grey is not None,
    }
    soft = [score for _, scores_of_tags in maps.values() for score in scores_of_tags]
    soft += [] if grey is None else [grey.astype(np.float32) / 255]
    packed = b"".join(
        [nearest(mask, size).tobytes() for mask in found.values()] + [_packed_map(score, small) for score in soft]
    )
    pictures = (_photo(sample, side), base64.b64encode(zlib.compress(packed, 9)).decode("ascii"))
    rows: list[Ranked | None] = [None, None]
    if places[0] is not None:
        score = scores.get("pseudo-mask")
        rows[0] = Ranked(name, places[0], score[0] if score else confidence, "mIoU" if score else "mean confidence")
    if places[1] is not None:
        score = scores.get("prediction")
        rows[1] = Ranked(name, places[1], score[0] if score else None, "mIoU")
    return Example(record, pictures, *rows)


def _splits(run: RunContents, places: Sequence[int | None]) -> list[str]:
    names = [str(run.setting(f"data.{split}", split)) for split in ("train", "val")]
    return list(dict.fromkeys(name for name, place in zip(names, places) if place is not None))


def _maps(run: RunContents, name: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    titles = {"seeds": "seed", **run.refined}
    found = {title: read_maps(run.folder.maps(stage), name) for stage, title in titles.items()}
    return {title: maps for title, maps in found.items() if maps is not None}


def _photo(sample: Sample | None, side: int) -> str:
    return "" if sample is None else photo_uri(sample.image, side, quality=QUALITY)


def _packed_map(score: np.ndarray, size: tuple[int, int]) -> bytes:
    """A map `(h, w)` in 0..1 at a smaller size, in per cent, each value less the one before it, modulo 256."""
    levels = heat_levels(score, size, HEAT_LEVELS).ravel()
    return np.diff(levels, prepend=np.uint8(0)).astype(np.uint8).tobytes()


def _at_most(items: list[tuple[str, int]]) -> list[tuple[str, int]]:
    return [items[place] for place in spread(len(items), MOST_IMAGES)]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _json(value: Any) -> str:
    """JSON that may stand inside a script element."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _write_beside(folder: Path, parts: Sequence[str]) -> None:
    for number, part in enumerate(parts):
        with atomic_write(folder / PART.format(number)) as temporary:
            temporary.write_text(f"maskwrightPart({number},{part});\n", encoding="utf-8")
    written = {PART.format(number) for number in range(len(parts))}
    for path in folder.glob(PART.format("*")):
        if path.name not in written:
            path.unlink()
    if not parts and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
