"""What the tables of methods from tags share: a process a row, stages made once, one table of all that is done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.facts import as_lines, facts
from maskwright.errors import MaskwrightError
from maskwright.files import atomic_write, write_json
from maskwright.runs.results import mean_interval
from maskwright.runs.taking_over import share_stages

RESULTS = Path(__file__).parent / "results"
FAST = ["autocast=bfloat16", "channels_last=true", "workers=1"]


@dataclass(frozen=True)
class Experiment:
    """A table: its rows, and what they are run with.

    Args:
        name: of the script and of the files in `results/`.
        title: of the table.
        rows: by name, each with `settings` and, where stages can be taken from other rows, `shares`: their names.
        overrides: `(name, data, folder, seed) -> (recipe, settings)` of a row.
        words: what a reader of the table must know.
        until: last stage of a row's run; none: a final model is trained as well.
        prepare: `(data, out)`, run once before the rows.
    """

    name: str
    title: str
    rows: Mapping[str, Mapping[str, Any]]
    overrides: Callable[[str, str, Path, int], tuple[str, list[str]]]
    words: Sequence[str] = ()
    until: str | None = None
    prepare: Callable[[str, Path], None] | None = None


def kind_of(data: str) -> str:
    """Which of the two sets `data` is."""
    return "scenes" if data == "scenes" else "msrc21"


def run_row(experiment: Experiment, name: str, data: str, out: Path, seed: int) -> dict[str, Any]:
    """One run, and what the table says of it."""
    import torch

    from maskwright.pipeline.run import run
    from maskwright.pipeline.stages import recipe_stages
    from maskwright.recipe.load import load_recipe
    from maskwright.runs.context import RunContext

    torch.set_num_threads(1)
    folder = out / folder_name(name, seed)
    recipe = load_recipe(*experiment.overrides(name, data, folder, seed))
    others = [out / folder_name(other, seed) for other in experiment.rows[name].get("shares", [])]
    share_stages(recipe_stages(RunContext(recipe, folder, print), experiment.until), folder, others, print)
    run(recipe, until=experiment.until)
    metrics = json.loads((folder / "metrics.json").read_text()) if (folder / "metrics.json").is_file() else {}
    made = json.loads((folder / "pseudo_masks" / "scores.json").read_text())
    judged = json.loads((folder / "seed_evaluation.json").read_text())["stages"]
    stages = [json.loads(path.read_text()) for path in folder.glob("*/stage.json") if ".stale-" not in str(path)]
    used = {stage["name"]: stage["processor_seconds"] for stage in stages}
    ahead = ["segmenter", "evaluation", "oracle", "oracle_evaluation"]
    log = [json.loads(line) for line in (folder / "classifier" / "log.jsonl").read_text().splitlines()]
    return {
        "row": name,
        "seed": seed,
        "settings": experiment.rows[name]["settings"],
        "tag_map": [line["tag_map"] for line in log if line["event"] == "validate"][-1],
        "seeds_best": judged["seeds"]["best"]["miou"],
        "pseudo": made["miou"],
        "threshold": made["threshold"],
        "best": max(line["miou"] for line in made["sweep"]),
        "best_threshold": made["best_threshold"],
        "model": metrics.get("segmenter", {}).get("miou"),
        "processor_seconds": sum(seconds for stage, seconds in used.items() if stage not in ahead),
        "stages": used,
        "facts": facts(),
    }


def table(experiment: Experiment, rows: list[dict[str, Any]], name: str, found: dict[str, Any]) -> str:
    """One line a method: mean over the seeds, and with more than one the half width of the 95 % interval."""
    unit = {row["seed"]: row["processor_seconds"] for row in rows if row["row"] == "CAM"}
    columns = ["tag_map", "seeds_best", "pseudo", "best", "model"]
    heads = ["tag mAP", "seeds, best", "pseudo-masks", "at best threshold", "final model"]
    if all(row["model"] is None for row in rows):
        columns, heads = columns[:-1], heads[:-1]
    lines = [
        f"# {experiment.title} on {name}",
        "",
        *as_lines(found),
        "Command, commit, machine and date of each run are in the JSON file beside this one.",
        "mIoU of seed maps (at their best threshold), of pseudo-masks at the threshold fixed beforehand and at the "
        "best, all on the training images"
        + ("; of the final model on `val`" if "model" in columns else "")
        + ". Cost: processor time up to the pseudo-masks over plain CAM's. With several seeds: mean ± half width of "
        "the 95 % interval.",
        *experiment.words,
        "",
        "| method | seeds of the generator | " + " | ".join(heads) + " | cost |",
        "|" + "---|" * (len(heads) + 3),
    ]
    for method in experiment.rows:
        mine = [row for row in rows if row["row"] == method]
        if not mine:
            continue
        cost = [row["processor_seconds"] / unit[row["seed"]] for row in mine if row["seed"] in unit]
        cells = [[row[key] for row in mine if row[key] is not None] for key in columns]
        seeds = ", ".join(str(row["seed"]) for row in mine)
        lines.append(f"| {method} | {seeds} | " + " | ".join(map(interval, cells)) + f" | {interval(cost, 1)} |")
    return "\n".join(lines) + "\n"


def interval(values: list[float], digits: int = 3) -> str:
    """Mean, and the half width of its 95 % interval where there are at least two values."""
    if not values:
        return ""
    mean, half = mean_interval(values)
    return f"{mean:.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}")


def folder_name(row: str, seed: int) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in row) + f"-{seed}"


def main(experiment: Experiment, usage: str) -> None:
    """Run the rows that the command line asks for, each in a process of its own, and write the table after each."""
    data, *rest = sys.argv[1:] or [""]
    options = dict(argument.split("=", 1) for argument in rest)
    if data != "scenes" and not Path(data).is_dir():
        sys.exit(usage)
    name = kind_of(data)
    out = Path(options.get("out", f"runs/{experiment.name}-{name}"))
    if "row" in options:  # the process of one row
        seed = int(options["seed"])
        folder = out / folder_name(options["row"], seed)
        try:
            write_json(folder / "row.json", run_row(experiment, options["row"], data, out, seed))
        except MaskwrightError as error:
            sys.exit(f"{options['row']}: {error}")
        return
    found = facts()
    if experiment.prepare is not None:
        experiment.prepare(data, out)
    seeds = [int(seed) for seed in options.get("seeds", "0").split(",")]
    chosen = options["only"].split(";") if "only" in options else list(experiment.rows)
    for seed in seeds:
        for row in chosen:
            if not (out / folder_name(row, seed) / "row.json").is_file():
                script = f"benchmarks.claims.{experiment.name}"
                command = [sys.executable, "-m", script, *sys.argv[1:], f"row={row}", f"seed={seed}"]
                subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
            done = [json.loads(path.read_text()) for path in sorted(out.glob("*/row.json"))]
            write_json(RESULTS / f"{experiment.name}-{name}.json", {"facts": found, "rows": done})
            with atomic_write(RESULTS / f"{experiment.name}-{name}.md") as temporary:
                temporary.write_text(table(experiment, done, name, found))
