"""Label Studio's CSV and TSV, a row for each annotation, as the entries that its JSON-MIN has."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maskwright.data.names import plain
from maskwright.data.tables.cells import literal
from maskwright.data.tables.grid import BYTE_MARKS, TEXT_SUFFIXES, read_csv
from maskwright.errors import DataError

# What is known of an annotation besides its results: behind them in JSON-MIN, anywhere in a table.
BEHIND = ("annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement", "history")
IMAGES = ("image", "img", "photo", "picture", "url", "file")  # what tasks usually call their image
PICTURE = re.compile(r"\.(jpe?g|png|bmp|gif|tiff?|webp|heic)$", re.IGNORECASE)
DRAWN = frozenset(("x", "points", "rle"))  # one of these keys is in every region
CHOICES = frozenset(("choices", "taxonomy"))
# What a control of choices is called whose cells are all plain words, as free text is.
CHOICE_HEADINGS = frozenset(
    ("choice", "choices", "tag", "tags", "label", "labels", "class", "classes", "category", "categories")
)
BROKEN = "?"  # stands among the keys of a column for a cell that begins as JSON and is none
HEAD = 4096  # bytes that hold the headings
_OBJECT = re.compile(r"""\s*\[?\s*\{\s*["']""")  # as the results of a control begin


def is_task_table(path: Path) -> bool:
    """Whether a text table has the headings that Label Studio gives its exports."""
    if path.suffix.lower() not in TEXT_SUFFIXES:
        return False
    with open(path, "rb") as stream:
        head = stream.read(HEAD)
    encoding = next((name for mark, name in BYTE_MARKS if head.startswith(mark)), "utf-8")
    headings = head.decode(encoding, "ignore").partition("\n")[0]
    words = {word.strip(" \r\"'") for word in re.split("[,;\t|]", headings)}
    return "annotation_id" in words and len(words & set(BEHIND)) > 1


def table_entries(path: Path) -> tuple[list[Any], list[str], list[str]]:
    """The rows of such a table as JSON-MIN has them: data, `id`, the results of each control, who made them.

    A control is a column that holds its results as JSON; one of plain words, as single choices are written, where its
    heading says so (`CHOICE_HEADINGS`), or where no other column can be one.

    Args:
        path: of the table.

    Returns:
        Entries; what is wrong with cells, whose rows are left out; headings of columns that are neither data that are
        needed nor a control's.

    Raises:
        DataError: no table, or several columns of plain words of which any may hold choices.
    """
    (_, headings), *rows = read_csv(path, "annotation_id".__eq__).rows
    if "annotation_id" not in headings:
        raise DataError(f"{path}: no heading is annotation_id. Expected the table as Label Studio exported it")
    columns = {
        name: [_read(row[place]) if place < len(row) else "" for _, row in rows] for place, name in enumerate(headings)
    }
    others = [name for name in columns if name not in (*BEHIND, "id") and any(cell != "" for cell in columns[name])]
    images = [name for name in others if name in IMAGES or _are_pictures(columns[name])]
    kinds = {name: _keys(columns[name]) for name in others if name not in images}
    controls = [name for name, keys in kinds.items() if keys & (DRAWN | CHOICES | {BROKEN})]
    controls += [name for name, keys in kinds.items() if not keys and plain(name) in CHOICE_HEADINGS]
    words = [name for name, keys in kinds.items() if not keys and not _is_data(name, headings)]
    if not controls and len(words) > 1:
        raise DataError(
            f"{path}: any of the columns {', '.join(words)} may hold the choices. Expected one that is called choice, "
            "or choices as JSON. Fix: call the column of choices choice, or export as JSON"
        )
    controls = controls or words
    entries: list[Any] = []
    wrong = []
    for place, (where, _) in enumerate(rows):
        row = {name: cells[place] for name, cells in columns.items()}
        identity = row.get("id") or where
        broken = [name for name in controls if row[name] is None]
        if broken:
            wrong.append(
                f"{path}: task {identity}: column {broken[0]} begins as JSON and is none. Spreadsheets cut off what is "
                "long; take the file as it was exported"
            )
            continue
        data = {name: row[name] for name in others if name not in controls}
        results = {name: row[name] for name in controls if row[name] != ""}
        entries.append({**data, "id": identity, **results, "annotation_id": row["annotation_id"] or None})
    return entries, wrong, [name for name in others if name not in (*controls, *images)]


def _read(cell: str) -> Any:
    """A cell as text, or what it holds as JSON; None where it only begins so."""
    return literal(cell) if _OBJECT.match(cell) else cell


def _are_pictures(cells: Sequence[Any]) -> bool:
    filled = [cell for cell in cells if isinstance(cell, str) and cell]
    return 2 * sum(PICTURE.search(cell) is not None for cell in filled) > len(filled)


def _keys(cells: Sequence[Any]) -> set[str]:
    """Keys of the objects in a column; none where it holds plain words."""
    values = [value for cell in cells for value in (cell if isinstance(cell, list) else [cell])]
    broken = {BROKEN} if any(cell is None for cell in cells) else set()
    return broken.union(*(value for value in values if isinstance(value, Mapping)))


def _is_data(name: str, headings: Sequence[str]) -> bool:
    """Whether a column holds data of the task: in front of its number, unless all are in the order of the alphabet."""
    beside = name.startswith("_data_") or name.endswith("_transcript")
    before = "id" in headings and headings.index(name) < headings.index("id")
    return beside or (before and list(headings) != sorted(headings))
