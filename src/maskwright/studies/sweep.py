"""One setting of a recipe at several values: a curve of the scores of its maps and of its model.

The figures of papers that vary one setting are all of this kind: ReCAM's lambda, the number and size of L2G's views,
the power of loss max-pooling. Each value is one run of `pipeline.compare`, in a folder of its own; stages that do not
depend on the setting are made once.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from maskwright.errors import RecipeError
from maskwright.files import atomic_write, write_json
from maskwright.pipeline.compare import compare
from maskwright.runs.results import SCORES

CURVES = {"seeds_best": "#c2571a", "pseudo_masks": "#1f6fb2", "pseudo_best": "#5f9ed1", "model": "#2d7d46"}


def values_of(text: str) -> list[str]:
    """Values as a recipe's settings are typed, of `0.1,0.5,1` or, where they have commas themselves, of a YAML list.

    Raises:
        RecipeError: fewer than two, the same one twice, or a list that cannot be read.
    """
    if text.strip().startswith("["):
        try:
            found = [value if isinstance(value, str) else json.dumps(value) for value in yaml.safe_load(text)]
        except yaml.YAMLError as error:
            raise RecipeError(f"values cannot be read: {error}") from error
    else:
        found = [part.strip() for part in text.split(",") if part.strip()]
    if len(found) < 2 or len(set(found)) < len(found):
        raise RecipeError(
            "values must be at least two, each once, as in values=0.1,0.5,1 or values='[[256, 256], [320, 320]]'; "
            f"found {text}"
        )
    return found


def sweep(
    recipe: str,
    overrides: Sequence[str] = (),
    *,
    over: str,
    values: str,
    until: str | None = None,
    random_seeds: str | Sequence[int] | None = None,
    images: int = 12,
    out: str | Path | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Run a recipe once with each value; write `sweep.json`, `sweep.csv`, `sweep.png`; resumes where it stopped.

    Args:
        recipe: name or YAML file.
        overrides: `key=value` settings of all runs.
        over: key of the setting that varies.
        values: see `values_of`.
        until: the last stage to run, such as `seeds`; all by default.
        random_seeds: as for `compare`.
        images: that the page of `compare` shows.
        out: folder; default `runs/sweep-<key>`.
        say: prints one line.

    Returns:
        What is written to `sweep.json`: `recipe`, `over`, `settings`, `until`, and `points`, one for each value, in
        their order: `value`, `scores` (as `compare.json` has them) and `failed` (messages).

    Raises:
        RecipeError: values, a recipe or a setting that cannot be.
        MaskwrightError: another process works in the folder.
    """
    from maskwright.engine import distributed

    if twice := [override for override in overrides if override.partition("=")[0] == over]:
        raise RecipeError(f"{over} is what varies, and {twice[0]} sets it; leave it out")
    found = values_of(values)
    folder = Path(out or f"runs/sweep-{over}")
    methods = [f"{_label(value)}: {recipe} {over}={value}" for value in found]
    compared = compare(
        [*methods, *overrides], out=folder, random_seeds=random_seeds, until=until, images=images, say=say
    )
    points = [
        {"value": value, "scores": method["scores"], "failed": method["failed"]}
        for value, method in zip(found, compared["methods"], strict=True)
    ]
    result = {"recipe": recipe, "over": over, "settings": list(overrides), "until": until, "points": points}
    if distributed.is_main():
        write_json(folder / "sweep.json", result)
        with (
            atomic_write(folder / "sweep.csv") as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as csvfile,
        ):
            csv.writer(csvfile).writerows(rows(result))
        with atomic_write(folder / "sweep.png") as temporary:
            plot(result, temporary)
    return {**result, "folder": str(folder)}


def _label(value: str) -> str:
    """A value as the name of a method, which has no brackets."""
    return "".join(letter for letter in value if letter not in "[]{}=:").strip() or "none"


def rows(result: dict[str, Any]) -> list[list[Any]]:
    """The curve as a table: a head, then for each value mean, half of the 95 % interval and runs of each score."""
    keys = [key for key in SCORES if any(key in point["scores"] for point in result["points"])]
    table = [[result["over"], *(f"{key}{part}" for key in keys for part in ("", " interval", " runs"))]]
    for point in result["points"]:
        scores = [point["scores"].get(key, {}) for key in keys]
        table.append([point["value"], *(score.get(part) for score in scores for part in ("mean", "interval", "runs"))])
    return table


def lines(result: dict[str, Any]) -> list[str]:
    """The curve as lines of text, in per cent."""
    points = result["points"]
    keys = [key for key in SCORES if any(key in point["scores"] for point in points)]
    width = max(len(text) for text in (result["over"], *(point["value"] for point in points))) + 2
    text = [f"{result['over']:<{width}}" + "".join(f"{SCORES[key][0]:>15}" for key in keys)]
    for point in points:
        scores = [point["scores"].get(key) for key in keys]
        cells = ["-" if score is None else f"{100 * score['mean']:.1f}" for score in scores]
        text.append(f"{point['value']:<{width}}" + "".join(f"{cell:>15}" for cell in cells))
        text += [f"  failed: {message}" for message in dict.fromkeys(point["failed"])]
    return [*text, f"written to {result['folder']}: sweep.png, sweep.csv, sweep.json, compare.html"]


def plot(result: dict[str, Any], path: Path) -> None:
    """mIoU of maps and model against the values: at their places where all are numbers, else side by side."""
    from matplotlib.figure import Figure

    points = result["points"]
    try:
        places, numbers = [float(point["value"]) for point in points], True
    except ValueError:
        places, numbers = [float(place) for place in range(len(points))], False
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for key, colour in CURVES.items():
        known = sorted(
            ((place, point["scores"][key]) for place, point in zip(places, points) if key in point["scores"]),
            key=lambda pair: pair[0],
        )
        if not known:
            continue
        means = [100 * score["mean"] for _, score in known]
        spread = [100 * (score["interval"] or 0) for _, score in known]
        axes.errorbar(
            [place for place, _ in known], means, yerr=spread if any(spread) else None,
            marker="o", capsize=3, color=colour, label=SCORES[key][0],
        )  # fmt: skip
    if numbers and min(places) > 0 and max(places) / min(places) >= 20:
        axes.set_xscale("log")
    axes.set_xticks(places, [point["value"] for point in points])
    axes.minorticks_off()
    axes.set(xlabel=result["over"], ylabel="mIoU (%)", title=f"{result['recipe']}: one setting varied")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
    figure.savefig(path, dpi=130)
