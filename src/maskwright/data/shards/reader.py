"""Sets of shards as data sets: every example by its number, read from its place in a tar file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maskwright.data.decode import Reading, channels_in
from maskwright.data.finding import Complain, Finding, refuse
from maskwright.data.images import ReadsImages, read_saliency
from maskwright.data.masks import read_labels
from maskwright.data.sample import Sample
from maskwright.data.shards.files import Parts, Whole, read_member
from maskwright.data.shards.index import (
    AGAIN,
    INDEX,
    SET_FORMAT,
    SetIndex,
    ShardEntry,
    read_index,
    read_shard_index,
)
from maskwright.data.shards.names import Names, place_of
from maskwright.data.shards.stores import is_remote, join, read, size_of
from maskwright.data.stored import Stored
from maskwright.errors import DataError, unknown_name
from maskwright.settings import DataSettings

THREADS = 16  # that read the indices of shards, which lie far away in an object store
OPTIONS = ("tolerant",)
FIXED = ("masks", "masks_are", "classes", "tags", "rename", "background", "ignore_index", "label_map")


class Shard(NamedTuple):
    """One shard of a set: the examples `start` to `stop`, without that, are in it."""

    name: str
    start: int
    stop: int


class ShardSet(ReadsImages):
    """The examples of some shards of a set; safe to use from several threads, and to send to other processes.

    Args:
        place: of the set.
        split: its name.
        found: what `index.json` says.
        entries: which shards.
        tolerant: decode truncated images as far as they go.
        at_once: of an object store, a tar file is fetched whole when the first of its files is asked for, and kept in
            memory; otherwise each file is a request.

    Raises:
        DataError: a shard is not as `index.json` says.
    """

    images = masks = saliency = None  # in no files of their own: what the set holds follows from `source`
    tags_from_masks, label_map = False, None

    def __init__(
        self,
        place: str,
        split: str,
        found: SetIndex,
        entries: Sequence[ShardEntry],
        *,
        tolerant: bool = False,
        at_once: bool = False,
    ) -> None:
        self.place, self.labels, self.reading = place, found.labels, Reading.of(found.reading)
        self.entries = list(entries)
        self.tolerant = tolerant or bool(found.reading.get("tolerant"))
        self._packed_as = self.reading
        with ThreadPoolExecutor(THREADS if is_remote(place) else 1) as pool:
            self.indices = list(pool.map(partial(read_shard_index, place), entries))
        self._starts = np.concatenate([[0], np.cumsum([entry.count for entry in entries], dtype=np.int64)])
        self._parts = Whole() if at_once and is_remote(place) else Parts()
        self.names = Names(self.indices, self._starts)
        bounds = self._starts.tolist()
        self.shards = [Shard(entry.name, *ends) for entry, *ends in zip(entries, bounds, bounds[1:])]
        self.source = self._source(split, found, entries)
        self.read_as(Reading())

    def torn(self) -> list[Finding]:
        """The tar files that are missing or have another length than the index says, where that is quick to know."""
        if is_remote(self.place):
            return []
        found = []
        for entry in self.entries:
            where = join(self.place, f"{entry.name}.tar")
            there = size_of(where)
            if there != entry.bytes:
                what = "tar file does not exist" if there is None else f"tar file has {there} bytes"
                expected = f"{entry.bytes} bytes, as {INDEX} says"
                fix = f"put back the whole file, or {AGAIN}"
                found.append(Finding("error", what, [where], expected=expected, fix=fix, kind="shard-torn"))
        return found

    def _source(self, split: str, found: SetIndex, entries: Sequence[ShardEntry]) -> dict[str, Any]:
        """Facts for the record; what was packed is told by one hash over all shards."""
        packed = [found.splits[name] for name in dict.fromkeys(entry.split for entry in entries)]
        # Of several splits what they share, and of a part of one what is true of every part.
        shared = {
            key: value
            for key, value in (packed[0] if packed else {}).items()
            if all(other.get(key) == value for other in packed)
        }
        digest = hashlib.sha256()
        for entry in entries:
            digest.update(f"{entry.name} {entry.sha256} {entry.index_sha256}\n".encode())
        counts = {
            "mask_count": sum(
                int((index.members["mask"][:, 0] > 0).sum()) for index in self.indices if "mask" in index.members
            ),
            "tag_count": sum(int(index.tagged.sum()) for index in self.indices),
        }
        return {
            "tag_source": None,
            **shared,
            "root": self.place,
            "layout": "shards",
            "split": split,
            "split_source": "the shards",
            "count": len(self),
            **counts,
            "content": digest.hexdigest()[:16],
        }

    def read_as(self, reading: Reading) -> None:
        """Say what is made of the numbers in image files; by default what was said when they were packed."""
        self.reading = self._packed_as if reading == Reading() else reading
        channels = {index.channels for index in self.indices if len(index.tagged)}
        if self.reading != self._packed_as:
            first = self._stored("image", 0) if len(self) else None
            channels = {3 if first is None else channels_in(first, self.reading)}
        for key in ("range", "channels_read", "channels"):
            self.source.pop(key, None)
        self.source |= self.reading.to_dict() | ({"channels": min(channels)} if channels - {3} else {})

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Sample:
        return self.get(index)

    def get(self, index: int, with_mask: bool = True) -> Sample:
        """One example; `with_mask=False` leaves its mask where it is.

        Raises:
            DataError: a file that cannot be read, or does not fit the others.
        """
        file = self._stored("image", index)
        if file is None:
            raise self._other(index, "it has no image")
        image = self._read(file)
        mask = self.mask(index) if with_mask else None
        if mask is not None and mask.shape != image.shape[:2]:
            raise self._other(index, f"its mask is {mask.shape}, its image {image.shape[:2]} (height, width)")
        stored = self._stored("saliency", index)
        saliency = None
        if stored is not None:
            saliency = read_saliency(stored, (image.shape[0], image.shape[1]), stored)
        return Sample(self.names[index], image, mask, self.tags(index), saliency)

    def mask(self, index: int) -> np.ndarray | None:
        """The mask `(H, W)` uint8 of one image, without decoding the image; None where there is none.

        Raises:
            DataError: it cannot be read, or has values that mean nothing.
        """
        stored = self._stored("mask", index)
        return None if stored is None else read_labels(stored, self.labels)

    def tags(self, index: int) -> tuple[int, ...] | None:
        """Label values said to be in one image, ascending; None where nobody said."""
        found, row = place_of(self._starts, index)
        return self.indices[found].tags_of(row)

    def has_mask(self, index: int) -> bool:
        found, row = place_of(self._starts, index)
        return self.indices[found].member("mask", row) is not None

    def size(self, index: int) -> tuple[int, int]:
        """`(height, width)` of one image in pixels, from the index."""
        found, row = place_of(self._starts, index)
        height, width = self.indices[found].sizes[row].tolist()
        return height, width

    def member(self, kind: str, index: int) -> bytes | None:
        """The bytes of one file of an example: "image", "mask", "saliency", or what else a shard holds; None where it
        has none.

        Raises:
            DataError: the tar file is damaged, or another one than its index is of.
        """
        stored = self._stored(kind, index)
        return None if stored is None else stored.read()

    def _stored(self, kind: str, index: int) -> Stored | None:
        """A member that has been read: what is wrong with the tar file is then not taken for a broken image."""
        found, row = place_of(self._starts, index)
        return read_member(self._parts, self.place, self.indices[found], kind, row)

    def _other(self, index: int, what: str) -> DataError:
        return DataError(f"{self.place}: {self.names[index]}: {what}. Fix: {AGAIN}")


def open_shards(
    settings: DataSettings, split: str, complain: Complain = refuse, *, shard: str | None = None
) -> ShardSet:
    """One split of a set of shards, as `maskwright shard` writes it.

    Classes, masks, tags and saliency maps are those that were packed; settings that say otherwise are refused.

    Args:
        settings: `root`; `options`: `tolerant`, and those of `maskwright.data.open_split`; the others as they were when
            the set was packed, or left out.
        split: of the set; `all` for all of them.
        complain: what to do with findings, which are tar files that are not whole.
        shard: the name of one shard: only what it holds is opened, and nothing of the others is read; from an object
            store its tar file is fetched in one piece.

    Raises:
        DataError: no such split or shard, files that are missing or damaged, or settings that the set does not have.
    """
    place = str(settings.root)
    found = read_index(place)
    _check_settings(settings, found)
    for name in set(settings.options) - set(OPTIONS):
        raise DataError(unknown_name("option of shards", name, OPTIONS))
    entries = found.of(split, place)
    if shard is not None:
        entries = [entry for entry in entries if entry.name == shard]
        if not entries:
            raise DataError(f"data {place}: split {split!r} has no shard {shard!r}; maskwright shard writes the set")
    tolerant = bool(settings.options.get("tolerant"))
    dataset = ShardSet(place, split, found, entries, tolerant=tolerant, at_once=shard is not None)
    for finding in dataset.torn():
        complain(finding)
    if len({entry.split for entry in entries}) > 1 and (twice := dataset.names.repeated()):
        raise DataError(
            f"data {place}: {len(twice)} images are in more than one split ({', '.join(twice[:5])}), and split=all "
            "takes each once. Fix: name one split"
        )
    return dataset


def shard_list(settings: DataSettings, split: str) -> list[tuple[str, int]]:
    """Names of the shards of a split and how many examples each has, from `index.json` alone.

    Raises:
        DataError: as `open_shards`.
    """
    place = str(settings.root)
    return [(entry.name, entry.count) for entry in read_index(place).of(split, place)]


def is_shards(root: str) -> bool:
    """Whether a folder has the index of a set of shards; every address is taken for one."""
    where = join(root, INDEX)
    return is_remote(root) or (os.path.isfile(where) and SET_FORMAT.encode() in read(where, 0, 100))


def typed(settings: DataSettings) -> dict[str, Any]:
    """The settings that a set is packed with, but for defaults; of files the last part of their names."""

    def short(value: Any) -> Any:
        return Path(value).name if isinstance(value, str) else value

    default = DataSettings()
    given = {key: getattr(settings, key) for key in FIXED}
    given = {key: value for key, value in given.items() if value != getattr(default, key)}
    if isinstance(given.get("label_map"), dict):
        given["label_map"] = {str(key): value for key, value in given["label_map"].items()}
    return {key: short(value) for key, value in given.items()}


def _check_settings(settings: DataSettings, found: SetIndex) -> None:
    for key, value in typed(settings).items():
        if found.settings.get(key) != value:
            packed = f"{key}={found.settings[key]}" if key in found.settings else f"no {key}="
            raise DataError(
                f"{key}={value}: {settings.root} is a set of shards, which was packed with {packed}. Fix: leave {key}= "
                f"out, or give it to maskwright shard, which writes the set"
            )
