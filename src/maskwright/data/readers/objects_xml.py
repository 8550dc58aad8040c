"""XML with `<object>`s, a file for each image: what the formats of LabelMe's web tool and of Pascal VOC share."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder

from maskwright.data.finding import Complain
from maskwright.data.folders import files_of, text_head
from maskwright.data.names import odd_letters, refuse_odd_names
from maskwright.data.plain_xml import parse_xml
from maskwright.data.readers.annotated import Export, anew, annotated_set, as_they_are
from maskwright.data.readers.shapes import Annotated, Shape, ShapeSet
from maskwright.errors import DataError
from maskwright.settings import DataSettings

LOOKED_AT = 1 << 13  # bytes at the beginning of a file
ANNOTATIONS = "annotations"
FEW = 3  # files of a folder that are looked at to know what it is
# What tells the formats apart, where both have objects in annotations.
MARKS = {
    "labelme_xml": (b"<pt>", b"<imagesize>", b"<deleted>", b"<segm>"),
    "voc_xml": (b"<bndbox>", b"<size>", b"<segmented>"),
}
CALLED = {"labelme_xml": "LabelMe", "voc_xml": "Pascal VOC"}
# An object, and the file that it stands in -> what is drawn, or None where it was deleted; ValueError where it is
# damaged.
ShapeOf = Callable[[Element, str, str, Path], Shape | None]


def object_files(root: Path) -> list[Path]:
    """XML files below a folder but those of other formats; what was cut off before anything is told counts."""
    found: list[Path] = []
    for folder, inside, _ in os.walk(root):
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        found += [path for path in files_of(Path(folder), ".xml") if _first_element(path) in (b"annotation", b"")]
    return found


def has_objects(root: Path, layout: str) -> bool:
    """Whether a folder, or one in or below those in it, has such files of a format; a few of each are looked at."""
    return any(
        any(mark in text_head(path, LOOKED_AT) for mark in MARKS[layout])
        for folder in _folders(root)
        for path in files_of(folder, ".xml")[:FEW]
        if _first_element(path) == b"annotation"
    )


def _folders(root: Path, deep: int = 2) -> Iterator[Path]:
    yield root
    if deep:
        inside = (path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
        for folder in sorted(inside):
            yield from _folders(folder, deep - 1)


def _first_element(path: Path) -> bytes:
    found = re.search(rb"<([A-Za-z_][^\s/>]*)", text_head(path, LOOKED_AT))
    return found[1] if found else b""


def open_objects(
    settings: DataSettings, split: str, layout: str, sides: tuple[str, str], shape_of: ShapeOf, complain: Complain
) -> ShapeSet:
    """One split of a folder with such files.

    Args:
        settings: as for `annotated_set`.
        split: which images.
        layout: name of the reader.
        sides: as for `read_objects`.
        shape_of: as for `read_objects`.
        complain: what to do with findings.

    Raises:
        DataError: no such file, a damaged one, or as `annotated_set`.
    """
    root = Path(settings.root)
    files = object_files(root) if root.is_dir() else []
    if not files:
        raise DataError(f"{root} has no XML of {CALLED[layout]}. Expected a file with objects for each image")
    export = read_objects(layout, str(root), as_they_are(files), sides, shape_of)
    return annotated_set(settings, split, anew(export), complain)


@lru_cache(maxsize=2)
def read_objects(
    layout: str, root: str, files: tuple[tuple[str, int, int], ...], sides: tuple[str, str], shape_of: ShapeOf
) -> Export:
    """What such files say, once for the splits of a set.

    An image is the one that its file is called after, else the one that the file names.

    Args:
        layout: name of the reader.
        root: the folder.
        files: paths with times of change and sizes, which make the cache forget files that changed.
        sides: where the height and the width of the image stand, as in `size/height`.
        shape_of: what is drawn, by the object, its name, where it is and its file.
    """
    export = Export(layout, [Path(path) for path, *_ in files])
    for path in export.files:
        export.annotated.append(_row(path, Path(root), export, sides, shape_of))
    export.classes = sorted({name for row in export.annotated for name in row.names()})
    return export


def _row(path: Path, root: Path, export: Export, sides: tuple[str, str], shape_of: ShapeOf) -> Annotated:
    place = path.relative_to(root).with_suffix("").as_posix()
    row = Annotated(place, str(path), looked_at=True, file=str(path))

    def damaged(what: str) -> None:
        export.damaged.append(what)
        row.damaged = True

    builder = TreeBuilder()
    try:
        parse_xml(path, builder.start, builder.end, builder.data)
    except DataError as error:
        damaged(f"{path} cannot be read ({error})")
        return row
    tree = builder.close()
    named = text_of(tree, "filename").replace("\\", "/")
    if ".." in named.split("/"):
        damaged(f"{path} names the image {named!r}, which leads out of the folder")
    elif named:
        row.also = (posixpath.join(posixpath.dirname(place), named), named)
    try:
        height, width = (int(float(text_of(tree, side) or 0)) for side in sides)
        row.size = (height, width) if height or width else None
    except (ValueError, OverflowError) as error:
        damaged(f"{path} has an image without a size ({error})")
    for number, given in enumerate(tree.findall("object"), start=1):
        name = text_of(given, "name")
        where = f"object {number} ({name[:60]})"
        try:
            if not name or odd_letters(name):
                raise ValueError("has no name")
            shape = shape_of(given, name, where, path)
        except (ValueError, OverflowError) as error:
            damaged(f"{path}, {where} {error}")
            continue
        if shape is not None:
            row.shapes.append(shape)
    return row


def text_of(element: Element, place: str) -> str:
    """The text of an element in another without blanks around it; "" where it is not there."""
    return " ".join((element.findtext(place) or "").split())


def number_of_text(element: Element, place: str) -> float:
    """The number that stands in an element.

    Raises:
        ValueError: there is none; the message goes on behind the annotation's name.
    """
    found = text_of(element, place)
    try:
        return float(found)
    except ValueError:
        raise ValueError(f"has {found!r} as its {place}" if found else f"has no {place}") from None


def file_beside(path: Path, name: str, folder: str) -> Path:
    """A file that an annotation names: beside it, or in a folder beside `Annotations` or in its own.

    Raises:
        ValueError: it is not there, or its name leads elsewhere.
    """
    refuse_odd_names([name])
    parts = path.parent.parts
    place = next((place for place, part in enumerate(parts) if part.casefold() == ANNOTATIONS), len(parts))
    inside = parts[place + 1 :]
    twins = [Path(*parts[:place], folder, *inside[:count]) for count in range(len(inside), -1, -1)]
    found = next((file for above in (*twins, path.parent) if (file := above / name).is_file()), None)
    if found is None:
        raise ValueError(f"names {name!r}, which is not there")
    return found
