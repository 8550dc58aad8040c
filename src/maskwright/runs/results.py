"""What a comparison found: scores and costs of every run, and of every method over its runs."""

from __future__ import annotations

import math
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from maskwright.data.provenance import against
from maskwright.files import read_json
from maskwright.runs.contents import read_log
from maskwright.runs.methods import Job, Method
from maskwright.runs.stages import flat
from maskwright.settings.old_names import with_new_names
from maskwright.version import __version__

# What a method is evaluated by: key -> (name, what it is).
SCORES = {
    "tag_map": ("Tag mAP", "mean average precision of the tags on the evaluation split, of the last network"),
    "seeds_best": ("Seeds, best τ", "mIoU of the seed maps at the best threshold of the sweep, tuned on ground truth"),
    "pseudo_masks": ("Pseudo-masks", "mIoU of the pseudo-masks at the recipe's threshold"),
    "pseudo_best": ("…, best τ", "mIoU of the last maps at the best threshold of the sweep, tuned on ground truth"),
    "model": ("Model", "mIoU of the final model on the evaluation split"),
}
AFTER_MASKS = ("segmenter", "evaluation")
COMPARED_WITH = ("oracle", "oracle_evaluation")  # no part of what a method costs

# Two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom.
T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)


def mean_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and half the width of its 95 % confidence interval (Student's t); None for a single value.

    Args:
        values: at least one, taken as independent and normal.
    """
    mean = sum(values) / len(values)
    if len(values) == 1:
        return mean, None
    freedom = len(values) - 1
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / freedom)
    # Beyond the table the quantile's expansion in 1 / freedom is off by less than 0.01.
    quantile = T_95[freedom - 1] if freedom <= len(T_95) else 1.96 + 2.4 / freedom
    return mean, quantile * deviation / math.sqrt(len(values))


def summary(jobs: Sequence[Job], methods: Sequence[Method], until: str | None) -> dict[str, Any]:
    """Everything that `compare.json` says, but for the pictures.

    Args:
        jobs: all runs, made and evaluated.
        methods: in the order of the page; the others are measured against the first.
        until: the last stage that was asked for.

    Returns:
        `methods`: for each `label`, `source`, `settings`, `runs` (of `run_result`), `scores` (key of `SCORES`: `mean`,
        `interval`, `runs`, and `gain` over the first method with `gain_interval`, paired by seed), `cost` (processor
        seconds, mean over the runs, and `times`, as a multiple of the first method's), `per_class` (mean IoU of
        pseudo-masks and model by class), `failed` (messages). Beside it `definitions`, `seeds`, `until`, `command`,
        `version`.
    """
    runs = {method.label: [run_result(job) for job in jobs if job.method is method] for method in methods}
    first = runs[methods[0].label]
    found = []
    for method in methods:
        mine = runs[method.label]
        scores = {key: _score(mine, first if mine is not first else None, key) for key in SCORES}
        found.append(
            {
                "label": method.label,
                "source": method.source,
                "settings": list(method.settings),
                "runs": mine,
                "scores": {key: score for key, score in scores.items() if score},
                "cost": {part: _cost(mine, first, part) for part in ("masks", "model", "all")},
                "per_class": {key: _per_class(mine, key) for key in ("pseudo_masks", "model")},
                "failed": [run["failed"] for run in mine if run["failed"]],
            }
        )
    return {
        "methods": found,
        "seeds": sorted({job.recipe.random_seed for job in jobs}),
        "until": until,
        "definitions": {key: text for key, (_, text) in SCORES.items()},
        "command": shlex.join(["maskwright", *sys.argv[1:]]),
        "version": __version__,
    }


def run_result(job: Job) -> dict[str, Any]:
    """Scores, signs and costs of one run; None for what it does not have."""
    result: dict[str, Any] = {
        "seed": job.recipe.random_seed,
        "folder": str(job.folder),
        "failed": job.error,
        "stages": {},
        "tag_map": None,
        "judged_on": None,
        "seeds_best": None,
        "pseudo_masks": None,
        "pseudo_best": None,
        "model": None,
        "caution": "",
        "per_class": {"pseudo_masks": {}, "model": {}},
        "signs": {},
    }
    records = {name: read_json(job.folder.record(name)) for name in job.done}
    for name, record in sorted(records.items(), key=lambda item: item[1].get("number", 0)):
        result["stages"][name] = {key: record.get(key) for key in ("seconds", "processor_seconds")}
        for line in read_log(job.folder.log(name)):
            if line.get("event") == "validate" and line.get("tag_map") is not None:
                result["tag_map"] = line["tag_map"]
    if job.judged:
        result |= _map_scores(job.judged)
    path = job.folder.evaluation()
    if "evaluation" in job.done and path.is_file():
        scores = read_json(path)
        result["model"] = scores["miou"]
        result["per_class"]["model"] = {name: rates["iou"] for name, rates in scores["per_class"].items()}
        result["model_judged_on"] = {"split": scores["split"], "images": scores["images"]}
        result["caution"] = against(scores.get("source") or {})
    return result


def _map_scores(judged: dict[str, Any]) -> dict[str, Any]:
    stages = judged["stages"]
    maps = [stage for stage in stages.values() if stage["kind"] == "maps"]
    made = (stages.get("pseudo_masks") or {}).get("default") or {}
    return {
        "judged_on": {"split": judged["split"], "images": judged["images"], "with_truth": judged["images_judged"]},
        "seeds_best": ((stages.get("seeds") or {}).get("best") or {}).get("miou"),
        "pseudo_masks": made.get("miou"),
        "pseudo_best": ((maps[-1]["best"] if maps and "pseudo_masks" in stages else None) or {}).get("miou"),
        "thresholds": {"used": judged["threshold"], "best": maps[-1]["best_threshold"] if maps else None},
        "per_class": {
            "pseudo_masks": {name: rates["iou"] for name, rates in made.get("per_class", {}).items()},
            "model": {},
        },
        "signs": {
            name: {
                "kept": stage["tag_consistency"]["kept"],
                "exact": stage["tag_consistency"]["exact"],
                "edges": stage["boundary_agreement"]["mean"],
                "nearly_nothing": sum(area["nearly_nothing"] for area in stage["area"].values() if area),
                "nearly_everything": sum(area["nearly_everything"] for area in stage["area"].values() if area),
            }
            for name, stage in stages.items()
        },
    }


def seconds(run: dict[str, Any], part: str) -> float | None:
    """Processor seconds of a run up to its pseudo-masks (`masks`), after them (`model`), or `all`; None if unknown."""
    if run["failed"]:
        return None
    counted = [
        stage["processor_seconds"]
        for name, stage in run["stages"].items()
        if name not in COMPARED_WITH and (part == "all" or (name in AFTER_MASKS) == (part == "model"))
    ]
    return sum(counted) if counted and None not in counted else None


def differences(recipes: dict[str, dict[str, Any]]) -> dict[str, dict[str, str | None]]:
    """Settings that are not the same in all recipes: dotted key -> label -> value as JSON, None where it has none.

    Those of a part that only one recipe has are left out; the list that names the part shows it.

    Args:
        recipes: label -> fields of the resolved recipe.
    """
    aside = {"name", "out", "random_seed", "notes", "source", "expected", "tolerance", "device"}
    kept = {
        label: {key: value for key, value in flat(with_new_names(fields)).items() if key.partition(".")[0] not in aside}
        for label, fields in recipes.items()
    }
    counts = Counter(key for values in kept.values() for key in values)
    keys = [key for key, count in counts.items() if count > 1]
    rows = {key: {label: values.get(key) for label, values in kept.items()} for key in keys}
    return {key: row for key, row in rows.items() if len(set(row.values())) > 1}


def lines(result: dict[str, Any]) -> list[str]:
    """The table as lines of text, in per cent."""
    rows = result["methods"]
    keys = [key for key in SCORES if any(key in row["scores"] for row in rows)]
    width = max(len(row["label"]) for row in rows) + 2
    text = [f"{'method':<{width}}" + "".join(f"{SCORES[key][0]:>15}" for key in keys) + f"{'processor time':>17}"]
    for row in rows:
        cells = "".join(f"{_words(row['scores'].get(key)):>15}" for key in keys)
        times = row["cost"]["all"]["times"]
        text.append(f"{row['label']:<{width}}{cells}{'-' if times is None else f'{times:.2f}x':>17}")
        text += [f"  failed: {message}" for message in dict.fromkeys(row["failed"])]
        text += [f"  model measured {said}" for said in dict.fromkeys(run["caution"] for run in row["runs"]) if said]
    return text


def _words(score: dict[str, Any] | None) -> str:
    if not score:
        return "-"
    return f"{100 * score['mean']:.1f}" + ("" if score["interval"] is None else f" ± {100 * score['interval']:.1f}")


def _score(runs: list[dict[str, Any]], first: list[dict[str, Any]] | None, key: str) -> dict[str, Any] | None:
    values = [run[key] for run in runs if run[key] is not None]
    if not values:
        return None
    mean, interval = mean_interval(values)
    score: dict[str, Any] = {"mean": mean, "interval": interval, "runs": len(values)}
    pairs = _paired(runs, first or [], key)
    if pairs:
        score["gain"], score["gain_interval"] = mean_interval([mine - other for mine, other in pairs])
    return score


def _paired(runs: list[dict[str, Any]], others: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    """Values of two methods with the same seed; several runs with one seed cannot be paired."""
    mine = {run["seed"]: run[key] for run in runs if run[key] is not None}
    theirs = {run["seed"]: run[key] for run in others if run[key] is not None}
    if len(mine) < len([run for run in runs if run[key] is not None]):
        return []
    return [(value, theirs[seed]) for seed, value in mine.items() if seed in theirs]


def _cost(runs: list[dict[str, Any]], first: list[dict[str, Any]], part: str) -> dict[str, Any]:
    mine = [spent for run in runs if (spent := seconds(run, part)) is not None]
    theirs = [spent for run in first if (spent := seconds(run, part)) is not None]
    mean, unit = (sum(values) / len(values) if values else None for values in (mine, theirs))
    return {"processor_seconds": mean, "times": mean / unit if mean is not None and unit else None}


def _per_class(runs: list[dict[str, Any]], key: str) -> dict[str, float | None]:
    found = [run["per_class"][key] for run in runs if run["per_class"][key]]
    rows = {name: [run[name] for run in found if run.get(name) is not None] for name in (found[0] if found else {})}
    return {name: sum(values) / len(values) if values else None for name, values in rows.items()}
