"""Label Studio's brush masks: the run-length code of its RGBA pixels, bit by bit, both ways.

32 bits: number of words; 5: bits of a word, less 1; four times 4: bits of a run length of each of four kinds, less 1.
Then, until the words are complete: 1 bit, whether one word is repeated or each is given; 2 bits, which kind of length;
the length less 1; the word, or the words.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from maskwright.errors import DataError

CHANNELS = 4
WORD = 8
LENGTHS = (3, 4, 8, 16)  # bits of a run length that Label Studio writes


def decode_brush(code: Sequence[int], height: int, width: int) -> np.ndarray:
    """Where a brush painted: its alpha is not 0, as in Label Studio's own conversion to COCO.

    Args:
        code: bytes of the run-length code, 0 to 255.
        height: of the image, in pixels.
        width: of the image, in pixels.

    Returns:
        `(height, width)` bool.

    Raises:
        DataError: bytes that are no such code, or the code of an image of another size.
    """
    try:
        data = np.array(code, np.int64)
    except (TypeError, ValueError, OverflowError):
        raise DataError("the run-length code is not a list of bytes") from None
    if data.ndim != 1 or len(data) < 8 or data.min() < 0 or data.max() > 255:
        raise DataError("the run-length code is not a list of at least 8 bytes 0 to 255")
    words = _words(data.astype(np.uint8), height * width * CHANNELS)
    return words.reshape(height, width, CHANNELS)[..., 3] > 0


def _words(data: np.ndarray, expected: int) -> np.ndarray:
    """`(expected,)` uint8 words of a code."""
    bits = np.unpackbits(data)
    stream = data.tobytes() + bytes(8)  # so that a window of 8 bytes may begin at every byte
    place = 0

    def take(count: int) -> int:
        nonlocal place
        if place + count > len(bits):
            raise DataError("the run-length code ends too early")
        first = place >> 3
        window = int.from_bytes(stream[first : first + 8], "big")
        found = window >> (64 - (place & 7) - count) & ((1 << count) - 1)
        place += count
        return found

    total = take(32)
    if total != expected:
        raise DataError(f"the run-length code has {total} values, {expected} are expected (4 for each pixel)")
    word = take(5) + 1
    if word != WORD:
        raise DataError(f"the run-length code has values of {word} bits, {WORD} are expected")
    lengths = [take(4) + 1 for _ in LENGTHS]
    words = np.zeros(expected, np.uint8)
    done = 0
    while done < expected:
        repeated = take(1)
        count = take(lengths[take(2)]) + 1
        end = done + count
        if end > expected:
            raise DataError(f"the run lengths add up to more than the {expected} values")
        if repeated:
            words[done:end] = take(WORD)
        else:
            if place + count * WORD > len(bits):
                raise DataError("the run-length code ends too early")
            words[done:end] = np.packbits(bits[place : place + count * WORD])
            place += count * WORD
        done = end
    return words


def encode_brush(inside: np.ndarray) -> list[int]:
    """The code of a mask, byte for byte as Label Studio's SDK writes it: every pixel 4 times, 255 inside and 0 outside.

    Args:
        inside: `(H, W)` bool.

    Returns:
        Bytes 0 to 255.
    """
    flat = inside.ravel()
    ends = np.flatnonzero(np.diff(flat.astype(np.int8))) + 1
    bounds = np.concatenate([[0], ends, [flat.size]])
    bits = [f"{flat.size * CHANNELS:032b}{WORD - 1:05b}", *(f"{length - 1:04b}" for length in LENGTHS)]
    for start, length in zip(bounds[:-1].tolist(), (np.diff(bounds) * CHANNELS).tolist()):
        value = "11111111" if flat[start] else "00000000"
        most = 1 << LENGTHS[-1]
        while length > most:
            bits.append(f"111{most - 1:016b}{value}")
            length -= most
        kind = next(kind for kind, size in enumerate(LENGTHS) if length <= 1 << size)
        bits.append(f"1{kind:02b}{length - 1:0{LENGTHS[kind]}b}{value}")
    text = "".join(bits)
    # A whole byte of zeros follows where the last one is full.
    text += "0" * (8 - len(text) % 8)
    return np.packbits(np.frombuffer(text.encode(), np.uint8) - ord("0")).tolist()
