"""Image-level tags from CSV, JSON or one folder per tag."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maskwright.data.finding import Complain, Finding, refuse
from maskwright.data.images import image_suffixes, list_images
from maskwright.data.sample import LabelSpace
from maskwright.errors import DataError, unknown_name
from maskwright.files import read_json

SEPARATOR = ";"
# What `tag_source` says where tags are derived from masks; anything else is a file, a folder or the set's own list.
TAGS_FROM_MASKS = ("masks", "derived from the masks")


@dataclass
class TagTable:
    """Tags as a file gives them.

    Args:
        source: the file or folder.
        rows: image, as the file names it without suffix -> tag names, ascending; empty where no tag applies.
        where: image -> "line 3", for messages.
        repeated: images that more than one row names; their tags are merged.
    """

    source: str
    rows: dict[str, tuple[str, ...]] = field(default_factory=dict)
    where: dict[str, str] = field(default_factory=dict)
    repeated: list[str] = field(default_factory=list)

    def add(self, image: str, tags: Iterable[str], where: str) -> None:
        key = image_key(image)
        named = {tag.strip() for tag in tags} - {""}
        if key in self.rows:
            self.repeated.append(key)
            named.update(self.rows[key])
        self.rows[key] = tuple(sorted(named))
        self.where.setdefault(key, where)

    @property
    def names(self) -> list[str]:
        """Every tag name, ascending."""
        return sorted({tag for tags in self.rows.values() for tag in tags})


def read_tags(path: str | Path) -> TagTable:
    """Tags from a CSV file, a JSON file, or a folder with one folder of images per tag.

    CSV: a header `image,tags` and one row per image with `;` between its tags; an empty second column says that no tag
    applies. Or one column per tag, `image,cat,dog`, with 1 or 0. JSON: `{"image": ["cat", "dog"]}` or
    `[{"image": "image", "tags": ["cat", "dog"]}]`. Folder: `TAG/image.jpg`; an image may lie under several tags.
    Images are named with or without suffix and folder, blanks around names are dropped, repeated rows add up.

    Raises:
        DataError: missing file, another suffix, or a line that is not as described, named with its number.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise DataError(f"tags {path} does not exist. Expected a CSV or JSON file, or a folder with one folder per tag")
    if path.suffix.lower() in (".csv", ".txt"):
        return _read_csv(path)
    if path.suffix.lower() == ".json":
        return _read_json(path)
    raise DataError(f"tags {path} end in {path.suffix or 'no suffix'!r}. Expected .csv, .json, or a folder")


def image_key(image: str) -> str:
    """An image as a tag file names it, with `/` between folders and without `./` and suffix."""
    image = image.strip().replace("\\", "/")
    while image.startswith("./"):
        image = image[2:]
    stem, dot, suffix = image.rpartition(".")
    return stem if stem and dot and f".{suffix.lower()}" in image_suffixes() else image


def match_tags(table: TagTable, names: Collection[str], complain: Complain = refuse) -> dict[str, str]:
    """Which row of a tag table belongs to which image.

    A row names an image by its whole name, by a longer path that ends in it, or by its file name alone where only one
    image has that.

    Args:
        table: tags as read.
        names: every image there is; of a mapping its keys.
        complain: told about rows without an image, rows that fit several, and repeated rows.

    Returns:
        Image name -> key in `table.rows`.

    Raises:
        DataError: no row fits any image, or one fits several.
    """
    whole = names if isinstance(names, Mapping) else set(names)
    by_file: dict[str, list[str]] = {}  # made where a row is no name
    matched: dict[str, str] = {}
    missing: list[str] = []
    several: list[str] = []
    for key in list(table.rows):
        parts = key.split("/")
        ends = ("/".join(parts[start:]) for start in range(1, len(parts)))
        name = key if key in whole else next((end for end in ends if end in whole), None)
        if name is None:
            if not by_file:
                for image in names:
                    by_file.setdefault(image.rpartition("/")[2], []).append(image)
            candidates = by_file.get(parts[-1], [])
            if len(candidates) != 1:
                (several if candidates else missing).append(key)
                continue
            name = candidates[0]
        if name in matched:
            table.repeated.append(key)
            both = {*table.rows[matched[name]], *table.rows[key]}
            table.rows[matched[name]] = tuple(sorted(both))
        else:
            matched[name] = key

    def places(keys: list[str]) -> list[str]:
        return [f"{key} ({table.where[key]})" for key in keys]

    if several:
        complain(
            Finding(
                "error",
                f"rows of {table.source} name a file that lies in several folders",
                places(several),
                len(several),
                expected="one image per row",
                fix="write the folder too, as in folder/image.jpg",
                kind="tag-ambiguous",
            )
        )
    if missing:
        none = len(missing) == len(table.rows)
        complain(
            Finding(
                "error" if none else "warning",
                f"{'no row' if none else f'{len(missing)} of {len(table.rows)} rows'} of {table.source} "
                f"{'names an image that exists' if none else 'name images that do not exist'}",
                places(missing),
                len(missing),
                expected=f"names such as {next(iter(names))}" if names else "at least one image",
                fix="correct the names, or the folder given as data",
                kind="tag-no-image",
            )
        )
    if table.repeated:
        complain(
            Finding(
                "warning",
                f"images named by more than one row of {table.source}; their tags are merged",
                places(table.repeated),
                len(table.repeated),
                fix="keep one row per image",
                kind="tag-repeated",
            )
        )
    return matched


def tag_values(table: TagTable, labels: LabelSpace, complain: Complain = refuse) -> dict[str, tuple[int, ...]]:
    """Label values of every row of a tag table; the background's name is no tag and is left out.

    Raises:
        DataError: a tag that is no class; the message names the nearest.
    """
    values = {name: value for value, name in enumerate(labels.names)}
    unknown: dict[str, list[str]] = {}
    rows, of_tags = {}, {}
    for key, tags in table.rows.items():
        for tag in tags:
            if tag not in values:
                unknown.setdefault(tag, []).append(key)
        if tags not in of_tags:
            known = {values[tag] for tag in tags if tag in values} - {labels.background}
            of_tags[tags] = tuple(sorted(value for value in known if value is not None))
        rows[key] = of_tags[tags]
    for tag, keys in unknown.items():
        complain(
            Finding(
                "error",
                unknown_name("tag", tag, labels.tag_names).rstrip("."),
                [f"{table.source} {table.where[key]} ({key})" for key in keys],
                len(keys),
                expected=f"one of the {len(labels.tag_names)} class names",
                fix="correct the tag, or add it to the classes",
                kind="tag-unknown",
            )
        )
    return rows


def _read_csv(path: Path) -> TagTable:
    table = TagTable(str(path))
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, skipinitialspace=True)
            header: list[str] | None = None
            for row in reader:
                if not any(cell.strip() for cell in row):
                    continue
                cells = [cell.strip() for cell in row]
                where = f"line {reader.line_num}"
                if header is None:
                    header = _checked_header(path, cells)
                    continue
                if len(cells) != len(header):
                    raise DataError(
                        f"{path} {where}: {len(cells)} columns {','.join(cells)!r}. Expected {len(header)} "
                        f"({','.join(header[:4])}). Fix: write {SEPARATOR!r} between tags, as in photo.jpg,cat;dog"
                    )
                table.add(cells[0], _row_tags(path, where, header, cells), where)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}). Fix: save it as CSV in UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{path} is not CSV: {error}") from error
    if header is None:
        raise DataError(f"{path} is empty. Expected a header image,tags and one row per image")
    return table


def _checked_header(path: Path, cells: list[str]) -> list[str]:
    header = [cells[0].lower(), *cells[1:]]
    twice = sorted({name for name in header if header.count(name) > 1})
    if len(header) < 2 or header[0] != "image" or "" in header or twice:
        raise DataError(
            f"{path} begins with {','.join(cells)!r}. Expected a header: image,tags ({SEPARATOR!r} between tags) or "
            "image and one column per tag (1 or 0), with commas between columns"
        )
    return header


def _row_tags(path: Path, where: str, header: list[str], cells: list[str]) -> list[str]:
    if not cells[0]:
        raise DataError(f"{path} {where}: no image is named. Expected its file name in the first column")
    if len(header) == 2 and header[1].lower() == "tags":
        return cells[1].split(SEPARATOR)
    for name, cell in zip(header[1:], cells[1:]):
        if cell not in ("0", "1"):
            raise DataError(f"{path} {where}: column {name!r} holds {cell!r}. Expected 1 (the tag applies) or 0")
    return [name for name, cell in zip(header[1:], cells[1:]) if cell == "1"]


def _read_json(path: Path) -> TagTable:
    content = read_json(path)
    rows: list[tuple[Any, Any, str]]
    if isinstance(content, dict):
        rows = [(image, tags, f"key {image!r}") for image, tags in content.items()]
    elif isinstance(content, list) and all(isinstance(row, dict) and {"image", "tags"} <= set(row) for row in content):
        rows = [(row["image"], row["tags"], f"entry {index}") for index, row in enumerate(content)]
    else:
        raise DataError(f'{path}: expected {{"image": ["tag", ...]}} or [{{"image": ..., "tags": [...]}}]')
    table = TagTable(str(path))
    for image, tags, where in rows:
        if not (isinstance(image, str) and isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)):
            raise DataError(f"{path} {where}: tags are {tags!r}. Expected a list of tag names")
        table.add(image, tags, where)
    return table


def _read_folder(path: Path) -> TagTable:
    table = TagTable(str(path))
    files, _ = list_images(path)
    for name in files:
        tag, slash, image = name.partition("/")
        if slash:
            key = image_key(image)
            known = table.rows.get(key, ())
            table.rows[key] = tuple(sorted({*known, tag}))
            table.where.setdefault(key, f"{tag}/")
    if not table.rows:
        raise DataError(f"tags {path}: no image lies in a subfolder. Expected one folder per tag with its images")
    return table
