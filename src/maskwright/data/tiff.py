"""TIFF files that Pillow has no mode for: any number of channels, of 8 to 64 bits, in one plane or in several."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, TiffImagePlugin

from maskwright.data.stored import Where, opened

# Tags of the format.
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, ORIENTATION = 256, 257, 258, 259, 262, 274
STRIPS, SAMPLES, ROWS, STRIP_BYTES, PLANES, PREDICTOR = 273, 277, 278, 279, 284, 317
TILE_WIDTH, TILE_HEIGHT, TILES, TILE_BYTES, EXTRA, FORMAT = 322, 323, 324, 325, 338, 339

ALPHA = (1, 2)  # values of EXTRA that say transparency
SIGNED, FLOAT = 2, 3  # values of FORMAT
PALETTE, CMYK, YCBCR = 3, 5, 6  # values of PHOTOMETRIC: what a channel means is more than its number


@dataclass(frozen=True)
class Header:
    """What a TIFF file says of its first page.

    Args:
        size: `(height, width)` as stored.
        channels: without transparency.
        alpha: whether there is transparency.
        bits: of one number.
        kind: "u", "i" or "f", as NumPy names them: unsigned, signed, floating point.
        orientation: EXIF orientation, 1 to 8.
        pages: of the file.
        plain: whether channels are nothing but numbers: no palette, no ink, no chroma.
        tags: all that is there.
    """

    size: tuple[int, int]
    channels: int
    alpha: bool
    bits: int
    kind: str
    orientation: int
    pages: int
    plain: bool
    tags: dict[int, tuple]

    @property
    def deep(self) -> bool:
        """Whether it has colours of 16 bits, of which Pillow keeps 8."""
        return self.plain and self.channels == 3 and self.bits == 16

    @property
    def special(self) -> bool:
        """Whether `read_numbers` is to read it: channels or numbers that Pillow does not read, or reads as others."""
        return self.plain and (
            self.channels not in (1, 3)
            or self.bits > 16
            or self.kind != "u"
            or (self.deep and self.tags.get(PLANES) == (2,))
        )


def read_header(path: Where) -> Header | None:
    """The header of a TIFF file; None where it is none, or a damaged one.

    Args:
        path: of any file.
    """
    with opened(path) as stream:
        start = stream.read(16)
        if start[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return None
        try:
            directory = TiffImagePlugin.ImageFileDirectory_v2(start if b"+" in start[2:4] else start[:8])
            stream.seek(directory.next)
            directory.load(stream)
            tags = {tag: value if isinstance(value, tuple) else (value,) for tag, value in directory.items()}
            pages, following = 1, directory.next
            while following and pages < 10_000:
                stream.seek(following)
                directory.load(stream)
                pages, following = pages + 1, directory.next
            return _described(tags, pages)
        except (OSError, SyntaxError, ValueError, KeyError, IndexError, TypeError, struct.error):
            return None


def _described(tags: dict[int, tuple], pages: int) -> Header:
    samples = tags.get(SAMPLES, (1,))[0]
    alpha = any(value in ALPHA for value in tags.get(EXTRA, ())[-1:])
    kind = {SIGNED: "i", FLOAT: "f"}.get(tags.get(FORMAT, (1,))[0], "u")
    return Header(
        (tags[HEIGHT][0], tags[WIDTH][0]),
        samples - alpha,
        alpha,
        tags.get(BITS, (1,))[0],
        kind,
        tags.get(ORIENTATION, (1,))[0],
        pages,
        tags.get(PHOTOMETRIC, (1,))[0] not in (PALETTE, CMYK, YCBCR),
        tags,
    )


def read_numbers(path: Where, header: Header) -> np.ndarray:
    """The numbers of the first page as they are stored, without transparency.

    Every plane is handed to Pillow as if it were grey, channels side by side, so that any compression it knows works.

    Args:
        path: of the file that the header is of.
        header: as `read_header` gives it.

    Returns:
        `(H, W, C)` of the type in the file.

    Raises:
        OSError: a type, compression or predictor that is not read.
    """
    samples = header.channels + header.alpha
    tags, kind = header.tags, np.dtype(f"{header.kind}{header.bits // 8}") if header.bits in (8, 16, 32, 64) else None
    if kind is None or set(tags.get(BITS, (8,))) != {header.bits}:
        raise OSError(f"channels of {tags.get(BITS)} bits are not read")
    predictor = tags.get(PREDICTOR, (1,))[0]
    if predictor not in (1, 2) or (predictor == 2 and header.kind == "f"):
        raise OSError(f"predictor {predictor} is not read; save the file without")
    apart = tags.get(PLANES, (1,))[0] == 2
    parts = samples if apart else 1
    with opened(path) as stream:
        whole = stream.read()
    planes = [_plane(whole, header, number, parts, 1 if apart else samples) for number in range(parts)]
    values = np.concatenate([plane.reshape(*header.size, -1) for plane in planes], axis=2)
    if predictor == 2:
        width = tags[TILE_WIDTH][0] if TILES in tags else header.size[1]
        for left in range(0, header.size[1], width):
            part = values[:, left : left + width]
            np.cumsum(part, axis=1, dtype=values.dtype, out=part)
    return values[..., : header.channels]


def _plane(whole: bytes, header: Header, number: int, parts: int, beside: int) -> np.ndarray:
    """One plane `(H, W * beside)` of a file, decoded as a grey image of its own."""
    tags = header.tags
    tiled = TILES in tags
    places, lengths = (tags[TILES], tags[TILE_BYTES]) if tiled else (tags[STRIPS], tags[STRIP_BYTES])
    each = len(places) // parts
    chosen = range(number * each, (number + 1) * each)
    data = [whole[places[index] : places[index] + lengths[index]] for index in chosen]
    # A number of 32 or 64 bits is decoded as some of 16: of the wider ones Pillow turns the bytes round in some files.
    narrow, pieces = min(header.bits, 16), max(1, header.bits // 16)
    across = beside * pieces
    height, width = header.size
    entries: dict[int, Sequence[int]] = {
        WIDTH: [width * across],
        HEIGHT: [height],
        BITS: [narrow],
        COMPRESSION: [tags.get(COMPRESSION, (1,))[0]],
        PHOTOMETRIC: [1],
        SAMPLES: [1],
    }
    if tiled:
        entries |= {TILE_WIDTH: [tags[TILE_WIDTH][0] * across], TILE_HEIGHT: [tags[TILE_HEIGHT][0]]}
    else:
        entries |= {ROWS: [tags.get(ROWS, (height,))[0]]}
    order = "<" if whole[:2] == b"II" else ">"
    with Image.open(io.BytesIO(_file(order, entries, data, tiled))) as picture:
        values = np.array(picture).reshape(height, width * beside, pieces)
    if order == ">":
        values = values[..., ::-1]
    kind = np.dtype(f"<{header.kind}{header.bits // 8}")
    numbers = np.frombuffer(values.astype(f"<u{narrow // 8}").tobytes(), kind).reshape(height, width * beside)
    return numbers.astype(kind.newbyteorder("="))


def _file(order: str, entries: dict[int, Sequence[int]], data: list[bytes], tiled: bool) -> bytes:
    """A TIFF file of one page with these entries and this data."""
    packed, start = [], 8
    for part in data:
        packed.append(start)
        start += len(part)
    start += start % 2
    entries = {
        **entries,
        TILES if tiled else STRIPS: packed,
        TILE_BYTES if tiled else STRIP_BYTES: [len(part) for part in data],
    }
    behind = start + 2 + 12 * len(entries) + 4
    lists, rows = b"", b""
    for tag in sorted(entries):
        numbers = struct.pack(f"{order}{len(entries[tag])}I", *entries[tag])
        where = numbers
        if len(numbers) > 4:
            where = struct.pack(f"{order}I", behind + len(lists))
            lists += numbers
        rows += struct.pack(f"{order}HHI", tag, 4, len(entries[tag])) + where
    header = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, start)
    body = b"".join([header, *data])
    return body.ljust(start, b"\0") + struct.pack(f"{order}H", len(entries)) + rows + b"\0\0\0\0" + lists
