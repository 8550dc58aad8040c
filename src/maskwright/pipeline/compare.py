"""Any list of methods on one data set, and one page with all of them side by side on the same images.

A method is a recipe with its own settings, run here, or runs that are finished. Each run is an ordinary one in a folder
of its own: it can be gone on with, looked at and reported like any other. What two of them have in common is made once.
"""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from maskwright.data.provenance import REFERENCES
from maskwright.errors import DataError, MaskwrightError, RecipeError, unknown_name
from maskwright.files import read_json, write_json
from maskwright.pipeline.after import after_stages
from maskwright.pipeline.check import check_settings
from maskwright.pipeline.run import run
from maskwright.pipeline.stages import recipe_stages
from maskwright.recipe.load import load_recipe, recipe_names
from maskwright.runs.contents import stored_recipe
from maskwright.runs.context import RunContext
from maskwright.runs.folder import SEED_EVALUATION, RunFolder
from maskwright.runs.lock import run_lock
from maskwright.runs.methods import Job, Method, folder_name
from maskwright.runs.stages import Stage, effective, making, run_stages, states
from maskwright.runs.taking_over import share_stages
from maskwright.settings import Recipe
from maskwright.settings.old_names import new_name

SETTING = re.compile(r"[\w.]+=")
LABEL = re.compile(r"([^={\[]*?):\s+(.*)", re.DOTALL)
RESERVED = ("image", *REFERENCES)  # columns of the page


def read_method(text: str) -> Method:
    """A method as it is typed: `[LABEL: ]RECIPE [key=value ...]`, or `[LABEL: ]RUN`.

    RECIPE is a name or a YAML file, RUN a run folder or a pattern (`runs/cam-*`) for one method's runs with several
    seeds. A recipe goes before a folder of the same name. Without a label a recipe is called by what was typed, a run
    by its folder.

    Raises:
        RecipeError: neither a recipe nor a run, or settings for a finished run.
    """
    found = LABEL.fullmatch(text.strip())
    label, rest = (found[1].strip(), found[2]) if found else ("", text.strip())
    source, *settings = re.split(r"\s+(?=[\w.]+=)", rest.strip())
    if source in recipe_names() or source.endswith((".yaml", ".yml")):
        if refused := [one for one in settings if new_name(one.partition("=")[0]) in ("out", "random_seed")]:
            raise RecipeError(f"{refused[0]} of {text!r}: give out= and random_seeds= for all methods together")
        named = source if source in recipe_names() else Path(source).stem
        return Method(label or " ".join([named, *settings]), source, tuple(settings))
    folders = sorted(map(Path, glob.glob(source))) if glob.has_magic(source) else [Path(source)]
    folders = [folder for folder in folders if RunFolder(folder).recipe.is_file()]
    if not folders:
        if Path(source).is_dir():
            raise RecipeError(f"{source} is not a run folder: it has no recipe.yaml")
        raise RecipeError(unknown_name("recipe or run folder", source, recipe_names()))
    if settings:
        raise RecipeError(f"{source} is a finished run, which {' '.join(settings)} cannot change; give a recipe")
    return Method(label or Path(source).name, source, folders=tuple(folders))


def compare(
    arguments: Sequence[str],
    *,
    out: str | Path = "runs/compare",
    random_seeds: str | Sequence[int] | None = None,
    until: str | None = None,
    images: int = 12,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Run methods, or read their finished runs; write `compare.html` and `compare.json`; resumes where it stopped.

    Args:
        arguments: methods as `read_method` has them, and `key=value` settings that apply to all; a method's own go
            before them. Of finished runs only `data` can be set, to say where their images are now.
        out: folder; each run gets one of its own in it.
        random_seeds: with commas between or as numbers: one run of each recipe for each; by default the
            recipe's own.
        until: the last stage to run, such as `pseudo_masks`; all by default.
        images: number of training and of validation images that are shown.
        say: prints one line.

    Returns:
        What is written to `compare.json`; see `compare_results.summary`. A run that failed has its message there, and
        the others go on.

    Raises:
        RecipeError: no method, two with one name, an unknown recipe or setting.
        MaskwrightError: another process works in the folder.
    """
    import torch

    from maskwright.engine import distributed
    from maskwright.report.compare import build_comparison
    from maskwright.runs.results import summary

    overrides = [argument for argument in arguments if SETTING.match(argument)]
    methods = [read_method(argument) for argument in arguments if not SETTING.match(argument)]
    _check(methods)
    out = Path(out)
    jobs = _jobs(methods, overrides, out, _whole_numbers(random_seeds))
    distributed.initialise(jobs[0].recipe.device)
    main = distributed.is_main()
    say = say if main else _silent
    given = sorted({folder for method in methods for folder in method.folders})
    if main:
        _check_wordss(jobs, until)
    with run_lock(out) if main else nullcontext():
        for number, job in enumerate(jobs, start=1):
            say(f"== {number}/{len(jobs)}: {job.method.label}, seed {job.recipe.random_seed}")
            others = [*(child for child in sorted(out.iterdir()) if RunFolder(child).recipe.is_file()), *given]
            steps = (partial(_make, job, until, others, say), partial(_judge, job, jobs, out / "judged", say))
            for step in steps:  # what was made before a failure is still evaluated
                try:
                    step()
                except (MaskwrightError, torch.OutOfMemoryError) as error:
                    job.error = job.error or str(error)
                    say(f"failed: {error}")
        result: dict[str, Any] = {}
        if main:
            result = summary(jobs, methods, until)
            result["pictures"] = build_comparison(jobs, result, out / "compare.html", images)
            write_json(out / "compare.json", result)
        result = distributed.broadcast(result)
    return result


def _whole_numbers(random_seeds: str | Sequence[int] | None) -> list[int]:
    given = random_seeds.split(",") if isinstance(random_seeds, str) else random_seeds or []
    try:
        return list(dict.fromkeys(map(int, given)))
    except ValueError:
        raise RecipeError(
            f"random_seeds must be whole numbers with commas between, as in random_seeds=0,1,2; found {random_seeds}"
        ) from None


def _check(methods: Sequence[Method]) -> None:
    if not methods:
        raise RecipeError("no method is given; expected recipes or run folders, as in: maskwright compare cam recam")
    twice = [label for label, count in Counter(method.label for method in methods).items() if count > 1]
    if twice:
        raise RecipeError(f"two methods are called {twice[0]!r}; give one another name: 'NAME: RECIPE key=value'")
    same = [name for name, count in Counter(folder_name(method.label) for method in methods).items() if count > 1]
    if same:
        raise RecipeError(f"two methods would get the folder {same[0]}; give labels that differ in letters or digits")
    if taken := [method.label for method in methods if method.label in RESERVED]:
        raise RecipeError(
            f"a method cannot be called {taken[0]!r}, which is a column of the page; choose another label"
        )


def _check_wordss(jobs: Sequence[Job], until: str | None) -> None:
    """Refuse to begin where a recipe cannot be run as it is written; one whose data fail is told of in its turn.

    Raises:
        RecipeError: as `check_settings`; the message names the method.
        DataError: a recipe does not say which images.
    """
    first = {job.method.label: job for job in reversed(jobs) if not job.method.folders}
    for label, job in first.items():
        try:
            check_settings(RunContext(job.recipe, job.folder, _silent), until)
        except RecipeError as error:
            raise RecipeError(f"{label}: {error}") from error
        except DataError:
            if not job.recipe.data.root:  # a word that was forgotten, not data that are gone
                raise


def _jobs(methods: Sequence[Method], overrides: Sequence[str], out: Path, seeds: list[int]) -> list[Job]:
    """All runs, those of the first seed first; every recipe is read before the first is run.

    Raises:
        RecipeError: an unknown setting, or a recipe that cannot be.
    """
    rows: list[list[Job]] = []
    for method in methods:
        if method.folders:
            rows.append([Job(method, _stored(folder, overrides), RunFolder(folder)) for folder in method.folders])
            continue
        recipe = load_recipe(method.source, [*overrides, *method.settings])
        rows.append([])
        for seed in seeds or [recipe.random_seed]:
            folder = out / (folder_name(method.label) + (f"-{seed}" if seeds else ""))
            copy = recipe.model_copy(update={"name": method.label, "out": str(folder), "random_seed": seed})
            rows[-1].append(Job(method, copy, RunFolder(folder)))
    return [row[place] for place in range(max(map(len, rows))) for row in rows if place < len(row)]


def _stored(folder: Path, overrides: Sequence[str]) -> Recipe:
    """Which images a finished run is about, and how its maps are evaluated."""
    from maskwright.pipeline.evaluate import recipe_with
    from maskwright.recipe.load import SHORT_KEYS

    fields = stored_recipe(RunFolder(folder))
    keys = [(override, override.partition("=")[0]) for override in overrides]
    chosen = [override for override, key in keys if SHORT_KEYS.get(key, key).startswith("data.")]
    kept = ("name", "supervision", "random_seed", "device", "data", "expected_split", "pseudo_masks")
    return recipe_with(fields, chosen, kept)


def _make(job: Job, until: str | None, others: Sequence[Path], say: Callable[[str], None]) -> None:
    """Run what is not finished yet, and note what the folder then has."""
    from maskwright.engine import distributed

    if job.method.folders:
        job.done = {name for name, record in job.folder.records().items() if record["finished"]}
        if not job.done:
            raise DataError(f"{job.folder} has no finished stage; resume it: maskwright run {job.folder.recipe}")
    else:
        context = RunContext(job.recipe, job.folder, _silent)
        stages, asked = recipe_stages(context), recipe_stages(context, until)
        try:
            if distributed.is_main():
                with run_lock(job.folder):
                    context.digests.save()
                    share_stages(asked, job.folder, others, say)
            distributed.barrier()
            complete = distributed.is_main() and _complete(context, asked, whole=until is None)
            if distributed.broadcast(complete):
                say("done already")
            else:
                run(job.recipe, until=until, say=say)
        finally:
            job.done = distributed.broadcast(_finished(stages, job.folder))


def _finished(stages: list[Stage], folder: RunFolder) -> set[str]:
    return {name for name, state in states(stages, folder).items() if state.word == "finished"}


def _complete(context: RunContext, stages: list[Stage], *, whole: bool) -> bool:
    """Whether a run has nothing left to do: every stage is finished, and all that is made of them."""
    if len(_finished(stages, context.out)) < len(stages):
        return False
    after = after_stages(context.sampled, stages, whole=whole)
    return len(_finished(after, context.out)) == len(after)


def _judge(job: Job, jobs: Sequence[Job], folder: Path, say: Callable[[str], None]) -> None:
    """Evaluate the maps of a run stage by stage; again only where maps, images or thresholds changed."""
    from maskwright.engine import distributed
    from maskwright.weak.seed_evaluation import evaluate_seeds, map_stages

    if not job.done:
        return
    opened = RunContext(job.recipe, job.folder, _silent)
    _check_classes(job, opened.val.labels.names, jobs)
    job.val, job.content["val"] = opened.val, opened.val_facts
    if not job.done & {"seeds", "pseudo_masks"}:
        return
    job.train, job.content["train"] = opened.judged, opened.facts_of(opened.judged)
    stages = {name: where for name, where in map_stages(job.folder).items() if name in job.done}
    settings = job.recipe.pseudo_masks
    if "pseudo_masks" in stages:
        used = read_json(job.folder.mask_scores)["threshold"]
        settings = settings.model_copy(update={"threshold": used})

    def work(where: Path) -> None:
        if distributed.is_main():
            evaluate_seeds(opened.judged, stages, settings, where)

    records = job.folder.records()
    facts = {
        "maps": {name: making(records[name]) for name in stages},
        "settings": effective(settings),
        "data": job.content["train"],
    }
    run_stages([Stage(job.name, f"evaluate the maps of {job.method.label}", work, facts)], folder, say)
    job.judged = read_json(folder / job.name / SEED_EVALUATION)


def _check_classes(job: Job, names: tuple[str, ...], jobs: Sequence[Job]) -> None:
    first = next(((other.method.label, other.val.labels.names) for other in jobs if other.val is not None), None)
    if first is not None and names != first[1]:
        job.done = set()
        raise DataError(
            f"{job.folder} has the classes {', '.join(names)}; {first[0]} has {', '.join(first[1])}. "
            "Only runs with the same classes stand side by side"
        )


def _silent(line: str) -> None:
    """Processes other than the first do not speak."""
