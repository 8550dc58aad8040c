"""Digests of the files that a run reads, remembered, so that a file is read again only where it was touched."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from pathlib import Path
from typing import Any

from maskwright.data.content import file_digest
from maskwright.engine.progress import track
from maskwright.errors import DataError
from maskwright.files import read_json, write_json

PART = 256  # files that one thread takes at once
FRESH_SECONDS = 2.0  # a file may change once more within what its file system's clock can tell

File = tuple[str, bool]  # path, and whether all of it counts
Entry = list[Any]  # size, time of modification, time of the change of status, digest

_known: dict[File, Entry] = {}  # shared by the runs of one process


class Digests:
    """`file_digest` of many files, each read once for as long as its size and times of change stay what they are.

    Where only a time has changed (a touched or copied data set) the file is read again and has the same digest. Copying
    a file over another with its old time (`cp -p`, `rsync --times`) is noticed, since the system itself notes the time
    of the change; on Windows, which notes none, it is not.

    Args:
        path: of the JSON file that remembers; None to remember in this process alone.
    """

    def __init__(self, path: str | PathLike[str] | None = None) -> None:
        self.path = None if path is None else Path(path)
        self.stored: dict[File, Entry] = {}
        self.used: dict[File, Entry] = {}
        if self.path is not None and self.path.is_file():
            try:
                for folder, names in read_json(self.path).items():
                    for name, (whole, *entry) in names.items():
                        self.stored[os.path.join(folder, name), bool(whole)] = entry
            except (DataError, AttributeError, TypeError, ValueError):
                self.stored = {}  # damaged: what it said is found again by reading the files

    def __call__(self, files: Sequence[File]) -> list[str]:
        """The digests of files."""
        now, entries = time.time(), [self._entry(*file) for file in files]
        unread = [place for place, (_, entry) in enumerate(entries) if len(entry) == 3]
        parts = [unread[start : start + PART] for start in range(0, len(unread), PART)]

        def read(places: Sequence[int]) -> None:
            for place in places:
                entries[place][1].append(file_digest(*files[place]))

        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            for _ in track(pool.map(read, parts), "reading files whose content is not known yet", len(parts)):
                pass
        for key, entry in entries:
            if now - max(entry[1:3]) / 1e9 > FRESH_SECONDS:
                self.used[key] = _known[key] = entry
        return [entry[3] for _, entry in entries]

    def _entry(self, path: str, whole: bool) -> tuple[File, Entry]:
        """What is known of a file; without a digest where it must be read."""
        facts, key = os.stat(path), (os.path.abspath(path), whole)
        times = [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]
        there = (known[key] for known in (self.stored, _known) if key in known)
        return key, next((entry for entry in there if entry[:3] == times), times)

    def save(self) -> None:
        """Write what was asked for, where the file does not say it."""
        if self.path is None or all(self.stored.get(key) == entry for key, entry in self.used.items()):
            return
        found: dict[str, dict[str, Entry]] = {}
        for (path, whole), entry in sorted(self.used.items()):
            folder, name = os.path.split(path)
            found.setdefault(folder, {})[name] = [int(whole), *entry]
        write_json(self.path, found)
        self.stored = dict(self.used)
