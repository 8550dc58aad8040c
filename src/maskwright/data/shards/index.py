"""What the tar files of a set hold: `SHARD.json` beside each `SHARD.tar`, and `index.json` for all of them.

`index.json` is written last: where it is, the set is whole. Everything follows from it, since it has the SHA-256 of
each other file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from maskwright.data.names import refuse_odd_names
from maskwright.data.sample import LabelSpace
from maskwright.data.shards.stores import join, read, version_of, write
from maskwright.data.shards.tars import BLOCK, key_of
from maskwright.errors import DataError, unknown_name

INDEX = "index.json"
SET_FORMAT, SHARD_FORMAT = "maskwright shards 1", "maskwright shard 1"
PLAIN = re.compile(r"[^./\\][^/\\]*")  # a name of a file in the set's own folder
AGAIN = "write the set again with maskwright shard, which leaves whole shards as they are"


@dataclass(frozen=True)
class ShardEntry:
    """What `index.json` says of one shard.

    Args:
        name: of its files, without suffix.
        split: that it belongs to.
        count: of its examples.
        bytes: of its tar file.
        sha256: of its tar file.
        index_sha256: of its own index, up to `made_from`.
    """

    name: str
    split: str
    count: int
    bytes: int
    sha256: str
    index_sha256: str


@dataclass(frozen=True)
class SetIndex:
    """What `index.json` says.

    Args:
        labels: of the set.
        splits: split -> what the `source` of the set that was packed said of it, places of this machine left out.
        shards: of all splits, in order.
        settings: settings of the data that the set was packed with, as they were typed, of files the last part.
        reading: what is made of the numbers in image files, as in `data.options`.
    """

    labels: LabelSpace
    splits: dict[str, dict[str, Any]]
    shards: list[ShardEntry]
    settings: dict[str, Any]
    reading: dict[str, Any]

    def of(self, split: str, place: str) -> list[ShardEntry]:
        """The shards of a split; of `all`, where no split is called so, those of every split.

        Args:
            split: its name.
            place: of the set, for the message.

        Raises:
            DataError: no such split.
        """
        if split in self.splits:
            return [shard for shard in self.shards if shard.split == split]
        if split != "all":
            raise DataError(f"data {place}: {unknown_name('split', split, [*self.splits, 'all'])}")
        return list(self.shards)


def write_index(place: str, found: SetIndex) -> None:
    """Write `index.json` of a set, once all its shards are there."""
    record = {
        "format": SET_FORMAT,
        "classes": found.labels.to_dict(),
        "splits": found.splits,
        "settings": found.settings,
        "reading": found.reading,
        "shards": [vars(shard) for shard in found.shards],
    }
    write(join(place, INDEX), (json.dumps(record, indent=1) + "\n").encode())


def read_index(place: str) -> SetIndex:
    """What `index.json` of a set says.

    Raises:
        DataError: it is missing, damaged or of something else.
    """
    where = join(place, INDEX)
    try:
        return _read_index(where, version_of(where))
    except FileNotFoundError:
        raise DataError(
            f"{where} does not exist. Expected the index of a set of shards, which is written when all of it is there. "
            f"Fix: {AGAIN}"
        ) from None
    except OSError as error:
        raise DataError(f"{where} cannot be read: {error}") from error


@lru_cache(maxsize=4)
def _read_index(where: str, version: str) -> SetIndex:
    """Remembered, since whoever opens one shard after the other asks each time."""
    record = _loaded(where, read(where), SET_FORMAT)
    try:
        shards = [ShardEntry(**shard) for shard in record["shards"]]
        if odd := [shard.name for shard in shards if not PLAIN.fullmatch(shard.name)]:
            raise ValueError(f"{odd[0]!r} is no name of a shard")
        labels = LabelSpace.from_dict(record["classes"])
        return SetIndex(labels, dict(record["splits"]), shards, dict(record["settings"]), dict(record["reading"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{where} is damaged: {_said(error)}. Fix: {AGAIN}") from error


@dataclass(frozen=True)
class ShardIndex:
    """What one shard holds, in few bytes: a set of ten million examples has ten thousand of these in memory.

    Args:
        entry: what `index.json` says of it.
        names: of the examples, in UTF-8, one after the other.
        name_ends: `(N + 1,)` where each name begins in `names`, and the last one ends.
        members: kind of file ("image", "mask", ...) -> `(N, 2)` block that each begins at, and bytes; block 0: none.
        suffixes: of each kind, those that occur, without the first dot.
        suffix: of each kind `(N,)`, which of them.
        tags: label values, one example after the other.
        tag_ends: `(N + 1,)` likewise.
        tagged: `(N,)` whether somebody said which tags apply.
        sizes: `(N, 2)` height and width of the images as displayed.
        channels: of the images.
    """

    entry: ShardEntry
    names: bytes
    name_ends: np.ndarray
    members: dict[str, np.ndarray]
    suffixes: dict[str, list[str]]
    suffix: dict[str, np.ndarray]
    tags: np.ndarray
    tag_ends: np.ndarray
    tagged: np.ndarray
    sizes: np.ndarray
    channels: int

    def name(self, row: int) -> str:
        """The name of an example."""
        return self.names[self.name_ends[row] : self.name_ends[row + 1]].decode("utf-8", "surrogateescape")

    def all_names(self) -> Iterator[str]:
        """The names of all examples."""
        ends = self.name_ends.tolist()
        return (self.names[start:end].decode("utf-8", "surrogateescape") for start, end in pairwise(ends))

    def tags_of(self, row: int) -> tuple[int, ...] | None:
        """Label values that an example is tagged with; None where nobody said."""
        if not self.tagged[row]:
            return None
        return tuple(self.tags[self.tag_ends[row] : self.tag_ends[row + 1]].tolist())

    def member(self, kind: str, row: int) -> tuple[str, int, int] | None:
        """Name, offset and length of one file of an example; None where it has none of this kind."""
        if kind not in self.members or not self.members[kind][row, 0]:
            return None
        block, length = self.members[kind][row].tolist()
        return f"{key_of(self.name(row))}.{self.suffixes[kind][self.suffix[kind][row]]}", block * BLOCK, length


def shard_record(
    names: Sequence[str],
    members: Mapping[str, Sequence[tuple[str, int, int] | None]],
    tags: Sequence[tuple[int, ...] | None],
    sizes: Sequence[tuple[int, int]],
    **facts: Any,
) -> dict[str, Any]:
    """The content of `SHARD.json`, column by column.

    Args:
        names: of the examples.
        members: kind of file -> suffix without the first dot, offset and length of each in the tar file, or None.
        tags: label values of each, or None.
        sizes: height and width of each.
        facts: `split`, `number`, `bytes` and `sha256` of the tar file, `channels`, and what else is to be kept;
            `made_from`, a hash of what it was made from, does not count for what the set holds.
    """
    columns = {}
    for kind, rows in members.items():
        suffixes = sorted({row[0] for row in rows if row is not None})
        columns[kind] = {
            "suffixes": suffixes,
            "suffix": [0 if row is None else suffixes.index(row[0]) for row in rows],
            "offset": [0 if row is None else row[1] for row in rows],
            "length": [0 if row is None else row[2] for row in rows],
        }
    return {
        "format": SHARD_FORMAT,
        **facts,
        "count": len(names),
        "names": list(names),
        "members": columns,
        "tags": [None if row is None else list(row) for row in tags],
        "height": [size[0] for size in sizes],
        "width": [size[1] for size in sizes],
    }


def write_shard_index(place: str, name: str, record: Mapping[str, Any]) -> ShardEntry:
    """Write `SHARD.json`, once its tar file is there.

    Args:
        place: of the set.
        name: of the shard.
        record: as `shard_record` gives it.
    """
    last = {"made_from": record["made_from"]} if "made_from" in record else {}
    content = json.dumps({**{key: record[key] for key in record if key not in last}, **last}, separators=(",", ":"))
    write(join(place, f"{name}.json"), content.encode())
    return entry_of(name, content.encode(), record)


def entry_of(name: str, content: bytes, record: Mapping[str, Any]) -> ShardEntry:
    """What `index.json` is to say of a shard.

    Args:
        name: of the shard.
        content: of its own index.
        record: what that says.
    """
    facts = {key: record[key] for key in ("split", "count", "bytes", "sha256")}
    return ShardEntry(name, **facts, index_sha256=_sha256(content))


def _sha256(content: bytes) -> str:
    """Of a shard's own index up to `made_from`, which is of files of one machine: what is the same set has the same."""
    before, comma, _ = content.rpartition(b',"made_from":')
    return hashlib.sha256(before if comma else content).hexdigest()


def read_record(place: str, name: str) -> tuple[dict[str, Any], bytes]:
    """What `SHARD.json` says, and its bytes.

    Raises:
        DataError: it is missing, damaged or of something else.
    """
    where = join(place, f"{name}.json")
    try:
        content = read(where)
    except FileNotFoundError:
        raise DataError(f"{where} does not exist, and {INDEX} lists it. Fix: put it back, or {AGAIN}") from None
    except OSError as error:
        raise DataError(f"{where} cannot be read: {error}") from error
    return _loaded(where, content, SHARD_FORMAT), content


def read_shard_index(place: str, entry: ShardEntry) -> ShardIndex:
    """What a shard holds.

    Raises:
        DataError: its index is missing or damaged, or not the one that `index.json` was written for.
    """
    record, content = read_record(place, entry.name)
    where = join(place, f"{entry.name}.json")
    if _sha256(content) != entry.index_sha256:
        raise DataError(
            f"{where} is not as {INDEX} says: it was changed, or is of another set. Fix: put back the files that "
            f"belong together, or {AGAIN}"
        )
    try:
        return _packed(entry, record)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise DataError(f"{where} is damaged: {_said(error)}. Fix: {AGAIN}") from error


def read_index_alone(place: str, name: str) -> ShardIndex:
    """What a shard that no `index.json` lists holds.

    Args:
        place: folder or address of the shard.
        name: of its files.

    Raises:
        DataError: its index is missing or damaged.
    """
    record, content = read_record(place, name)
    try:
        return _packed(entry_of(name, content, record), record)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise DataError(f"{join(place, name)}.json is damaged: {_said(error)}. Fix: delete it and run again") from error


def _packed(entry: ShardEntry, record: Mapping[str, Any]) -> ShardIndex:
    """Columns as they are in memory.

    Raises:
        KeyError: or another of `read_shard_index`: a column that is missing, or not as long as the others.
    """
    refuse_odd_names(record["names"])
    names = [name.encode("utf-8", "surrogateescape") for name in record["names"]]
    values = [[] if row is None else row for row in record["tags"]]
    members, suffix = {}, {}
    for kind, columns in record["members"].items():
        offset = np.array(columns["offset"], np.int64)
        if (offset % BLOCK).any():
            raise ValueError(f"a file of the kind {kind} begins where no file of a tar begins")
        length = np.array(columns["length"], np.int64)
        if offset.min(initial=0) < 0 or length.min(initial=0) < 0 or (offset + length).max(initial=0) > entry.bytes:
            raise ValueError(f"a file of the kind {kind} is not within the tar file")
        members[kind] = np.stack([_small(offset // BLOCK), length.astype(np.uint32)], axis=1)
        suffix[kind] = _small(columns["suffix"])
    found = ShardIndex(
        entry,
        b"".join(names),
        _ends(names),
        members,
        {kind: list(columns["suffixes"]) for kind, columns in record["members"].items()},
        suffix,
        _small([value for row in values for value in row]),
        _ends(values),
        np.array([row is not None for row in record["tags"]], bool),
        _small([record["height"], record["width"]]).T,
        record["channels"],
    )
    lengths = {len(names), len(found.tagged), len(found.sizes), *map(len, members.values()), *map(len, suffix.values())}
    if lengths != {entry.count}:
        raise ValueError(f"columns of {', '.join(map(str, sorted(lengths)))} rows, where {entry.count} are expected")
    return found


def _small(values: Any) -> np.ndarray:
    """Whole numbers from 0 in the fewest bytes that hold them."""
    array = np.array(values, np.int64)
    return np.ascontiguousarray(array.astype(np.min_scalar_type(int(array.max(initial=0)))))


def _ends(parts: Sequence[Sequence[Any]]) -> np.ndarray:
    return _small(np.concatenate([[0], np.cumsum([len(part) for part in parts], dtype=np.int64)]))


def _loaded(where: str, content: bytes, expected: str) -> dict[str, Any]:
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is damaged, {error}. Fix: put it back, or {AGAIN}") from error
    found = record.get("format") if isinstance(record, dict) else None
    if found != expected:
        raise DataError(f"{where} has the format {found!r}, expected {expected!r}. Fix: {AGAIN}")
    return record


def _said(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)
