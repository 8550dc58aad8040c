"""Masks on disk: read as label values, checked, written as palette PNG, laid over images."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskwright.data.decode import as_rgb, is_deep, tiff_header
from maskwright.data.finding import Finding, FindingError
from maskwright.data.provenance import made
from maskwright.data.sample import LabelSpace
from maskwright.data.stored import Where, for_pillow
from maskwright.data.tiff import Header, read_numbers
from maskwright.errors import DataError
from maskwright.files import atomic_write

# What Pillow's decoders raise for files that are not what their name says.
DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)

MAX_SHOWN = 8
BETWEEN = 3  # values of few pixels, more than which are no classes that somebody forgot to name

NEAREST = (
    "save the masks again from their source as PNG, resized with nearest and without smoothed edges (no anti-aliasing, "
    "no JPEG on the way)"
)


def read_mask(path: Where, label_map: Mapping[int, int] | None = None, *, by_colour: bool = False) -> np.ndarray:
    """The label values of a mask file.

    Palette files give their indices, grey files (1, 8 or 16 bit) their values, and so do files of three equal channels.
    Nothing is changed on the way except by `label_map`, which must then list every value that occurs. Colour files are
    read only through a `label_map` whose keys are `0xRRGGBB`.

    Args:
        path: an image in any lossless format that Pillow reads.
        label_map: value in the file -> label value, 0 to 255.
        by_colour: of palette files too the colours count, not the indices.

    Returns:
        `(H, W)` uint8.

    Raises:
        DataError: missing or unreadable file, JPEG, colours without a `label_map`, values above 255, a value that
            `label_map` does not list, or a `label_map` to values outside 0 to 255.
    """
    coloured = by_colour or any(key > 255 for key in label_map or ())
    values, colours = _file_values(path, by_colour, coloured)
    if label_map is not None:
        return _mapped(values, label_map, path, colours)
    if colours:
        raise _colour_error(path, values)
    if values.dtype != np.uint8:
        if values.size and (values.max() > 255 or values.min() < 0):
            found = np.unique(values).tolist()
            raise _error(
                path,
                "mask-values",
                f"mask has {describe_values(values)}",
                "label values 0 to 255",
                "give data.label_map with the label value of each value in the files, such as "
                f"data.label_map='{map_text({value: place for place, value in enumerate(found[:MAX_SHOWN])})}'",
            )
        values = values.astype(np.uint8)
    return values


def read_labels(path: Where, labels: LabelSpace) -> np.ndarray:
    """A mask `(H, W)` uint8 whose values are those of a label space.

    Raises:
        DataError: as `read_mask`; or a value that is neither a class nor ignored.
    """
    mask = read_mask(path)
    check_values(mask, labels, path)
    return mask


def write_mask(path: str | Path, mask: np.ndarray, labels: LabelSpace) -> None:
    """Write label values as a palette PNG, atomically.

    Args:
        path: file to write, `.png`.
        mask: `(H, W)` uint8.
        labels: gives the colours.

    Raises:
        DataError: not a PNG path, another shape or type, or values that are neither classes nor ignored.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise DataError(f"{path}: masks are written as .png")
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise DataError(f"{path}: expected a mask (H, W) of uint8, found {mask.shape} of {mask.dtype}")
    check_values(mask, labels, path)
    with atomic_write(path) as temporary:
        temporary.write_bytes(palette_png(mask, labels))


def palette_png(mask: np.ndarray, labels: LabelSpace) -> bytes:
    """Label values `(H, W)` uint8 as the bytes of a palette PNG."""
    picture, stream = Image.fromarray(mask), io.BytesIO()
    picture.putpalette(labels.flat_palette())
    picture.save(stream, "png")
    return stream.getvalue()


def overlay(image: np.ndarray, mask: np.ndarray, labels: LabelSpace, strength: float = 0.5) -> np.ndarray:
    """An image with the class colours laid over it; background and ignored pixels stay as they are.

    Args:
        image: `(H, W, C)` uint8; shown as RGB.
        mask: `(H, W)` uint8.
        labels: gives the colours.
        strength: 0 (only image) to 1 (only colours).

    Returns:
        `(H, W, 3)` uint8.
    """
    image = as_rgb(image)
    colours = np.asarray(labels.flat_palette(), np.float32).reshape(256, 3)
    weight = np.full((256, 1), strength, np.float32)
    for value in (labels.background, labels.ignore_index):
        if value is not None and 0 <= value < 256:
            weight[value] = 0
    blended = image * (1 - weight)[mask] + (colours * weight)[mask]
    return (blended + 0.5).astype(np.uint8)


def allowed_values(labels: LabelSpace) -> np.ndarray:
    """`(256,)` bool: which mask values are a class or ignored."""
    allowed = np.zeros(256, bool)
    allowed[: labels.num_classes] = True
    if 0 <= labels.ignore_index < 256:
        allowed[labels.ignore_index] = True
    return allowed


def check_values(mask: np.ndarray, labels: LabelSpace, path: Where) -> None:
    """Refuse masks with values that mean nothing.

    Args:
        mask: `(H, W)` uint8.
        labels: what values there are.
        path: named in the message.

    Raises:
        DataError: a value that is neither a class nor ignored.
    """
    if not allowed_values(labels)[mask].all():
        raise FindingError(range_finding(np.bincount(mask.ravel(), minlength=256), labels, [str(path)]))


def range_finding(counts: np.ndarray, labels: LabelSpace, files: list[str], count: int = 1) -> Finding:
    """The finding for masks with values that mean nothing.

    Args:
        counts: `(256,)` pixels of each value, over all the files.
        labels: what values there are.
        files: the first few files.
        count: number of files.
    """
    values = np.flatnonzero(counts).tolist()
    wrong = [value for value in values if not allowed_values(labels)[value]]
    real = [value for value in values if value != labels.ignore_index]
    last = labels.num_classes - 1
    if set(values) == {0, 255}:
        fix = "a 0/255 mask: give data.label_map='{0: 0, 255: 1}'"
    elif real == list(range(1, last + 2)):
        pairs = ", ".join(f"{value}: {value - 1}" for value in real[:MAX_SHOWN])
        fix = f"the values start at 1: give data.label_map='{{{pairs}{', ...' if len(real) > MAX_SHOWN else ''}}}'"
    elif len(real) == labels.num_classes:
        fix = (
            f"give data.label_map='{map_text({value: index for index, value in enumerate(real)})}' if that is the order"
        )
    elif len(wrong) > max(BETWEEN, labels.num_classes) and 5 * counts[wrong].sum() < counts.sum():
        fix = f"many values of few pixels: the masks look interpolated; {NEAREST}"
    else:
        fix = (
            "name every class (classes=FILE, one name per line, line number from 0 = value), or give data.label_map "
            f"with a label value for each value in the files ({labels.ignore_index} to ignore it)"
        )
    shown = ", ".join(f"{value} ({int(counts[value])} pixels)" for value in wrong[:MAX_SHOWN])
    more = f" and {len(wrong) - MAX_SHOWN} more values" if len(wrong) > MAX_SHOWN else ""
    return Finding(
        "error",
        f"mask values outside the classes: {shown}{more}",
        files,
        count,
        expected=f"0 to {last} ({labels.names[0]} to {labels.names[last]}) or {labels.ignore_index} (ignored)",
        fix=fix,
        kind="mask-range",
    )


def describe_values(values: np.ndarray) -> str:
    """Values with their pixel counts, the most frequent first, e.g. `values 0 (900 pixels), 255 (100 pixels)`."""
    found, counts = np.unique(values, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:MAX_SHOWN]
    shown = ", ".join(f"{found[index]} ({counts[index]} pixels)" for index in order)
    return f"values {shown}" + (f" and {len(found) - MAX_SHOWN} more" if len(found) > MAX_SHOWN else "")


def map_text(label_map: Mapping[int, int]) -> str:
    """A map of label values as it is typed in a setting."""
    return "{" + ", ".join(f"{key}: {value}" for key, value in label_map.items()) + "}"


def _file_values(path: Where, by_colour: bool, coloured: bool) -> tuple[np.ndarray, bool]:
    """The numbers in a mask file `(H, W)`, and whether they are colours as 0xRRGGBB.

    Args:
        path: of the file.
        by_colour: take the colours of palette files, not their indices.
        coloured: three equal channels are a colour as well, not a number.
    """
    try:
        header = tiff_header(path)
        if header is not None and (header.pages > 1 or header.special):
            return _tiff_values(path, header), False
        with Image.open(for_pillow(path)) as picture:
            if picture.format in ("JPEG", "MPO"):
                raise _error(
                    path,
                    "mask-jpeg",
                    "mask is a JPEG, whose compression changes label values",
                    "palette or grey PNG",
                    "save the masks again as PNG from their source",
                )
            if picture.mode == "P" and by_colour:
                picture = picture.convert("RGB")
            if picture.mode in ("1", "L", "P"):
                steps = _grey_step(picture)
                return np.array(picture, dtype=np.uint8) // steps, False
            if picture.mode in ("LA", "PA"):
                return np.array(picture)[..., 0].astype(np.uint8), False
            if picture.mode.startswith("I"):
                return np.array(picture).astype(np.int32), False
            if picture.mode in ("RGB", "RGBA", "RGBX"):
                if is_deep(picture):
                    one = "a grey PNG whose numbers are label values"
                    raise _error(path, "mask-mode", "mask has colours of 16 bits", one, "save one channel of it as PNG")
                pixels = np.array(picture)[..., :3]
                if not coloured and (pixels == pixels[..., :1]).all():
                    return np.ascontiguousarray(pixels[..., 0]), False
                colour = pixels.astype(np.int32)
                return colour[..., 0] << 16 | colour[..., 1] << 8 | colour[..., 2], True
            mode = picture.mode
    except DataError:
        raise
    except FileNotFoundError:
        raise _error(path, "mask-missing", "mask does not exist") from None
    except DECODE_ERRORS as error:
        ours = isinstance(path, str | Path) and made(Path(path).parent) is not None
        fix = "delete it and give the command that made it again" if ours else "replace the file or leave it out"
        raise _error(path, "mask-unreadable", f"mask cannot be read ({error})", fix=fix) from error
    raise _error(path, "mask-mode", f"mask has pixels of the kind {mode!r}", "palette or grey PNG", "convert the masks")


def _tiff_values(path: Where, header: Header) -> np.ndarray:
    """The numbers `(H, W)` of a TIFF mask of more than 16 bits.

    Raises:
        DataError: several pages or channels, or floating point.
    """
    for what, count in (("pages", header.pages), ("channels", header.channels)):
        if count > 1:
            one = "one page or channel whose numbers are label values"
            raise _error(path, "mask-mode", f"mask has {count} {what}", one, "save the one that holds them as a PNG")
    if header.kind == "f":
        fix = "save label values as integers"
        raise _error(path, "mask-mode", "mask has pixels of the kind 'F' (floating point)", "integers", fix)
    return read_numbers(path, header)[..., 0].astype(np.int64)


def _grey_step(picture: Any) -> int:
    """By what Pillow multiplies the stored numbers of an opened file: grey of 2 and 4 bits becomes 0 to 255."""
    arguments = picture.tile[0][3] if getattr(picture, "tile", None) else ""
    packed = str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)
    return {"L;2": 85, "L;4": 17}.get(packed[:3], 1)


def _error(path: Where, kind: str, what: str, expected: str = "", fix: str = "") -> FindingError:
    return FindingError(Finding("error", what, [str(path)], expected=expected, fix=fix, kind=kind))


def _mapped(values: np.ndarray, label_map: Mapping[int, int], path: Where, colours: bool) -> np.ndarray:
    wrong = {key: value for key, value in label_map.items() if not 0 <= value <= 255}
    if not label_map or wrong:
        raise DataError(f"label_map must give label values 0 to 255, found {wrong or 'an empty map'}")
    if values.dtype == np.uint8:
        table = np.full(256, -1, np.int16)
        for key, value in label_map.items():
            if 0 <= key < 256:
                table[key] = value
        labels = table[values]
    else:
        keys = np.array(sorted(label_map), np.int64)
        targets = np.array([label_map[int(key)] for key in keys], np.int16)
        position = np.minimum(np.searchsorted(keys, values), len(keys) - 1)
        labels = np.where(keys[position] == values, targets[position], np.int16(-1))
    unlisted = labels < 0
    if unlisted.any():
        if colours:
            raise _colour_error(path, values[unlisted], "that label_map does not list")
        raise _error(
            path,
            "mask-unlisted",
            f"mask has {describe_values(values[unlisted])} that label_map does not list",
            "every value of the file in label_map",
            "add them, with 255 for pixels to ignore",
        )
    return labels.astype(np.uint8)


def _colour_error(path: Where, values: np.ndarray, why: str = "instead of label values") -> FindingError:
    found, counts = np.unique(values, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:MAX_SHOWN]
    shown = ", ".join(f"0x{found[index]:06X} ({counts[index]} pixels)" for index in order)
    more = f" and {len(found) - MAX_SHOWN} more" if len(found) > MAX_SHOWN else ""
    return _error(
        path,
        "mask-colours",
        f"mask has colours {why}: {shown}{more}",
        "palette or grey PNG whose values are label values",
        "convert the masks, or give data.label_map with the label value of every colour, as in data.label_map='{"
        + ", ".join(f"0x{colour:06X}: {value}" for value, colour in enumerate(found[np.sort(order)].tolist()))
        + "}'",
    )
