"""`compare.html`: methods side by side in one table and on the same images, as one page that needs no network."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from maskwright.data.dataset import Dataset
from maskwright.data.provenance import REFERENCES
from maskwright.report import charts, content
from maskwright.report.build import write_page
from maskwright.report.content import percent
from maskwright.report.gallery import (
    RANKED_AT_MOST,
    Ranked,
    Row,
    css,
    image_miou,
    picture_row,
    read_maps,
    select,
    stored_mask,
)
from maskwright.report.pictures import spread
from maskwright.report.seeds import title
from maskwright.runs.contents import RunContents, read_run, stored_recipe
from maskwright.runs.folder import RunFolder
from maskwright.runs.methods import Job
from maskwright.runs.results import SCORES, differences, seconds

# Notes of a run's own report that say what a method was helped by; they matter where methods differ in them.
HELP = ("Threshold tuned on ground truth", "Tags derived from ground truth", "Saliency maps used", "Dense CRF",
        "Pre-trained weights", "Trained from scratch")  # fmt: skip
CHARTED = {"seeds_best": 1, "pseudo_masks": 2, "model": 3}  # style of each score in the chart


def build_comparison(jobs: Sequence[Job], result: dict[str, Any], path: Path, images: int) -> dict[str, Any]:
    """Write the page.

    Args:
        jobs: all runs; of each method the first that has something to show is seen in the pictures.
        result: of `compare_results.summary`.
        path: of the page.
        images: number of training and of validation images that are shown.

    Returns:
        What is shown: for `training` and `validation` the `name` of each image and its `agreement` (see there).
    """
    masks = _first(jobs, "pseudo_masks") or _first(jobs, "seeds")
    models = _first(jobs, "evaluation")
    chosen = {
        "training": _choose(masks, "train", images),
        "validation": _choose(models, "val", images),
    }
    labels = next((job.val.labels for job in jobs if job.val is not None), None)
    colours = {} if labels is None else {n: css(c) for n, c in zip(labels.names, labels.palette, strict=True)}
    shown: dict[str, Job] = {}
    for job in jobs:
        if job.done:
            shown.setdefault(job.method.label, job)
    runs = {label: read_run(job.folder) for label, job in shown.items()}

    def galleries(side: int) -> list[dict[str, Any]]:
        found = [  # of each method's first run
            _gallery("training", masks, chosen["training"], _cells_of_maps, side),
            _gallery("validation", models, chosen["validation"], _cells_of_models, side),
        ]
        if any(len(row["runs"]) > 1 for row in result["methods"]):
            found = [
                {**gallery, "note": gallery["note"] + "Of each method the first run is shown."} for gallery in found
            ]
        return [gallery for gallery in found if gallery["rows"]]

    context = {
        "name": "Methods side by side",
        "legend": list(colours.items()),
        "lead": _lead(jobs, result),
        "table": _table(result, path.parent),
        "chart": _chart(result),
        "failures": [(row["label"], text) for row in result["methods"] for text in dict.fromkeys(row["failed"])],
        "cautions": _cautions(jobs, runs, result),
        "classes": [entry for key in ("model", "pseudo_masks") if (entry := _classes(result, key, colours))],
        "signs": _signs(result),
        "differences": _differences(runs),
        "costs": _costs(result),
        "definitions": result["definitions"],
        "command": result["command"],
    }
    write_page(path, "compare.html.j2", context, galleries)
    return {
        key: [{"name": item.name, "agreement": item.score} for item in sorted(items, key=lambda item: item.index)]
        for key, items in chosen.items()
    }


def _first(jobs: Sequence[Job], stage: str) -> list[Job]:
    """The first run of each method that has a stage."""
    found: dict[str, Job] = {}
    for job in jobs:
        if stage in job.done and job.val is not None:
            found.setdefault(job.method.label, job)
    return list(found.values())


def _choose(jobs: Sequence[Job], split: str, count: int) -> list[Ranked]:
    """The images that all of the runs have: those where their masks agree least, and a few up to the best agreement.

    Without two masks of equal size nothing can be ranked; images are then spread evenly over the split.
    """
    if not jobs or not count:
        return []
    dataset = getattr(jobs[0], split)
    shared = set.intersection(*(set(getattr(job, split).names) for job in jobs))
    if split == "train":
        shared = {name for name in shared if all(_has_maps(job, name) for job in jobs)}
    names = [(name, index) for index, name in enumerate(dataset.names) if name in shared]
    ranked = []
    for number in spread(len(names), RANKED_AT_MOST):
        name, index = names[number]
        folders = [job.folder.masks if split == "train" else job.folder.predictions() for job in jobs]
        masks = [stored_mask(folder, name) for folder in folders]
        ranked.append(Ranked(name, index, agreement([mask for mask in masks if mask is not None]), "agreement"))
    scored = sorted((item for item in ranked if item.score is not None), key=lambda item: (item.score, item.index))
    return select(scored, count) if scored else [ranked[number] for number in spread(len(ranked), count)]


def _has_maps(job: Job, name: str) -> bool:
    return (job.folder.masks / f"{name}.png").is_file() or (job.folder.maps("seeds") / f"{name}.npz").is_file()


def agreement(masks: Sequence[np.ndarray]) -> float | None:
    """Share of the pixels `(H, W)` to which two methods give the same label, mean over the pairs of methods.

    Over pairs, so that one method that is wrong everywhere does not hide where the others differ. None for fewer than
    two masks, or masks of different sizes.
    """
    if len(masks) < 2 or len({mask.shape for mask in masks}) > 1:
        return None
    return float(np.mean([np.mean(one == other) for one, other in combinations(masks, 2)]))


Cells = Callable[["Job", str], tuple[np.ndarray | None, tuple[np.ndarray, np.ndarray] | None]]


def _cells_of_maps(job: Job, name: str) -> tuple[np.ndarray | None, tuple[np.ndarray, np.ndarray] | None]:
    """A run's pseudo-mask of an image; its seed maps where it has no pseudo-masks."""
    if "pseudo_masks" in job.done:
        return stored_mask(job.folder.masks, name), None
    return None, read_maps(job.folder.maps("seeds"), name)


def _cells_of_models(job: Job, name: str) -> tuple[np.ndarray | None, None]:
    return stored_mask(job.folder.predictions(), name), None


def _gallery(key: str, jobs: Sequence[Job], chosen: Sequence[Ranked], cells: Cells, side: int) -> dict[str, Any]:
    split = "train" if key == "training" else "val"
    rows = [_row(jobs, getattr(jobs[0], split), item, cells, side, key) for item in chosen]
    order = ["image", *REFERENCES, *(job.method.label for job in jobs)]
    columns = [column for column in order if any(column in row.cells for row in rows)]
    heat = any(layer.heat for row in rows for layers in row.cells.values() for layer in layers)
    what = "Predictions" if key == "validation" else "Seed maps" if heat else "Pseudo-masks"
    name = dict(getattr(jobs[0], split).source).get("split") or "" if jobs else ""
    if any(item.score is not None for item in chosen):
        note = "The images on which the methods agree least, then a few spread evenly up to those where they agree. "
        note += "Agreement is the share of the pixels to which two methods give the same label, mean over pairs. "
    else:
        note = "Images spread evenly over the split. "
    if set(REFERENCES) & set(columns) and not heat:
        note += "On each picture: the mIoU of this image. "
    title_of = f"{what}: {name}".rstrip(": ")
    return {"key": key, "title": title_of, "note": note, "columns": columns, "rows": rows, "heat": heat}


def _row(jobs: Sequence[Job], dataset: Dataset, item: Ranked, cells: Cells, side: int, key: str) -> Row:
    found = {job.method.label: cells(job, item.name) for job in jobs}
    masks = {label: mask for label, (mask, _) in found.items() if mask is not None}
    maps = {label: entry for label, (_, entry) in found.items() if entry is not None}
    row = picture_row(item, dataset, dataset.labels, masks, maps, side)
    if key == "training" and row.tags is None:
        tags = dataset.tags(item.index) or ()
        row.tags = [(dataset.labels.names[value], css(dataset.labels.palette[value])) for value in tags]
    truth = dataset.mask(item.index) if dataset.has_mask(item.index) else None
    for label, mask in masks.items():
        score = None if truth is None or truth.shape != mask.shape else image_miou(mask, truth, dataset.labels)
        if score is not None:
            row.cells[label][0].caption = percent(score)
    return row


def _lead(jobs: Sequence[Job], result: dict[str, Any]) -> str:
    """What was compared, in a sentence."""
    data = next((job for job in jobs if job.val is not None), None)
    words = f"{len(result['methods'])} methods"
    if data is not None:
        words += f" on {data.recipe.data.root}"
    runs = len({job.recipe.random_seed for job in jobs if not job.method.folders})
    words += f", {runs} seeds of the generator each" if runs > 1 else ""
    words += f", up to {result['until']}." if result["until"] else "."
    cautions = dict.fromkeys(run["caution"] for row in result["methods"] for run in row["runs"] if run["caution"])
    return words + "".join(f" Models are measured {said}." for said in cautions)


def _table(result: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One line a method: each score with its interval and its gain over the first method, and costs."""
    rows = result["methods"]
    keys = [key for key in SCORES if any(key in row["scores"] for row in rows)]
    means = {key: [row["scores"][key]["mean"] for row in rows if key in row["scores"]] for key in keys}
    best, worst = ({key: pick(values) for key, values in means.items()} for pick in (max, min))
    table = []
    for row in rows:
        cells = []
        for key in keys:
            score = row["scores"].get(key)
            entry: dict[str, Any] = {"text": "–", "exact": None, "interval": "", "gain": "", "kind": "", "best": False}
            if score:
                low, high = ((score.get("gain") or 0) + sign * (score.get("gain_interval") or 0) for sign in (-1, 1))
                sure = score.get("gain_interval") is not None and (low > 0 or high < 0)
                entry |= {
                    "text": percent(score["mean"]),
                    "exact": score["mean"],
                    "interval": _plus_minus(score["interval"]),
                    "gain": "" if "gain" not in score else f"Δ {100 * score['gain']:+.1f}",
                    "gain_interval": _plus_minus(score.get("gain_interval")),
                    "kind": ("up" if low > 0 else "down") if sure else "",
                    "best": score["mean"] == best[key] > worst[key],
                }
            cells.append(entry)
        spent = row["cost"]
        table.append(
            {
                "label": row["label"],
                "source": " ".join([row["source"], *row["settings"]]),
                "runs": len(row["runs"]),
                "failed": len(row["failed"]),
                "reports": _reports(row["runs"], folder),
                "cells": cells,
                "costs": [
                    {
                        "exact": spent[part]["processor_seconds"],
                        "times": "–" if spent[part]["times"] is None else f"×{spent[part]['times']:.2f}",
                        "time": "" if spent[part]["processor_seconds"] is None
                        else content.duration(spent[part]["processor_seconds"]),
                    }
                    for part in ("masks", "all")
                ],
            }
        )  # fmt: skip
    return {
        "columns": [SCORES[key][0] for key in keys],
        "rows": table,
        "intervals": any(cell["interval"] for row in table for cell in row["cells"]),
    }


def _plus_minus(interval: float | None) -> str:
    return "" if interval is None else f"± {100 * interval:.1f}"


def _reports(runs: Sequence[dict[str, Any]], folder: Path) -> list[tuple[str, str]]:
    """Name and path, from the page, of the runs' own reports."""
    found = [(run["seed"], RunFolder(run["folder"]).report) for run in runs]
    there = [(seed, Path(os.path.relpath(path, folder)).as_posix()) for seed, path in found if path.is_file()]
    return [("report" if len(runs) == 1 else f"seed {seed}", path) for seed, path in there]


def _chart(result: dict[str, Any]) -> dict[str, Any] | None:
    """Every method's way from seeds to model on one axis."""
    keys = [key for key in CHARTED if any(key in row["scores"] for row in result["methods"])]
    rows = [
        (
            row["label"],
            "",
            [(SCORES[key][0], CHARTED[key], (row["scores"].get(key) or {}).get("mean")) for key in keys],
        )
        for row in result["methods"]
    ]
    if not keys:
        return None
    return {
        "svg": charts.dot_plot(rows, title="mIoU of each method"),
        "legend": [(SCORES[key][0], CHARTED[key]) for key in keys],
    }


def _cautions(jobs: Sequence[Job], runs: dict[str, RunContents], result: dict[str, Any]) -> list[dict[str, str]]:
    """What must be known before the numbers are compared: other images, other help, chance."""
    notes: list[dict[str, str]] = []

    def note(kind: str, head: str, text: str) -> None:
        notes.append({"kind": kind, "head": head, "text": text})

    for split, what in (("train", "maps and pseudo-masks"), ("val", "models")):
        sets: dict[str, list[str]] = {}
        for job in jobs:
            dataset = getattr(job, split)
            if dataset is not None:
                key = json.dumps(job.content.get(split))
                sets.setdefault(key, []).append(job.method.label)
        if len(sets) > 1:
            groups = "; ".join(", ".join(dict.fromkeys(labels)) for labels in sets.values())
            note("warn", "Not the same images", f"The {what} are evaluated on different images or labels: {groups}.")
    heads: dict[str, list[str]] = {}
    for label, run in runs.items():
        for entry in content.cautions(run):
            if entry["head"] in HELP:
                heads.setdefault(entry["head"], []).append(label)
    for head, labels in heads.items():
        everyone = len(labels) == len(runs)
        if head != "Trained from scratch" or everyone:
            text = "In all methods." if everyone else f"Only in {', '.join(labels)}; not in the others."
            note("fact" if everyone else "warn", head, text)
    counts = [score["runs"] for row in result["methods"] for score in row["scores"].values()]
    if counts and max(counts) == 1:
        text = "Differences of a point or two may be chance; random_seeds=0,1,2 gives intervals."
        note("warn", "One run of each", text)
    elif counts:
        text = "± is half the 95 % confidence interval over the runs (Student's t); gains are paired by random seed."
        note("fact", "Intervals", text)
    text = "Processor time of all stages as they were made, including stages shared between methods."
    note("fact", "Costs", text)
    order = {"warn": 0, "good": 1, "fact": 2}
    return sorted(notes, key=lambda entry: order[entry["kind"]])


def _classes(result: dict[str, Any], key: str, colours: dict[str, str]) -> dict[str, Any] | None:
    """IoU of each class by method, in the order of the classes; the best of each class is marked."""
    methods = [row for row in result["methods"] if row["per_class"][key]]
    if not methods:
        return None
    names = list(dict.fromkeys(name for row in methods for name in row["per_class"][key]))
    rows = []
    for name in names:
        values = [row["per_class"][key].get(name) for row in methods]
        known = [value for value in values if value is not None]
        cells = [
            {"text": percent(value), "exact": value, "best": value is not None and value == max(known) > min(known)}
            for value in values
        ]
        rows.append({"name": name, "colour": colours.get(name, ""), "cells": cells})
    return {"key": key, "title": SCORES[key][0], "columns": [row["label"] for row in methods], "rows": rows}


def _signs(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Signs that need no ground truth, of the last stage of each method's first run."""
    rows = []
    for row in result["methods"]:
        signs = next((run["signs"] for run in row["runs"] if run["signs"]), None)
        if signs:
            stage, found = list(signs.items())[-1]
            edges = "–" if found["edges"] is None else f"{found['edges']:.2f}"
            cells = [percent(found["kept"]), percent(found["exact"]), edges]
            cells += [str(found["nearly_nothing"]), str(found["nearly_everything"])]
            rows.append({"label": row["label"], "stage": title(stage), "cells": cells})
    return rows


def _differences(runs: dict[str, RunContents]) -> dict[str, Any] | None:
    recipes = {label: stored_recipe(run.folder) for label, run in runs.items() if run.recipe_text}
    rows = differences(recipes)
    if not rows:
        return None
    return {"columns": list(recipes), "rows": [(key, [row[label] for label in recipes]) for key, row in rows.items()]}


def _costs(result: dict[str, Any]) -> dict[str, Any] | None:
    """Processor time of every stage, of each method's first complete run."""
    found = {}
    for row in result["methods"]:
        run = next((run for run in row["runs"] if seconds(run, "all") is not None), None)
        if run is not None:
            found[row["label"]] = {name: stage["processor_seconds"] for name, stage in run["stages"].items()}
    places: dict[str, list[float]] = {}
    for spent in found.values():
        for place, name in enumerate(spent):
            places.setdefault(name, []).append(place / len(spent))
    stages = sorted(places, key=lambda name: sum(places[name]) / len(places[name]))
    rows = [
        (title(name), ["–" if name not in spent else content.duration(spent[name]) for spent in found.values()])
        for name in stages
    ]
    return {"columns": list(found), "rows": rows} if found else None
