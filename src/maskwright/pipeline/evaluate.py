"""Verbs on a finished run: score it on any data set with the same classes, or its seed maps, write its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maskwright.data.dataset import Dataset
from maskwright.data.shards.stores import is_remote
from maskwright.errors import DataError, RecipeError
from maskwright.files import read_json
from maskwright.recipe.load import apply_override, build_recipe
from maskwright.runs.contents import stored_recipe
from maskwright.runs.context import RunContext
from maskwright.runs.folder import MAPS, RunFolder
from maskwright.runs.stages import run_stages
from maskwright.settings import Recipe
from maskwright.settings.old_names import with_new_names


def evaluate_run(run_folder: Path, overrides: list[str], out: str | None = None, device: str = "auto") -> list[str]:
    """Score a trained model on a data set; by default on the one that its recipe names.

    Args:
        run_folder: a run folder, or a model file.
        overrides: `data=...`, `split=...` and any other setting of the recipe's `data` and `inference`.
        out: folder for `metrics.json` and the predictions; default `RUN/evaluations/<data>-<split>`.
        device: where to compute.

    Returns:
        A table as lines of text.

    Raises:
        DataError: other classes than the model's, or no ground truth.
    """
    from maskwright.engine import distributed
    from maskwright.inference.load import load
    from maskwright.inference.tag_agreement import tag_line
    from maskwright.pipeline.segment import evaluate_to_folder

    distributed.initialise(device)
    predictor = load(run_folder, device=device)
    recipe = recipe_with(predictor.metadata["recipe"], overrides)
    base = RunFolder(run_folder if run_folder.is_dir() else run_folder.parent)
    dataset = open_run_data(base, RunContext(recipe, base, lambda line: None), "val")
    check_classes(dataset, predictor, recipe)
    name = f"{Path(recipe.data.root).name or 'data'}-{recipe.data.val}".replace("/", "_")
    folder = Path(out) if out else base.evaluations / name
    scores, agreement = evaluate_to_folder(predictor, dataset, recipe.inference, folder)
    if scores is None:
        raise DataError(
            f"no image of {recipe.data.root}, split {recipe.data.val!r}, has a ground-truth mask to score against "
            "(masks that maskwright wrote do not count); give masks=FOLDER"
        )
    if not distributed.is_main():
        return []
    tags = [tag_line(agreement)] if agreement else []
    return [*score_table(scores), *tags, *_caution(dataset), f"written to {folder}"]


def judge_seeds(
    where: Path,
    overrides: list[str],
    *,
    threshold: str | None = None,
    split: str | None = None,
    stability: int = 0,
    out: str | None = None,
    device: str = "auto",
) -> list[str]:
    """Evaluate the seed maps of a run stage by stage, or those of one folder; see `weak.seed_evaluation`.

    Args:
        where: a run folder, a folder of `NAME.npz` maps, or a folder of pseudo-masks.
        overrides: `data=...`, where the images are now, and any other setting of the recipe's `data`, `seeds` and
            `pseudo_masks`.
        threshold: score of the background, or "best"; by default what the run's pseudo-masks were made with.
        split: the images that the maps are of; by default the recipe's training split.
        stability: number of images on which single views are compared; 0 leaves it out.
        out: folder for `seed_evaluation.json`; by default `where`, where the recipe's own settings are asked for, which
            the run's report then shows; otherwise `RUN/evaluations/seeds-<split>-<threshold>`.
        device: where the single views are computed.

    Returns:
        A table as lines of text.

    Raises:
        DataError: nothing to evaluate there, or maps that do not fit the data.
        RecipeError: stability without a run, or a threshold that cannot be.
    """
    from maskwright.pipeline.after import seed_evaluation_stage
    from maskwright.weak.seed_evaluation import evaluate_seeds, map_stages, table

    if not where.is_dir():
        raise DataError(f"{where} is no folder; expected a run, or a folder of maps or of pseudo-masks")
    run = RunFolder(where)
    fields = stored_recipe(run) if run.recipe.is_file() else {}
    if fields:
        stages = map_stages(run)
    elif not any(override.startswith("data=") for override in overrides):
        raise RecipeError(f"{where} is not a run: say which images its maps are of, with data=FOLDER (or data=scenes)")
    else:
        stages = {where.parent.name if where.name == MAPS else where.name: where}
    used = []
    if fields and "pseudo_masks" in stages and run.mask_scores.is_file():
        used = [f"pseudo_masks.threshold={read_json(run.mask_scores)['threshold']}"]
    given = [f"device={device}"]
    given += [] if threshold is None else [f"pseudo_masks.threshold={threshold}"]
    needed = ("data", "pseudo_masks", "seeds") if stability else ("data", "pseudo_masks")
    recipe = recipe_with(fields, [*used, *given, *overrides], needed)
    if split is not None:
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"train": split})})
    context = RunContext(recipe, run, lambda line: None)
    if fields and context.one_pass is not None:
        context = context.sampled  # the images that have maps as files
    dataset = open_run_data(run, context, "train") if fields else context.train
    extra = {}
    if stability:
        extra["stability"] = _stability(run, stages, dataset, recipe, stability)
    own = recipe_with(fields, used, needed) if fields else None
    if own is not None and out is None and _same_but_for_places(recipe, own):
        stage = seed_evaluation_stage(context, stages, recipe.pseudo_masks, **extra)
        run_stages([stage], run, context.say, anew=True)
        return [*table(read_json(run.seed_evaluation)), *_caution(dataset), f"written to {run}"]
    named = f"seeds-{recipe.data.train}-{recipe.pseudo_masks.threshold}".replace("/", "_")
    folder = Path(out) if out else run.evaluations / named if fields else where
    result = evaluate_seeds(dataset, stages, recipe.pseudo_masks, folder, **extra)
    return [*table(result), *_caution(dataset), f"written to {folder}"]


def _same_but_for_places(recipe: Recipe, own: Recipe) -> bool:
    """Whether a run's maps are to be evaluated by its own settings, wherever its images are now."""
    places = {"root", "masks", "tags", "saliency"}
    data = [one.data.model_dump(exclude=places) for one in (recipe, own)]
    return data[0] == data[1] and recipe.pseudo_masks == own.pseudo_masks


def _stability(
    run: RunFolder, stages: dict[str, Path], dataset: Dataset, recipe: Recipe, sample: int
) -> dict[str, Any]:
    from maskwright.engine.device import choose_device
    from maskwright.models.classifier import load_classifier
    from maskwright.weak.seed_signs import stability

    if "seeds" not in stages:
        raise RecipeError(f"stability needs the network that the seeds come from: give a run folder, found {run}")
    threshold = recipe.pseudo_masks.threshold
    if isinstance(threshold, str):
        raise RecipeError("stability needs a threshold; give threshold=NUMBER")
    device = choose_device(recipe.device)
    source = read_json(run.record("seeds"))["needs"][0]
    network = load_classifier(run.model(source)).to(device)
    return stability(dataset, network, recipe.seeds, device, threshold=threshold, sample=sample)


def _caution(dataset: Dataset) -> list[str]:
    from maskwright.data.provenance import against

    return [f"measured {said}"] if (said := against(dataset.source)) else []


def score_table(scores: dict[str, Any]) -> list[str]:
    """Scores as lines: per class, then the means; a class that neither ground truth nor prediction has is left out."""
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
        lines.append(f"neither in the ground truth nor predicted, left out of the mean: {', '.join(scores['absent'])}")
    return lines


def report_run(run_folder: Path, overrides: list[str] | None = None) -> Path:
    """Write a run's report again.

    Args:
        run_folder: of a run.
        overrides: `data=...`, where the images are now, and any other setting of the recipe's `data`.

    Raises:
        DataError: not a run folder, or images that are no longer where they were.
    """
    from maskwright.report import build_report

    run = RunFolder(run_folder)
    context = RunContext(recipe_with(stored_recipe(run), overrides or [], ("data",)), run, lambda line: None)
    train, val = (open_run_data(run, context, split) for split in ("train", "val"))
    return build_report(run, dataset_train=train, dataset_val=val)


def open_run_data(run: RunFolder, context: RunContext, split: str) -> Any:
    """The split `train` or `val` of a run that was made before.

    Raises:
        DataError: it cannot be opened; where its folder is gone, the message says how to name the new place.
    """
    try:
        return getattr(context, split)
    except DataError as error:
        root = Path(context.recipe.data.root)
        if root.exists() or is_remote(context.recipe.data.root):
            raise
        said = str(error).rstrip(".")
        raise DataError(f"{said}. The images of {run} were in {root}; say where they are now: data=FOLDER") from error


def check_classes(dataset: Dataset, predictor: Any, recipe: Recipe) -> None:
    """Refuse images with other classes than a model's.

    Raises:
        DataError: their names differ; the message lists both.
    """
    if dataset.labels.names != predictor.labels.names:
        raise DataError(
            f"{recipe.data.root} has the classes {', '.join(dataset.labels.names)}; the model was trained on "
            f"{', '.join(predictor.labels.names)}. Give classes= and label_map= so that they agree"
        )


def recipe_with(fields: dict[str, Any], overrides: list[str], keep: tuple[str, ...] = ("data", "inference")) -> Recipe:
    """What of a stored recipe says how to evaluate, with overrides applied; the rest may be from another version."""
    stored = with_new_names(fields)
    kept: dict[str, Any] = {key: stored[key] for key in keep if key in stored}
    if "masks_are" in kept.get("data", {}) and any(o.startswith(("masks=", "data.masks=")) for o in overrides):
        kept["data"] = {**kept["data"], "masks_are": None}  # it was said of other masks
    for override in overrides:
        apply_override(kept, override)
    return build_recipe(kept, source="evaluate")
