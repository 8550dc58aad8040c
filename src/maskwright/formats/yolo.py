"""Ultralytics' two formats: `data.yaml`, `images/SPLIT/`, and polygons in `labels/` or PNG in `masks/`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from maskwright.data.finding import number_of
from maskwright.formats.export import Example, Export, put_image
from maskwright.formats.outlines import outlines

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
IGNORED = 255  # the only value that their loader ignores


def write_yolo(export: Export, folder: Path) -> list[str]:
    """Polygons: a row for each connected part of a class, `class x y x y ...` in parts of the image's sides."""
    number = {value: index for index, value in enumerate(export.classes)}
    ignored = 0

    def write(example: Example, path: Path) -> None:
        nonlocal ignored
        ignored += bool((example.mask == export.labels.ignore_index).any())
        side = np.array(example.mask.shape[::-1], np.float64)
        rows = [
            " ".join([str(number[value]), *(f"{part:.8g}" for part in (corners / side).ravel().tolist())])
            for value in export.classes
            for corners in outlines(example.mask == value)
        ]
        path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")

    names = [export.labels.names[value] for value in export.classes]
    said = _write(export, folder, names, {}, "labels", ".txt", write)
    if ignored:
        said.append(f"{number_of(ignored, 'image')} with pixels without a label: polygons make them background")
    return said


def write_yolo_semantic(export: Export, folder: Path) -> list[str]:
    """Masks as grey PNG, whose values are the classes in `data.yaml`; 255 is ignored."""

    def write(example: Example, path: Path) -> None:
        mask = np.where(example.mask == export.labels.ignore_index, IGNORED, example.mask).astype(np.uint8)
        Image.fromarray(mask).save(path)

    return _write(export, folder, list(export.labels.names), {"masks_dir": "masks"}, "masks", ".png", write)


def _write(
    export: Export,
    folder: Path,
    names: list[str],
    fields: dict[str, Any],
    beside: str,
    suffix: str,
    write: Callable[[Example, Path], None],
) -> list[str]:
    for example in export.examples():
        image = put_image(example, folder / "images" / export.split, SUFFIXES)
        target = folder / beside_image(f"images/{export.split}/{image}", beside, suffix)
        target.parent.mkdir(parents=True, exist_ok=True)
        write(example, target)
    place = f"images/{export.split}"
    # Without `path` folders count from the file itself.
    data = {"train": place, "val": place, **fields, "names": dict(enumerate(names))}
    with open(folder / "data.yaml", "w", encoding="utf-8") as stream:
        yaml.safe_dump(data, stream, allow_unicode=True, sort_keys=False)
    return [
        "data.yaml names these images for train and for val; correct it where the others are in a folder of their own"
    ]


def beside_image(image: str, beside: str, suffix: str) -> str:
    """Where the label of an image lies: `beside` takes the place of the last `images` in its path.

    Args:
        image: path below the set's folder, with `/`.
        beside: folder of labels or masks.
        suffix: of the label.
    """
    *folders, name = image.split("/")
    last = max(index for index, part in enumerate(folders) if part == "images")
    folders[last] = beside
    return "/".join([*folders, name.rpartition(".")[0] + suffix])
