"""`maskwright shard`: a data set as tar files of many examples each, for many images and for object stores."""

from __future__ import annotations

from maskwright.data.finding import number_of
from maskwright.data.shards.pack import Packing
from maskwright.engine.progress import track
from maskwright.settings import DataSettings


def shard(settings: DataSettings, out: str, size: int, split: str | None = None) -> tuple[list[str], list[str]]:
    """Write splits of a data set as shards; what is right already stays, so the same call goes on where one stopped.

    Args:
        settings: of the data.
        out: folder or address to write to.
        size: examples in a shard.
        split: names of splits, separated by commas; the settings' `train` and `val` by default.

    Returns:
        What was written, in lines; and what was left out: each broken example, and what is wrong with it.

    Raises:
        DataError: a split cannot be opened, labels mean nothing, or `out` holds something else.
    """
    splits = split.split(",") if split else [settings.train, settings.val]
    packing, left_out, kept = Packing(settings, splits, out, size), [], 0
    for done in track(packing.shards(), title="writing shards", total=len(packing)):
        left_out += [f"{done.entry.name}: {wrong}" for _, wrong in done.left_out]
        kept += done.kept
    packing.finish()
    lines = []
    for name in packing.sets:
        shards = [entry for entry in packing.found.shards if entry.split == name]
        images = number_of(sum(entry.count for entry in shards), "image")
        size_in_mb = sum(entry.bytes for entry in shards) / 1e6
        lines.append(f"{name}: {images} in {number_of(len(shards), 'shard')}, {size_in_mb:.1f} MB")
    there = f"; {number_of(kept, 'shard')} there already" if kept else ""
    lines.append(f"written to {out}{there}: maskwright data check {out}")
    return lines, left_out
