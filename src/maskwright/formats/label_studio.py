"""Label Studio: tasks with brush masks to import, and the labelling configuration that they belong to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from maskwright.data.brush import encode_brush
from maskwright.data.finding import number_of
from maskwright.formats.export import IGNORED, Example, Export, put_image

CONTROL, IMAGE = "label", "image"  # names of the configuration, which every region repeats
IGNORED_COLOUR = (224, 224, 192)
# What a browser shows; anything else is written as PNG.
SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp")


def write_label_studio(export: Export, folder: Path) -> list[str]:
    """One brush region for each class of an image: any pixels, so that parts need not be apart.

    Ground truth is written as annotations; what a model made as predictions, which Label Studio shows and takes over
    when somebody accepts or corrects them. Images are named as local storage serves them, with this folder as document
    root.
    """
    count = ignored = 0
    with open(folder / "tasks.json", "w", encoding="utf-8") as stream:
        stream.write("[")
        for count, example in enumerate(export.examples(), start=1):
            name = put_image(example, folder / "images", SUFFIXES)
            regions = [
                _region(example, value, export.labels.names[value])
                for value in export.classes
                if (example.mask == value).any()
            ]
            if (example.mask == export.labels.ignore_index).any():
                regions.append(_region(example, export.labels.ignore_index, IGNORED))
                ignored += 1
            task = {"data": {IMAGE: f"/data/local-files/?d={quote(f'images/{name}')}"}, **_made(export, regions)}
            stream.write((",\n" if count > 1 else "\n") + json.dumps(task, ensure_ascii=False))
        stream.write("\n]\n")
    (folder / "label_config.xml").write_text(label_config(export, with_ignored=ignored > 0), encoding="utf-8")
    said = [
        "start Label Studio with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and "
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT=the folder, paste label_config.xml as the labelling interface, add "
        "images/ as local storage without syncing, and import tasks.json"
    ]
    if ignored:
        said.append(f"pixels without a label, in {number_of(ignored, 'image')}, are regions called {IGNORED}")
    return said


def label_config(export: Export, with_ignored: bool = False) -> str:
    """The labelling interface: brushes for all classes but the background, in the classes' colours."""
    labels = [(export.labels.names[value], export.labels.palette[value]) for value in export.classes]
    labels += [(IGNORED, IGNORED_COLOUR)] if with_ignored else []
    lines = [
        f'    <Label value={quoteattr(name)} background="#{red:02x}{green:02x}{blue:02x}"/>'
        for name, (red, green, blue) in labels
    ]
    return "\n".join(
        [
            "<View>",
            f'  <Image name="{IMAGE}" value="${IMAGE}" zoom="true" zoomControl="true"/>',
            f'  <BrushLabels name="{CONTROL}" toName="{IMAGE}">',
            *lines,
            "  </BrushLabels>",
            "</View>",
            "",
        ]
    )


def _region(example: Example, value: int, name: str) -> dict[str, Any]:
    height, width = example.mask.shape
    return {
        "id": f"{value}-{name}"[:40],
        "type": "brushlabels",
        "from_name": CONTROL,
        "to_name": IMAGE,
        "origin": "manual",
        "image_rotation": 0,
        "original_width": width,
        "original_height": height,
        "value": {"format": "rle", "rle": encode_brush(example.mask == value), "brushlabels": [name]},
    }


def _made(export: Export, regions: list[dict[str, Any]]) -> dict[str, Any]:
    if export.what == "ground truth":
        return {"annotations": [{"result": regions, "was_cancelled": False, "ground_truth": False}]}
    return {"predictions": [{"model_version": f"maskwright {export.what}", "result": regions}]}
