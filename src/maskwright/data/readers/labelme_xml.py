"""LabelMe's XML, of the first web tool at MIT and of CVAT's *LabelMe 3.0*: polygons, boxes, masks."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
from PIL import Image

from maskwright.data.finding import Complain, refuse
from maskwright.data.masks import DECODE_ERRORS
from maskwright.data.readers.objects_xml import file_beside, number_of_text, open_objects, text_of
from maskwright.data.readers.shapes import Shape, ShapeSet
from maskwright.data.runs import runs_of
from maskwright.settings import DataSettings

IMAGES, MASKS = "Images", "Masks"


def open_labelme_xml(settings: DataSettings, split: str, complain: Complain = refuse) -> ShapeSet:
    """One split of a folder with LabelMe's XML beside the images, or in a folder such as `Annotations`.

    Objects are painted in file order, later over earlier, parts of others as well; those that were deleted are not.
    What was drawn as a bounding box is a box. Images lie in `Images` or beside their files, masks in `Masks`. A file
    without objects says that nothing is there; an image without a file is not labelled. Classes are in the order of the
    alphabet, background in front.

    Args:
        settings: see `data.readers.annotated.annotated_set`.
        split: which images.
        complain: what to do with findings; by default errors are raised.

    Raises:
        DataError: no such file, a damaged one, or as `annotated_set`.
    """
    if Path(settings.root, IMAGES).is_dir():
        settings = settings.model_copy(update={"options": {"images": IMAGES, **settings.options}})
    sides = ("imagesize/nrows", "imagesize/ncols")
    return open_objects(settings, split, "labelme_xml", sides, _shape, complain)


def _shape(given: Element, name: str, where: str, path: Path) -> Shape | None:
    if text_of(given, "deleted") not in ("", "0"):
        return None
    outline, mask = given.find("polygon"), given.find("segm")
    if outline is not None:
        points = [[number_of_text(point, "x"), number_of_text(point, "y")] for point in outline.findall("pt")]
        box = text_of(given, "type") == "bounding_box"
        return Shape(name, "box" if box else "polygon", where, np.array(points, np.float64).reshape(-1, 2))
    if mask is None:
        raise ValueError("has neither a polygon nor a mask")
    file = file_beside(path, text_of(mask, "mask"), MASKS)
    try:
        with Image.open(file) as picture:
            inside = np.array(picture.convert("L")) > 0
    except DECODE_ERRORS as error:
        raise ValueError(f"has the mask {file}, which is no picture ({error})") from None
    return Shape(name, "mask", where, window=(0, 0, *inside.shape), runs=runs_of(inside), down=True)
