"""What folders of images and masks are called, in any capitals, and what a folder holds."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from maskwright.data.finding import number_of
from maskwright.data.images import UNREAD, image_suffixes
from maskwright.data.masks import DECODE_ERRORS
from maskwright.data.names import plain
from maskwright.data.provenance import is_marked

# By their letters and digits alone, the surest first.
IMAGE_FOLDERS = (
    *("images", "image", "imgs", "img", "jpegimages", "photos", "photographs", "pictures", "rgb", "imgdir", "imagedir"),
    "imagestr",
)
MASK_FOLDERS = (
    *("masks", "mask", "segmentationclass", "segmentationclasspng", "segmentationmasks", "segmentation", "groundtruth"),
    *("gt", "gts", "labels", "label", "labelimages", "annotations", "annotation", "annots", "annot", "anns", "ann"),
    *("segmentations", "segmasks", "seg", "segs", "maskspng", "maskpng", "pngmasks", "targets", "target", "labelids"),
    *("anndir", "maskdir", "labeldir", "labelstr"),
)
MASK_ENDS = frozenset((*MASK_FOLDERS, "labeltrainids", "maskimage"))
IMAGE_WORDS = frozenset((*IMAGE_FOLDERS, "photo", "picture", "frame", "input"))
# What file managers leave behind.
LITTER = frozenset(("thumbs.db", "desktop.ini", "icon\r"))
MOST_VALUES = 64  # different values of the pixels of a mask, of any channel; a photograph has more


def subfolders(root: Path) -> list[Path]:
    """Folders in a folder in the order of their names, but hidden ones and those that maskwright wrote."""
    there = (child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))
    return sorted(child for child in there if not is_marked(child)) if root.is_dir() else []


def files_in(folder: Path) -> Iterator[Path]:
    """Files in a folder and below, hidden ones and litter left out."""
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (
            Path(here, name) for name in sorted(files) if not name.startswith(".") and name.lower() not in LITTER
        )


def files_of(folder: Path, *suffixes: str) -> list[Path]:
    """Files in a folder itself that end so, in any capitals, in the order of their names; none without the folder."""
    if not folder.is_dir():
        return []
    there = (path for path in folder.iterdir() if path.suffix.lower() in suffixes and not path.name.startswith("."))
    return sorted(path for path in there if path.is_file())


def text_head(path: Path, size: int) -> bytes:
    """The beginning of a text file without what its encoding puts there: a byte mark, zeros of UTF-16, blanks."""
    with open(path, "rb") as stream:
        head = stream.read(size)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        head = head[2:].replace(b"\0", b"")
    return head.lstrip(b"\xef\xbb\xbf \t\r\n")


def has_image(folder: Path, unread: bool = False) -> bool:
    """Whether some file in a folder or below is an image by its suffix; `unread`: or one of a kind that is not read."""
    suffixes = image_suffixes() | (UNREAD.keys() if unread else set())
    return folder.is_dir() and any(path.suffix.lower() in suffixes for path in files_in(folder))


def contents(folder: Path) -> str:
    """What a folder holds, in words: `8 images`, `no image (6 .npy files)`, `nothing`."""
    suffixes = Counter(path.suffix.lower() or "nameless" for path in files_in(folder))
    images = sum(count for suffix, count in suffixes.items() if suffix in image_suffixes())
    if images:
        return number_of(images, "image")
    others = ", ".join(f"{count} {suffix} file{'s' * (count > 1)}" for suffix, count in suffixes.most_common(3))
    return f"no image ({others})" if others else "nothing"


def described(root: Path) -> str:
    """The folders in a folder, each with what it holds, in words."""
    return ", ".join(f"{child.name} holds {contents(child)}" for child in subfolders(root)[:8]) or "no folder is there"


def called(root: Path, names: tuple[str, ...], unread: bool = False) -> list[Path]:
    """Folders in a folder that are called by one of some names and hold images, the surest first."""
    rank = {name: place for place, name in enumerate(names)}
    found = [child for child in subfolders(root) if plain(child.name) in rank and has_image(child, unread)]
    return sorted(found, key=lambda child: rank[plain(child.name)])


def find_images(root: Path) -> Path | None:
    """The folder of images in a folder: `images`, or another usual name in any capitals that holds images."""
    exact = root / "images"
    return exact if exact.is_dir() else next(iter(called(root, IMAGE_FOLDERS, unread=True)), None)


def find_masks(root: Path, usual: Path, *, any_name: bool) -> Path | None:
    """The folder of masks in a folder; an empty one counts as none.

    Args:
        root: where to look.
        usual: is taken where it holds anything.
        any_name: otherwise take a folder of another usual name that holds images, or of this in other capitals.
    """
    if usual.is_dir() and next(files_in(usual), None) is not None:
        return usual
    if not any_name:
        return None
    alike = [child for child in subfolders(root) if plain(child.name) == plain(usual.name)]
    there = [*called(root, MASK_FOLDERS), *(child for child in alike if next(files_in(child), None) is not None)]
    return there[0] if there else None


def looks_like_mask(path: str | Path) -> bool:
    """Whether the pixels of a file have few different values, as those of masks have."""
    try:
        with Image.open(path) as picture:
            return np.unique(np.asarray(picture)).size <= MOST_VALUES
    except DECODE_ERRORS:
        return False
