"""The splits of a set: from a list of names, from folders, or by a hash of the name."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from maskwright.data.classes import resolve
from maskwright.data.finding import Complain, Finding
from maskwright.data.names import normal, spelled
from maskwright.data.tables.grid import read_text
from maskwright.data.tags import image_key
from maskwright.errors import DataError

LIST_FOLDERS = ("ImageSets/Segmentation", "ImageSets", "splits", ".", "ImageSets/Main")
TRAIN_SHARE = 0.8
BY_HASH = f"no list: {TRAIN_SHARE:.0%} train, the rest val, by hash of the name"
# What others call a split, by what it is called here.
OTHER_NAMES = {"train": ("training",), "val": ("valid", "validation", "dev")}
SPLITS = frozenset(("train", "training", "val", "valid", "validation", "dev", "test", "testing"))


@dataclass
class Listing:
    """The files of a set, before any is opened.

    Args:
        images: name -> path of every image, in all splits.
        masks: name -> path of every mask; None where the set has no mask folder.
        folders: folder of images and folder of masks, for the record and for messages.
        prefixes: first parts of names that are splits.
        others: images that are there and left out, which a list may name.
    """

    images: dict[str, str]
    masks: dict[str, str] | None
    folders: dict[str, str] = field(default_factory=dict)
    prefixes: list[str] = field(default_factory=list)
    others: dict[str, str] = field(default_factory=dict)


def split_names(root: Path, split: str, listing: Listing, complain: Complain) -> tuple[list[str], str]:
    """Names of a split in order, and where it comes from, in words."""
    split = normal(split)
    path = _list_called(root, split)
    if path is None and split.endswith(".txt"):
        path = resolve(root, split)
        if not path.is_file():
            raise DataError(f"split list {split} does not exist in {root}")
    if path is not None:
        return _read_list(path, listing, complain), str(path)
    if split == "all":
        return list(listing.images), "every image"
    for called in (split, *OTHER_NAMES.get(split, ())):
        inside = [name for name in listing.images if name.casefold().startswith(f"{called.casefold()}/")]
        exact = [name for name in inside if name.startswith(f"{called}/")]
        if inside:
            return exact or inside, f"folder {(exact or inside)[0].partition('/')[0]}"
        path = _list_called(root, called)
        if path is not None:
            return _read_list(path, listing, complain), str(path)
    lists = [file.stem for folder in LIST_FOLDERS[:3] for file in sorted((root / folder).glob("*.txt"))]
    known = [*lists, *(part for part in ("train", "val") if _list_called(root, part)), *listing.prefixes]
    if not known and any(name.startswith(("train/", "val/")) for name in listing.images):
        known = sorted({name.partition("/")[0] for name in listing.images})
    if known or split not in ("train", "val"):
        known = [*dict.fromkeys(known)] or ["train", "val"]
        if len(listing.prefixes) == 1 and listing.prefixes[0] not in SPLITS:
            raise DataError(f"{root} holds one set, {listing.prefixes[0]}. Fix: data={root / listing.prefixes[0]}")
        near = get_close_matches(split, known, n=1)
        near = near or [name for name in ("test", "testing") if split == "val" and name in known]
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise DataError(
            f"{root}: unknown split {split!r}.{hint} Splits here: {', '.join(known)}, and all. "
            f"Fix: choose one, or write {split}.txt with one image name per line"
        )
    train, val = hash_split(list(listing.images))
    return (train if split == "train" else val), BY_HASH


def hash_split(names: list[str]) -> tuple[list[str], list[str]]:
    """Train and val parts of names, by a hash of each: stable when others come or go.

    Where one part would be empty, the name nearest to it moves over.
    """
    shares = {
        name: int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") / 2**64 for name in names
    }
    limit = TRAIN_SHARE
    if len(names) > 1:
        limit = min(max(limit, np.nextafter(min(shares.values()), 1)), max(shares.values()))
    return [name for name in names if shares[name] < limit], [name for name in names if shares[name] >= limit]


def _list_called(root: Path, split: str) -> Path | None:
    """The list of a split, in any capitals where none is called exactly so."""
    for folder in LIST_FOLDERS:
        path = spelled(root / folder / f"{split}.txt")
        if path.is_file():
            return path
    return None


def _read_list(path: Path, listing: Listing, complain: Complain) -> list[str]:
    """Names in a split list that have an image."""
    names: dict[str, None] = {}
    missing, twice, count = [], [], 0
    for line in read_text(path)[0].splitlines():
        text = normal(line.strip())
        if not text:
            continue
        count += 1
        name = _listed_name(text, listing.images)
        if name is None and _listed_name(text, listing.others) is None:
            missing.append(text)
        elif name is None:
            continue  # whoever left it out has said so
        elif name in names:
            twice.append(name)
        else:
            names[name] = None
    if missing:
        complain(
            Finding(
                "error",
                f"{len(missing)} of {count} images in {path} do not exist in {listing.folders['images']}",
                missing,
                len(missing),
                expected=f"names such as {next(iter(listing.images))}",
                fix="correct the list, or add the images",
                kind="image-missing",
            )
        )
    if twice:
        complain(
            Finding("warning", f"listed more than once in {path}; used once", twice, len(twice), kind="listed-twice")
        )
    if not names:
        expected = "one image name per line"
        complain(Finding("error", "the split has no images", [str(path)], expected=expected, kind="split-empty"))
    return list(names)


def _listed_name(text: str, images: dict[str, str]) -> str | None:
    """The image that a line of a split list names: a name, a path, or a pair of paths whose first is the image."""
    for candidate in (text, text.split()[0]):
        parts = image_key(candidate).strip("/").split("/")
        for start in range(len(parts)):
            name = "/".join(parts[start:])
            if name in images:
                return name
    return None
