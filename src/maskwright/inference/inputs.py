"""What a predictor takes: files, Pillow images, arrays, tensors, and several of them at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, Union

import numpy as np
from PIL import Image, ImageOps

from maskwright.data.decode import Reading, limits_of, to_bytes
from maskwright.data.images import read_image
from maskwright.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

ImageLike = Union[str, Path, Image.Image, np.ndarray, "Tensor"]

TAKEN = (
    "a path, a Pillow image, an array (H, W), (H, W, C) or (B, H, W, C), a tensor (H, W), (C, H, W) or (B, C, H, W), "
    "or a list of such"
)
PLAIN = Reading()


def is_tensor(image: Any) -> TypeGuard[Tensor]:
    """Whether it is a tensor; nothing is where torch was not imported."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(image, torch.Tensor)


def several(image: Any) -> list[Any] | None:
    """The images of a list or a batch; None where it is a single one."""
    if isinstance(image, list | tuple):
        if any(isinstance(part, int | float | list | tuple) for part in image):
            raise DataError(f"expected {TAKEN}, found a list of numbers; make an array of it: numpy.array(image)")
        return list(image)
    return list(image) if (isinstance(image, np.ndarray) or is_tensor(image)) and image.ndim == 4 else None


def as_array(image: ImageLike, reading: Reading = PLAIN, channels: int = 3) -> np.ndarray:
    """An image as `(H, W, C)` uint8, RGB where C is 3, EXIF orientation applied.

    Arrays have their channels last and tensors first, of 8 or 16 bits, or floating point from 0 to 1. Grey is repeated
    to three channels. Of an array or tensor with one channel more than is expected, that last one is transparency and
    is dropped.

    Args:
        image: a single one.
        reading: which numbers become 0 and 255, and which channels are read.
        channels: that are expected.

    Raises:
        DataError: a file that cannot be read, another shape or type, or numbers that need a range.
    """
    if isinstance(image, str | Path):
        return _of_channels(read_image(image, reading=reading), channels, f"{image}: ")
    if isinstance(image, Image.Image):
        turned = ImageOps.exif_transpose(image)
        wide = turned.mode.startswith("I") or turned.mode == "F"
        values = np.array(turned if wide else turned.convert("RGB"))
    elif is_tensor(image):
        found = image.detach().cpu()
        values = (found.float() if str(found.dtype) == "torch.bfloat16" else found).numpy()
        if values.ndim == 3:
            _check_place(values.shape, 0, channels, "tensor (C, H, W)", "permute(2, 0, 1)")
            values = values.transpose(1, 2, 0)
    elif isinstance(image, np.ndarray):
        values = image
        if values.ndim == 3:
            _check_place(values.shape, 2, channels, "array (H, W, C)", "transpose(1, 2, 0)")
    else:
        raise DataError(f"expected {TAKEN}, found {type(image).__name__}")
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise DataError(f"expected {TAKEN}, of at least one pixel; found {values.shape} of {values.dtype}")
    values = values[..., None] if values.ndim == 2 else values
    if values.shape[2] == channels + 1 and channels > 1:
        values = values[..., :-1]
    pixels = _bytes(values, reading)
    pixels = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
    return _of_channels(np.ascontiguousarray(pixels), channels, "")


def _check_place(shape: tuple[int, ...], place: int, channels: int, expected: str, turn: str) -> None:
    """Refuse an image whose channels lie elsewhere."""
    known = (1, channels, channels + 1)
    if shape[place] not in known:
        other = 2 - place
        fix = f"; its channels seem to lie elsewhere: {turn}" if shape[other] in known else ""
        counts = " or ".join(map(str, known))
        raise DataError(
            f"expected an {expected} of {counts} channels, found {tuple(shape)}{fix}".replace("an t", "a t")
        )


def _bytes(values: np.ndarray, reading: Reading) -> np.ndarray:
    """Numbers of any type as uint8, as files of that type are read."""
    if values.dtype == bool:
        return values.astype(np.uint8) * 255
    if reading.range is not None or values.dtype in (np.uint8, np.uint16):
        found = to_bytes(values, reading)
        assert found is not None
        return found
    if values.dtype.kind not in "iuf":
        raise DataError(f"expected {TAKEN}, found numbers of the type {values.dtype}")
    low, high = limits_of(values)
    if values.dtype.kind in "iu" and low >= 0 and high <= 255:
        return values.astype(np.uint8)
    if values.dtype.kind == "f" and np.isfinite(values).all() and low >= 0 and high <= 1:
        return np.rint(values.astype(np.float64) * 255).astype(np.uint8)
    if values.dtype.kind == "f":
        why = "values that are not finite" if not np.isfinite(values).all() else f"values from {low:g} to {high:g}"
        fix = "do not normalise: the predictor does" if low < 0 else "divide by the highest value, or give uint8"
        raise DataError(f"expected floating-point values from 0 to 1, found {why}; {fix}")
    raise DataError(
        f"expected {TAKEN}, of uint8, uint16, or integers from 0 to 255, found {values.dtype} from {low:g} to {high:g}"
    )


def _of_channels(pixels: np.ndarray, channels: int, where: str) -> np.ndarray:
    if pixels.shape[2] != channels:
        raise DataError(
            f"{where}expected an image of the {channels} channels that the model was trained on, found "
            f"{pixels.shape[2]}"
        )
    return pixels
