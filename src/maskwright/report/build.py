"""`report.html`: one self-contained page on a run, which opens without a network."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

import jinja2

from maskwright.data.dataset import Dataset
from maskwright.data.decode import Reading
from maskwright.data.provenance import REFERENCES
from maskwright.data.sample import LabelSpace
from maskwright.files import atomic_write
from maskwright.report import content, results
from maskwright.report.browse import Example, browser_context, read_examples
from maskwright.report.chart_files import write_charts
from maskwright.report.explanations import explanation_gallery
from maskwright.report.film_strip import film_strip
from maskwright.report.gallery import (
    Ranked,
    Row,
    css,
    select,
    training_rows,
    validation_rows,
    worst_first,
)
from maskwright.report.seeds import seed_section
from maskwright.report.verdict import read_verdict
from maskwright.report.words import CLASSES, IMAGES, SUMMARY, words
from maskwright.runs.contents import RunContents, read_run, run_labels
from maskwright.version import __version__

# A page that can be mailed: pictures of examples shrink until it fits.
MOST_BYTES = 6_000_000
MOST_BYTES_WITH_ALL = 15_000_000  # with the gallery of all images
PICTURE_SIDES = (448, 320, 224, 144, 96)

# *: refined maps
COLUMNS = ("image", "seed", "*", "pseudo-mask", "prediction", "fully supervised", *REFERENCES)


def build_report(
    run_folder: str | PathLike[str],
    *,
    dataset_train: Dataset | None = None,
    dataset_val: Dataset | None = None,
    images: int = 24,
) -> Path:
    """Write `report.html` into a run folder, from whatever the folder holds.

    The page shows some examples large and all images in a gallery. Where the gallery's pictures are too many for one
    file, they are written into `report_files/` beside it. Its charts are written into `charts/` too, as PNG and CSV.

    Args:
        run_folder: the run folder; stages that it does not have are left out of the page.
        dataset_train: the split that was labelled, for photographs, tags and ground truth; else masks are shown alone.
        dataset_val: the split that was evaluated on, likewise.
        images: number of examples shown large, half of each split where both have something to show; 0 for a page
            without pictures.

    Returns:
        The path of the page.

    Raises:
        DataError: a JSON file of the folder is not JSON, or an image or a mask cannot be read.
    """
    run = read_run(run_folder)
    datasets = (dataset_train, dataset_val)
    labels = next((dataset.labels for dataset in datasets if dataset is not None), None) or run_labels(run)

    examples = [] if labels is None or not images else read_examples(run, dataset_train, dataset_val, labels)

    def galleries(side: int) -> list[dict[str, Any]]:
        return _galleries(run, labels, dataset_train, dataset_val, examples, images, side)

    context = _context(run, labels)
    context["browser"] = (
        browser_context(run, examples, labels, run.folder.report_files) if labels and examples else None
    )
    write_charts(context, run.folder.charts)
    return write_page(run.folder.report, "report.html.j2", context, galleries)


def write_page(
    path: Path, template: str, context: dict[str, Any], galleries: Callable[[int], list[dict[str, Any]]]
) -> Path:
    """Write a page that is complete in itself, with pictures as large as it can be mailed with.

    Args:
        path: of the page.
        template: its name in this folder.
        context: what the template shows besides `galleries`.
        galleries: of pictures whose long side has so many pixels.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template)
    inside = sum(len(part) for part in (context.get("browser") or {}).get("parts", ()))
    most = min(MOST_BYTES + inside, MOST_BYTES_WITH_ALL)
    for side in PICTURE_SIDES:
        text = page.render(**context, galleries=galleries(side), version=__version__)
        if len(text.encode()) <= most:
            break
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _context(run: RunContents, labels: LabelSpace | None) -> dict[str, Any]:
    colours = {} if labels is None else {name: css(colour) for name, colour in zip(labels.names, labels.palette)}
    folder = shlex.quote(str(run.folder))
    seeds = seed_section(run.folder, colours)
    has_model = run.folder.model("segmenter").is_file()
    return {
        "name": str(run.setting("name") or run.folder.path.resolve().name),
        "notes": str(run.setting("notes") or ""),
        "data": content.data_title(run),
        "words": {"summary": words(SUMMARY), "images": words(IMAGES), "classes": words(CLASSES)},
        "verdict": read_verdict(run),
        "tiles": content.headline(run),
        "scored": bool(run.scores),
        "trained_on": content.trained_on(run),
        "cautions": content.cautions(run),
        "legend": list(colours.items()),
        "classes": results.class_table(run, colours),
        "tags": results.tag_table(run, colours),
        "seeds": seeds,
        # The section on seeds has both, of every stage.
        "vanished": [] if seeds else results.vanished_table(run, colours),
        "threshold": None if seeds else results.threshold_chart(run),
        "training": results.training_charts(run),
        "confusion": results.confusion(run),
        "stages": content.stage_rows(run),
        "total_time": content.duration(sum(row["seconds"] for row in content.stage_rows(run))),
        "facts": content.facts(run),
        "provenance": content.provenance_rows(run),
        "recipe_text": run.recipe_text,
        "predict": f"maskwright predict {folder} photos/ out=predictions/" if has_model else "",
        "python": f'import maskwright as mw\nmask = mw.load({json.dumps(str(run.folder))})("photo.jpg")'
        if has_model
        else "",
    }


def _galleries(
    run: RunContents,
    labels: LabelSpace | None,
    dataset_train: Dataset | None,
    dataset_val: Dataset | None,
    examples: list[Example],
    images: int,
    side: int,
) -> list[dict[str, Any]]:
    if labels is None:
        return []
    training = worst_first(example.training for example in examples if example.training is not None)
    validation = worst_first(example.validation for example in examples if example.validation is not None)
    for_training = min(len(training), max(images - len(validation), (images + 1) // 2))
    for_validation = min(len(validation), images - for_training)
    found: list[dict[str, Any]] = [
        _gallery(
            "training",
            f"From tags to masks: {run.setting('data.train', 'train')}",
            training,
            training_rows(run, dataset_train, labels, select(training, for_training), side),
        ),
        _gallery(
            "validation",
            f"Predictions: {run.setting('data.val', 'val')}",
            validation,
            validation_rows(run, dataset_val, labels, select(validation, for_validation), side),
        ),
    ]
    film = film_strip(run, dataset_val, labels, side)
    explained = explanation_gallery(run.folder, labels, side, Reading.of(run.setting("data.options") or {}))
    return [gallery for gallery in (*found, film, explained) if gallery and gallery["rows"]]


def _gallery(key: str, title: str, ranked: list[Ranked], rows: list[Row]) -> dict[str, Any]:
    kinds = {item.kind for item in ranked if item.score is not None}
    if len(rows) < len(ranked):
        order = f"{len(rows)} of {len(ranked)}: the worst, then a few spread evenly up to the best"
    else:
        order = f"all {len(rows)}, worst first" if kinds else f"all {len(rows)}"
    ranking = f", ranked by {' or '.join(sorted(kinds))} of the image" if kinds else ""
    return {"key": key, "title": title, "note": order + ranking + ".", "columns": gallery_columns(rows), "rows": rows}


def gallery_columns(rows: list[Row]) -> list[str]:
    """The columns that any of the rows has, in the order in which they are shown."""
    refined = list(dict.fromkeys(column for row in rows for column in row.cells if column not in COLUMNS))
    ordered = [name for column in COLUMNS for name in (refined if column == "*" else [column])]
    return [column for column in ordered if any(column in row.cells for row in rows)]
