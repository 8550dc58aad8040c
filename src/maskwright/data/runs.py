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
    counts: list[int] = []
    number = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError(f"{letter!r} is no character of a run-length code")
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                number -= 1 << shift
            counts.append(number + (counts[-2] if len(counts) > 2 else 0))
            number = shift = 0
    if shift:
        raise ValueError("the run-length code ends within a number")
    return np.array(counts, np.int64)
