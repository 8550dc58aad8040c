"""A data set of any reader as a set of shards: image files as they are, masks as PNG of label values."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from maskwright.data import Dataset, objects_only, open_split, with_saliency
from maskwright.data.decode import Reading
from maskwright.data.finding import FindingError
from maskwright.data.images import image_suffixes, read_saliency
from maskwright.data.masks import read_mask
from maskwright.data.scan import inspect
from maskwright.data.shards.index import (
    INDEX,
    SetIndex,
    ShardEntry,
    entry_of,
    read_index,
    read_record,
    shard_record,
    write_index,
    write_shard_index,
)
from maskwright.data.shards.reader import typed
from maskwright.data.shards.stores import is_remote, join, size_of, written
from maskwright.data.shards.tars import Hashed, key_of, write_tar
from maskwright.errors import DataError
from maskwright.files import remove_unfinished
from maskwright.settings import DataSettings

AT_ONCE = 64  # examples that are in memory
OURS = re.compile(r"index\.json|.+-\d{6}\.(tar|json)|\..+\.tmp(\.\w+)?")

# What is wrong with one example alone, which is left out; anything else is wrong with the settings or with all.
LEFT_OUT = (
    *("image-missing", "image-unreadable", "image-truncated", "image-channels"),
    *("mask-missing", "mask-unreadable", "mask-size", "saliency-size"),
)
# What a reader's `source` says that the shards say themselves.
OWN = ("root", "layout", "split", "split_source", "count", "mask_count", "tag_count", "range", "channels_read")


class Done(NamedTuple):
    """A shard that is there: what `index.json` will say of it, whether it was there before, and what it lacks.

    Args:
        entry: for `index.json`.
        kept: whether it was there before.
        left_out: names of broken examples, each with what is wrong.
    """

    entry: ShardEntry
    kept: bool
    left_out: list[tuple[str, str]]


class _Example(NamedTuple):
    """What is written of one example: kind of file -> suffix and bytes."""

    name: str
    files: dict[str, tuple[str, bytes]]
    tags: tuple[int, ...] | None
    size: tuple[int, int]
    wrong: str = ""


class Packing:
    """A set of shards that is being written; `shards` writes what is not there, `finish` the index of all.

    Args:
        settings: of the data, as for `maskwright.data.open_dataset`.
        splits: names of the splits.
        out: folder or address to write to.
        size: examples in a shard.

    Raises:
        DataError: a split cannot be opened, or `out` holds something else.
    """

    def __init__(self, settings: DataSettings, splits: Sequence[str], out: str, size: int) -> None:
        if size < 1:
            raise DataError(f"size must be 1 or more examples in a shard, found {size}")
        self.settings, self.out, self.size = settings, out, size
        self.before = _what_is_there(out)
        self.read = {split: open_split(settings, split) for split in dict.fromkeys(splits)}
        self.sets = {split: self._seen(dataset) for split, dataset in self.read.items()}
        for split, dataset in self.read.items():
            if not len(dataset):
                raise DataError(f"split {split!r} has no images to write. Fix: leave it out with split=")
        reading: dict[str, Any] = Reading.of(settings.options).to_dict()
        if settings.options.get("tolerant"):
            reading["tolerant"] = True
        first = next(iter(self.sets.values()))
        sources = {split: self._source(dataset) for split, dataset in self.sets.items()}
        self.found = SetIndex(first.labels, sources, [], typed(settings), reading)
        if self.before is not None and self._other(self.before):
            raise DataError(
                f"{join(out, INDEX)} is of a set that was packed with {self._other(self.before)}. "
                "Fix: choose another out=, or delete what is there"
            )

    def __len__(self) -> int:
        """Shards of all splits."""
        return sum(-(-len(dataset) // self.size) for dataset in self.sets.values())

    def shards(self) -> Iterator[Done]:
        """Write one shard after the other; those that are right already are left as they are.

        Raises:
            DataError: labels that mean nothing, or images that need settings to be read.
        """
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for split in self.sets:
                for number, start in enumerate(range(0, len(self.sets[split]), self.size)):
                    stop = min(start + self.size, len(self.sets[split]))
                    done = self._shard(split, number, range(start, stop), pool)
                    self.found.shards.append(done.entry)
                    yield done

    def finish(self) -> None:
        """Write `index.json`, with the shards of splits that were there before.

        Raises:
            DataError: no example of a split is left.
        """
        for split in self.sets:
            if not sum(shard.count for shard in self.found.shards if shard.split == split):
                raise DataError(f"no image of split {split!r} can be read; nothing is written for it")
        if self.before is not None:
            others = [shard for shard in self.before.shards if shard.split not in self.sets]
            self.found.shards[:0] = others
            self.found.splits.update({shard.split: self.before.splits[shard.split] for shard in others})
        write_index(self.out, self.found)

    def _seen(self, dataset: Dataset) -> Dataset:
        dataset = with_saliency(dataset, self.settings)
        return objects_only(dataset) if self.settings.objects else dataset

    def _source(self, dataset: Dataset) -> dict[str, Any]:
        source = {key: value for key, value in dict(dataset.source).items() if key not in OWN}
        return {key: _portable(value, self.settings.root) for key, value in source.items()}

    def _other(self, before: SetIndex) -> str:
        """What of another set differs, in words."""
        pairs = {
            "other classes": (before.labels, self.found.labels),
            f"the settings {before.settings}": (before.settings, self.found.settings),
            f"the options {before.reading}": (before.reading, self.found.reading),
        }
        return next((words for words, (old, new) in pairs.items() if old != new), "")

    def _shard(self, split: str, number: int, indices: Sequence[int], pool: ThreadPoolExecutor) -> Done:
        name = f"{Path(split).stem if split.endswith('.txt') else split.replace('/', '_')}-{number:06d}"
        made_from = self._made_from(split, indices)
        kept = self._kept(name, made_from)
        if kept is not None:
            return kept
        place, rows = join(self.out, f"{name}.tar"), []
        written_rows: list[_Example] = []
        left_out: list[tuple[str, str]] = []

        def members() -> Iterator[tuple[str, bytes]]:
            for start in range(0, len(indices), AT_ONCE):
                for example in pool.map(lambda index: self._example(split, index), indices[start : start + AT_ONCE]):
                    if example.wrong:
                        left_out.append((example.name, example.wrong))
                        continue
                    key = key_of(example.name)
                    for kind, (suffix, content) in example.files.items():
                        rows.append((len(written_rows), kind, suffix))
                        yield f"{key}.{suffix}", content
                    # The bytes are in the file now, and not needed any more.
                    written_rows.append(example._replace(files=dict.fromkeys(example.files, ("", b""))))

        with written(place) as stream:
            hashed = Hashed(stream)
            places = write_tar(hashed, members())
        kinds = sorted({kind for _, kind, _ in rows})
        columns: dict[str, list[tuple[str, int, int] | None]] = {kind: [None] * len(written_rows) for kind in kinds}
        for (row, kind, suffix), (offset, length) in zip(rows, places):
            columns[kind][row] = suffix, offset, length
        record = shard_record(
            [example.name for example in written_rows],
            columns,
            [example.tags for example in written_rows],
            [example.size for example in written_rows],
            split=split,
            number=number,
            bytes=hashed.bytes,
            sha256=hashed.digest.hexdigest(),
            channels=int(dict(self.sets[split].source).get("channels", 3)),
            made_from=made_from,
            left_out=left_out,
        )
        return Done(write_shard_index(self.out, name, record), False, left_out)

    def _kept(self, name: str, made_from: str) -> Done | None:
        """A shard that was written before from the same files; None where there is none."""
        try:
            record, content = read_record(self.out, name)
        except DataError:  # it was not finished
            return None
        if record.get("made_from") != made_from or size_of(join(self.out, f"{name}.tar")) != record["bytes"]:
            return None
        return Done(entry_of(name, content, record), True, [(name, wrong) for name, wrong in record["left_out"]])

    def _made_from(self, split: str, indices: Sequence[int]) -> str:
        """Hash of what a shard is made from: names, tags, settings, and of every file its size and time of change."""
        dataset, digest = self.sets[split], hashlib.sha256()
        settings = {key: value for key, value in self.settings.model_dump().items() if key not in ("train", "val")}
        digest.update(json.dumps([settings, dataset.labels.to_dict()], sort_keys=True).encode())
        if dataset.images is None:
            digest.update(repr(sorted(dict(dataset.source).items())).encode())
        for index in indices:
            digest.update(dataset.names[index].encode("utf-8", "surrogateescape") + b"\0")
            if not dataset.tags_from_masks:
                digest.update(repr(dataset.tags(index)).encode())
            for paths in (dataset.images, dataset.masks, dataset.saliency):
                path = None if paths is None else paths[index]
                if path is not None and os.path.exists(path):
                    facts = os.stat(path)
                    digest.update(f"{facts.st_size} {facts.st_mtime_ns} ".encode())
        return digest.hexdigest()[:16]

    def _example(self, split: str, index: int) -> _Example:
        """What is written of one example.

        Raises:
            DataError: what is wrong is wrong with more than this one.
        """
        read, dataset = self.read[split], self.sets[split]
        record = inspect(read, index)
        errors = [problem for problem in record.problems if problem.level == "error"]
        for error in errors:
            if error.kind not in LEFT_OUT:
                raise FindingError(error)
        if errors or record.size is None:
            wrong = errors[0].text() if errors else "cannot be read"
            wrong = wrong.replace(f"{os.path.abspath(self.settings.root)}/", "").replace(f"{self.settings.root}/", "")
            return _Example(record.name, {}, None, (0, 0), wrong)
        files = {"image": _image_file(read, index)}
        mask = dataset.mask(index)
        if mask is not None:
            files["mask"] = "mask.png", _mask_bytes(dataset, index, mask)
        saliency = _saliency_bytes(dataset, index, record.size)
        if saliency is not None:
            files["saliency"] = "saliency.png", saliency
        if dataset.tags_from_masks:  # asked for their tags, sets of files remember them
            tags = None if mask is None else dataset.labels.tags_in(mask)
        else:
            tags = dataset.tags(index)
        return _Example(record.name, files, tags, record.size)


def _what_is_there(out: str) -> SetIndex | None:
    """The index of the set that is in a folder already; None where there is none.

    Raises:
        DataError: the folder holds something else.
    """
    if not is_remote(out) and os.path.isdir(out):
        strange = sorted(name for name in os.listdir(out) if not OURS.fullmatch(name))
        if strange:
            raise DataError(
                f"{out} holds {', '.join(strange[:3])}. Expected a folder that is new, empty or a set of shards. "
                "Fix: choose another out="
            )
        remove_unfinished(Path(out))
    return None if size_of(join(out, INDEX)) is None else read_index(out)


def _portable(value: Any, root: str) -> Any:
    """A fact without places of this machine: paths below the root from there, others by their last part."""
    if isinstance(value, dict):
        return {key: _portable(inner, root) for key, inner in value.items()}
    if not isinstance(value, str) or (not os.path.isabs(value) and not value.startswith(f"{root}/")):
        return value
    path, folder = os.path.abspath(value), os.path.abspath(root)
    return os.path.relpath(path, folder) if path.startswith(f"{folder}{os.sep}") else os.path.basename(path)


def _image_file(dataset: Dataset, index: int) -> tuple[str, bytes]:
    """Suffix and bytes of an image: those of its file, or of a PNG where it is in none of its own."""
    path = None if dataset.images is None else dataset.images[index]
    suffix = "" if path is None else os.path.splitext(path)[1].lower()
    if path is not None and suffix in image_suffixes():
        return suffix[1:], Path(path).read_bytes()
    return "png", _png(dataset.get(index, with_mask=False).image)


def _mask_bytes(dataset: Dataset, index: int, mask: np.ndarray) -> bytes:
    """A mask as PNG: its own file, where that holds the same label values."""
    path = None if dataset.masks is None else dataset.masks[index]
    if path is not None and str(path).lower().endswith(".png"):
        try:
            values = read_mask(path)
        except DataError:  # colours, or other values, that mean something to its reader alone
            values = None
        if values is not None and np.array_equal(values, mask):
            return Path(path).read_bytes()
    return _png(mask, dataset.labels.flat_palette())


def _saliency_bytes(dataset: Dataset, index: int, size: tuple[int, int]) -> bytes | None:
    """A saliency map as PNG: its own file, where that has the size of the image as displayed."""
    path = None if dataset.saliency is None else dataset.saliency[index]
    if path is None:
        detected = dict(dataset.source).get("saliency") is not None and dataset.saliency is None
        values = dataset.get(index, with_mask=False).saliency if detected else None
        return None if values is None else _png(values)
    image = None if dataset.images is None else dataset.images[index]
    values = read_saliency(path, size, path if image is None else image)
    if str(path).lower().endswith(".png"):
        with Image.open(path) as picture:
            if picture.size[::-1] == size:
                return Path(path).read_bytes()
    return _png(values)


def _png(pixels: np.ndarray, palette: list[int] | None = None) -> bytes:
    picture = Image.fromarray(pixels)
    if palette is not None:
        picture.putpalette(palette)
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()
