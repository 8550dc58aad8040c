"""One pass over the images and masks of a split, which the data check draws its findings from."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from maskwright.data import Dataset
from maskwright.data.check_images import inspect_depth
from maskwright.data.decode import ORIENTATION, is_deep, limits_of, register_heic, tiff_header, wide_numbers
from maskwright.data.finding import Finding, FindingError, Level
from maskwright.data.images import ImageSet, image_error, image_size, orientation
from maskwright.data.mask_values import MaskFacts
from maskwright.data.masks import DECODE_ERRORS, allowed_values, range_finding
from maskwright.data.sample import LabelSpace
from maskwright.errors import DataError

CHUNK = 2048  # images in flight, so that memory does not grow with the set
SMALL_SIDE = 32  # pixels; the deepest feature map of most networks is one pixel there


@dataclass
class Record:
    """What one example shows.

    Args:
        name: of the example.
        digest: of the image file, or of its pixels where there is no file.
        size: `(height, width)` in pixels after EXIF orientation; None where unreadable.
        has_mask: whether there is a mask, readable or not.
        counts: `(256,)` pixels of each label value; None where there is no readable mask.
        values: label values that occur.
        tags: as given; None where nobody said.
        numbers: type, lowest and highest of the numbers in an image file that holds no plain bytes.
        transparent: whether the image file has pixels that are not opaque.
        problems: findings in this example alone.
    """

    name: str
    digest: bytes = b""
    size: tuple[int, int] | None = None
    has_mask: bool = False
    counts: np.ndarray | None = None
    values: tuple[int, ...] = ()
    tags: tuple[int, ...] | None = None
    numbers: tuple[np.dtype, float, float] | None = None
    transparent: bool = False
    problems: list[Finding] = field(default_factory=list)


def scan(dataset: Dataset, order: Sequence[int] | None = None, images: bool = True) -> Iterator[Record]:
    """A `Record` of every example, in order or in that which is given; files are read whole, by a few threads.

    Args:
        dataset: of any reader.
        order: which examples; all by default.
        images: otherwise of the image files only the header is read, and of saliency maps nothing.
    """
    indices = range(len(dataset)) if order is None else order

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(indices), CHUNK):
            part = indices[start : start + CHUNK]
            yield from pool.map(lambda index: inspect(dataset, index, images), part)


def inspect(dataset: Dataset, index: int, images: bool = True) -> Record:
    """The record of one example; `images`: see `scan`."""
    return inspect_files(dataset, index, images) if isinstance(dataset, ImageSet) else inspect_sample(dataset, index)


def inspect_sample(dataset: Dataset, index: int) -> Record:
    """The record of an example that is in no files of its own."""
    try:
        sample = dataset[index]
    except FindingError as error:
        found = error.finding or Finding("error", str(error), kind="example-unreadable")
        return Record(dataset.names[index], has_mask=dataset.has_mask(index), problems=[found])
    except DataError as error:
        found = Finding("error", str(error), kind="example-unreadable")
        return Record(dataset.names[index], has_mask=dataset.has_mask(index), problems=[found])
    digest = hashlib.blake2b(sample.image.tobytes(), digest_size=16).digest()
    record = Record(sample.name, digest, sample.image.shape[:2], sample.mask is not None, tags=sample.tags)
    if sample.mask is not None:
        _count(record, MaskFacts.of(sample.mask), dataset.labels, sample.name)
    return record


def inspect_files(dataset: ImageSet, index: int, images: bool = True) -> Record:
    """The record of an example on disk; `images`: see `scan`."""
    record = Record(dataset.names[index])
    if images:
        side = _inspect_image(record, dataset.images[index], dataset)
    else:
        side = _inspect_header(record, dataset.images[index])
    path = dataset.masks[index]
    if path is not None:
        record.has_mask = True
        try:
            facts = dataset.mask_facts(index)
        except FindingError as error:
            if error.finding is not None:
                record.problems.append(error.finding)
        else:
            assert facts is not None
            _count(record, facts, dataset.labels, path)
            _compare(record, facts.size, side, path, dataset.images[index])
    if not isinstance(dataset.given_tags, str):
        record.tags = dataset.given_tags[index]
    elif record.counts is not None:
        record.tags = tuple(value for value in record.values if value in dataset.labels.foreground)
    saliency = None if dataset.saliency is None else dataset.saliency[index]
    if images and saliency is not None and record.size is not None:
        _inspect_saliency(record, saliency)
    return record


def _inspect_image(record: Record, path: str, dataset: ImageSet) -> int:
    """Fill in what an image file shows; its EXIF orientation."""
    side = 1
    try:
        with open(path, "rb") as stream:
            content = stream.read()
        record.digest = hashlib.blake2b(content, digest_size=16).digest()
        header = tiff_header(path)
        if header is not None and header.special:
            record.size, side = image_size(path), header.orientation
            values: np.ndarray | None = wide_numbers(path)
        else:
            register_heic(path)
            with Image.open(io.BytesIO(content)) as picture:
                deep = is_deep(picture)  # before anything loads it
                side = picture.getexif().get(ORIENTATION, 1)
                width, height = picture.size
                record.size = (width, height) if side in (5, 6, 7, 8) else (height, width)
                # An eighth of the size needs the whole file read, so finds it truncated, at a third of the time.
                picture.draft("L", (max(1, width // 8), max(1, height // 8)))
                picture.load()
                record.transparent = picture.mode in ("RGBA", "LA", "PA") and picture.getextrema()[-1][0] < 255
            values = wide_numbers(path) if deep else None
        record.problems += inspect_depth(path, header, values, dataset)
        if values is not None and values.dtype != np.uint8:
            record.numbers = values.dtype, *limits_of(values)
    except DECODE_ERRORS as error:
        finding = image_error(path, error).finding
        if finding is not None:
            finding.level = "warning" if dataset.tolerant and finding.kind == "image-truncated" else "error"
            record.problems.append(finding)
    if record.size is not None and min(record.size) < SMALL_SIDE:
        record.problems.append(
            Finding(
                "warning",
                f"image has a side shorter than {SMALL_SIDE} pixels ({record.size[1]}x{record.size[0]})",
                [path],
                fix="enlarge it, or leave it out; networks see next to nothing in it",
                kind="image-small",
            )
        )
    return side


def _inspect_header(record: Record, path: str) -> int:
    """Fill in the size that the header of an image file says; its EXIF orientation."""
    try:
        record.size = image_size(path)
        return orientation(path)
    except (DataError, *DECODE_ERRORS):  # what is wrong with images is said of those that are read
        return 1


def _count(record: Record, facts: MaskFacts, labels: LabelSpace, path: str) -> None:
    record.counts, record.values = facts.counts(), facts.values
    if not allowed_values(labels)[list(record.values)].all():
        record.problems.append(range_finding(record.counts, labels, [path]))
    elif record.values == (labels.ignore_index,):
        problem = f"every pixel of the mask is ignored ({labels.ignore_index})"
        record.problems.append(
            Finding("warning", problem, [path], fix="leave the image out, or label it", kind="mask-ignored")
        )


def _compare(record: Record, shape: tuple[int, ...], side: int, path: str, image: str) -> None:
    """Findings about the size of a mask beside its image."""
    if record.size is None:
        return
    if shape != record.size and not (side in (5, 6, 7, 8) and shape == record.size[::-1]):
        record.problems.append(
            Finding(
                "error",
                f"mask is {shape[1]}x{shape[0]} pixels, its image {image} is {record.size[1]}x{record.size[0]}",
                [path],
                expected="the same size",
                fix="resize the mask without interpolation (nearest), or use the image it was drawn on",
                kind="mask-size",
            )
        )
    elif side in (2, 3, 4) or (side in (5, 6, 7, 8) and shape[0] == shape[1]):
        record.problems.append(
            Finding(
                "warning",
                f"image is turned by EXIF orientation {side}, and the size of its mask does not tell whether it is too",
                [image],
                expected="a mask of the image as displayed",
                fix="look at one; if the mask is of the pixels as stored, save the images without the EXIF entry",
                kind="orientation",
            )
        )


def _inspect_saliency(record: Record, path: str) -> None:
    """Findings about a saliency map: one grey channel, 0 to 255, of the image's size, that tells pixels apart."""

    def complain(level: Level, problem: str, expected: str, fix: str, kind: str) -> None:
        record.problems.append(Finding(level, problem, [path], 1, expected, fix, kind))

    try:
        with Image.open(path) as picture:
            size, mode = picture.size[::-1], picture.mode
            values = np.asarray(picture.convert("L"))
    except DECODE_ERRORS as error:
        finding = image_error(path, error).finding
        if finding is not None:
            record.problems.append(finding)
        return
    if record.size is not None and sorted(size) != sorted(record.size):
        problem = f"saliency map is {size[1]}x{size[0]} pixels, its image is {record.size[1]}x{record.size[0]}"
        complain("error", problem, "the same size", "resize it", "saliency-size")
    if mode not in ("1", "L"):
        wide = mode.startswith(("I", "F"))
        problem = f"saliency map has the mode {mode}, " + (
            "whose values above 255 are cut off" if wide else "whose colours are read as grey levels"
        )
        complain(
            "error" if wide else "warning", problem, "one grey channel of 8 bits", "convert the file", "saliency-mode"
        )
    elif values.min() == values.max():
        problem = f"every pixel of the saliency map is {values.min()}"
        complain("warning", problem, "0 for background, up to 255 for objects", "make it again", "saliency-constant")
    elif values.max() <= 1:
        problem = "the highest value of the saliency map is 1"
        complain("error", problem, "values up to 255", "multiply it by 255", "saliency-range")
