"""Names as they are compared: in one Unicode form, whatever a disk, a list or a keyboard writes."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from maskwright.errors import DataError

_OUTSIDE = re.compile(r"^(?:[/\\]|[A-Za-z]:[/\\])|(?:^|[/\\])\.\.(?:[/\\]|$)")  # absolute, or with a part `..`


def normal(name: str) -> str:
    """A name with composed letters (NFC): one disk writes `ü` as a letter, another as `u` and two dots."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def split_word(split: str) -> str:
    """A split as part of a file's name: one that is a list somewhere, `lists/mine.txt`, by the list's name."""
    return Path(split).stem if split.endswith(".txt") else split.replace("/", "_")


def refuse_odd_names(names: Iterable[str]) -> None:
    """Refuse names of images that would be files elsewhere, or lines of their own in a list.

    Masks and maps are written to `FOLDER/NAME.png`, so a list or an annotation file that somebody else made must not
    say where.

    Raises:
        DataError: a name leads out of its folder, or holds a character that no text shows, such as a new line.
    """
    for name in names:
        if _OUTSIDE.search(name):
            raise DataError(
                f"the image name {name!r} leads out of its folder; expected a path below the data folder, without "
                "'..'. Mend the list or the annotations that name it"
            )
        if not name.isprintable() and (odd := odd_letters(name)):
            raise DataError(
                f"the image name {name!r} holds {odd[0]!r}, which would break lists of names; rename the file"
            )


def odd_letters(text: str) -> list[str]:
    """Characters that no text shows, such as a new line, and bytes of a name that are in no known encoding."""
    return [letter for letter in text if unicodedata.category(letter) in ("Cc", "Cs")]


def plain(name: str) -> str:
    """A heading or the name of a folder by its letters and digits alone: `File Name`, `file_name`, `fileName`."""
    return "".join(filter(str.isalnum, normal(name).casefold()))


def spelled(path: Path) -> Path:
    """A path as the disk spells it, where what was typed differs in Unicode form, or in capitals alone."""
    if path.exists():
        return path
    here = Path(path.anchor)
    for part in path.parts[len(here.parts) :]:
        if not (here / part).exists():
            there = os.listdir(here) if here.is_dir() else []
            same = [name for name in there if normal(name) == normal(part)]
            same = same or [name for name in there if normal(name).casefold() == normal(part).casefold()]
            if len(same) != 1:
                return path
            part = same[0]
        here /= part
    return here
