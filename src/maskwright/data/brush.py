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
    stream = data.tobytes()
    total, rest = int.from_bytes(stream[:4], "big"), int.from_bytes(stream[4:7], "big")
    if total != expected:
        raise DataError(f"the run-length code has {total} values, {expected} are expected (4 for each pixel)")
    if (word := (rest >> 19) + 1) != WORD:
        raise DataError(f"the run-length code has values of {word} bits, {WORD} are expected")
    lengths = [(rest >> 3 + 4 * kind & 15) + 1 for kind in (3, 2, 1, 0)]
    bits = np.unpackbits(data)
    place, end_of_bits = 53, len(stream) * 8
    stream += bytes(8)  # so that a window of 8 bytes may begin at every byte
    words = bytearray(expected)
    done = 0
    # Codes may have a run for every value, so that little is done for each; a run's head and one word have 27 bits.
    while done < expected:
        first = place >> 3
        window = int.from_bytes(stream[first : first + 8], "big") << (place & 7)
        size = lengths[window >> 61 & 3]
        count = (window >> 61 - size & (1 << size) - 1) + 1
        end = done + count
        if end > expected:
            raise DataError(f"the run lengths add up to more than the {expected} values")
        repeated = window >> 63 & 1
        place += 3 + size
        if repeated or count == 1:
            place += WORD
            value = window >> 53 - size & 255
            if value:
                words[done:end] = bytes((value,)) * count
        else:
            literal = place
            place += count * WORD
            if place <= end_of_bits:
                words[done:end] = np.packbits(bits[literal:place]).tobytes()
        if place > end_of_bits:
            raise DataError("the run-length code ends too early")
        done = end
    return np.frombuffer(words, np.uint8)


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
