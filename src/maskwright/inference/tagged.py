"""Images whose tags are known: which classes their masks may show. Nothing here needs a network."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from maskwright.data.finding import Finding, number_of, refuse
from maskwright.data.sample import LabelSpace
from maskwright.data.tables import read_tags
from maskwright.data.tags import TagTable, image_key, match_tags, tag_values
from maskwright.errors import DataError

Tags = Iterable[str | int]  # names or values of classes


def possible_classes(tags: Tags | None, labels: LabelSpace) -> tuple[int, ...] | None:
    """Values of the classes that a mask may show: the background, where there is one, and the tags, ascending.

    Args:
        tags: of the image; none of them: nothing but background; None: they are not known, every class may be there.
        labels: what the model's classes are.

    Raises:
        DataError: a tag that is no class (the message names the nearest), or no class is left.
    """
    if tags is None:
        return None
    named = [tags] if isinstance(tags, str) else tags
    found = {labels.value(tag) if isinstance(tag, str) else int(tag) for tag in named}
    strange = sorted(found - set(range(labels.num_classes)))
    if strange:
        raise DataError(f"tags hold {strange[0]}, expected names of classes or values 0..{labels.num_classes - 1}")
    found |= set() if labels.background is None else {labels.background}
    if not found:
        raise DataError(
            "the image has no tags, and the model no background that it could be. Leave its tags unknown, or tag it"
        )
    return tuple(sorted(found))


def each(tags: Any, images: Sequence[Any]) -> list[Any]:
    """The tags of each of several images; None for all where nothing is known.

    Raises:
        DataError: not one for each.
    """
    if tags is None:
        return [None] * len(images)
    found = list(tags)
    if isinstance(tags, str) or len(found) != len(images):
        raise DataError(f"expected a list of tags for each of the {len(images)} images, found {tags!r}")
    return found


def tags_of_files(
    path: str | Path, files: Mapping[str, str], labels: LabelSpace, data: Mapping[str, Any]
) -> dict[str, tuple[int, ...]]:
    """The tags of images that lie anywhere.

    Args:
        path: table or folder of tags, as `maskwright.data.tables.read_tags` reads it.
        files: image -> its path.
        labels: what the tags mean.
        data: settings of the model's own data; its other names of tags, and what stands between them, are those here.

    Returns:
        Image -> label values, ascending, without the background; images that no row names are left out.

    Raises:
        DataError: as `read_tags`; a tag that is no class (the message names the nearest), no row that names one of the
            images, or one that names several.
    """
    names = {*files, *(name.rpartition("/")[2] for name in files)}
    table = read_tags(path, names, data.get("options", {}).get("tag_separator"))
    table.rename(data.get("rename") or {})
    values = tag_values(table, labels, _refuse)
    return {name: values[key] for name, key in _rows_of(table, files).items()}


def _rows_of(table: TagTable, files: Mapping[str, str]) -> dict[str, str]:
    """The row of each image that has one: the longest that its path ends in. Only where no path ends in any row are
    they matched as those of a data set: a table names more images than these, some of them alike but for the folder."""
    rows: dict[str, str] = {}
    images: dict[str, str] = {}
    for name, path in files.items():
        parts = image_key(os.path.abspath(path).replace(os.sep, "/")).split("/")
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
        key = next((end for end in ends if end in table.rows), None)
        if key is None:
            continue
        if key in images:
            raise DataError(
                f"{table.source}, {table.where[key]}: {key!r} may be {images[key]} or {path}. Expected one image per "
                "row. Fix: write the folder too, as in folder/image.jpg"
            )
        rows[name], images[key] = key, path
    if not rows:
        table.repeated.clear()  # rows of one name add up; rows of several that fit one image do not
        rows = match_tags(table, files, _refuse)
    return rows


def _refuse(finding: Finding) -> None:
    """Errors of a table in the words of somebody who has a model already."""
    if finding.kind == "tag-repeated":
        finding.level, finding.what = "error", "rows that fit an image that another row fits as well"
    finding.fix = {
        "tag-unknown": "correct the tag, or remove it: the model knows no other classes",
        "tag-no-image": "correct the names, or leave tags= out",
        "tag-repeated": "leave the rows of other images out, or give the folder that their names begin in",
    }.get(finding.kind, finding.fix)
    refuse(finding)


def how_many_tagged(tags: Sequence[Collection[int] | None], source: str, unknown: str) -> str:
    """How many images have tags, an empty list, or none that anybody knows, in one line.

    Args:
        tags: of each image.
        source: where they come from.
        unknown: what becomes of the images whose tags are not known.
    """
    none = sum(one is not None and not one for one in tags)
    missing = sum(one is None for one in tags)
    counts = [f"{number_of(len(tags) - none - missing, 'image')} predicted among their tags"]
    counts += [f"{none} with an empty list, background"] if none else []
    counts += [f"{missing} whose tags are not known, {unknown}"] if missing else []
    return f"{source}: {'; '.join(counts)}"
