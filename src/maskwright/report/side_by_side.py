"""Grad-CAM of several models side by side: where each found the evidence for a class (figures of SeeThroughNet)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from maskwright.data.pictures import heatmap
from maskwright.data.provenance import mark
from maskwright.engine.progress import track
from maskwright.errors import DataError
from maskwright.files import atomic_write
from maskwright.inference.explain import class_value, evidence_maps, read_region
from maskwright.inference.files import find_images
from maskwright.inference.predict import Predictor
from maskwright.report.pictures import Cell, strip

SIDE_BY_SIDE = "side_by_side"
HEIGHT = 240


def explain_side_by_side(
    predictors: Mapping[str, Predictor],
    images: Sequence[str | Path],
    out: str | Path,
    *,
    classes: str | None = None,
    region: str = "all",
    layer: str | None = None,
) -> tuple[list[str], list[str], list[str]]:
    """One picture for each image: a line for each class, with the image and each model's evidence map.

    Writes `out/side_by_side/NAME.jpg`. Beside each line, in the order of the models, the share of the image's pixels
    that each predicts as the class; for two models also the IoU of these.

    Args:
        predictors: what `maskwright.load` gives, by the title of its column.
        images: files, folders and globs.
        out: folder to write to.
        classes: names, comma between; default: every class but the background that any of the models predicts.
        region: see `maskwright.inference.explain.explain_files`.
        layer: see `maskwright.inference.explain.explain`; of every model.

    Returns:
        Paths of the pictures, what they say in words, and a text for each image that failed.

    Raises:
        RecipeError: a class that one of the models does not have, an unknown layer or region.
        DataError: a mask that cannot be read, or files in `out/side_by_side` that are no such pictures.
    """
    folder, chosen = Path(out) / SIDE_BY_SIDE, read_region(region)
    first = next(iter(predictors.values()))
    wanted = None if classes is None else [first.labels.names[class_value(n, first.labels)] for n in classes.split(",")]
    for name in wanted or ():
        for predictor in predictors.values():
            class_value(name, predictor.labels)
    found, failures = find_images(images, Path(out))
    if found:
        mark({folder: "overlays"}, {title: predictor.made_by() for title, predictor in predictors.items()})
    pictures, said = [], []
    for name in track(found, title="explaining"):
        try:
            rows, lines = _rows(predictors, found[name], wanted, chosen, layer)
        except DataError as error:
            failures.append(f"{found[name]}: {error}")
            continue
        path = folder / f"{name}.jpg"
        with atomic_write(path) as temporary:
            strip(rows, ["", "image", *predictors], height=HEIGHT).save(temporary, "JPEG", quality=90)
        pictures.append(str(path))
        said += [f"{name}: {line}" for line in lines]
    return pictures, said, failures


def _rows(
    predictors: Mapping[str, Predictor],
    image: str | Path,
    wanted: Sequence[str] | None,
    region: str | np.ndarray,
    layer: str | None,
) -> tuple[list[list[Cell]], list[str]]:
    """A line of cells for each class, and the same in words."""
    seen = [(predictor, predictor.pixels(image)) for predictor in predictors.values()]
    masks = [predictor.predict(pixels).mask for predictor, pixels in seen]
    if wanted is None:
        wanted = _common_classes(predictors, masks)
    values = [[predictor.labels.value(name) for name in wanted] for predictor, _ in seen]
    maps = [evidence_maps(*one, of_classes, region, layer) for one, of_classes in zip(seen, values, strict=True)]
    colours = seen[0][0].labels.palette
    rows: list[list[Cell]] = []
    lines = []
    for place, name in enumerate(wanted):
        where = [mask == of_classes[place] for mask, of_classes in zip(masks, values, strict=True)]
        numbers = [f"{100 * one.mean():.1f} %" for one in where]
        agree = _agreement(where)
        pictures = [heatmap(pixels, found[place]) for (_, pixels), found in zip(seen, maps, strict=True)]
        colour = colours[values[0][place]]
        rows.append([[(text, colour) for text in (name, *numbers, *agree)], seen[0][1], *pictures])
        shares = [f"{share} of the pixels in {title}" for title, share in zip(predictors, numbers, strict=True)]
        lines.append(f"{name} is predicted for {', '.join(shares + agree)}")
    return rows or [[[("no class", (255, 255, 255))], seen[0][1]]], lines


def _common_classes(predictors: Mapping[str, Predictor], masks: Sequence[np.ndarray]) -> list[str]:
    """Names of what any model predicts and all of them know, but the background, in the order of the first."""
    shown = {
        predictor.labels.names[value]
        for predictor, mask in zip(predictors.values(), masks, strict=True)
        for value in np.unique(mask)
        if value != predictor.labels.background
    }
    every = set.intersection(*(set(predictor.labels.names) for predictor in predictors.values()))
    return [name for name in next(iter(predictors.values())).labels.names if name in shown & every]


def _agreement(where: Sequence[np.ndarray]) -> list[str]:
    """The IoU of what two models predict as a class, in words; nothing of more models, or where neither does."""
    if len(where) != 2 or not (where[0] | where[1]).any():
        return []
    return [f"IoU {(where[0] & where[1]).sum() / (where[0] | where[1]).sum():.2f}"]
