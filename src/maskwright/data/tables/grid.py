"""The cells of a table file: text in any common encoding and with any common separator, Excel, JSON objects."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from maskwright.errors import DataError

TEXT_SUFFIXES = (".csv", ".tsv", ".tab", ".txt")
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", " ": "blanks"}
BYTE_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
LOOKED_AT = 30  # rows that the separator is chosen by
csv.field_size_limit(1 << 26)  # characters of a cell: thousands of boxes may stand in one
ZIP = b"PK\x03\x04"  # an Excel file begins so
NO_TEXT = " is not text. Fix: save it as CSV in UTF-8"


@dataclass
class Grid:
    """A table before anything is known of its columns.

    Args:
        source: the file.
        rows: where a row stands, for messages, and its cells: text, or what JSON has in its place; none is empty.
        said: what was assumed to read it.
        keyed: whether the first row holds headings for sure, as the keys of JSON objects do.
    """

    source: str
    rows: list[tuple[str, list[Any]]]
    said: list[str] = field(default_factory=list)
    keyed: bool = False


def read_text(path: Path) -> tuple[str, list[str]]:
    """The text of a file, and in words how it is encoded where that is not UTF-8.

    Raises:
        DataError: it is no text.
    """
    content = path.read_bytes()
    if content.startswith(ZIP):
        raise DataError(f"{path} is an Excel file by its content. Fix: call it {path.stem}.xlsx")
    marked = next((name for mark, name in BYTE_MARKS if content.startswith(mark)), None)
    if marked is None and b"\0" in content[:256]:
        marked = "utf-16-le" if content[1:2] == b"\0" else "utf-16-be"
    try:
        text = content.decode(marked or "utf-8")
        said = [f"text in {marked[:6].upper()}"] if marked and marked != "utf-8-sig" else []
    except UnicodeDecodeError as error:
        if marked:
            raise DataError(f"{path}{NO_TEXT}") from error
        try:
            text = content.decode("cp1252")
        except UnicodeDecodeError:
            raise DataError(f"{path} is neither UTF-8 nor Windows-1252 text. Fix: save it as CSV in UTF-8") from error
        odd = next(word for word in text.replace(",", " ").replace(";", " ").split() if not word.isascii())
        said = [f"text in Windows-1252, since it is not UTF-8: look whether {odd!r} is spelled right"]
    if "\0" in text:
        raise DataError(f"{path}{NO_TEXT}")
    return text, said


def read_csv(path: Path, names_image: Callable[[Any], bool]) -> Grid:
    """The cells of a text table; the separator is the one that sets a cell with an image apart in the most rows.

    Args:
        path: of the file.
        names_image: whether a cell names an image, or is the heading of those that do.

    Raises:
        DataError: no text, or no table.
    """
    text, said = read_text(path)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    hint, _, rest = text.partition("\n")
    named = hint.strip().strip('"')
    if named.lower().startswith("sep=") and len(named) == 5:  # Excel's own first line
        chosen, text, skipped = named[-1], rest, 1
    else:
        chosen, skipped = _separator(text, names_image), 0
    if chosen != ",":
        said.append(f"{SEPARATORS.get(chosen, repr(chosen))} between columns")
    try:
        rows = [(f"line {line + skipped}", cells) for line, cells in _rows(text, chosen)]
    except csv.Error as error:
        raise DataError(f"{path} is not CSV: {error}") from error
    return Grid(str(path), rows, said)


def _separator(text: str, names_image: Callable[[Any], bool]) -> str:
    best, best_score = ",", (0, 0.0)
    for separator in SEPARATORS:
        try:
            rows = [cells for _, cells in itertools.islice(_rows(text, separator), LOOKED_AT)]
        except csv.Error:
            continue
        wide = [cells for cells in rows if len(cells) > 1]
        images = sum(any(map(names_image, cells)) for cells in wide)
        if separator == " " and not images:
            continue
        score = (images, len(wide) / max(1, len(rows)))
        if score > best_score:
            best, best_score = separator, score
    return best


def _rows(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    quote = "'" if text.lstrip().startswith("'") else '"'
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, quotechar=quote, skipinitialspace=True)
    for cells in reader:
        if any(cell.strip() for cell in cells):
            yield reader.line_num, [cell.strip() for cell in cells]


def read_excel(path: Path) -> Grid:
    """The cells of the first sheet of an Excel file that has any.

    Raises:
        DataError: openpyxl is not installed, or the file cannot be read.
    """
    try:
        from openpyxl import load_workbook
        from openpyxl.utils.exceptions import InvalidFileException
    except ImportError as error:
        raise DataError(
            f"{path} is an Excel file, which is read by openpyxl. Fix: pip install 'maskwright[excel]', or save the "
            "table as CSV in UTF-8"
        ) from error
    try:
        book = load_workbook(path, read_only=True, data_only=True)
        sheets = {sheet.title: list(sheet.iter_rows(values_only=True)) for sheet in book.worksheets}
        book.close()
    except (InvalidFileException, BadZipFile, KeyError, ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read as an Excel file ({error}). Fix: save it again, or as CSV") from error
    filled = {title: rows for title, rows in sheets.items() if any(value is not None for row in rows for value in row)}
    title = next(iter(filled), "")
    rows = [
        (f"row {number}", [_text(value) for value in row])
        for number, row in enumerate(filled.get(title, []), 1)
        if any(_text(value) for value in row)
    ]
    others = ", ".join(list(filled)[1:])
    return Grid(str(path), rows, [f"the sheet {title!r}; not read: {others}"] if others else [])


def read_objects(source: str, objects: Iterable[tuple[str, Mapping[str, Any]]]) -> Grid:
    """JSON objects as rows of a table, their keys as its headings.

    Args:
        source: the file.
        objects: where each stands, and its content.
    """
    objects = list(objects)
    headings = list(dict.fromkeys(key for _, row in objects for key in row))
    rows = [(where, [row.get(key) for key in headings]) for where, row in objects]
    return Grid(source, [("keys", list(headings)), *rows], keyed=True)


def _text(value: Any) -> str:
    """A cell of Excel as a person reads it: whole numbers without a point."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value).strip()
