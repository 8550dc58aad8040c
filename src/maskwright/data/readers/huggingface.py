"""Folders of Hugging Face `datasets`: `metadata.jsonl` or `metadata.csv` with an image and a mask in each row."""

from __future__ import annotations

import csv
import json
import posixpath
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from maskwright.data.finding import Complain, Finding, number_of, refuse
from maskwright.data.images import ImageSet
from maskwright.data.names import normal
from maskwright.data.provenance import corrected_masks
from maskwright.data.readers.annotated import split_of
from maskwright.data.readers.folder import build_set
from maskwright.data.readers.splits import Listing
from maskwright.errors import DataError
from maskwright.files import read_json
from maskwright.settings import DataSettings

TABLES = ("metadata.jsonl", "metadata.csv")
IMAGES = ("file_name", "image_file_name")
LOOKED_AT = 100  # rows, since those without a mask may come first
# A column of masks is `NAME_file_name`; of several the first of these counts.
MASKS = ("mask", "label", "annotation", "segmentation", "labels", "annotations", "masks", "gt", "target")


def metadata_files(root: Path) -> list[Path]:
    """Tables of a folder, of the folders in it, or of those in `data/`, whose rows name an image and a mask."""
    there = [path for name in TABLES for place in ("", "*/", "data/*/") for path in root.glob(f"{place}{name}")]
    return [path for path in sorted(there) if _mask_column(_keys(path)) is not None]


def open_huggingface(settings: DataSettings, split: str, complain: Complain = refuse) -> ImageSet:
    """One split of a folder that `datasets.load_dataset` reads, with masks.

    `SPLIT/metadata.jsonl` has rows such as `{"file_name": "images/a.jpg", "mask_file_name": "masks/a.png"}`; paths
    count from the table. A row without a mask is an image without one. The splits are the folders of the tables. Class
    names are `id2label.json`'s, where it is there, else as in a plain folder.

    Args:
        settings: see `data.readers.folder.open_folder`; where masks lie, the tables say.
        split: which images.
        complain: what to do with findings; by default errors are raised.

    Raises:
        DataError: no such table, files that are missing or lie elsewhere, masks that maskwright wrote, or as
            `open_folder`.
    """
    root = Path(settings.root)
    tables = metadata_files(root) if root.is_dir() else []
    if not tables:
        raise DataError(f"{root} has no {' or '.join(TABLES)} with the columns file_name and mask_file_name")
    images: dict[str, str] = {}
    masks: dict[str, str] = {}
    prefixes: list[str] = []
    wrong: list[str] = []
    for table in tables:
        inside = table.parent.relative_to(root).parts
        part = f"{split_of(inside[-1])}/" if inside else ""
        prefixes += [part[:-1]] if part else []
        column = _mask_column(_keys(table)) or ""
        for number, row in enumerate(_rows(table), start=1):
            where = f"{table}: row {number}"
            given = next((row[key] for key in IMAGES if row.get(key)), None)
            image = _place(table.parent, given, where, wrong)
            if image is None:
                continue
            name = part + posixpath.splitext(normal(str(given).replace("\\", "/")))[0]
            if name in images:
                wrong.append(f"{where} names {given!r} once more")
                continue
            images[name] = image
            if row.get(column) and (mask := _place(table.parent, row[column], where, wrong)) is not None:
                masks[name] = mask
    if wrong:
        complain(
            Finding(
                "error",
                f"{number_of(len(wrong), 'row')} that cannot be used",
                wrong,
                len(wrong),
                expected="paths of files below the table",
                fix="correct the table, or add the files",
                kind="row-damaged",
            )
        )
    masks = corrected_masks(masks, settings.masks_are, complain)
    listing = Listing(images, masks, {"images": str(root), "masks": str(tables[0])}, sorted(set(prefixes)))
    if settings.classes is None and (root / "id2label.json").is_file():
        settings = settings.model_copy(update={"classes": _names(root / "id2label.json")})
    return build_set(settings, split, "huggingface", listing, complain)


def _rows(table: Path) -> Iterator[dict[str, Any]]:
    """Rows of a table; one that is none is empty."""
    # A name that is no text is replaced by one that no file has.
    with open(table, encoding="utf-8-sig", errors="replace", newline="") as stream:
        if table.suffix == ".csv":
            try:
                yield from csv.DictReader(stream)
            except csv.Error as error:
                raise DataError(f"{table} is not CSV: {error}") from error
            return
        for line in stream:
            if line.strip():
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    row = {}
                yield row if isinstance(row, dict) else {}


def _keys(table: Path) -> set[str]:
    return {key for row in islice(_rows(table), LOOKED_AT) for key in row if isinstance(key, str)}


def _mask_column(keys: Collection[str]) -> str | None:
    if not set(IMAGES) & set(keys):
        return None
    return next((column for word in MASKS if (column := f"{word}_file_name") in keys), None)


def _place(folder: Path, given: Any, where: str, wrong: list[str]) -> str | None:
    """The path of a file that a row names; None where it is none, with what is wrong."""
    if not isinstance(given, str) or not given:
        wrong.append(f"{where} has the file name {given!r}")
        return None
    plain = given.replace("\\", "/")
    if "\0" in plain or plain.startswith("/") or ":" in plain.split("/")[0] or ".." in plain.split("/"):
        wrong.append(f"{where} names {given!r}, which leads out of the folder")
        return None
    if not (folder / plain).is_file():
        wrong.append(f"{where} names {given!r}, which is not there")
        return None
    return str(folder / plain)


def _names(path: Path) -> list[str]:
    """Class names by their values.

    Raises:
        DataError: they are not numbered from 0.
    """
    given = read_json(path)
    numbered = {int(key): str(name) for key, name in given.items() if str(key).isdigit()} if given else {}
    if sorted(numbered) != list(range(len(numbered))) or not numbered:
        raise DataError(f'{path}: expected a name for each value from 0, as in {{"0": "background", "1": "cat"}}')
    return [numbered[value] for value in sorted(numbered)]
