"""COCO's instance annotations: `annotations/instances_SPLIT.json` and `images/`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from maskwright.data.runs import runs_of, text_of
from maskwright.formats.export import IGNORED, Export, put_image
from maskwright.formats.outlines import outlines

# A region, and its annotation's own fields for each of the annotations that it becomes.
Shapes = Callable[[np.ndarray], Iterator[tuple[Any, np.ndarray]]]


def write_coco(export: Export, folder: Path) -> list[str]:
    """One annotation for each class of an image, as compressed runs: every pixel as it is."""
    return _write(export, folder, lambda region: iter([(_runs(region), region)]))


def write_coco_polygons(export: Export, folder: Path) -> list[str]:
    """One annotation with one polygon for each connected part of a class; a hole is cut open along a line of no width.

    Several polygons in one annotation would be one object, of which many tools read the first alone.
    """

    def polygons(region: np.ndarray) -> Iterator[tuple[Any, np.ndarray]]:
        for corners in outlines(region):
            yield [corners.ravel().tolist()], corners

    return _write(export, folder, polygons)


def _write(export: Export, folder: Path, shapes: Shapes) -> list[str]:
    """Annotations are written as they are made, so that memory does not grow with their number."""
    labels = export.labels
    categories = {value: number for number, value in enumerate(export.classes, start=1)}
    images: list[dict[str, Any]] = []
    count = ignored = 0
    path = folder / "annotations" / f"instances_{export.split}.json"
    path.parent.mkdir(parents=True)
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(
            '{"info": {"description": ' + json.dumps(f"{export.what}, by maskwright") + '},\n"licenses": [],\n'
        )
        stream.write('"annotations": [')

        def write(image: int, category: int, region: np.ndarray, crowd: bool) -> None:
            nonlocal count
            for segmentation, where in [(_runs(region), region)] if crowd else shapes(region):
                count += 1
                left, top, right, bottom = _box(where)
                annotation = {
                    "id": count,
                    "image_id": image,
                    "category_id": category,
                    "segmentation": segmentation,
                    "area": _area(where),
                    "bbox": [left, top, right - left, bottom - top],
                    "iscrowd": int(crowd),
                }
                stream.write((",\n" if count > 1 else "\n") + json.dumps(annotation))

        for number, example in enumerate(export.examples(), start=1):
            height, width = example.mask.shape
            name = put_image(example, folder / "images")
            images.append({"id": number, "file_name": name, "width": width, "height": height})
            for value, category in categories.items():
                if (region := example.mask == value).any():
                    write(number, category, region, crowd=False)
            if (region := example.mask == labels.ignore_index).any():
                ignored += 1
                write(number, len(categories) + 1, region, crowd=True)
        names = [(number, labels.names[value], "") for value, number in categories.items()]
        names += [(len(categories) + 1, IGNORED, "")] if ignored else []
        for key, rows in (
            ("images", images),
            ("categories", [{"id": number, "name": name, "supercategory": above} for number, name, above in names]),
        ):
            lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
            stream.write(f'],\n"{key}": [\n{lines}')
        stream.write("]}\n")
    if not ignored:
        return []
    return [
        f"{ignored} images have pixels without a label; COCO has no such thing: they are crowds of a category {IGNORED}"
    ]


def _runs(region: np.ndarray) -> dict[str, Any]:
    return {"size": list(region.shape), "counts": text_of(runs_of(region))}


def _box(where: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a region `(H, W)` bool or of corners `(n, 2)`."""
    if where.dtype != bool:
        return (*where.min(0).tolist(), *where.max(0).tolist())
    rows, columns = np.flatnonzero(where.any(1)), np.flatnonzero(where.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _area(where: np.ndarray) -> int:
    """Pixels of a region, or those within corners on the edges of pixels."""
    if where.dtype == bool:
        return int(where.sum())
    x, y = where.T
    return abs(int(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) // 2
