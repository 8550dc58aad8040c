"""What stands in one cell: tags between separators or in a list, a word for yes or no, a word for nothing."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterable
from typing import Any

from maskwright.data.names import normal

NOTHING = frozenset(
    ("", "nan", "none", "null", "nil", "na", "n/a", "<na>", "#n/a", "-", "--", "–", "—", "[]", "{}", "()", "[none]")
)
YES = frozenset(
    ("1", "1.0", "1,0", "true", "t", "yes", "y", "x", "✓", "✔", "on", "ja", "j", "wahr", "oui", "vrai", "si", "sí")
)
NO = (
    frozenset(
        ("0", "0.0", "0,0", "-1", "-1.0", "-1,0", "false", "f", "no", "n", "off", "nein", "falsch", "non", "faux")
    )
    | NOTHING
)

STRONG, WEAK = ";|；\n", ",，、"  # between tags; the weak ones only in columns without a strong one
INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff"))  # copied from web pages
NAMES = ("choices", "name", "label", "tag", "class", "title", "value")  # keys of a JSON object that hold tags


QUOTES = ('""', "''", "“”", "‘’", "„“", "«»")


def tag_name(text: str) -> str:
    """A tag as it is compared: one Unicode form, single blanks, no quotes around it and nothing invisible; a whole
    number without its point."""
    name = " ".join(normal(text.translate(INVISIBLE)).split())
    if len(name) > 2 and name[0] + name[-1] in QUOTES:
        name = name[1:-1].strip()
    return name[:-2] if re.fullmatch(r"\d+\.0", name) else name


def is_nothing(cell: Any) -> bool:
    """Whether a cell says that no tag applies."""
    if isinstance(cell, str):
        return cell.strip().casefold() in NOTHING
    return cell is None or cell in ([], {}) or (isinstance(cell, float) and math.isnan(cell))


def flag(cell: Any) -> bool | None:
    """Yes or no; None where a cell says neither."""
    word = "" if cell is None else str(cell).strip().casefold()
    return True if word in YES else False if word in NO else None


def is_number(cell: Any) -> bool:
    return re.fullmatch(r"[+-]?\d+([.,]\d+)?(e[+-]?\d+)?", str(cell).strip(), re.IGNORECASE) is not None


def listed(cell: Any) -> list[Any] | None:
    """The items of a list, as JSON has it or as text that Python, NumPy or JSON wrote; None where it is none.

    Of an object that gives yes or no for each tag, as `{"cat": true}`, those with yes.
    """
    if isinstance(cell, str):
        text = cell.strip()
        if len(text) < 2 or text[0] + text[-1] not in ("[]", "()", "{}"):
            return None
        cell = literal(text)
        if cell is None:
            return [part.strip().strip("'\"") for part in re.split(f"[{STRONG}{WEAK}]", text[1:-1])]
    if isinstance(cell, dict):
        keys = [*NAMES, *(key for key in cell if str(key).endswith("labels"))]  # Label Studio: polygonlabels
        held = next((cell[key] for key in keys if key in cell and flag(cell[key]) is None), None)
        if held is not None:
            return listed(held) if isinstance(held, (list, dict)) else [held]
        return [name for name, value in cell.items() if flag(value)]
    return list(cell) if isinstance(cell, (list, tuple, set, frozenset)) else None


def literal(text: str) -> Any:
    quoted = re.findall(r"'[^']*'|\"[^\"]*\"", text)
    # Python reads two strings without a comma between them, as NumPy prints them, as one.
    if len(quoted) > 1 and re.fullmatch(r"[\[({]\s*" + r"\s+".join(map(re.escape, quoted)) + r"\s*[\])}]", text):
        return [part[1:-1] for part in quoted]
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None


def separators(cells: Iterable[Any]) -> str:
    """The characters that stand between the tags of a column: `,` where no cell has one that never is in a name."""
    texts = [cell for cell in cells if isinstance(cell, str) and listed(cell) is None]
    strong = any(mark in text for text in texts for mark in STRONG)
    return STRONG if strong or not any(mark in text for text in texts for mark in WEAK) else STRONG + WEAK


def cell_tags(cell: Any, between: str) -> list[str] | None:
    """The tags that a cell names; None where it holds no names.

    Args:
        cell: text, or what JSON has in its place.
        between: characters between tags in text.
    """
    if is_nothing(cell):
        return []
    parts = listed(cell)
    if parts is None:
        parts = re.split(f"[{re.escape(between)}]", cell) if isinstance(cell, str) else [cell]
    names = []
    for part in parts:
        held = listed(part) if isinstance(part, dict) else [part]
        if held is None or not all(isinstance(one, (str, int, float)) or one is None for one in held):
            return None
        names += [tag_name(str(one)) for one in held if not is_nothing(one)]
    return names
