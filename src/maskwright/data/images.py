"""Images on disk, and the data set that reads them together with their masks, tags and saliency maps."""

from __future__ import annotations

import os
import re
import threading
import warnings
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from maskwright.data.decode import (
    HEIC_SUFFIXES,
    ORIENTATION,
    Reading,
    channels_in,
    decode,
    heic_is_read,
    register_heic,
    tiff_header,
    turn,
)
from maskwright.data.finding import Finding, FindingError, number_of
from maskwright.data.mask_values import MaskFacts, mask_facts
from maskwright.data.masks import DECODE_ERRORS, check_values, read_mask
from maskwright.data.names import normal, refuse_odd_names
from maskwright.data.provenance import is_marked
from maskwright.data.sample import LabelSpace, Sample
from maskwright.data.stored import Where, for_pillow, opened
from maskwright.errors import DataError

# Formats that Pillow knows by name but cannot decode by itself.
_STUBS = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}

SPECIAL = "pipe/device"  # what stands for a suffix; no file has such a name

# Suffixes of images that Pillow does not read by itself, and what to do about them.
CONVERT = "convert them to PNG, TIFF or JPEG"
UNREAD = {
    **dict.fromkeys(HEIC_SUFFIXES, "pip install 'maskwright[heic]'"),
    **dict.fromkeys((".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"), f"raw of a camera: {CONVERT}"),
    SPECIAL: "it is no regular file, and reading it could wait for ever",
    **dict.fromkeys((".avif", ".jxl", ".svg", ".exr", ".hdr", ".npy", ".dcm", ".nii"), CONVERT),
}

_tolerant_lock = threading.Lock()


@lru_cache(maxsize=1)
def image_suffixes() -> frozenset[str]:
    """Suffixes, in lower case with the dot, of every image format that Pillow reads."""
    formats = Image.registered_extensions()
    heic = HEIC_SUFFIXES if heic_is_read() else ()
    return frozenset(heic) | frozenset(
        suffix for suffix, name in formats.items() if name in Image.OPEN and name not in _STUBS
    )


def list_images(
    folder: str | Path,
    *,
    recursive: bool = True,
    skip: Collection[Path] = (),
    made: bool = False,
    others: Counter[str] | None = None,
) -> tuple[dict[str, str], list[str]]:
    """Every image under a folder, by name, in one pass that asks the file system nothing about single files.

    Args:
        folder: where to look; hidden files and folders are passed over.
        recursive: also look in subfolders.
        skip: resolved folders that are not entered.
        made: also enter subfolders that maskwright wrote masks, overlays or maps to; `folder` itself is always listed.
        others: gets how many files there are of each kind of image that is not read; see `left_out`.

    Returns:
        Sorted names (relative path without suffix, `/` between folders) with their paths, and the names that more than
        one file has.
    """
    suffixes = image_suffixes()
    skipped = {str(path) for path in skip}
    found: dict[str, str] = {}
    twice: set[str] = set()
    open_folders = [(str(folder), "")]
    while open_folders:
        here, prefix = open_folders.pop()
        with os.scandir(here) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                stem, dot, suffix = entry.name.rpartition(".")
                is_folder, is_special = _kind(entry)
                if dot + suffix.lower() in suffixes and not is_folder:
                    if is_special:
                        if others is not None:
                            others[SPECIAL] += 1
                        continue
                    name = prefix + normal(stem)
                    if name in found:
                        twice.add(name)
                        found[name] = min(found[name], entry.path)
                    else:
                        found[name] = entry.path
                elif others is not None and dot + suffix.lower() in UNREAD:
                    others[dot + suffix.lower()] += 1
                elif (
                    recursive
                    and is_folder
                    and os.path.realpath(entry.path) not in skipped
                    and (made or not is_marked(entry.path))
                ):
                    open_folders.append((entry.path, f"{prefix}{normal(entry.name)}/"))
    return {name: found[name] for name in sorted(found)}, sorted(twice)


def _kind(entry: os.DirEntry[str]) -> tuple[bool, bool]:
    """Whether an entry is a folder, and whether it is neither that nor a file: a pipe, a device.

    A link to nowhere or to itself is neither of both: it is said where it is read.
    """
    try:
        if entry.is_file():  # known without asking the system again, where it is no link
            return False, False
        is_folder = entry.is_dir()
    except OSError:
        return False, False
    return is_folder, not is_folder and os.path.exists(entry.path)


def left_out(others: Mapping[str, int]) -> str:
    """What is said of images that are not read: how many of each kind, and what to do; empty where there are none."""
    return "; ".join(
        f"{number_of(count, f'{suffix} file')} {'is' if count == 1 else 'are'} left out: {UNREAD[suffix]}"
        for suffix, count in sorted(others.items())
    )


def read_image(path: Where, tolerant: bool = False, reading: Reading = Reading()) -> np.ndarray:  # noqa: B008
    """An image as it is meant to be looked at: EXIF orientation applied, RGB.

    16 bits are scaled to 8, transparency is dropped, and of several pages the first is read.

    Args:
        path: any format that Pillow reads, and TIFF of any channels.
        tolerant: decode what there is of a truncated file, with a warning.
        reading: which numbers become 0 and 255, and which channels are read.

    Returns:
        `(H, W, 3)` uint8; of a TIFF file with other channels than one or three `(H, W, C)`.

    Raises:
        DataError: missing, unreadable or truncated file, or numbers that need a range (floating point, 32 bits).
    """
    try:
        return decode(path, reading)
    except FindingError:
        raise
    except DECODE_ERRORS as error:
        if not (tolerant and is_truncation(error)):
            raise image_error(path, error) from error
    with _tolerant_lock:
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            return decode(path, reading)
        except DECODE_ERRORS as error:
            raise image_error(path, error) from error
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = False


def image_error(path: Where, error: Exception) -> FindingError:
    """The error for an image whose decoder raised one."""
    if isinstance(error, FileNotFoundError):
        return FindingError(Finding("error", "image does not exist", [str(path)], kind="image-missing"))
    fix, kind = "replace the file or leave it out", "image-unreadable"
    if is_truncation(error):
        fix, kind = f"{fix}, or give data.options.tolerant=true to decode what there is", "image-truncated"
    suffix = os.path.splitext(str(path))[1].lower()
    if suffix not in HEIC_SUFFIXES or not heic_is_read():
        fix = UNREAD.get(suffix, fix)
    said = re.sub(r" <_io\.\S+ object at \w+>", "", str(error))  # of a file that was opened already
    return FindingError(Finding("error", f"image cannot be read ({said})", [str(path)], fix=fix, kind=kind))


def is_truncation(error: BaseException | None) -> bool:
    """Whether a decoder's error says that the file ends too early."""
    return any(word in str(error).lower() for word in ("truncated", "broken data stream", "unrecognized data stream"))


def image_size(path: Where) -> tuple[int, int]:
    """`(height, width)` in pixels after EXIF orientation, from the header alone.

    Raises:
        DataError: missing or unreadable file.
    """
    try:
        header = tiff_header(path)
        if header is not None and header.special:
            return header.size[::-1] if header.orientation in (5, 6, 7, 8) else header.size
        register_heic(path)
        with Image.open(for_pillow(path)) as picture:
            width, height = picture.size
            turned = _header_orientation(picture, path) in (5, 6, 7, 8)
    except DECODE_ERRORS as error:
        raise image_error(path, error) from error
    return (width, height) if turned else (height, width)


def orientation(path: Where) -> int:
    """EXIF orientation of an image, 1 to 8; 1 where it says nothing."""
    header = tiff_header(path)
    if header is not None and header.special:
        return header.orientation if header.orientation in range(1, 9) else 1
    register_heic(path)
    with Image.open(for_pillow(path)) as picture:
        value = _header_orientation(picture, path)
    return value if value in range(1, 9) else 1


def _header_orientation(picture: Image.Image, path: Where) -> int:
    """EXIF orientation of an opened image, without decoding it where that can be.

    Pillow decodes a PNG without EXIF, since there may be some behind the pixels.
    """
    plain = picture.format == "PNG" and not _more_behind_pixels(path)
    exif = Image.Image.getexif(picture) if plain else picture.getexif()
    return exif.get(ORIENTATION, 1)


def _more_behind_pixels(path: Where) -> bool:
    """Whether a PNG file has anything but its end after its pixels; also where it has no end."""
    with opened(path) as stream:
        stream.seek(8)
        pixels = False
        while len(head := stream.read(8)) == 8:
            length, kind = int.from_bytes(head[:4], "big"), head[4:]
            if pixels and kind != b"IDAT":
                return kind != b"IEND"
            pixels = kind == b"IDAT"
            stream.seek(length + 4, os.SEEK_CUR)
    return True


def fit_mask(mask: np.ndarray, size: tuple[int, int], image: Where, path: Where) -> np.ndarray:
    """A mask in the orientation of its displayed image.

    A mask is taken to be drawn on the image as displayed. Where only the size of the image as stored fits, it was drawn
    on that, and is turned with it.

    Args:
        mask: `(h, w)` uint8.
        size: `(H, W)` of the displayed image.
        image: path of the image.
        path: path of the mask, for the message.

    Returns:
        `(H, W)` uint8.

    Raises:
        DataError: the size fits in no orientation.
    """
    if mask.shape == tuple(size):
        return mask
    if mask.shape == tuple(size)[::-1] and orientation(image) >= 5:
        return turn(mask, orientation(image))
    raise FindingError(
        Finding(
            "error",
            f"mask is {mask.shape[1]}x{mask.shape[0]} pixels, its image {image} is {size[1]}x{size[0]}",
            [str(path)],
            expected="the same size",
            fix="resize the mask without interpolation (nearest), or use the image it was drawn on",
            kind="mask-size",
        )
    )


class ReadsImages:
    """What sets whose images are files share: how they are decoded.

    A set has `reading`, what is made of the numbers in image files; `tolerant`, whether truncated images are decoded as
    far as they go; and `source`, which says how many channels images have.
    """

    reading: Reading
    tolerant: bool
    source: dict[str, Any]
    _warned = False

    def _read(self, where: Where) -> np.ndarray:
        """An image `(H, W, C)` uint8.

        Raises:
            DataError: it cannot be read, or has other channels than the set.
        """
        try:
            image = read_image(where, reading=self.reading)
        except DataError as error:
            if not self.tolerant or not is_truncation(error.__cause__):
                raise
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"{where}: truncated image, decoded as far as it goes; further ones are not reported", stacklevel=3
                )
            image = read_image(where, tolerant=True, reading=self.reading)
        expected = self.source.get("channels", 3)
        if image.shape[2] != expected:
            raise FindingError(channels_finding(image.shape[2], expected, str(where)))
        return image


class ImageSet(ReadsImages):
    """Images with what is known about them; everything is decoded when it is asked for.

    Args:
        labels: what mask values and tags mean.
        names: one per image.
        images: path of each image.
        masks: path of each mask, or None.
        tags: label values for each image, or None; the word "masks" derives them from the masks.
        saliency: path of each saliency map, or None.
        label_map: value in the mask files -> label value.
        source: facts for the record: root, split, where tags and classes come from.
        tolerant: decode truncated images as far as they go.
        reading: what is made of the numbers in image files.
    """

    def __init__(
        self,
        labels: LabelSpace,
        names: Sequence[str],
        images: Sequence[str],
        *,
        masks: Sequence[str | None],
        tags: Sequence[tuple[int, ...] | None] | str,
        saliency: Sequence[str | None] | None = None,
        label_map: Mapping[int, int] | None = None,
        source: dict[str, Any] | None = None,
        tolerant: bool = False,
        reading: Reading = Reading(),  # noqa: B008
    ) -> None:
        self.labels = labels
        self.names = list(names)
        refuse_odd_names(self.names)
        self.images = list(images)
        self.masks = list(masks)
        self.saliency = None if saliency is None else list(saliency)
        self.label_map = label_map
        self.source = source or {}
        self.tolerant = tolerant
        self.reading = reading
        self.given_tags = tags
        self._derived: dict[int, tuple[int, ...] | None] = {}

    def read_as(self, reading: Reading) -> None:
        """Say what is made of the numbers in image files, and note in `source` what is not the default."""
        self.reading = reading
        channels = channels_in(self.images[0], reading) if self.images else 3
        self.source |= reading.to_dict() | ({"channels": channels} if channels != 3 else {})

    @property
    def tags_from_masks(self) -> bool:
        """Whether tags follow from the masks."""
        return isinstance(self.given_tags, str)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        return self.get(index)

    def get(self, index: int, with_mask: bool = True) -> Sample:
        """One example; `with_mask=False` leaves the mask file closed.

        Raises:
            DataError: a file that cannot be read, sizes that differ, or mask values that mean nothing.
        """
        image = self._read(self.images[index])
        size = image.shape[0], image.shape[1]
        mask = self.mask(index, size) if with_mask else None
        if mask is not None and self.given_tags == "masks":
            self._derived[index] = self.labels.tags_in(mask)
        saliency = None
        if self.saliency is not None:
            path = self.saliency[index]
            saliency = None if path is None else read_saliency(path, size, self.images[index])
        return Sample(self.names[index], image, mask, self.tags(index), saliency)

    def mask(self, index: int, size: tuple[int, int] | None = None) -> np.ndarray | None:
        """The mask `(H, W)` of one image, without decoding the image; None where there is none.

        Raises:
            DataError: a file that cannot be read, a size that differs, or values that mean nothing.
        """
        mask = self._checked(index)
        if mask is None:
            return None
        return fit_mask(mask, size or self.size(index), self.images[index], str(self.masks[index]))

    def label_values(self, index: int) -> np.ndarray | None:
        """The mask `(h, w)` uint8 of one image as its file has it; None where there is none.

        Sets whose masks are no image files override this alone.

        Raises:
            DataError: a file that cannot be read, or a value that `label_map` does not list.
        """
        path = self.masks[index]
        return None if path is None else read_mask(path, self.label_map)

    @property
    def masks_in_files(self) -> bool:
        """Whether each mask has a file of its own; otherwise masks are made from one that is read already."""
        paths = [path for path in self.masks if path is not None]
        return len(set(paths)) == len(paths)

    def mask_facts(self, index: int) -> MaskFacts | None:
        """What the mask of one image holds; None where there is none.

        Raises:
            DataError: as `label_values`.
        """
        path = self.masks[index]
        if path is not None and type(self).label_values is ImageSet.label_values:
            return mask_facts(path, self.label_map)
        values = self.label_values(index)
        return None if values is None else MaskFacts.of(values)

    def tags(self, index: int) -> tuple[int, ...] | None:
        """Label values said to be in one image, ascending; None where nobody said."""
        if not isinstance(self.given_tags, str):
            return self.given_tags[index]
        if index not in self._derived:
            mask = self._checked(index)
            self._derived[index] = None if mask is None else self.labels.tags_in(mask)
        return self._derived[index]

    def has_mask(self, index: int) -> bool:
        return self.masks[index] is not None

    def size(self, index: int) -> tuple[int, int]:
        """`(height, width)` of one image in pixels, from its header."""
        return image_size(self.images[index])

    def _checked(self, index: int) -> np.ndarray | None:
        mask = self.label_values(index)
        if mask is not None:
            check_values(mask, self.labels, str(self.masks[index]))
        return mask


def channels_finding(found: int, expected: int, path: str) -> Finding:
    """The finding for an image of other channels than those of the set."""
    return Finding(
        "error",
        f"image has {found} channels, the first of the set has {expected}",
        [path],
        expected="images of the same channels",
        fix="take such images out, or give data.options='{channels: [0, 1, 2]}' to read three of each",
        kind="image-channels",
    )


def read_saliency(path: Where, size: tuple[int, int], image: Where) -> np.ndarray:
    """A saliency map `(H, W)` uint8, 0 to 255.

    Raises:
        DataError: unreadable file, or another size than the image.
    """
    try:
        with Image.open(for_pillow(path)) as picture:
            saliency = np.array(picture.convert("L"))
    except DECODE_ERRORS as error:
        raise DataError(f"{path}: saliency map cannot be read ({error})") from error
    return fit_mask(saliency, size, image, path)
