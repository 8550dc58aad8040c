"""Run-length codes of COCO: lengths down the columns, outside, inside, outside, ..., as numbers or as text."""

from __future__ import annotations

import numpy as np


def runs_of(inside: np.ndarray) -> np.ndarray:
    """The lengths of the runs of a region.

    Args:
        inside: `(H, W)` bool.

    Returns:
        `(n,)` int64 that add up to H * W; the first, which may be 0, lies outside.
    """
    flat = np.asarray(inside, bool).ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    begin = [0, 0] if flat.size and flat[0] else [0]
    return np.diff(np.concatenate([begin, changes, [flat.size]]).astype(np.int64))


def text_of(counts: np.ndarray) -> str:
    """Lengths of runs as the text that COCO's tools call compressed: from the third on differences to the one before
    the last, five bits to a character, the lowest first."""
    differences = np.asarray(counts, np.int64).copy()
    differences[3:] -= counts[1:-2]
    letters = []
    for number in differences.tolist():
        while True:
            bits, number = number & 31, number >> 5
            if number == (-1 if bits & 16 else 0):
                letters.append(chr(48 + bits))
                break
            letters.append(chr(48 + (bits | 32)))
    return "".join(letters)


def counts_of(text: str) -> np.ndarray:
    """The lengths `(n,)` int64 that `text_of` gave as text.

    Raises:
        ValueError: a character that cannot be in it, or an end within a number.
    """
    bits = np.frombuffer(text.encode("latin-1", "replace"), np.uint8).astype(np.int64) - 48
    if not len(bits):
        return np.zeros(0, np.int64)
    if bits.min() < 0 or bits.max() > 63:
        wrong = text[int(np.flatnonzero((bits < 0) | (bits > 63))[0])]
        raise ValueError(f"{wrong!r} is no character of a run-length code")
    last = np.flatnonzero(bits < 32)
    if not len(last) or last[-1] != len(bits) - 1:
        raise ValueError("the run-length code ends within a number")
    length = np.diff(last, prepend=-1)
    if length.max() > 12:
        raise ValueError("the run-length code has a number of more than 60 bits")
    first = last - length + 1
    shift = 5 * (np.arange(len(bits)) - np.repeat(first, length))
    counts = np.add.reduceat((bits & 31) << shift, first)
    negative = bits[last] & 16 != 0
    counts[negative] -= np.int64(1) << (5 * length[negative])
    counts[1::2] = np.cumsum(counts[1::2])
    counts[2::2] = np.cumsum(counts[2::2])
    return counts
