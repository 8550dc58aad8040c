"""Names of very many examples, in little more memory than their letters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np

from maskwright.data.shards.index import ShardIndex


class Names(Sequence[str]):
    """Names of the examples of some shards: a sequence that takes little more memory than their letters."""

    def __init__(self, indices: Sequence[ShardIndex], starts: np.ndarray) -> None:
        self.indices, self.starts = indices, starts
        self._lookup: tuple[np.ndarray, np.ndarray] | None = None

    def __getstate__(self) -> dict[str, Any]:  # hashes of text differ between processes
        return {**self.__dict__, "_lookup": None}

    def __len__(self) -> int:
        return int(self.starts[-1])

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        found, row = place_of(self.starts, index)
        return self.indices[found].name(row)

    def __iter__(self) -> Iterator[str]:
        for index in self.indices:
            yield from index.all_names()

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._find(name) is not None

    def index(self, name: str, start: int = 0, stop: int | None = None) -> int:
        """The number of the example of this name.

        Raises:
            ValueError: there is none, or not from `start` to `stop`.
        """
        found = self._find(name)
        if found is None or not start <= found < (len(self) if stop is None else stop):
            raise ValueError(f"{name!r} is not in the set")
        return found

    def repeated(self) -> list[str]:
        """Some names that more than one example has."""
        hashes, order = self._hashes()
        same = np.flatnonzero(hashes[1:] == hashes[:-1])[:1000]
        return sorted({self[int(order[i])] for i in same if self[int(order[i])] == self[int(order[i + 1])]})

    def shared(self, other: Names) -> list[str]:
        """Names that are in both, ascending."""
        both = np.intersect1d(self._hashes()[0], other._hashes()[0])
        places = np.searchsorted(self._hashes()[0], both)
        found = (self[int(self._hashes()[1][place])] for place in places)
        return sorted(name for name in found if name in other)

    def _find(self, name: str) -> int | None:
        hashes, order = self._hashes()
        value = hash(name)
        for place in range(int(np.searchsorted(hashes, value)), len(hashes)):
            if hashes[place] != value:
                break
            if self[int(order[place])] == name:
                return int(order[place])
        return None

    def _hashes(self) -> tuple[np.ndarray, np.ndarray]:
        """Sorted hashes of all names, and whose each is; made when first asked for."""
        if self._lookup is None:
            hashes = np.fromiter(map(hash, self), np.int64, len(self))
            order = np.argsort(hashes, kind="stable")
            self._lookup = hashes[order], order.astype(np.min_scalar_type(len(self)))
        return self._lookup


def place_of(starts: np.ndarray, index: int) -> tuple[int, int]:
    """Which shard an example is in, and its row there.

    Args:
        starts: number of the first example of each shard, and how many there are.
        index: of the example; below 0 it counts from the end.

    Raises:
        IndexError: there is no such example.
    """
    count = int(starts[-1])
    if not -count <= index < count:
        raise IndexError(f"example {index} of {count}")
    index = int(index) % count
    shard = int(np.searchsorted(starts, index, side="right")) - 1
    return shard, index - int(starts[shard])
