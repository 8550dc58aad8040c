"""labelme: a JSON file of polygons beside every image, and `labels.txt`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maskwright.files import write_json
from maskwright.formats.export import IGNORED, Export, put_image
from maskwright.formats.outlines import outlines

VERSION = "5.5.0"  # of the format


def write_labelme(export: Export, folder: Path) -> list[str]:
    """A polygon for each connected part of a class; pixels without a label are parts called `__ignore__`."""
    labels = export.labels
    names = [(value, labels.names[value]) for value in export.classes] + [(labels.ignore_index, IGNORED)]
    for example in export.examples():
        image = put_image(example, folder)
        height, width = example.mask.shape
        shapes: list[dict[str, Any]] = [
            {
                "label": name,
                "points": corners.astype(float).tolist(),
                "group_id": None,
                "description": "",
                "shape_type": "polygon",
                "flags": {},
            }
            for value, name in names
            for corners in outlines(example.mask == value)
        ]
        write_json(
            folder / f"{example.name}.json",
            {
                "version": VERSION,
                "flags": {},
                "shapes": shapes,
                "imagePath": image.rpartition("/")[2],
                "imageData": None,
                "imageHeight": height,
                "imageWidth": width,
            },
        )
    lines = [IGNORED, "_background_", *(labels.names[value] for value in export.classes)]
    (folder / "labels.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return []
