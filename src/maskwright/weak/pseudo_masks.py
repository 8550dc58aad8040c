"""The pseudo-mask artefact: palette PNG, confidence PNG, and a record of everything that shaped them.

A folder in PASCAL VOC layout, so that any tool that trains on VOC masks can use it, and so can `with_masks`:

    SegmentationClass/NAME.png   label values in the palette of the classes; uncertain pixels have the ignore value
    Confidence/NAME.png          8-bit grey: 255 times the confidence of `seeds.labels_and_confidence`
    ImageSets/Segmentation/SPLIT.txt, classes.txt
    provenance.json              how they were made, and what else than tags had a part in it
    scores.json                  against ground truth where there is any; tagged classes that vanished
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskwright.data.dataset import Dataset
from maskwright.data.masks import read_mask, write_mask
from maskwright.data.names import split_word
from maskwright.data.sample import LabelSpace
from maskwright.engine.progress import track
from maskwright.errors import DataError, RecipeError
from maskwright.files import atomic_write, is_there, read_json, write_json
from maskwright.inference.prefetch import prefetched
from maskwright.metrics import ConfusionMatrix
from maskwright.runs.folder import CLASSES, CONFIDENCE, MASKS, PROVENANCE, SCORES
from maskwright.settings import MaskSettings
from maskwright.version import __version__
from maskwright.weak.labels import labels_and_confidence, sweep
from maskwright.weak.seeds.extract import load_maps

FORMAT = "maskwright pseudo-masks 1"
NO_TRUTH = "pseudo_masks.threshold=best needs ground truth in the split that is labelled, found none; give a number"

# What must be known of a pseudo-mask before its score may stand beside another: how it was made, and whether anything
# but tags had a part in it.
MUST_SAY = ("method", "weights", "tag_source", "saliency", "crf", "pretrained")
WRITTEN = ("format", *MUST_SAY, "threshold", "ground_truth_tuned", "unsure_below", "labels", "maskwright")


def write_pseudo_masks(
    dataset: Dataset,
    maps_folder: str | Path,
    settings: MaskSettings,
    folder: str | Path,
    provenance: dict[str, Any],
) -> dict[str, Any]:
    """Turn the maps of every image whose tags are known into pseudo-masks; resumes where it was stopped.

    Ground truth, where there is any, is only scored against, unless `settings.threshold` is "best": it then
    chooses the threshold, and the record says so. Images without tags become background. Call it in one process.

    Args:
        dataset: names, tags and, for the scores, ground truth.
        maps_folder: of `NAME.npz` maps.
        settings: threshold, sweep, and what counts as uncertain.
        folder: gets the artefact; masks that another threshold or other maps gave are written again.
        provenance: at least `method`, `weights` (their hash), and `saliency`, `crf`, `pretrained` (false, a name, or a
            file); `tag_source` is taken from the dataset where it is not given.

    Returns:
        What is written to `scores.json`: `split`, `threshold`, `miou` and `scores` (None without ground truth;
        uncertain pixels left out, their share is `unsure_share`), `sweep`, `best_threshold`, `vanished_tags` (class
        name: images whose mask lost the tagged class, images tagged with it), `images`.

    Raises:
        DataError: facts missing from `provenance`, maps missing, or masks that do not fit them.
        RecipeError: threshold "best" without ground truth, or a sweep that has no steps.
    """
    folder = Path(folder)
    rows = sweep(dataset, maps_folder, sweep_thresholds(settings))
    scored = [row for row in rows if row["miou"] is not None]
    best: float | None = max(scored, key=lambda row: row["miou"])["threshold"] if scored else None
    if settings.threshold == "auto":
        raise RecipeError("pseudo_masks.threshold=auto is chosen by a stage of a run; give the number that it chose")
    if settings.threshold != "best":
        threshold = settings.threshold
    elif best is not None:
        threshold = best
    else:
        raise RecipeError(NO_TRUTH)
    maps_record = Path(maps_folder) / "maps.json"
    maps = read_json(maps_record) if maps_record.is_file() else None
    record = mask_record(dataset, settings, threshold, {"maps": maps, **provenance})
    begin(folder, record)
    chosen = [index for index in range(len(dataset)) if dataset.tags(index) is not None]
    results = _write_all(dataset, chosen, maps_folder, threshold, settings.ignore_below, folder)
    return finish(dataset, chosen, results, folder, {"threshold": threshold, "sweep": rows, "best_threshold": best})


def mask_record(
    dataset: Dataset, settings: MaskSettings, threshold: float, provenance: dict[str, Any]
) -> dict[str, Any]:
    """What `provenance.json` says.

    Args:
        dataset: that is labelled.
        settings: of the masks.
        threshold: that they are made with.
        provenance: see `write_pseudo_masks`.

    Raises:
        DataError: facts missing from `provenance`.
    """
    source, labels = dict(dataset.source), dataset.labels
    record = {
        "format": FORMAT,
        "tag_source": source.get("tag_source", source.get("tags")),
        "source": source,
        "maps": None,
        **provenance,
        "threshold": threshold,
        "ground_truth_tuned": ["threshold"] if settings.threshold == "best" else [],
        "unsure_below": settings.ignore_below,
        "confidence": "margin of the highest plane over the next, as a share of the largest possible; 255 = 1",
        "labels": labels.to_dict(),
        "maskwright": __version__,
    }
    missing = [key for key in MUST_SAY if key not in record]
    if missing:
        raise DataError(f"the provenance of pseudo-masks must say {', '.join(missing)}; found {', '.join(provenance)}")
    return record


def check_thresholds(dataset: Any, settings: MaskSettings) -> None:
    """What `write_pseudo_masks` refuses of its settings, before there are maps.

    Raises:
        RecipeError: threshold "best" without ground truth, or a sweep that has no steps.
    """
    sweep_thresholds(settings)
    known = (index for index in range(len(dataset)) if dataset.has_mask(index))
    if settings.threshold == "best" and not any(dataset.tags(index) is not None for index in known):
        raise RecipeError(NO_TRUTH)


def sweep_thresholds(settings: MaskSettings) -> list[float]:
    """The thresholds first, first + step, ... up to and including last.

    Raises:
        RecipeError: no step, or a last threshold below the first.
    """
    first, last, step = settings.sweep
    if step <= 0 or last < first:
        raise RecipeError(
            f"pseudo_masks.sweep must be [first, last, step] with first <= last and step > 0, found {[*settings.sweep]}"
        )
    return [round(first + step * number, 10) for number in range(int((last - first) / step + 1e-6) + 1)]


def read_provenance(folder: str | Path) -> dict[str, Any]:
    """The record of a pseudo-mask folder.

    Raises:
        DataError: there is none, or it does not say everything that must be known.
    """
    path = Path(folder) / PROVENANCE
    record = read_json(path)
    missing = [key for key in WRITTEN if not isinstance(record, dict) or key not in record]
    if missing:
        raise DataError(
            f"{path} does not say {', '.join(missing)}; expected the record that `maskwright label` writes. "
            "Make the pseudo-masks again"
        )
    return record


def score_masks(dataset: Dataset, folder: str | Path) -> ConfusionMatrix:
    """Score a folder of pseudo-masks against ground truth; pixels where either has no label are left out.

    Args:
        dataset: ground truth; images without a mask, or without a pseudo-mask, are left out.
        folder: of the artefact.

    Raises:
        DataError: no image has both, or the two differ in size.
    """
    confusion = ConfusionMatrix(dataset.labels)
    judged = 0
    for index, name in enumerate(dataset.names):
        path = mask_path(Path(folder), name)
        if path.is_file() and (truth := dataset.mask(index)) is not None:
            judged += 1
            judge_mask(confusion, read_mask(path), truth, name)
    if not judged:
        raise DataError(f"no image of the set has both a ground-truth mask and a pseudo-mask in {folder}")
    return confusion


@dataclass
class Result:
    """What one written mask says: counts against ground truth or None, vanished tags, uncertain pixels."""

    confusion: ConfusionMatrix | None
    vanished: list[int]
    unsure: float


def begin(folder: Path, record: dict[str, Any]) -> None:
    """Write the record of a folder of pseudo-masks; masks that a different one describes are removed."""
    path = folder / PROVENANCE
    if not (path.is_file() and read_json(path) == record):
        (folder / SCORES).unlink(missing_ok=True)
        for old in (folder / MASKS).rglob("*.png"):
            old.unlink()
        write_json(path, record)


def _write_all(
    dataset: Dataset,
    chosen: Sequence[int],
    maps_folder: str | Path,
    threshold: float,
    unsure_below: float,
    folder: Path,
) -> Iterator[Result]:
    """Write what is missing; what each mask says, in the order of `chosen`, one at a time: a confusion matrix an image
    would be gigabytes."""
    labels: LabelSpace = dataset.labels

    def work(index: int) -> Result:
        name = dataset.names[index]
        mask = written(folder, name)
        if mask is None:
            keys, maps = load_maps(maps_folder, name)
            mask, confidence = labels_and_confidence(
                maps, keys, threshold, labels.background, labels.foreground, labels.ignore_index
            )
            grey = np.rint(255 * confidence).astype(np.uint8)
            mask[grey < 255 * unsure_below] = labels.ignore_index
            write_one(folder, name, mask, grey, labels)
        return judged(dataset, index, mask)

    threads = min(4, os.cpu_count() or 1)
    done = prefetched(work, chosen, workers=threads, ahead=2 * threads)
    for future in track(done, title="pseudo-masks", total=len(chosen)):
        yield future.result()


def write_one(folder: Path, name: str, mask: np.ndarray, grey: np.ndarray, labels: LabelSpace) -> None:
    """Write the mask of one image, `(H, W)` uint8, and 255 times its confidence, `(H, W)` uint8."""
    # The mask last: where it is, both are.
    with atomic_write(folder / CONFIDENCE / f"{name}.png") as temporary:
        Image.fromarray(grey).save(temporary, compress_level=1)
    write_mask(mask_path(folder, name), mask, labels)


def judged(dataset: Dataset, index: int, mask: np.ndarray) -> Result:
    """What the mask of one image, `(H, W)` uint8, says beside its tags and its ground truth."""
    confusion = None
    if (truth := dataset.mask(index)) is not None:
        confusion = ConfusionMatrix(dataset.labels)
        judge_mask(confusion, mask, truth, dataset.names[index])
    present = set(np.unique(mask).tolist())
    vanished = [value for value in dataset.tags(index) or () if value not in present]
    return Result(confusion, vanished, float(np.mean(mask == dataset.labels.ignore_index)))


def finish(
    dataset: Dataset, chosen: Sequence[int], results: Iterable[Result], folder: Path, facts: dict[str, Any]
) -> dict[str, Any]:
    """Write the names of classes and images, and the scores.

    Args:
        dataset: the images.
        chosen: those that have a mask now.
        results: what each of these masks says; added up as it comes.
        folder: of the artefact.
        facts: what the scores say beside.

    Returns:
        The content of `scores.json`.
    """
    split = str(dataset.source.get("split", "train"))
    _write_lines(folder / CLASSES, dataset.labels.names)
    listed = folder / "ImageSets" / "Segmentation" / f"{split_word(split)}.txt"
    _write_lines(listed, [dataset.names[index] for index in chosen])
    scores = {"split": split, **_summary(dataset, chosen, results), **facts}
    write_json(folder / SCORES, scores)
    return scores


def written(folder: Path, name: str) -> np.ndarray | None:
    """A mask that is there; None where it or its confidence is missing or was cut off, and both are to be made."""
    path, confidence = mask_path(folder, name), folder / CONFIDENCE / f"{name}.png"
    try:
        return read_mask(path) if is_there(path) and is_there(confidence) else None
    except DataError:
        return None


def _summary(dataset: Dataset, chosen: Sequence[int], results: Iterable[Result]) -> dict[str, Any]:
    labels: LabelSpace = dataset.labels
    total = ConfusionMatrix(labels)
    vanished = {name: [0, 0] for name in labels.tag_names}
    judged, unsure = 0, []
    for index, result in zip(chosen, results, strict=True):
        if result.confusion is not None:
            judged += 1
            total = total + result.confusion
        unsure.append(result.unsure)
        for value in dataset.tags(index) or ():
            vanished[labels.names[value]][0] += value in result.vanished
            vanished[labels.names[value]][1] += 1
    scores = total.scores() if judged else None
    return {
        "miou": scores["miou"] if scores else None,
        "scores": scores,
        "vanished_tags": vanished,
        "unsure_share": float(np.mean(unsure)) if unsure else 0.0,
        "images": len(chosen),
        "images_judged": judged,
    }


def judge_mask(confusion: ConfusionMatrix, mask: np.ndarray, truth: np.ndarray, name: str) -> None:
    """Add one mask to the counts; pixels where either has no label are left out.

    Raises:
        DataError: the two differ in size, or hold values that are no class.
    """
    if mask.shape != truth.shape:
        raise DataError(
            f"{name}: pseudo-mask {mask.shape} and ground truth {truth.shape} differ in size; make the maps at "
            "image size"
        )
    unsure = mask == confusion.ignore_index
    confusion.update(mask, np.where(unsure, mask, truth) if unsure.any() else truth)


def mask_path(folder: Path, name: str) -> Path:
    """Where the mask of an image lies in the artefact's folder."""
    return folder / MASKS / f"{name}.png"


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
