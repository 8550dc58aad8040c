"""Image-level tags from tables, JSON and folders as people save them: `read_tags`."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from maskwright.data.images import list_images
from maskwright.data.names import normal, plain
from maskwright.data.spelling import MARKS
from maskwright.data.tables.cells import flag
from maskwright.data.tables.columns import IMAGE_HEADINGS, SPLIT_WORDS, is_image, read_columns
from maskwright.data.tables.grid import TEXT_SUFFIXES, Grid, read_csv, read_excel, read_objects, read_text
from maskwright.data.tables.label_studio import is_tasks, task_tags
from maskwright.data.tags import TagTable, image_key
from maskwright.errors import DataError

SUFFIXES = (*TEXT_SUFFIXES, ".json", ".jsonl", ".xlsx", ".xlsm")
EXPECTED = "a CSV, TSV, Excel or JSON file, or a folder with one folder per tag"
LISTS = ("images", "data", "items", "samples", "rows", "annotations", "records")  # keys whose value holds the rows


def read_tags(path: str | Path, images: Collection[str] = (), between: str | None = None) -> TagTable:
    """Tags from a table, a JSON file, or a folder with one folder of images per tag.

    Table: one column names the images, and either one column names their tags, `image,tags`, or one column stands for
    each tag, `image,cat,dog`, with yes or no. JSON: `{"image": ["cat", "dog"]}`, `{"cat": ["image"]}`, or a list of
    objects, which are the rows of a table; or what Label Studio exports. Folder: `TAG/image.jpg`, an image may lie
    under several tags; or JSON files of labelme and X-AnyLabeling, whose flags are tags. Images are named with or
    without suffix and folder, repeated rows add up. `TagTable.said` has what was assumed.

    Args:
        path: of the file or folder.
        images: names of the images that there are, which tell the columns apart.
        between: characters between tags in a cell, or their name in `maskwright.data.spelling.MARKS`; found out by
            default.

    Raises:
        DataError: missing file, another suffix, or a line that is not as described, named with its number.
    """
    path = Path(path)
    between = MARKS.get(str(between), between)
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise DataError(f"tags {path} does not exist. Expected {EXPECTED}")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(
            f"tags {path} end in {path.suffix or 'no suffix'!r}. Expected .csv, .tsv, .xlsx, .json, .jsonl, or a "
            "folder. Fix: save the table as CSV in UTF-8"
        )
    if is_tasks(path):
        return task_tags(path, images)
    if suffix == ".json":
        return _read_json(path, _json(path, read_text(path)[0]), images, between)
    if suffix == ".jsonl":
        grid = read_objects(str(path), _json_lines(path))
    elif suffix in TEXT_SUFFIXES:
        grid = read_csv(path, _names_image(images))
    else:
        grid = read_excel(path)
    return read_columns(grid, images, between)


def _names_image(images: Collection[str]) -> Callable[[Any], bool]:
    return lambda cell: is_image(cell, images) or (isinstance(cell, str) and plain(cell) in IMAGE_HEADINGS)


def _json(where: object, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not valid JSON: {error}") from error


def _json_lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    rows = []
    for number, line in enumerate(read_text(path)[0].splitlines(), 1):
        if not line.strip():
            continue
        row = _json(f"{path} line {number}", line)
        if not isinstance(row, dict):
            raise DataError(f'{path} line {number}: found {row!r}. Expected {{"image": ..., "tags": [...]}}')
        rows.append((f"line {number}", row))
    return rows


def _read_json(path: Path, content: Any, images: Collection[str], between: str | None) -> TagTable:
    expected = f'{path}: expected {{"image": ["tag", ...]}} or [{{"image": ..., "tags": [...]}}]'
    if isinstance(content, dict) and {"images", "annotations", "categories"} <= set(content):
        return _read_coco(path, content)
    if isinstance(content, dict):
        key = next((key for key in LISTS if _are_objects(content.get(key))), None)
        content = content if key is None else content[key]
    if isinstance(content, list):
        if not _are_objects(content):
            raise DataError(expected)
        return read_columns(
            read_objects(str(path), [(f"entry {i}", row) for i, row in enumerate(content)]), images, between
        )
    if not isinstance(content, dict) or not content:
        raise DataError(expected)
    if not any(is_image(key, images) for key in content) and all(
        isinstance(value, list) and value and all(is_image(one, images) for one in value) for value in content.values()
    ):
        pairs = [(f"key {tag!r}", [image, [tag]]) for tag, found in content.items() for image in found]
        grid = Grid(str(path), [("", ["image", "tags"]), *pairs], ["each key is a tag, with its images"], keyed=True)
        return read_columns(grid, images, between)
    rows = [(f"key {image!r}", [image, _held(value)]) for image, value in content.items()]
    return read_columns(Grid(str(path), [("", ["image", "tags"]), *rows], keyed=True), images, between)


def _are_objects(content: Any) -> bool:
    return isinstance(content, list) and bool(content) and all(isinstance(row, dict) for row in content)


def _held(value: Any) -> Any:
    """Tags of an image that is a key: a list, or an object that has one."""
    if isinstance(value, dict):
        return next((value[key] for key in ("tags", "labels", "classes", "categories") if key in value), value)
    return value


def _read_coco(path: Path, content: dict[str, Any]) -> TagTable:
    """The categories that an image has annotations of."""
    table = TagTable(str(path), said=["categories of COCO annotations as tags"])
    try:
        names = {row["id"]: str(row["name"]) for row in content["categories"]}
        files = {row["id"]: str(row["file_name"]) for row in content["images"]}
        found: dict[Any, set[str]] = {image: set() for image in files}
        for row in content["annotations"]:
            found[row["image_id"]].add(names[row["category_id"]])
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} is not as COCO annotations are: {error} is missing") from error
    for image, tags in found.items():
        table.add(files[image], tags, f"image {image}")
    return table


def _read_folder(path: Path) -> TagTable:
    table = TagTable(str(path))
    files, _ = list_images(path)
    tops = {name.partition("/")[0].lower() for name in files}
    in_splits = bool(tops) and tops <= SPLIT_WORDS and all(name.count("/") > 1 for name in files)
    for name in files:
        tag, slash, image = (name.partition("/")[2] if in_splits else name).partition("/")
        if slash:
            key = image_key(image)
            known = table.rows.get(key, ())
            table.rows[key] = tuple(sorted({*known, normal(tag)}))
            table.where.setdefault(key, f"{tag}/")
    if not table.rows:
        table = read_flags(path)
    if not table.rows:
        raise DataError(f"tags {path}: no image lies in a subfolder. Expected one folder per tag with its images")
    return table


def read_flags(path: Path, images: Collection[str] | None = None) -> TagTable:
    """Tags from the flags of JSON files, one for each image, as labelme and X-AnyLabeling write them.

    Args:
        path: the folder.
        images: names of the images whose files are read; all files by default.
    """
    table = TagTable(str(path), said=["flags of the JSON files as tags"])
    for file in sorted(path.rglob("*.[jJ][sS][oO][nN]")):
        name = normal(file.relative_to(path).with_suffix("").as_posix())
        if images is not None and name not in images:
            continue
        content = _json(file, read_text(file)[0])
        if isinstance(content, dict) and isinstance(content.get("flags"), dict) and "imagePath" in content:
            tags = [str(name) for name, value in content["flags"].items() if flag(value)]
            table.add(name, tags, str(file))
    return table
