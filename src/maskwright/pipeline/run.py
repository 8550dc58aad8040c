"""A recipe, end to end.

Data flows one way: data -> (classifier -> seeds -> pseudo-masks) -> segmenter -> evaluation -> report. The weak stages
end in a folder of masks in PASCAL VOC layout; after it, training does not know where a mask came from.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from maskwright.data.decisions import in_words
from maskwright.engine import distributed
from maskwright.errors import MaskwrightError, RecipeError
from maskwright.files import atomic_write, read_json, write_json
from maskwright.pipeline.after import after_stages
from maskwright.pipeline.check import check_run
from maskwright.pipeline.expected import compared_lines
from maskwright.pipeline.preview import previewed
from maskwright.pipeline.segment import measured_on
from maskwright.pipeline.stages import recipe_stages
from maskwright.recipe import dump_recipe
from maskwright.report.verdict import read_verdict
from maskwright.runs.contents import read_run
from maskwright.runs.context import RunContext
from maskwright.runs.facts import run_facts
from maskwright.runs.lock import run_lock
from maskwright.runs.sharing import remember
from maskwright.runs.stages import run_stages, states
from maskwright.settings import Recipe
from maskwright.weak.one_pass.stage import label_job, named_failures, share_parts

FIRST, LAST = "first", "last"  # tasks of an array's job: before all others, and after them


def run(
    recipe: Recipe,
    *,
    until: str | None = None,
    page: bool = False,
    sharing: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Run a recipe, or resume it where it was stopped; the maps of a frozen backbone are deleted when all is finished.

    Args:
        recipe: what to do.
        until: name of the last stage to run; all by default.
        page: of a run that ends with pseudo-masks, keep a preview while it goes on, and end with its report.
        sharing: label all images in one pass, part by part, with maps as files of a sample alone, and what is said of
            that, by the names of `runs.sharing.Sharing`; sets of shards, and a run that was begun so, are in any case.
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
    task = None if sharing is None else sharing.get("task")
    if sharing is not None and task == LAST:  # what is left, and the sum
        sharing = {**sharing, "engine": "local", "task": None}
    if sharing is not None and recipe.supervision == "masks":
        raise RecipeError(f"engine= shares labelling, and recipe {recipe.name} is trained on masks")
    context = RunContext(recipe, out, say, sharing)
    if task == FIRST:
        until, page = recipe_stages(context, "pseudo_masks")[-2].name, False
    elif task not in (None, LAST):
        return one_task(context)
    start = check_run(context, until) if main else None
    stages = recipe_stages(context, until)
    with run_lock(out) if main else nullcontext():
        if start is not None:
            for line in start.lines:
                say(line)
            if start.record:
                write_json(context.out.data_check, start.record)
            with atomic_write(context.out.recipe) as temporary:
                temporary.write_text(dump_recipe(recipe), encoding="utf-8")
            write_json(context.out.facts, run_facts(recipe))
            if context.one_pass is not None:
                remember(context.out, context.one_pass)
            context.digests.save()
            if context.reviewed:
                trains = any(stage.name == "segmenter" for stage in stages)
                used = "the segmenter learns from that" if trains else "maskwright run and export go by that"
                say(f"review     {in_words(context.reviewed)}; {used}")
        with previewed(context.sampled, stages, say) if page and main else nullcontext(say) as tell:
            run_stages(stages, out, tell)
            run_stages(after_stages(context.sampled, stages, whole=until is None, page=page), out, tell, made=stages)
        if main:
            context.digests.save()
        if main and until is None and context.out.features.is_dir():
            shutil.rmtree(context.out.features)
        if until is None:
            metrics = read_json(context.out.metrics)
            compared = compared_lines(metrics.get("expected", []), recipe.source)
            for line in summary_lines(metrics, recipe.supervision) + compared:
                say(line)
        if until is None or page:
            if found := read_verdict(read_run(context.out)):
                say(found.line)
            say(f"picture: {context.out.picture}")
            say(f"report: {context.out.report.resolve().as_uri() if page else context.out.report}")
    distributed.barrier()
    return out


def one_task(context: RunContext) -> Path:
    """One task of an array that labels parts: `i/N` of the engine `task`; it waits for nobody and ends nothing.

    Any number may run at once, beside each other alone: the networks must be trained, and the figures of the set are
    summed afterwards, by the run itself.

    Raises:
        RecipeError: stages before the labelling are not finished.
        MaskwrightError: parts of this task could not be labelled.
    """
    sharing = context.one_pass
    assert sharing is not None
    stages = recipe_stages(context, "pseudo_masks")
    unfinished = [name for name, state in states(stages, context.out).items() if state.word != "finished"][:-1]
    if unfinished:
        raise RecipeError(
            f"task={sharing.task} labels with networks that are trained, and {unfinished[0]} is not finished in "
            f"{context.out}; give the same command once with task={FIRST}, then the tasks, then task={LAST} for the sum"
        )
    job = label_job(context, context.out.pseudo_masks)
    share_parts(job)
    failed = [part for part in job.parts if not job.is_done(part)]
    if failed:
        raise MaskwrightError(f"{len(failed)} parts could not be labelled: {named_failures(job, failed)}")
    return Path(context.out)


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
    if metrics.get("reviewed"):
        lines.append(f"people reviewed the masks that it learned from: {metrics['reviewed']}")
    if oracle and oracle.get("miou") is not None:
        lines.append(
            f"fully supervised       mIoU {oracle['miou']:.3f}  on {oracle['split']} ({oracle['images']} images)"
        )
    return lines


def _silent(line: str) -> None:
    """Processes other than the first do not speak."""
