"""Names as they are compared: in one Unicode form, whatever a disk, a list or a keyboard writes."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path


def normal(name: str) -> str:
    """A name with composed letters (NFC): one disk writes `ü` as a letter, another as `u` and two dots."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


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
