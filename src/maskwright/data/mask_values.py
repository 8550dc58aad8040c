"""Which values the masks of a set hold: counted once, for classes that nobody named and for what is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from maskwright.data.finding import Finding, FindingError
from maskwright.data.masks import MAX_SHOWN, NEAREST, map_text, read_mask

LOOKED_AT = 8  # masks that are looked at closely
STRAY = 1e-3  # share of the masks that hold a value, below which it is taken for a slip
EDGE = 0.9  # share of a value's pixels in no block of their own, from which it is taken for the edge between others
EDGES_AT_LEAST = 3  # such values, before masks are said to be interpolated; one may be a class that is drawn as lines


@dataclass(frozen=True)
class MaskFacts:
    """What one mask holds.

    Args:
        size: `(height, width)` in pixels.
        values: label values that occur, ascending.
        pixels: how many pixels have each.
    """

    size: tuple[int, int]
    values: tuple[int, ...]
    pixels: tuple[int, ...]

    @classmethod
    def of(cls, mask: np.ndarray) -> MaskFacts:
        """Of label values `(h, w)` uint8."""
        counts = np.bincount(mask.ravel(), minlength=256)
        values = np.flatnonzero(counts)
        return cls((mask.shape[0], mask.shape[1]), tuple(values.tolist()), tuple(counts[values].tolist()))

    def counts(self) -> np.ndarray:
        """Pixels of each label value, `(256,)`."""
        counts = np.zeros(256, np.int64)
        counts[list(self.values)] = self.pixels
        return counts


def mask_facts(path: str | Path, label_map: Mapping[int, int] | None = None) -> MaskFacts:
    """What a mask file holds; a file that has not changed since is not read again.

    Args:
        path: as for `read_mask`.
        label_map: as for `read_mask`.

    Raises:
        DataError: as `read_mask`.
    """
    try:
        found = os.stat(path)
        state = found.st_mtime_ns, found.st_size
    except OSError:  # `read_mask` says which
        state = 0, 0
    return _remembered(str(path), state, None if label_map is None else tuple(sorted(label_map.items())))


@lru_cache(maxsize=2**16)
def _remembered(path: str, state: tuple[int, int], pairs: tuple[tuple[int, int], ...] | None) -> MaskFacts:
    return MaskFacts.of(read_mask(path, None if pairs is None else dict(pairs)))


def guess_last_value(paths: Sequence[str], label_map: Mapping[int, int] | None, ignore_index: int) -> int:
    """The highest label value in masks whose classes nobody named: their values must be 0, 1, 2, ... without a gap.

    All masks are read, since every split must get the same classes.

    Args:
        paths: of the masks of all splits.
        label_map: as for `read_mask`; what it gives is meant, gaps included.
        ignore_index: value that is no class.

    Raises:
        DataError: a mask that cannot be read, fewer than two values, a gap between them, or values that are the
            smoothed edges between others; the message has the `label_map` to give.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        facts = list(pool.map(lambda path: mask_facts(path, label_map), paths))
    pixels, area = np.zeros(256, np.int64), np.zeros(256, np.int64)
    for mask in facts:
        pixels[list(mask.values)] += mask.pixels
        area[list(mask.values)] += sum(mask.pixels)
    values = [value for value in np.flatnonzero(pixels).tolist() if value != ignore_index]
    edges = _edges(paths, facts, label_map, values) if len(values) > EDGES_AT_LEAST else set()
    areas = {value for value in np.flatnonzero(pixels).tolist() if value not in edges}
    if 2 <= len(areas) <= len(edges) >= EDGES_AT_LEAST and 2 * pixels[list(edges)].sum() < pixels.sum():
        raise FindingError(interpolated(pixels, [str(path) for path in paths], len(paths)))
    if len(values) > 1 and (label_map is not None or values[-1] == len(values) - 1):
        return values[-1]
    sure = [value for value in values if pixels[value] >= STRAY * area[value]]
    raise FindingError(_unclear(values, sure, pixels, Path(paths[0]).parent, ignore_index))


def _edges(
    paths: Sequence[str], facts: Sequence[MaskFacts], label_map: Mapping[int, int] | None, values: Iterable[int]
) -> set[int]:
    """Values next to none of whose pixels there are others of the same in both directions, as between two areas."""
    most = sorted(range(len(paths)), key=lambda index: -len(facts[index].values))[:LOOKED_AT]
    alone, seen = np.zeros(256, np.int64), np.zeros(256, np.int64)
    for index in most:
        mask = read_mask(paths[index], label_map)
        alone += np.bincount(mask[~in_blocks(mask)], minlength=256)
        seen += facts[index].counts()
    return {value for value in values if seen[value] and alone[value] >= EDGE * seen[value]}


def in_blocks(mask: np.ndarray) -> np.ndarray:
    """Which pixels of a mask `(h, w)` belong to a block of 2 x 2 of one value, bool `(h, w)`."""
    across, down = mask[:, 1:] == mask[:, :-1], mask[1:] == mask[:-1]
    block = across[1:] & across[:-1] & down[:, 1:]
    inside = np.zeros(mask.shape, bool)
    for rows in (slice(None, -1), slice(1, None)):
        for columns in (slice(None, -1), slice(1, None)):
            inside[rows, columns] |= block
    return inside


def interpolated(pixels: np.ndarray, files: list[str], count: int) -> Finding:
    """The finding for masks whose values are the smoothed edges between others.

    Args:
        pixels: `(256,)` pixels of each value.
        files: the first few masks.
        count: number of masks.
    """
    values = np.flatnonzero(pixels).tolist()
    most = sorted(sorted(values, key=lambda value: -int(pixels[value]))[:2])
    return Finding(
        "error",
        f"the masks look interpolated: {len(values)} values, most of them in thin lines between others; most pixels "
        f"are {' and '.join(map(str, most))}",
        files,
        count,
        expected="one value for each class, without values in between",
        fix=NEAREST,
        kind="mask-interpolated",
    )


def _unclear(values: list[int], sure: list[int], pixels: np.ndarray, folder: Path, ignore_index: int) -> Finding:
    """The finding for values that are not 0, 1, 2, ..., with the map that makes them so."""
    ignored = int(pixels[ignore_index]) if 0 <= ignore_index < 256 else 0
    shown = ", ".join(f"{value} ({int(pixels[value])} pixels)" for value in values[:MAX_SHOWN])
    more = f" and {len(values) - MAX_SHOWN} more" if len(values) > MAX_SHOWN else ""
    also = f"{' and' if values else ''} {ignore_index} ({ignored} pixels), which is ignored" if ignored else ""
    what, kind = (
        f"the classes have no names, and the masks do not hold 0, 1, 2, ... but {shown}{more}{also}",
        "mask-gaps",
    )
    classes = sure
    if len(sure) < 2:
        what = f"the masks hold no value but {shown}{also}: nothing but one class would be learned"
        kind, classes = "mask-binary", [*sure, ignore_index] if ignored else sure
    fix = "classes=FILE, one name per line, line number from 0 = value"
    if len(classes) > 1:
        found = sorted({*values, ignore_index} if ignored else values)
        label_map = {value: classes.index(value) if value in classes else ignore_index for value in found}
        slips = [str(value) for value in values if value not in classes]
        why = f" ({', '.join(slips)} of few pixels become ignored)" if slips else ""
        fix = f"data.label_map='{map_text(label_map)}'{why}; or {fix}"
    return Finding(
        "error", what, [str(folder)], expected="two values or more, 0, 1, 2, ... without a gap", fix=fix, kind=kind
    )
