"""CVAT's "Segmentation mask 1.1": `labelmap.txt`, masks of classes and of objects in colours, lists and images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from maskwright.data.finding import number_of
from maskwright.data.readers.polygons import paint_polygon, to_grid
from maskwright.data.sample import LabelSpace, voc_palette
from maskwright.errors import DataError
from maskwright.formats.export import IGNORED, Export, put_image
from maskwright.formats.outlines import outlines

MOST_OBJECTS = 255  # colours that CVAT tells apart in a mask of objects, black aside
IGNORED_COLOUR = (224, 224, 192)  # of borders in PASCAL VOC


def write_cvat(export: Export, folder: Path) -> list[str]:
    """Every connected part of a class is an object, in the colours that CVAT knows objects by.

    Background and pixels without a label are black in the mask of objects: CVAT then makes no annotation of them, and
    asks for no label called background.
    """
    colours = label_colours(export.labels)
    table = np.zeros((256, 3), np.uint8)
    for value, colour in enumerate(colours):
        table[value] = colour
    ignore = export.labels.ignore_index
    table[ignore] = IGNORED_COLOUR
    objects = np.array(voc_palette(256), np.uint8)
    names, merged, ignored = [], 0, 0
    for example in export.examples():
        put_image(example, folder / "JPEGImages")
        parts, whole = object_numbers(example.mask, export.classes)
        merged += not whole
        ignored += bool((example.mask == ignore).any())
        for place, pixels in (("SegmentationClass", table[example.mask]), ("SegmentationObject", objects[parts])):
            path = folder / place / f"{example.name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
        names.append(example.name)
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / f"{export.split}.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    lines = [f"{name}:{_triple(colour)}::" for name, colour in zip(export.labels.names, colours)]
    lines += [f"{IGNORED}:{_triple(IGNORED_COLOUR)}::"] if ignored else []
    text = "# label:color_rgb:parts:actions\n" + "".join(f"{line}\n" for line in lines)
    (folder / "labelmap.txt").write_text(text, encoding="utf-8")
    said = [
        f"zip what is in the folder and upload it as Segmentation mask 1.1 to a task with the labels "
        f"{', '.join(export.labels.names[value] for value in export.classes)}"
    ]
    if ignored:
        said.append(f"pixels without a label, in {number_of(ignored, 'image')}: CVAT gives them back as background")
    if merged:
        said.append(
            f"{number_of(merged, 'image')} with more than {MOST_OBJECTS} parts: all of a class are one object there"
        )
    return said


def label_colours(labels: LabelSpace) -> list[tuple[int, int, int]]:
    """A colour for each class, no two the same, black for the background alone.

    Raises:
        DataError: a name that a label map cannot hold.
    """
    for name in labels.names:
        if ":" in name or name.startswith("#") or name.strip() != name or "\n" in name or name == IGNORED:
            raise DataError(
                f"class {name!r}: labelmap.txt cannot hold a name with a colon, blanks around it or # in front, or the "
                f"name {IGNORED}. Fix: give the classes other names"
            )
    black, colours = (0, 0, 0), list(labels.palette)
    if labels.background is not None:
        colours[labels.background] = black
    if len({*colours, IGNORED_COLOUR}) == len(colours) + 1 and (labels.background is not None or black not in colours):
        return colours
    # VOC's colours, black left out, in the order of the classes.
    voc = iter(colour for colour in voc_palette(256)[1:] if colour != IGNORED_COLOUR)
    return [black if value == labels.background else next(voc) for value in range(labels.num_classes)]


def object_numbers(mask: np.ndarray, classes: tuple[int, ...]) -> tuple[np.ndarray, bool]:
    """Number every connected part of every class, from 1.

    Args:
        mask: `(H, W)` uint8 label values.
        classes: label values whose parts are objects.

    Returns:
        `(H, W)` uint8, 0 where no object is; and whether parts are apart: where there are too many, all parts of a
        class have one number.
    """
    numbers = np.zeros_like(mask)
    count = 0
    for value in classes:
        for outline in outlines(mask == value):
            count += 1
            if count > MOST_OBJECTS:
                order = np.zeros(256, np.uint8)
                order[list(classes)] = np.arange(1, len(classes) + 1)
                return order[mask], False
            paint_polygon(numbers, to_grid(outline.astype(np.float64)), count)
    return numbers, True


def _triple(colour: tuple[int, int, int]) -> str:
    return ",".join(map(str, colour))
