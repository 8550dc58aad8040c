"""Parts of a set: labelled one by one into one tar file and one receipt each, which follow from the part alone."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from maskwright.data import open_dataset, shard_list
from maskwright.data.dataset import Dataset
from maskwright.data.masks import palette_png
from maskwright.data.shards.index import shard_record, write_shard_index
from maskwright.data.shards.stores import join, written
from maskwright.data.shards.tars import Hashed, key_of, write_tar
from maskwright.errors import DataError
from maskwright.runs.context import RunContext
from maskwright.weak.one_pass.chain import Chain, Labelled
from maskwright.weak.one_pass.receipts import Totals, discard_failure, write_receipt
from maskwright.weak.pseudo_masks import judged

MASK, CONFIDENCE, MAPS = "mask", "confidence", "maps"
SUFFIXES = {MASK: "png", CONFIDENCE: "confidence.png", MAPS: "maps.npz"}


@dataclass(frozen=True)
class Part:
    """Consecutive images of a split: `start` to `stop`, without that; a shard, where the set has them."""

    name: str
    start: int
    stop: int


def parts_of(context: RunContext, size: int) -> list[Part]:
    """The parts of the split that is labelled: its shards, or else so many images each.

    Args:
        context: of the run.
        size: images of a part of a set that has no shards.

    Raises:
        DataError: the set cannot be opened.
    """
    data = context.recipe.data
    if not context.has_shards:
        count = len(context.train)
        return [
            Part(f"part-{number:06d}", start, min(start + size, count))
            for number, start in enumerate(range(0, count, size))
        ]
    parts, start = [], 0
    for name, count in shard_list(data, data.train):
        parts.append(Part(name, start, start + count))
        start += count
    return parts


def open_part(context: RunContext, part: Part) -> tuple[Dataset, range]:
    """The set that a part is opened from, and its images' numbers there; of a set of shards one shard alone.

    Raises:
        DataError: the part is missing or damaged.
    """
    if not context.has_shards:
        return context.train, range(part.start, part.stop)
    dataset = open_dataset(context.recipe.data, context.recipe.data.train, shard=part.name)
    return dataset, range(len(dataset))


def label_part(chain: Chain, part: Part, place: str, fingerprint: str, *, keep_maps: bool = False) -> None:
    """Label one part: `PART.tar` and its index `PART.json`, then, when all is there, `PART.receipt.json`.

    An image that cannot be read, or whose ground truth does not fit, is named in the receipt, and the others go on. The
    same bytes come from every call, wherever it works, and however often.

    Args:
        chain: of the run.
        part: which images.
        place: folder or address that gets the files.
        fingerprint: of all that the result depends on.
        keep_maps: also keep the maps, float16, as files of maps have them.

    Raises:
        DataError: the part is missing or damaged.
    """
    dataset, indices = open_part(chain.context, part)
    totals, names, rows = Totals(dataset.labels), [], []
    failed: dict[int, str] = {}

    def members() -> Iterator[tuple[str, bytes]]:
        for found in chain.labelled(dataset, indices, failed):
            try:
                totals.add(dataset, found.index, judged(dataset, found.index, found.mask), found.mask)
            except DataError as error:
                failed[found.index] = str(error)
                continue
            name, files = dataset.names[found.index], _files(found, dataset, keep_maps)
            names.append(name)
            rows.append(found.index)
            for kind, content in files.items():
                yield f"{key_of(name)}.{SUFFIXES[kind]}", content

    with written(join(place, f"{part.name}.tar")) as stream:
        hashed = Hashed(stream)
        places = iter(write_tar(hashed, members()))
    facts = {
        "split": str(dataset.source.get("split", "train")),
        "bytes": hashed.bytes,
        "sha256": hashed.digest.hexdigest(),
    }
    kinds = [MASK, CONFIDENCE, *([MAPS] if keep_maps else [])]
    columns: dict[str, list[tuple[str, int, int] | None]] = {kind: [] for kind in kinds}
    for _ in names:
        for kind in kinds:
            columns[kind].append((SUFFIXES[kind], *next(places)))
    record = shard_record(
        names,
        columns,
        [dataset.tags(row) for row in rows],
        [dataset.size(row) for row in rows],
        **facts,
        number=part.start,
        channels=1,
    )
    write_shard_index(place, part.name, record)
    unread = {dataset.names[index]: why for index, why in sorted(failed.items())}
    write_receipt(place, part.name, fingerprint, len(indices), totals, unread, facts)
    discard_failure(place, part.name)


def _files(found: Labelled, dataset: Dataset, keep_maps: bool) -> dict[str, bytes]:
    files = {MASK: palette_png(found.mask, dataset.labels), CONFIDENCE: _grey_png(found.confidence)}
    if keep_maps:
        stream = io.BytesIO()
        maps = found.maps
        np.savez(stream, keys=maps.keys.numpy(), cam=maps.cam.half().numpy(), high_res=maps.high_res.numpy())
        files[MAPS] = stream.getvalue()
    return files


def _grey_png(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "png", compress_level=1)
    return stream.getvalue()
