"""What is odd about the numbers in image files: their depth and range, their channels, further pages, transparency."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from maskwright.data.decode import channels_in, depth_finding, limits_of, range_setting, to_bytes
from maskwright.data.finding import Finding, number_of
from maskwright.data.images import ImageSet, channels_finding
from maskwright.data.tiff import Header

WHOLE = 65535
DARK = WHOLE / 4  # the highest number of 16-bit images, below which less than 64 of 256 levels would be left
SURE = 64  # images whose highest number is looked at, before it stands for those that are not read


def inspect_depth(path: str, header: Header | None, values: np.ndarray | None, dataset: ImageSet) -> list[Finding]:
    """What is odd about the numbers of one image file.

    Args:
        path: of the file.
        header: of a TIFF file.
        values: the numbers `(H, W, C)`, where they are no plain bytes.
        dataset: that it belongs to.
    """
    found = []
    channels, expected = channels_in(path, dataset.reading), dataset.source.get("channels", 3)
    if channels != expected:
        found.append(channels_finding(channels, expected, path))
    if header is not None and header.pages > 1:
        what = f"TIFF has {header.pages} pages, of which the first is read"
        fix = "if the others are images too, save each as a file of its own"
        found.append(Finding("warning", what, [path], fix=fix, kind="image-pages"))
    if values is not None and to_bytes(values[:1, :1], dataset.reading) is None:
        found.append(depth_finding(values.dtype, *limits_of(values), [path]))
    return found


def depth_findings(
    split: str, numbers: list[tuple[np.dtype, float, float]], dataset: ImageSet, whole: bool
) -> Iterable[Finding]:
    """What the numbers of all images say together.

    Args:
        split: its name.
        numbers: type, lowest and highest number of each image that holds no plain bytes.
        dataset: the split.
        whole: whether every image was read.
    """
    if not numbers:
        return
    low, high = min(row[1] for row in numbers), max(row[2] for row in numbers)
    stated = dataset.reading.range
    count = number_of(len(numbers), "image")
    if stated is not None:
        if low < stated[0] or high > stated[1]:
            what = f"{count} of {split} of more than 8 bits hold {low:g} to {high:g}, beyond the range that is given"
            expected = f"numbers from {stated[0]:g} to {stated[1]:g}; others become black or white"
            fix = f"{range_setting(numbers[0][0], low, high)}, unless that is meant"
            yield Finding("warning", what, expected=expected, fix=fix, kind="image-range")
        return
    sixteen = [row for row in numbers if row[0] == np.uint16]
    if not sixteen:
        return
    low, high = min(row[1] for row in sixteen), max(row[2] for row in sixteen)
    count, setting = number_of(len(sixteen), "image"), range_setting(np.dtype(np.uint16), low, high)
    what = f"{count} of {split} of 16 bits hold {low:g} to {high:g} of 0 to {WHOLE}"
    if high >= DARK:
        yield Finding(
            "info", f"{what}; 65535 becomes white, unless data.options.range says otherwise", kind="image-range"
        )
        return
    levels = int(high) // 257 + 1
    yield Finding(
        "error" if whole or len(sixteen) >= SURE else "warning",
        f"{what}: {levels} of 256 grey levels would be left",
        expected=f"numbers up to {WHOLE}, or the range that is used",
        fix=f"{setting}, or data.options='{{range: [0, {WHOLE}]}}' if they are meant to be that dark",
        kind="image-range",
    )


def transparency(split: str, names: list[str]) -> list[Finding]:
    """That the transparency of some images is dropped."""
    if not names:
        return []
    what = f"{number_of(len(names), 'image')} of {split} with transparent pixels, which count as they are stored"
    return [Finding("info", f"{what}: transparency is dropped", names, len(names), kind="transparent")]
