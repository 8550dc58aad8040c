"""A finished run against the numbers that its recipe expects, or another run's: which stage went off first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from maskwright.errors import RecipeError
from maskwright.files import read_json
from maskwright.pipeline.evaluate import open_run_data, recipe_with
from maskwright.pipeline.expected import compare, compared_lines
from maskwright.recipe.load import load_recipe, recipe_names
from maskwright.runs.contents import stored_recipe
from maskwright.runs.context import RunContext
from maskwright.runs.folder import RunFolder
from maskwright.settings import Recipe

# Of a recipe, what says where and how well, and not what is done.
ELSEWHERE = (
    "data",
    "out",
    "device",
    "notes",
    "source",
    "expected",
    "tolerance",
    "expected_split",
    "random_seed",
    "name",
)
MOST_LISTED = 12


def verify(where: Path, overrides: Sequence[str], *, against: str | None = None) -> tuple[list[str], bool]:
    """Compare each stage of a run with what is expected of it.

    Args:
        where: the run folder.
        overrides: `data=...`, where the images are elsewhere now, `expected={...}` and `tolerance=...`.
        against: another run, whose numbers are then expected.

    Returns:
        The comparison in words, and whether every stage that could be judged agrees.

    Raises:
        RecipeError: nothing is expected, or nothing of what is can be judged.
        DataError: no run, or its images are gone.
    """
    run, fields = RunFolder(where), stored_recipe(RunFolder(where))
    recipe = recipe_with(fields, list(overrides), tuple(fields))
    source = recipe.source or f"what {recipe.name} expects"
    if against is not None:
        recipe = recipe.model_copy(update={"expected": _numbers(RunFolder(against), recipe)})
        source = against
    if not recipe.expected:
        raise RecipeError(
            f"recipe {recipe.name} expects no numbers; give them, as in expected={{seeds: 0.55, miou: 0.68}}, or a run "
            "that went well: against=RUN"
        )
    rows = _compared(run, recipe)
    lines = compared_lines(rows, source)
    judged = {row["stage"] for row in rows}
    if left := [f"{name} {value:g}" for name, value in recipe.expected.items() if name not in judged]:
        lines.append(f"not judged here, for want of a stage or of masks: {', '.join(left)}")
    if not rows:
        raise RecipeError(f"{run} has no stage, with masks to judge it by, of which a number is expected: {lines[-1]}")
    off = next((row for row in rows if not row["agrees"]), None)
    lines += _first_off(run, rows, off) if off else [f"{len(rows)} of {len(rows)} agree"]
    lines += list(_changed(recipe)) if off else []
    return lines, off is None


def _compared(run: RunFolder, recipe: Recipe) -> list[dict[str, Any]]:
    """Rows of `expected.compare`, of the stages that are finished."""
    records = run.records()
    maps = [name for name, record in records.items() if record["finished"] and run.maps(name).is_dir()]
    context = RunContext(recipe, run, _silent)
    with_maps = [name for name in maps if name in recipe.expected]
    same = recipe.expected_split is None and run.seed_evaluation.is_file()
    known = read_json(run.seed_evaluation) if with_maps and same else None
    if known is not None:
        with_maps = [name for name in with_maps if name in known["stages"]]
    score = run.evaluation("evaluation")
    model = read_json(score) if score.is_file() else None
    dataset = context.judged if with_maps and known is None else open_run_data(run, context, "train")
    return compare(recipe, run, dataset, with_maps, model, known)


def _numbers(run: RunFolder, like: Recipe) -> dict[str, float]:
    """What another run found of every stage that could be judged."""
    fields = stored_recipe(run)
    recipe = recipe_with(fields, [], tuple(fields))
    stages = [*run.records(), "miou"]
    recipe = recipe.model_copy(update={"expected": dict.fromkeys(stages, 0.0), "expected_split": like.expected_split})
    return {row["stage"]: row["found"] for row in _compared(run, recipe)}


def _first_off(run: RunFolder, rows: Sequence[Mapping[str, Any]], off: Mapping[str, Any]) -> list[str]:
    """Which stage is the first that is too low, and where to look."""
    name = off["stage"]
    before = [row["stage"] for row in rows[: rows.index(off)]]
    words = f"what it was made of agrees ({', '.join(before)})" if before else "nothing before it is expected"
    stage = {"miou": "segmenter"}.get(name, name)
    log = run.log(stage)
    see = f"; its log: {log}" if log.is_file() else ""
    block = {"segmenter": "train"}.get(stage, stage)
    return [
        f"the first that is off: {'the model' if name == 'miou' else name}; {words}",
        f"    its settings: maskwright settings {run.recipe} {block}{see}",
    ]


def _changed(recipe: Recipe) -> Iterator[str]:
    """Settings in which a run differs from the recipe of its name."""
    if recipe.name not in recipe_names():
        return
    theirs = _flat(load_recipe(recipe.name).model_dump(mode="json", exclude=set(ELSEWHERE)))
    mine = _flat(recipe.model_dump(mode="json", exclude=set(ELSEWHERE)))
    changed = [key for key in mine if mine[key] != theirs.get(key)]
    for key in changed[:MOST_LISTED]:
        yield f"    not as in the recipe {recipe.name}: {key}={mine[key]} (there {theirs.get(key)})"
    if len(changed) > MOST_LISTED:
        yield f"    and {len(changed) - MOST_LISTED} settings more"


def _flat(fields: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in fields.items():
        found |= _flat(value, f"{path}{key}.") if isinstance(value, dict) and value else {f"{path}{key}": value}
    return found


def _silent(line: str) -> None:
    """The comparison speaks for itself."""
