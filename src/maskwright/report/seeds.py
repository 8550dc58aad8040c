"""The report's section on seeds: what `maskwright.weak.seed_evaluation` wrote, stage by stage."""

from __future__ import annotations

from typing import Any

from maskwright.files import read_json
from maskwright.metrics import end_of_sweep
from maskwright.report import charts
from maskwright.report.charts import Series
from maskwright.report.content import percent
from maskwright.runs.folder import RunFolder

MOST_OUTLIERS = 12
MOST_CLASSES = 60  # of a chart of classes, the worst of them
ERRORS = [("right (IoU)", 0), ("mask alone (false positive)", 5), ("ground truth alone (false negative)", 6)]


def seed_section(run_folder: RunFolder, colours: dict[str, str]) -> dict[str, Any] | None:
    """What the section shows; None where nothing was evaluated.

    Args:
        run_folder: the run folder.
        colours: class name -> CSS colour.

    Raises:
        DataError: seed_evaluation.json is not JSON.
    """
    path = run_folder.seed_evaluation
    found = read_json(path) if path.is_file() else None
    if not isinstance(found, dict) or not found.get("stages"):
        return None
    stages = found["stages"]
    with_truth = any(stage["default"] for stage in stages.values())
    last = list(stages)[-1]
    errors = [(title(name), error_chart(name, stage, colours)) for name, stage in stages.items()]
    curves = [(title(name), threshold_chart(name, stage, found["threshold"])) for name, stage in stages.items()]
    return {
        "split": found["split"] or "the set",
        "images": found["images"],
        "judged": found["images_judged"],
        "threshold": charts.number(found["threshold"]),
        "tuned": {"given": "", "true masks": "ground truth"}.get(found["threshold_from"], found["threshold_from"]),
        "with_truth": with_truth,
        "reference": f"mask of {found['masks_are']}, which are not ground truth"
        if found.get("masks_are")
        else "ground-truth mask",
        "stages": [_stage_row(name, stage) for name, stage in stages.items()],
        "groups": [row for name, stage in stages.items() for row in _group_rows(name, stage)],
        "curves": [(name, svg) for name, svg in curves if svg],
        "curve_legend": curve_lines(with_truth),
        "errors": [(name, svg) for name, svg in errors if svg][::-1],
        "error_legend": ERRORS,
        "vanished": _vanished(stages, colours),
        "area_stage": title(last),
        "areas": _areas(stages[last], colours),
        "outliers": stages[last]["outliers"][:MOST_OUTLIERS],
        "outlier_count": sum(_odd(stages[last])),
        "stability": _stability(found.get("stability"), colours),
        "definitions": list(found["definitions"].items()),
    }


def title(stage: str) -> str:
    """A stage's name to read: `pseudo_masks` is Pseudo-masks, `irn` is IRN."""
    names = {"pseudo_masks": "Pseudo-masks", "recam": "ReCAM"}
    acronym = stage in ("irn", "psa", "crf", "l2g", "seam", "eps", "edam")
    return names.get(stage, stage.upper() if acronym else stage.replace("_", " ").capitalize())


def curve_lines(with_truth: bool) -> list[tuple[str, int]]:
    """Name and style of a threshold chart's lines."""
    if with_truth:
        return [("mIoU", 0), ("false positives", 5), ("false negatives", 6)]
    return [("tags without a pixel", 6), ("area not background", 0)]


def threshold_chart(name: str, stage: dict[str, Any], default: float) -> Any:
    """mIoU and errors, or without ground truth what is lost and what is left, against the background's score."""
    sweep = stage["sweep"]
    scored = any(row["miou"] is not None for row in sweep)
    keys = ("miou", "fp", "fn") if scored else ("vanished", "foreground")
    lines = [
        Series(label, [(row["threshold"], row[key]) for row in sweep if row[key] is not None], style=style, dots=True)
        for key, (label, style) in zip(keys, curve_lines(scored), strict=True)
    ]
    lines = [line for line in lines if line.points]
    if not lines:
        return None
    best = stage["best_threshold"]
    marks = [(default, f"used {charts.number(default)}" if best != default else f"best, used {_best_threshold(stage)}")]
    if best is not None and best != default:
        marks.append((best, f"best {_best_threshold(stage)}"))
    return charts.line_chart(
        lines, title=f"{title(name)} against the threshold", x_label="threshold τ", percent=True, marks=marks
    )


def _best_threshold(stage: dict[str, Any]) -> str:
    """The best threshold, and that it is the first or the last where it is."""
    end = end_of_sweep(stage["sweep"], stage["best_threshold"])
    return charts.number(stage["best_threshold"]) + (end and f", {end}")


def error_chart(name: str, stage: dict[str, Any], colours: dict[str, str]) -> Any:
    """IoU, false positives and false negatives of each class as shares of one bar, the worst class first."""
    if not stage["default"]:
        return None
    rates = [(name, rate) for name, rate in stage["default"]["per_class"].items() if rate["iou"] is not None]
    rates.sort(key=lambda entry: entry[1]["iou"])
    rows = [
        (name, colours.get(name, "transparent"), [rate["iou"], rate["fp"], rate["fn"]])
        for name, rate in rates[:MOST_CLASSES]
    ]
    return charts.share_bars(rows, ERRORS, title=f"Right and wrong by class, {title(name)}") if rows else None


def _stage_row(name: str, stage: dict[str, Any]) -> dict[str, Any]:
    default, best = stage["default"] or {}, stage["best"] or {}
    edges = stage["boundary_agreement"]["mean"]
    little, much = _odd(stage)
    return {
        "name": title(name),
        "miou": percent(default.get("miou")),
        "share": default.get("miou"),
        "best": percent(best.get("miou")),
        "best_at": "–" if stage["best_threshold"] is None else _best_threshold(stage),
        "fp": percent(default.get("fp")),
        "fn": percent(default.get("fn")),
        "background": percent(default.get("background_share")),
        "kept": percent(stage["tag_consistency"]["kept"]),
        "exact": percent(stage["tag_consistency"]["exact"]),
        "edges": "–" if edges is None else f"{edges:.2f}",
        "little": little,
        "much": much,
    }


def _odd(stage: dict[str, Any]) -> tuple[int, int]:
    areas = [entry for entry in stage["area"].values() if entry]
    return sum(entry["nearly_nothing"] for entry in areas), sum(entry["nearly_everything"] for entry in areas)


def _group_rows(name: str, stage: dict[str, Any]) -> list[dict[str, Any]]:
    if not stage["default"]:
        return []
    return [
        {
            "stage": title(name),
            "group": words,
            "images": stage["default"][group]["images"],
            "cells": [percent(stage["default"][group][key]) for key in ("miou", "miou_common", "fp", "fn")],
        }
        for group, words in (("single_label", "one tag"), ("multi_label", "several tags"))
    ]


def _vanished(stages: dict[str, Any], colours: dict[str, str]) -> dict[str, Any] | None:
    """Classes that some stage lost in some image, by stage; the largest share in the last stage first."""
    tables = [stage["vanished_tags"] for stage in stages.values()]
    names = [name for name in tables[-1] if any(table[name][0] for table in tables)]
    names.sort(key=lambda name: -tables[-1][name][0] / max(1, tables[-1][name][1]))
    rows = []
    for name in names:
        cells = [(table[name][0], table[name][0] / max(1, table[name][1])) for table in tables]
        rows.append({"name": name, "colour": colours.get(name, ""), "tagged": tables[-1][name][1], "cells": cells})
    return {"columns": [title(name) for name in stages], "rows": rows} if rows else None


def _areas(stage: dict[str, Any], colours: dict[str, str]) -> list[dict[str, Any]]:
    rows = [{"name": name, "colour": colours.get(name, ""), **entry} for name, entry in stage["area"].items() if entry]
    return sorted(rows, key=lambda row: row["median"])


def _stability(found: dict[str, Any] | None, colours: dict[str, str]) -> dict[str, Any] | None:
    if not found or found["iou"] is None:
        return None
    classes = [(name, value) for name, value in found["per_class"].items() if value is not None]
    return {
        "iou": percent(found["iou"]),
        "images": found["images"],
        "views": [
            {
                "name": f"scale {charts.number(view['scale'])}" + (", mirrored" if view["mirrored"] else ""),
                "iou": percent(view["iou"]),
                "share": view["iou"] or 0,
            }
            for view in found["views"]
        ],
        "classes": [
            {"name": name, "colour": colours.get(name, ""), "iou": percent(value), "share": value}
            for name, value in sorted(classes, key=lambda entry: entry[1])
        ],
    }
