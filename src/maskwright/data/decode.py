"""How an image file becomes bytes: 8 bits for each channel, as it is meant to be looked at."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from maskwright.data.finding import Finding, FindingError
from maskwright.data.stored import Where, for_pillow
from maskwright.data.tiff import Header, read_header, read_numbers
from maskwright.errors import DataError

ORIENTATION = 0x0112  # EXIF tag
TIFF_SUFFIXES = (".tif", ".tiff")
HEIC_SUFFIXES = (".heic", ".heif", ".hif")
OPTIONS = ("range", "channels")

WORDS = {"u": "integer", "i": "integer", "f": "floating-point"}


@dataclass(frozen=True)
class Reading:
    """What is made of the numbers in image files.

    Args:
        range: numbers that become 0 and 255; None: all that 8 or 16 bits can hold.
        channels: which are read, counted from 0; None: all but transparency.
    """

    range: tuple[float, float] | None = None
    channels: tuple[int, ...] | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Reading:
        """From `range` and `channels` among the options of a data set or the preprocessing of a model.

        Raises:
            DataError: no range of two ascending numbers, or no list of numbers of channels.
        """
        limits, channels = options.get("range"), options.get("channels", options.get("channels_read"))
        if limits is not None and not (_numbers(limits) and len(limits) == 2 and limits[0] < limits[1]):
            raise DataError(
                f"data.options.range must be [low, high], the numbers that become black and white, such as [0, 4095]; "
                f"found {limits!r}"
            )
        if channels is not None and not (
            _numbers(channels) and all(number == int(number) >= 0 for number in channels) and len(channels)
        ):
            raise DataError(
                "data.options.channels must list the channels to read, counted from 0, such as [0, 1, 2]; "
                f"found {channels!r}"
            )
        return cls(
            None if limits is None else (float(limits[0]), float(limits[1])),
            None if channels is None else tuple(int(number) for number in channels),
        )

    def to_dict(self) -> dict[str, Any]:
        """What is not the default, for records."""
        found = {"range": self.range, "channels_read": self.channels}
        return {key: list(value) for key, value in found.items() if value is not None}

    def stored(self, pixels: np.ndarray) -> np.ndarray:
        """Numbers, float32, that become these bytes; without a range the bytes themselves."""
        if self.range is None:
            return pixels
        low, high = self.range
        return (low + pixels * ((high - low) / 255)).astype(np.float32)

    def count(self, stored: int) -> int:
        """Channels of what is read from files of so many: a single one is repeated to three."""
        read = stored if self.channels is None else len(self.channels)
        return 3 if read == 1 else read


def decode(path: Where, reading: Reading = Reading()) -> np.ndarray:
    """An image as displayed: EXIF orientation applied, `(H, W, C)` uint8; C is 3 but for files of other channels.

    Args:
        path: any file that Pillow reads, and TIFF of any channels.
        reading: what is made of its numbers.

    Raises:
        DataError: numbers that need a range, or a channel that is not there.
        OSError: or another of `DECODE_ERRORS`: a file that cannot be read.
    """
    header = tiff_header(path)
    if header is not None and header.special:
        return turn(_bytes(read_numbers(path, header), path, reading), header.orientation)
    register_heic(path)
    with Image.open(for_pillow(path)) as picture:
        raw = _raw_mode(picture)
        picture.load()
        side = picture.getexif().get(ORIENTATION, 1)
        if picture.mode.startswith("I") or picture.mode == "F":
            return turn(_bytes(_grey(picture), path, reading), side)
        if ";16" in raw and reading.range is not None:
            return turn(_bytes(_sixteen_bits(path, raw, header), path, reading), side)
        image = np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))
    if reading != Reading():
        image = _bytes(image, path, reading)
    return image if side == 1 else turn(image, side)


def is_deep(picture: Image.Image) -> bool:
    """Whether an opened file that has not been loaded holds more than 8 bits for each channel."""
    return picture.mode.startswith("I") or picture.mode == "F" or ";16" in _raw_mode(picture)


def wide_numbers(path: Where) -> np.ndarray | None:
    """The stored numbers `(H, W, C)` of a file that has more than 8 bits, or no plain ones; None for others.

    Raises:
        OSError: or another of `DECODE_ERRORS`: a file that cannot be read.
    """
    header = tiff_header(path)
    if header is not None and header.special:
        return read_numbers(path, header)
    with Image.open(for_pillow(path)) as picture:
        raw = _raw_mode(picture)
        if picture.mode.startswith("I") or picture.mode == "F":
            return _grey(picture)
    return _sixteen_bits(path, raw, header) if ";16" in raw else None


def channels_in(path: Where, reading: Reading) -> int:
    """Channels of an image as `decode` gives it, from its header; three where it cannot be read."""
    try:
        header = tiff_header(path)
    except OSError:  # said where the image is read
        header = None
    return reading.count(header.channels if header is not None and header.special else 3)


def tiff_header(path: Where) -> Header | None:
    """The header of a TIFF file; None of other files."""
    return read_header(path) if str(path).lower().endswith(TIFF_SUFFIXES) else None


def register_heic(path: Where) -> bool:
    """Let Pillow read HEIC, where a path is of one and pillow-heif is there; whether it is."""
    return str(path).lower().endswith(HEIC_SUFFIXES) and heic_is_read()


@lru_cache(maxsize=1)
def heic_is_read() -> bool:
    """Whether pillow-heif is there; it is then registered."""
    if importlib.util.find_spec("pillow_heif") is None:
        return False
    import pillow_heif

    pillow_heif.register_heif_opener()
    return True


def turn(array: np.ndarray, orientation: int) -> np.ndarray:
    """`(H, W)` or `(H, W, C)` pixels as stored -> as displayed under an EXIF orientation of 1 to 8."""
    if orientation in (5, 7):
        array = array.swapaxes(0, 1)
    turns = {3: 2, 6: -1, 7: 2, 8: 1}.get(orientation, 0)
    array = np.rot90(array, turns)
    if orientation == 2:
        array = array[:, ::-1]
    if orientation == 4:
        array = array[::-1]
    return np.ascontiguousarray(array)


def as_rgb(image: np.ndarray) -> np.ndarray:
    """What of an image `(H, W, C)` can be shown, or compared by colour: its first three channels, or the only first."""
    if image.shape[2] == 3:
        return image
    return np.ascontiguousarray(image[..., :3] if image.shape[2] > 3 else np.repeat(image[..., :1], 3, axis=2))


def depth_finding(kind: np.dtype, low: float, high: float, files: Sequence[Where]) -> Finding:
    """The finding for images whose numbers have no range of their own.

    Args:
        kind: type in the file.
        low: the lowest number there.
        high: the highest.
        files: the images.
    """
    return Finding(
        "error",
        f"image has {WORDS[kind.kind]} pixels of {8 * kind.itemsize} bits, {low:g} to {high:g}, and nothing says which "
        "are black and white",
        [str(path) for path in files],
        len(files),
        expected="8 or 16 bits without sign, or a range",
        fix=f"{range_setting(kind, low, high)}, or other numbers that are to become black and white in every image",
        kind="image-depth",
    )


def range_setting(kind: np.dtype, low: float, high: float) -> str:
    """The option that states a range which holds these numbers, as it is typed."""
    if low >= 0:
        low = 0
        high = 2 ** int(high).bit_length() - 1 if kind.kind in "ui" else max(1, high)
    return f"data.options='{{range: [{low:.10g}, {high:.10g}]}}'"


def to_bytes(values: np.ndarray, reading: Reading) -> np.ndarray | None:
    """Numbers of any type as uint8 of the same shape; None where they need a range and there is none."""
    if reading.range is not None:
        low, high = reading.range
        scaled = (np.nan_to_num(values.astype(np.float64), nan=low) - low) * 255 / (high - low)
        return np.rint(scaled.clip(0, 255)).astype(np.uint8)
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.uint16:
        return (values // 257).astype(np.uint8)
    return None


def _bytes(values: np.ndarray, path: Where, reading: Reading) -> np.ndarray:
    """Stored numbers `(H, W, C)` of a file as bytes, those channels that are to be read, a single one three times."""
    if reading.channels is not None:
        if max(reading.channels) >= values.shape[2]:
            raise FindingError(
                Finding(
                    "error",
                    f"image has {values.shape[2]} channels",
                    [str(path)],
                    expected=f"a channel {max(reading.channels)}, counted from 0, as data.options.channels says",
                    fix="correct data.options.channels, or take such images out",
                    kind="image-channels",
                )
            )
        values = values[..., list(reading.channels)]
    found = to_bytes(values, reading)
    if found is None:
        raise FindingError(depth_finding(values.dtype, *limits_of(values), [path]))
    return np.repeat(found, 3, axis=2) if found.shape[2] == 1 else found


def limits_of(values: np.ndarray) -> tuple[float, float]:
    """The lowest and highest number that is one."""
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)


def _raw_mode(picture: Any) -> str:
    """How the pixels of an opened file are packed, in Pillow's words."""
    arguments = picture.tile[0][3] if getattr(picture, "tile", None) else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _grey(picture: Image.Image) -> np.ndarray:
    """The numbers `(H, W, 1)` of a grey picture of more than 8 bits."""
    values = np.array(picture)[..., None]
    return values.astype(np.uint16) if picture.mode == "I" and picture.format in ("PNG", "PPM") else values


def _sixteen_bits(path: Where, raw: str, header: Header | None) -> np.ndarray:
    """Colours of 16 bits, of which Pillow keeps one byte: decoded twice, once for each.

    Raises:
        OSError: Pillow has no way to the other byte.
    """
    if header is not None and header.deep:
        return read_numbers(path, header)
    kept, _, order = raw.partition(";16")
    first = "B" if order == "B" else "L"  # where the byte lies that Pillow keeps; N is this machine's own order
    halves = []
    for place in (first, {"B": "L", "L": "B"}[first]):
        with Image.open(for_pillow(path)) as picture:
            opened: Any = picture
            tile = opened.tile[0]
            arguments = f"{kept};16{place}"
            opened.tile = [tile._replace(args=(arguments, *tile[3][1:]) if isinstance(tile[3], tuple) else arguments)]
            halves.append(np.array(picture)[..., :3].astype(np.uint16))
    return halves[0] << 8 | halves[1]


def _numbers(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(
        isinstance(number, int | float) and not isinstance(number, bool) for number in value
    )
