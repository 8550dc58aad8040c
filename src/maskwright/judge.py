"""Verbs on a finished run: score it on any data set with the same classes, write its report anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from maskwright.config import Recipe, apply_override, build_recipe
from maskwright.errors import DataError


def evaluate_run(run_folder: Path, overrides: list[str], out: str | None = None) -> list[str]:
    """Score a trained model on a data set; by default on the one that its recipe names.

    Args:
        run_folder: a run folder, or a model file.
        overrides: `data=...`, `split=...` and any other setting of the recipe's `data` and `inference`.
        out: folder for `metrics.json` and the predictions; default `RUN/evaluations/<data>-<split>`.

    Returns:
        A table as lines of text.

    Raises:
        DataError: other classes than the model's, or no true masks.
    """
    from maskwright.data import open_dataset
    from maskwright.engine import distributed
    from maskwright.hub import load
    from maskwright.segment import evaluate_to_folder

    distributed.initialise("auto")
    predictor = load(run_folder)
    recipe = recipe_with(predictor.metadata["recipe"], overrides)
    dataset = open_dataset(recipe.data, recipe.data.val)
    if dataset.labels.names != predictor.labels.names:
        raise DataError(
            f"{recipe.data.root} has the classes {', '.join(dataset.labels.names)}; the model was trained on "
            f"{', '.join(predictor.labels.names)}. Give classes= and label_map= so that they agree"
        )
    name = f"{Path(recipe.data.root).name or 'data'}-{recipe.data.val}".replace("/", "_")
    base = run_folder if run_folder.is_dir() else run_folder.parent
    folder = Path(out) if out else base / "evaluations" / name
    scores = evaluate_to_folder(predictor, dataset, recipe.inference, folder)
    if scores is None:
        raise DataError(f"no image of {recipe.data.root}, split {recipe.data.val!r}, has a true mask to score against")
    if not distributed.is_main():
        return []
    return [*score_table(scores), f"written to {folder}"]


def score_table(scores: dict[str, Any]) -> list[str]:
    """Scores as lines: per class, then the means; a class that neither truth nor prediction has is left out."""
    lines = [f"{'class':<20}{'IoU':>8}{'F1':>8}{'prec.':>8}{'recall':>8}"]
    for name, row in scores["per_class"].items():
        cells = "".join(
            f"{'-' if row[key] is None else format(row[key], '.3f'):>8}" for key in ("iou", "f1", "precision", "recall")
        )
        lines.append(f"{name:<20}{cells}")
    lines.append(
        f"mIoU {scores['miou']:.4f}   pixel accuracy {scores['pixel_accuracy']:.4f}   "
        f"{scores['images']} images of split {scores['split']}"
    )
    if scores["absent"]:
        lines.append(f"not in the set and not predicted, left out of the mean: {', '.join(scores['absent'])}")
    return lines


def report_run(run_folder: Path) -> Path:
    """Write a run's report anew.

    Raises:
        DataError: not a run folder.
    """
    from maskwright.data import open_dataset
    from maskwright.report import build_report

    path = run_folder / "recipe.yaml"
    if not path.is_file():
        raise DataError(f"{run_folder} is not a run folder: {path} does not exist")
    data = recipe_with(yaml.safe_load(path.read_text(encoding="utf-8")), []).data
    return build_report(
        run_folder, dataset_train=open_dataset(data, data.train), dataset_val=open_dataset(data, data.val)
    )


def recipe_with(fields: dict[str, Any], overrides: list[str]) -> Recipe:
    """What of a stored recipe says how to judge, with overrides applied; the rest may be from another version."""
    kept: dict[str, Any] = {key: fields[key] for key in ("data", "inference") if key in fields}
    for override in overrides:
        apply_override(kept, override)
    return build_recipe(kept, source="evaluate")
