"""A recipe, end to end.

Data flows one way: data -> (classifier -> seeds -> pseudo-masks) -> segmenter -> evaluation -> report. The weak stages
end in a folder of masks in PASCAL VOC layout; after it, training does not know where a mask came from.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from maskwright.engine import distributed
from maskwright.engine.device import half_type
from maskwright.files import atomic_write, read_json, write_json
from maskwright.inference.load import load
from maskwright.pipeline.expected import compare, compared_lines
from maskwright.pipeline.segment import measured_on
from maskwright.pipeline.stages import recipe_stages
from maskwright.recipe import dump_recipe
from maskwright.report import build_report, write_picture
from maskwright.runs.context import RunContext
from maskwright.runs.facts import run_facts
from maskwright.runs.stages import run_lock, run_stages
from maskwright.settings import Recipe
from maskwright.weak.seed_evaluation import FILE_NAME, evaluate_seeds, map_stages


def run(recipe: Recipe, *, until: str | None = None, say: Callable[[str], None] = print) -> Path:
    """Run a recipe, or go on with it where it was stopped.

    Args:
        recipe: what to do.
        until: name of the last stage to run; all by default.
        say: prints one line.

    Returns:
        The run folder.

    Raises:
        DataError: images, masks or tags cannot be used.
        RecipeError: settings that do not go together.
        TrainingStopped: training could not give a usable model.
    """
    distributed.initialise(recipe.device)
    main = distributed.is_main()
    if not main:
        say = _silent
    out = Path(recipe.out or f"runs/{recipe.name}")
    with run_lock(out) if main else nullcontext():
        context = RunContext(recipe, out, say)
        for block in (recipe.seeds, recipe.inference):
            half_type(block.autocast, context.device)  # what cannot be should be known before the work, not after it
        stages = recipe_stages(context, until)
        if main:
            with atomic_write(out / "recipe.yaml") as temporary:
                temporary.write_text(dump_recipe(recipe), encoding="utf-8")
            write_json(out / "run.json", run_facts(recipe))
        run_stages(stages, out, say)
        if main and any(stage.name == "pseudo_masks" for stage in stages):
            evaluate_maps(context)
        if main and until is None:
            finish(context)
    distributed.barrier()
    return out


def evaluate_maps(context: RunContext) -> None:
    """Write `seed_evaluation.json`, how good maps and pseudo-masks are stage by stage, where they are newer."""
    made, judged = context.out / "pseudo_masks" / "stage.json", context.out / FILE_NAME
    if judged.is_file() and judged.stat().st_mtime_ns > made.stat().st_mtime_ns:
        return
    threshold = read_json(made.with_name("scores.json"))["threshold"]
    settings = context.recipe.pseudo_masks.model_copy(update={"threshold": threshold})
    mine = {stage.name for stage in recipe_stages(context)}  # the folder may hold stages of an earlier recipe
    found = {name: folder for name, folder in map_stages(context.out).items() if name in mine}
    evaluate_seeds(context.train, found, settings, context.out)


def finish(context: RunContext) -> None:
    """Write `metrics.json`, the picture and the report, and print the result."""
    metrics: dict[str, Any] = {}
    pseudo = context.out / "pseudo_masks" / "scores.json"
    if context.recipe.supervision != "masks" and pseudo.is_file():
        metrics["pseudo_masks"] = {key: value for key, value in read_json(pseudo).items() if key != "sweep"}
    for key, name in (("segmenter", "evaluation"), ("oracle", "oracle_evaluation")):
        path = context.out / name / "metrics.json"
        if path.is_file() and (key != "oracle" or context.recipe.oracle):
            metrics[key] = read_json(path)
    with_maps = [stage.name for stage in recipe_stages(context) if (context.out / stage.name / "maps").is_dir()]
    judged = context.judged if with_maps else context.val
    compared = compare(context.recipe, context.out, judged, with_maps, metrics.get("segmenter"))
    if compared:
        metrics["expected"] = compared
    write_json(context.out / "metrics.json", metrics)
    predictor = load(context.out, device=context.device)
    picture = write_picture(context.out, context.train, predict=lambda image: predictor(image).mask)
    report = build_report(context.out, dataset_train=context.train, dataset_val=context.val)
    lines = summary_lines(metrics, context.recipe.supervision) + compared_lines(compared, context.recipe.source)
    for line in lines:
        context.say(line)
    context.say(f"picture: {picture}")
    context.say(f"report: {report}")


def summary_lines(metrics: dict[str, Any], supervision: str) -> list[str]:
    """The numbers of a run in words, each with what it was measured on."""
    lines = []
    pseudo, model, oracle = (metrics.get(key) for key in ("pseudo_masks", "segmenter", "oracle"))
    if pseudo and pseudo.get("miou") is not None:
        lines.append(
            f"pseudo-masks           mIoU {pseudo['miou']:.3f}  on {pseudo['split']} ({pseudo['images']} images)"
        )
    if model and model.get("miou") is not None:
        label = {"tags": "model from tags", "masks": "model from masks", "mixed": "model from both"}[supervision]
        lines.append(f"{label:<22} mIoU {model['miou']:.3f}  {measured_on(model)}")
    if oracle and oracle.get("miou") is not None:
        lines.append(
            f"same, from true masks  mIoU {oracle['miou']:.3f}  on {oracle['split']} ({oracle['images']} images)"
        )
    return lines


def _silent(line: str) -> None:
    """Processes other than the first do not speak."""
