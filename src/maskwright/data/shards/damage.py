"""Whether tar files are still the ones that were written: all their bytes are read."""

from __future__ import annotations

import hashlib

from maskwright.data.finding import Finding
from maskwright.data.shards.index import AGAIN
from maskwright.data.shards.reader import ShardSet
from maskwright.data.shards.stores import join, read

PART = 2**24  # bytes in memory at once


def damaged(dataset: ShardSet) -> list[Finding]:
    """The finding on tar files whose SHA-256 is not the one in the index; none where all are whole.

    Args:
        dataset: a split, or some of its shards.
    """
    wrong = []
    for entry in dataset.entries:
        place, digest = join(dataset.place, f"{entry.name}.tar"), hashlib.sha256()
        try:
            for start in range(0, entry.bytes, PART):
                digest.update(read(place, start, min(PART, entry.bytes - start)))
        except OSError:  # which is said where its examples are read
            continue
        if digest.hexdigest() != entry.sha256:
            wrong.append(place)
    if not wrong:
        return []
    fix = f"put back the files that were written, or delete them and {AGAIN}"
    what = "tar file is not the one that the index is of: its SHA-256 differs"
    return [Finding("error", what, wrong, len(wrong), "the bytes that were written", fix, "shard-damaged")]
