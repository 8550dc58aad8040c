"""What the indices of shards say of all examples together, without looking at one after the other."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from maskwright.data.finding import Some
from maskwright.data.shards.index import ShardIndex
from maskwright.data.shards.reader import ShardSet


class Tally(NamedTuple):
    """Sums over the examples of a set.

    Args:
        together: `(K, K)` examples tagged with both, over the set's `labels.foreground`.
        tagged: examples whose tags are known.
        untagged: names of the others.
        unmasked: names of those without a mask.
        unlabelled: names of those without either.
    """

    together: np.ndarray
    tagged: int
    untagged: Some
    unmasked: Some
    unlabelled: Some


def tally(dataset: ShardSet) -> Tally:
    """Tags and masks of a set, counted."""
    labels = dataset.labels
    position = np.zeros(256, np.int64)
    position[list(labels.foreground)] = np.arange(len(labels.foreground))
    together = np.zeros((len(labels.foreground), len(labels.foreground)), np.int64)
    found = Tally(together, 0, Some(), Some(), Some())
    for shard in dataset.indices:
        count = len(shard.tagged)
        vectors = np.zeros((count, len(labels.foreground)), np.int64)
        ends = shard.tag_ends.astype(np.int64)
        rows = np.repeat(np.arange(count), ends[1:] - ends[:-1])
        vectors[rows, position[shard.tags]] = 1
        together += vectors.T @ vectors
        masked = shard.members["mask"][:, 0] > 0 if "mask" in shard.members else np.zeros(count, bool)
        for names, missing in (
            (found.untagged, ~shard.tagged),
            (found.unmasked, ~masked),
            (found.unlabelled, ~masked & ~shard.tagged),
        ):
            _add(names, shard, np.flatnonzero(missing))
    return found._replace(tagged=len(dataset) - len(found.untagged))


def _add(names: Some, shard: ShardIndex, rows: np.ndarray) -> None:
    wanted = max(0, names.kept - len(names.first))
    names.add([shard.name(row) for row in rows[:wanted].tolist()], len(rows))
