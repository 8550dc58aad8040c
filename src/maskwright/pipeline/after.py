"""What is made after a run, for people: how good its maps are, its scores, its picture and its report.

Stages like the others, but their results lie in the run folder itself and are written over where they are stale.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from maskwright.data.decisions import in_words
from maskwright.engine import distributed
from maskwright.files import read_json, write_json
from maskwright.inference.load import load
from maskwright.pipeline.expected import compare
from maskwright.recipe import dump_recipe
from maskwright.report import build_report, write_picture
from maskwright.runs.context import RunContext
from maskwright.runs.stages import Stage, effective, fingerprint, making
from maskwright.settings import MaskSettings
from maskwright.version import __version__
from maskwright.weak.seed_evaluation import evaluate_seeds, map_stages

SEED_EVALUATION = "seed_evaluation"


def after_stages(context: RunContext, stages: Sequence[Stage], *, whole: bool, page: bool = False) -> list[Stage]:
    """What is to be made of stages that are finished.

    Args:
        context: of the run.
        stages: of the recipe, up to the last that was asked for.
        whole: all of them were asked for.
        page: also make picture and report of a part of them, which ends with pseudo-masks.

    Raises:
        DataError: a record or a score is not JSON.
    """
    names = {stage.name for stage in stages}  # the folder may hold stages of an earlier recipe
    found = []
    if "pseudo_masks" in names:
        used = read_json(context.out.mask_scores)["threshold"]
        settings = context.recipe.pseudo_masks.model_copy(update={"threshold": used})
        folders = {name: folder for name, folder in map_stages(context.out).items() if name in names}
        found.append(seed_evaluation_stage(context, folders, settings))
    if whole or page:
        needs = tuple(stage.name for stage in found)
        made = {name: making(record) for name, record in context.out.records().items() if name in names}
        scores = [_scores_stage(context, made, needs)] if whole else []
        needs += tuple(stage.name for stage in scores)
        found += [*scores, _report_stage(context, made, needs, whole=whole)]
    return found


def seed_evaluation_stage(context: RunContext, folders: dict[str, Path], settings: MaskSettings, **extra: Any) -> Stage:
    """Maps and pseudo-masks of the training split evaluated stage by stage.

    Args:
        context: of the run.
        folders: what is evaluated, as `map_stages` gives it.
        settings: with the threshold that the pseudo-masks were made with.
        **extra: further parts of the file.
    """

    def work(folder: Path) -> None:
        if distributed.is_main():
            evaluate_seeds(context.train, folders, settings, folder, **extra)

    records = context.out.records()
    facts = {
        "maps": {name: making(records[name]) for name in folders},
        "settings": effective(settings),
        "data": context.train_facts,
    }
    return Stage(SEED_EVALUATION, "evaluate the maps", work, facts, files=(context.out.seed_evaluation,))


def _scores_stage(context: RunContext, made: dict[str, str], needs: tuple[str, ...]) -> Stage:
    recipe = context.recipe
    with_maps = [name for name in made if name in recipe.expected and context.out.maps(name).is_dir()]
    facts = {"made": made, "recipe": [recipe.expected, recipe.tolerance, recipe.supervision, recipe.fully_supervised]}
    if with_maps and recipe.expected_split is not None:
        facts["data"] = context.facts_of(context.judged)
    return Stage("scores", "scores", partial(_scores, context, with_maps), facts, needs, files=(context.out.metrics,))


def _scores(context: RunContext, with_maps: Sequence[str], folder: Path) -> None:
    if not distributed.is_main():
        return
    out, recipe = context.out, context.recipe
    metrics: dict[str, Any] = {}
    if recipe.supervision != "masks" and out.mask_scores.is_file():
        metrics["pseudo_masks"] = {key: value for key, value in read_json(out.mask_scores).items() if key != "sweep"}
    for key, name in (("segmenter", "evaluation"), ("oracle", "oracle_evaluation")):
        if out.evaluation(name).is_file() and (key != "oracle" or recipe.fully_supervised):
            metrics[key] = read_json(out.evaluation(name))
    if context.reviewed:
        metrics["reviewed"] = in_words(context.reviewed)
    # The evaluation of the maps has read them all already, where it was of the same images.
    known = read_json(out.seed_evaluation) if with_maps and recipe.expected_split is None else None
    dataset = context.judged if with_maps else context.val
    compared = compare(recipe, out, dataset, with_maps, metrics.get("segmenter"), known)
    if compared:
        metrics["expected"] = compared
    write_json(out.metrics, metrics)


def _report_stage(context: RunContext, made: dict[str, str], needs: tuple[str, ...], *, whole: bool) -> Stage:
    facts = {
        "made": made,
        "recipe": fingerprint(dump_recipe(context.recipe)),
        "data": [context.train_facts, context.val_facts if whole else None],
        "version": __version__,
    }
    files = (context.out.picture, context.out.report)
    return Stage("report", "picture and report", partial(_report, context, whole), facts, needs, files=files)


def _report(context: RunContext, whole: bool, folder: Path) -> None:
    if not distributed.is_main():
        return
    if not whole:
        write_picture(context.out, context.train)
        build_report(context.out, dataset_train=context.train)
        return
    predictor = load(context.out, device=context.device)
    write_picture(context.out, context.train, predict=lambda image: predictor(image).mask)
    build_report(context.out, dataset_train=context.train, dataset_val=context.val)
