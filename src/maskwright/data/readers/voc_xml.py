"""Pascal VOC's XML for detection, as LabelImg, CVAT, Roboflow and others write it: boxes, and Roboflow's polygons."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from maskwright.data.finding import Complain, refuse
from maskwright.data.readers.objects_xml import number_of_text, open_objects
from maskwright.data.readers.shapes import Shape, ShapeSet, box_corners
from maskwright.settings import DataSettings


def open_voc_xml(settings: DataSettings, split: str, complain: Complain = refuse) -> ShapeSet:
    """One split of a folder with Pascal VOC's XML in `Annotations` or beside the images.

    Objects that are `difficult` or truncated count as the others; parts of objects and actions are not read. Boxes
    count pixels from 1, both ends included. A file without objects says that nothing is there; an image without a file
    is not labelled. Lists are those in `ImageSets/Main`. Classes are in the order of the alphabet, background in front.

    Args:
        settings: see `data.readers.annotated.annotated_set`, which says what boxes are good for.
        split: which images.
        complain: what to do with findings; by default errors are raised.

    Raises:
        DataError: no such file, a damaged one, or as `annotated_set`.
    """
    return open_objects(settings, split, "voc_xml", ("size/height", "size/width"), _shape, complain)


def _shape(given: Element, name: str, where: str, path: Path) -> Shape:
    outline, box = given.find("polygon"), given.find("bndbox")
    if outline is not None and len(outline):
        corners = range(1, max(3, len(outline) // 2) + 1)
        if len(outline) % 2:
            raise ValueError(f"has a polygon of {len(outline)} numbers, expected pairs")
        points = [[number_of_text(outline, f"{axis}{corner}") for axis in "xy"] for corner in corners]
        return Shape(name, "polygon", where, np.array(points, np.float64))
    if box is None:
        raise ValueError("has neither a bndbox nor a polygon")
    left, top, right, bottom = (number_of_text(box, side) for side in ("xmin", "ymin", "xmax", "ymax"))
    if right < left or bottom < top:
        raise ValueError(f"has a box from ({left:g}, {top:g}) to ({right:g}, {bottom:g}), which ends before it begins")
    return Shape(name, "box", where, box_corners(left - 1, top - 1, right, bottom))
