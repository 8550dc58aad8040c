"""What a report shows in tables and charts: scores per class, threshold, training, confusion."""

from __future__ import annotations

from typing import Any

from maskwright.metrics import end_of_sweep
from maskwright.report import charts
from maskwright.report.charts import Series
from maskwright.report.content import SOURCES, percent, source_name
from maskwright.runs.contents import RunContents
from maskwright.runs.folder import COMPRESSED

SHORT = {"pseudo_masks": "pseudo", "segmenter": "model", "oracle": "full"}
VALIDATED = {"miou": "Validation mIoU", "tag_map": "Validation mAP of tags"}


def class_table(run: RunContents, colours: dict[str, str]) -> dict[str, Any] | None:
    """Per class, every metric side by side for every source; ordered by the model's IoU, best first."""
    sources = [name for name in SOURCES if run.scores.get(name, {}).get("per_class")]
    if not sources:
        return None
    names = list(dict.fromkeys(name for source in sources for name in run.scores[source]["per_class"]))
    key = "segmenter" if "segmenter" in sources else sources[0]
    # Ground-truth pixels belong to a split, not to a model: one column per split.
    splits = {str(run.scores[source].get("split")): source for source in reversed(sources)}
    counted = [source for source in sources if source in splits.values()]
    metrics = [(metric, title, sources) for metric, title in (("iou", "IoU"), ("f1", "F1"), ("precision", "Precision"))]
    metrics += [("recall", "Recall", sources), ("pixels", "Ground-truth pixels", counted)]
    absent = {source: set(run.scores[source].get("absent") or ()) for source in sources}

    def value(name: str, source: str, metric: str) -> float | None:
        return run.scores[source]["per_class"].get(name, {}).get(metric)

    rows = []
    for name in sorted(names, key=lambda name: -(value(name, key, "iou") or 0.0)):
        cells = []
        for metric, _, columns in metrics:
            for place, source in enumerate(columns):
                exact = value(name, source, metric)
                text = "–" if exact is None else f"{int(exact):,}" if metric == "pixels" else percent(exact)
                share = exact if metric == "iou" else None
                cells.append(
                    {"text": text, "exact": exact, "share": share, "first": place == 0, "style": SOURCES[source]}
                )
        missing = [source for source in sources if name in absent[source]]
        rows.append(
            {"name": name, "colour": colours.get(name, ""), "cells": cells, "absent": len(missing) == len(sources)}
        )
    chart = charts.dot_plot(
        [
            (
                row["name"],
                row["colour"] or "transparent",
                [(source_name(run, source), SOURCES[source], value(row["name"], source, "iou")) for source in sources],
            )
            for row in rows
        ],
        title="IoU per class",
    )
    return {
        "sources": [{"name": source_name(run, source), "style": SOURCES[source]} for source in sources],
        "metrics": [
            {
                "title": title,
                "columns": [
                    run.scores[source].get("split", "") if metric == "pixels" else SHORT[source] for source in columns
                ],
            }
            for metric, title, columns in metrics
        ],
        "rows": rows,
        "chart": chart,
        "policies": list(dict.fromkeys(p for s in sources if (p := run.scores[s].get("policy")))),
        "means": [
            {
                "name": source_name(run, source),
                "style": SOURCES[source],
                "values": [
                    percent(run.scores[source].get(metric))
                    for metric in ("miou", "mean_f1", "mean_accuracy", "pixel_accuracy", "frequency_weighted_iou")
                ],
            }
            for source in sources
        ],
    }


def tag_table(run: RunContents, colours: dict[str, str]) -> dict[str, Any] | None:
    """Tags against predictions, per class that has either, the lowest recall first; None where it was not measured."""
    found = run.tag_agreement
    if found.get("f1") is None:
        return None
    rows = [
        {
            "name": name,
            "colour": colours.get(name, ""),
            "rates": [(row[key], percent(row[key])) for key in ("precision", "recall")],
            "counts": [row[key] for key in ("tagged", "predicted", "both")],
        }
        for name, row in found["per_class"].items()
        if row["tagged"] or row["predicted"]
    ]
    rows.sort(key=lambda row: (row["rates"][1][0] is None, row["rates"][1][0] or 0.0))
    return {**found, "rows": rows}


def vanished_table(run: RunContents, colours: dict[str, str]) -> list[dict[str, Any]]:
    """Classes of which some tag has no pixel in its pseudo-mask, the largest share first."""
    rows = [
        {
            "name": name,
            "colour": colours.get(name, ""),
            "count": count,
            "tagged": tagged,
            "share": count / max(1, tagged),
        }
        for name, (count, tagged) in (run.pseudo_masks.get("vanished_tags") or {}).items()
        if count
    ]
    return sorted(rows, key=lambda row: -row["share"])


def threshold_chart(run: RunContents) -> dict[str, Any] | None:
    """mIoU, false positives and false negatives against the background's score."""
    sweep = [point for point in run.pseudo_masks.get("sweep") or [] if point.get("miou") is not None]
    if not sweep:
        return None
    used, best = run.pseudo_masks.get("threshold"), run.pseudo_masks.get("best_threshold")
    lines = [
        Series(name, [(p["threshold"], p[key]) for p in sweep if p.get(key) is not None], style=style, dots=True)
        for key, name, style in (("miou", "mIoU", 0), ("fp", "false positives", 5), ("fn", "false negatives", 6))
    ]
    marks, end = [], end_of_sweep(sweep, best)
    said = end and f", {end}"
    if used is not None:
        words = f"used {charts.number(used)}" if used != best else f"used and best {charts.number(used)}{said}"
        marks.append((used, words))
    if best is not None and best != used:
        marks.append((best, f"best {charts.number(best)}{said}"))
    lines = [line for line in lines if line.points]
    svg = charts.line_chart(
        lines, title="Pseudo-mask quality against the threshold", x_label="threshold τ", percent=True, marks=marks,
        width=720, height=300,
    )  # fmt: skip
    return {"svg": svg, "legend": [(line.name, line.style) for line in lines]}


def training_charts(run: RunContents) -> list[dict[str, Any]]:
    """Per trained network: loss, learning rate, and what validations found."""
    titles = {
        "classifier": "Tag classifier",
        "segmenter": source_name(run, "segmenter"),
        "oracle": "Fully supervised model",
    }
    titles |= {f"{name}/{COMPRESSED}": f"{titles[name]}, coordinates" for name in ("segmenter", "oracle")}
    found = []
    for name, log in run.logs.items():
        style = SOURCES.get(name.split("/")[0], 0)
        steps = [line for line in log if line.get("event") == "train" and line.get("step") is not None]
        loss = [(line["step"], line["loss"]) for line in steps if line.get("loss") is not None]
        rate = [(line["step"], line["lr"]) for line in steps if line.get("lr") is not None]
        panels = []
        if loss:
            lines = [
                Series("loss", charts.thin(loss), style=style, faint=True),
                Series("smoothed loss", charts.thin(charts.smooth(loss)), style=style),
            ]
            svg = charts.line_chart(lines, title=f"Training loss of {name}", x_label="step", y_label="loss")
            panels.append(("Loss", svg))
        validations = [line for line in log if line.get("event") == "validate" and line.get("step") is not None]
        metric = next((key for key in VALIDATED if any(line.get(key) is not None for line in validations)), None)
        if metric:
            title = VALIDATED[metric]
            points = [(line["step"], line[metric]) for line in validations if line.get(metric) is not None]
            lines = [Series(title, points, style=style, dots=True)]
            panels.append((title, charts.line_chart(lines, title=f"{title} of {name}", x_label="step", percent=True)))
        if rate:
            lines = [Series("learning rate", charts.thin(rate))]
            svg = charts.line_chart(lines, title=f"Learning rate of {name}", x_label="step", y_label="learning rate")
            panels.append(("Learning rate", svg))
        if not panels:
            continue
        speed = [line["images_per_second"] for line in steps if line.get("images_per_second")]
        memory = [line["memory_mb"] for line in steps if line.get("memory_mb")]
        facts = [f"{steps[-1]['step']:,} steps" if steps else ""]
        facts.append(f"{sorted(speed)[len(speed) // 2]:.3g} images/s" if speed else "")
        facts.append(f"{max(memory):,.0f} MB at most" if memory else "")
        found.append(
            {"title": titles.get(name, name), "panels": panels, "facts": " · ".join(fact for fact in facts if fact)}
        )
    return found


def confusion(run: RunContents) -> dict[str, Any] | None:
    """The model's confusion matrix, and which classes it takes for which most often."""
    score = run.scores.get("segmenter", {})
    matrix, names = score.get("confusion"), list(score.get("per_class") or ())
    if not matrix or len(matrix) != len(names):
        return None
    matrix = [row[: len(names)] for row in matrix]
    pairs = [
        {"truth": names[r], "called": names[c], "share": value / sum(row)}
        for r, row in enumerate(matrix)
        for c, value in enumerate(row)
        if r != c and sum(row) and value / sum(row) >= 0.01
    ]
    pairs.sort(key=lambda pair: -pair["share"])
    # Beyond this many classes cells are too small to see; the pairs say what matters.
    chart = charts.matrix_chart(matrix, names, title="Confusion matrix") if len(names) <= 60 else None
    return {"svg": chart, "pairs": pairs[:10]}
