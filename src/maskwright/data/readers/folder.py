"""Readers of folders: the PASCAL VOC layout, and plain folders of images, masks and tags."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from maskwright.data.classes import label_space, resolve
from maskwright.data.decode import Reading, channels_in
from maskwright.data.finding import Complain, Finding, number_of, refuse
from maskwright.data.images import ImageSet, left_out, list_images
from maskwright.data.provenance import as_exported, check_masks, corrected_masks, export_of, is_marked, refuse_made
from maskwright.data.provenance import made as made_by_us
from maskwright.data.saliency import DETECTORS
from maskwright.data.spelling import join_finding, number_finding
from maskwright.data.tables import read_tags
from maskwright.data.tags import TagTable, image_key, match_tags, tag_values, told
from maskwright.errors import DataError, unknown_name
from maskwright.settings import DataSettings

LIST_FOLDERS = ("ImageSets/Segmentation", "ImageSets", "splits", ".", "ImageSets/Main")
OPTIONS = ("images", "image_suffix", "mask_suffix", "tag_separator", "tolerant", "range", "channels")
TRAIN_SHARE = 0.8


@dataclass
class Listing:
    """The files of a set, before any is opened.

    Args:
        images: name -> path of every image, in all splits.
        masks: name -> path of every mask; None where the set has no mask folder.
        folders: folder of images and folder of masks, for the record and for messages.
        prefixes: first parts of names that are splits.
    """

    images: dict[str, str]
    masks: dict[str, str] | None
    folders: dict[str, str] = field(default_factory=dict)
    prefixes: list[str] = field(default_factory=list)


def open_voc(settings: DataSettings, split: str, complain: Complain = refuse) -> ImageSet:
    """One split of a set in the PASCAL VOC layout.

    `JPEGImages/NAME.jpg`, `SegmentationClass/NAME.png` (or the folder named by `masks`),
    `ImageSets/Segmentation/SPLIT.txt`. Lists of pairs (`/JPEGImages/a.jpg /SegmentationClassAug/a.png`) are read too,
    and a split whose name ends in `aug` takes its masks from `SegmentationClassAug` unless `masks` says otherwise.

    Args:
        settings: see `open_folder`.
        split: name of a list; `all` for every image.
        complain: what to do with findings; by default errors are raised.

    Raises:
        DataError: as `open_folder`.
    """
    root = Path(settings.root)
    masks: Path | None
    if settings.masks is None:
        augmented = split.endswith("aug") and (root / "SegmentationClassAug").is_dir()
        masks = root / ("SegmentationClassAug" if augmented else "SegmentationClass")
        masks = masks if masks.is_dir() and not _only_ours(settings, masks, complain) else None
    else:
        masks = resolve(root, settings.masks)
        if not masks.is_dir():
            raise DataError(f"masks {settings.masks}: no such folder in {root}. Folders there: {_folders(root)}")
    typed = _option(settings, "images")
    images = root / "JPEGImages" if typed is None else resolve(root, typed)
    if not images.is_dir():
        raise DataError(
            f"{root} has no folder {typed or images.name}. Expected the VOC layout; folders there: {_folders(root)}"
        )
    listing = _list(settings, complain, [(images, masks, "")])
    return build_set(settings, split, "voc", listing, complain)


def open_folder(
    settings: DataSettings, split: str, complain: Complain = refuse, *, without_masks: bool = False
) -> ImageSet:
    """One split of a plain folder.

    Images lie in `images/`, else in the folder itself, else in its subfolders; masks of the same name in `masks/`.
    Splits are, in this order: a list `SPLIT.txt` (in the folder, in `splits/` or in `ImageSets/`), `all`, a folder
    `SPLIT/images` with `SPLIT/masks`, a subfolder `SPLIT` of the images, and, where there is none of these, `train` for
    80 % of the images and `val` for the rest, chosen by a hash of the name.

    Classes are `classes` (names or a file), else `classes.txt`, else VOC's where the folder is called VOC20xx or its
    images are, else the tag names in alphabetical order where there are no masks, else `class_0`, `class_1`, ... up to
    the highest value in the masks, which must then hold every value up to it; see `maskwright.data.mask_values`.

    The background with `background="auto"` is the class called background; where none is and the set has tags but no
    masks, a background is put before the classes; else there is none.

    Args:
        settings: `root`, `masks`, `masks_are`, `classes`, `tags`, `saliency`, `background`, `ignore_index`,
            `label_map`; paths that are given count from root, then from the working folder, all else lies below root.
            `options`: `images` (their folder), `image_suffix` and `mask_suffix` (ends of file names that do not count,
            as `_mask`), `tag_separator` (between the tags in a cell), `tolerant` (decode truncated images), `range`
            (the numbers in the image files that become 0 and 255, such as `[0, 4095]`), `channels` (which are read,
            counted from 0; all but transparency by default).
        split: which images.
        complain: what to do with findings; by default errors are raised.
        without_masks: masks are not looked for.

    Raises:
        DataError: a folder, list, class or tag file that is missing or not as described, an unknown split or option,
            listed images that do not exist, tags that are no class, nothing that tells the classes, or masks that
            maskwright wrote and that are not asked for by name.
    """
    root = Path(settings.root)
    if not root.is_dir():
        raise DataError(f"data {root} is not a folder")
    masks = root / "masks" if settings.masks is None else resolve(root, settings.masks)
    typed = _option(settings, "images")
    images = root / "images" if typed is None else resolve(root, typed)
    if typed is not None and not images.is_dir():
        raise DataError(f"images {typed}: no such folder in {root}. Folders there: {_folders(root)}")
    parts = sorted(child.name for child in root.iterdir() if (child / "images").is_dir() and not is_marked(child))
    places: list[tuple[Path, Path | None, str]]
    if images.is_dir():
        places, parts = [(images, masks, "")], []
    elif parts:
        places = [(root / part / "images", root / part / (settings.masks or "masks"), f"{part}/") for part in parts]
    else:
        places = [(root, masks, "")]
    if without_masks:
        places = [(folder, None, part) for folder, _, part in places]
    places = [
        (folder, None if where and _only_ours(settings, where, complain) else where, part)
        for folder, where, part in places
    ]
    if not any(place[1] is not None and place[1].is_dir() for place in places):
        if settings.masks is not None:
            raise DataError(f"masks {settings.masks}: no such folder in {root}. Folders there: {_folders(root)}")
        places = [(folder, None, prefix) for folder, _, prefix in places]
    listing = _list(settings, complain, places)
    listing.prefixes = parts
    return build_set(settings, split, "folder", listing, complain)


def _only_ours(settings: DataSettings, masks: Path, complain: Complain) -> bool:
    """Whether to pass over a folder of masks that nobody typed, of a set with tags: predictions that came to lie in it
    do not make it a set of masks, and what was begun with its tags can be resumed."""
    if settings.masks is not None or settings.masks_are is not None or settings.tags in (None, "masks"):
        return False
    found, _ = list_images(masks, made=True) if masks.is_dir() else ({}, [])
    unchanged = as_exported(found.values())
    theirs = [
        path
        for path in found.values()
        if made_by_us(Path(path).parent) is None or (path not in unchanged and export_of(path) is not None)
    ]
    if found and not theirs:
        complain(
            Finding(
                "warning",
                "nothing but masks that maskwright wrote, which are not ground truth: passed over",
                [str(masks)],
                len(found),
                fix="write predictions somewhere else, or say what they are with masks_are=",
                kind="masks-ours",
            )
        )
    return bool(found) and not theirs


def _list(settings: DataSettings, complain: Complain, places: list[tuple[Path, Path | None, str]]) -> Listing:
    unknown = set(settings.options) - set(OPTIONS)
    if unknown:
        raise DataError(unknown_name("data option", min(unknown), OPTIONS))
    root = Path(settings.root)
    others = [resolve(root, name) for name in (settings.tags, settings.saliency) if name and name != "masks"]
    images: dict[str, str] = {}
    masks: dict[str, str] = {}
    unread: Counter[str] = Counter()
    for folder, mask_folder, prefix in places:
        if export_of(folder) is None:  # photographs beside exported masks are photographs
            refuse_made(folder, "images")
        skip = [path.resolve() for path in (mask_folder, *others) if path and path.resolve() != folder.resolve()]
        here: Counter[str] = Counter()
        found, twice = list_images(folder, recursive=False, others=here) if folder == root else ({}, [])
        if not found:
            here.clear()
            found, twice = list_images(folder, skip=skip, others=here)
        unread += here
        _complain_twice(complain, folder, twice)
        images.update(_renamed(found, prefix, _option(settings, "image_suffix")))
        if mask_folder is not None and mask_folder.is_dir():
            found, twice = list_images(mask_folder, made=True)
            if not found:
                check_masks([mask_folder], settings.masks_are)
            found = corrected_masks(found, settings.masks_are, complain)
            _complain_twice(complain, mask_folder, twice)
            masks.update(_renamed(found, prefix, _option(settings, "mask_suffix")))
    broken = [path for name, path in images.items() if name.splitlines() != [name]]
    if broken:
        complain(
            Finding(
                "error",
                f"{number_of(len(broken), 'name')} of images with a line break",
                [repr(path) for path in broken],
                len(broken),
                expected="names that lists with a name a line can hold",
                fix="rename the files",
                kind="name-line-break",
            )
        )
    if not images:
        also = f"; {left_out(unread)}" if unread else ""
        raise DataError(f"{places[0][0]}: no images{also}. Expected files that Pillow reads; folders: {_folders(root)}")
    if unread:
        complain(Finding("warning", left_out(unread), [str(places[0][0])], kind="left-out"))
    mask_folders = [str(place[1]) for place in places if place[1] is not None]
    listing = Listing(images, masks if mask_folders else None, {"images": str(places[0][0])})
    if mask_folders:
        listing.folders["masks"] = mask_folders[0]
        if not masks or not any(name in images for name in masks):
            complain(
                Finding(
                    "error",
                    f"none of the {len(masks)} masks is named as an image",
                    list(masks.values()),
                    len(masks),
                    expected=f"names such as {next(iter(images))}.png",
                    fix="rename the masks, or give data.options.mask_suffix, the end of their names to leave out",
                    kind="mask-names",
                )
            )
    return listing


def build_set(settings: DataSettings, split: str, layout: str, listing: Listing, complain: Complain) -> ImageSet:
    """One split of listed images and masks: its names, classes and tags, as `open_folder` says."""
    root = Path(settings.root)
    if not 0 <= settings.ignore_index <= 255:
        raise DataError(
            f"ignore_index must be 0 to 255, since masks on disk have 8 bits, found {settings.ignore_index}"
        )
    names, split_source = split_names(root, split, listing, complain)
    table = _tag_table(settings, layout, listing)
    if table is not None:
        told(table, settings.rename, complain)
    labels, class_source = label_space(settings, layout, listing.images, listing.masks, table)
    if table is not None and class_source == table.source:
        for finding in (join_finding(table.source, table.names), number_finding(table.source, table.names)):
            if finding is not None:
                complain(finding)
    masks = [None] * len(names) if listing.masks is None else [listing.masks.get(name) for name in names]
    source: dict[str, Any] = {
        "root": settings.root,
        "layout": layout,
        "split": split,
        "split_source": split_source,
        "count": len(names),
        "classes": class_source,
        "masks": listing.folders.get("masks"),
        "mask_count": sum(path is not None for path in masks),
        "tag_source": None,
    }
    if settings.masks_are is not None and listing.masks is not None:
        source["masks_are"] = settings.masks_are
    tags: list[tuple[int, ...] | None] | str = [None] * len(names)
    if settings.tags == "masks":
        if listing.masks is None:
            raise DataError(
                f"tags=masks derives tags from masks, but {root} has none. Fix: give tags=FILE or masks=FOLDER"
            )
        tags = "masks"
        source |= {"tag_source": "derived from the masks", "tag_count": source["mask_count"]}
    elif table is not None:
        matched = match_tags(table, listing.images, complain)
        values = tag_values(table, labels, complain)
        rows = map(matched.get, names)
        tags = [None if row is None else values[row] for row in rows]
        source |= {"tag_source": table.source, "tag_count": sum(row is not None for row in tags)}
    reading = Reading.of(settings.options)
    # Of the first image of all, so that every split has the same.
    channels = channels_in(next(iter(listing.images.values())), reading)
    source |= reading.to_dict() | ({"channels": channels} if channels != 3 else {})
    return ImageSet(
        labels,
        names,
        [listing.images[name] for name in names],
        masks=masks,
        tags=tags,
        saliency=saliency_paths(settings, names, complain),
        label_map=settings.label_map,
        source=source,
        tolerant=bool(_option(settings, "tolerant")),
        reading=reading,
    )


def split_names(root: Path, split: str, listing: Listing, complain: Complain) -> tuple[list[str], str]:
    """Names of a split in order, and where it comes from, in words."""
    path = next((path for folder in LIST_FOLDERS if (path := root / folder / f"{split}.txt").is_file()), None)
    if path is None and split.endswith(".txt"):
        path = resolve(root, split)
        if not path.is_file():
            raise DataError(f"split list {split} does not exist in {root}")
    if path is not None:
        return _read_list(path, listing, complain), str(path)
    if split == "all":
        return list(listing.images), "every image"
    inside = [name for name in listing.images if name.startswith(f"{split}/")]
    if inside:
        return inside, f"folder {split}"
    lists = [file.stem for folder in LIST_FOLDERS[:3] for file in sorted((root / folder).glob("*.txt"))]
    known = [*lists, *(file.stem for file in root.glob("*.txt") if file.stem in ("train", "val")), *listing.prefixes]
    if not known and any(name.startswith(("train/", "val/")) for name in listing.images):
        known = sorted({name.partition("/")[0] for name in listing.images})
    if known or split not in ("train", "val"):
        known = [*dict.fromkeys(known)] or ["train", "val"]
        near = get_close_matches(split, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise DataError(
            f"{root}: unknown split {split!r}.{hint} Splits here: {', '.join(known)}, and all. "
            f"Fix: choose one, or write {split}.txt with one image name per line"
        )
    train, val = hash_split(list(listing.images))
    return (train if split == "train" else val), f"no list: {TRAIN_SHARE:.0%} train, the rest val, by hash of the name"


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


def _read_list(path: Path, listing: Listing, complain: Complain) -> list[str]:
    """Names in a split list that have an image."""
    names: dict[str, None] = {}
    missing, twice, count = [], [], 0
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        text = line.strip()
        if not text:
            continue
        count += 1
        name = _listed_name(text, listing.images)
        if name is None:
            missing.append(text)
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


def _tag_table(settings: DataSettings, layout: str, listing: Listing) -> TagTable | None:
    """Tags from where the settings say, or from one folder per tag where there is nothing else; None without tags."""
    root = Path(settings.root)
    if settings.tags is None and listing.masks is None and layout == "folder":
        folders = _folder_tags(settings, listing)
        return folders if all(tags for tags in folders.rows.values()) else None
    if settings.tags in (None, "masks"):
        return None
    path = resolve(root, settings.tags)
    if path.is_dir() and path.resolve() == Path(listing.folders["images"]).resolve():
        return _folder_tags(settings, listing)
    return read_tags(path, listing.images, _option(settings, "tag_separator"))


def _folder_tags(settings: DataSettings, listing: Listing) -> TagTable:
    """Each image's tag is the name of the folder it lies in, below the split's."""
    table = TagTable(f"one folder per tag in {listing.folders['images']}")
    splits = {settings.train, settings.val, *listing.prefixes}
    for name in listing.images:
        *folders, _ = name.split("/")
        if folders and folders[0] in splits:
            folders = folders[1:]
        table.rows[name] = tuple(folders[:1])
        table.where[name] = "its folder"
    return table


def saliency_paths(settings: DataSettings, names: Sequence[str], complain: Complain) -> list[str | None] | None:
    """The saliency map of each image, where the settings name a folder of them; None where they name a detector.

    Raises:
        DataError: neither such a folder nor such a detector, or maps for only some of the images.
    """
    if settings.saliency is None:
        return None
    folder = resolve(Path(settings.root), settings.saliency)
    if not folder.is_dir():
        if settings.saliency in DETECTORS:
            return None
        raise DataError(
            f"saliency {settings.saliency} is not a folder in {settings.root}: "
            f"{unknown_name('saliency detector', settings.saliency, DETECTORS)}"
        )
    found, _ = list_images(folder, made=True)
    missing = [name for name in names if name not in found]
    if len(missing) == len(names):
        return None
    if missing:
        complain(
            Finding(
                "error",
                f"{len(missing)} of {len(names)} images have no saliency map in {folder}",
                missing,
                len(missing),
                expected="a map of the same name for every image of the split, or for none",
                fix="make the missing maps",
                kind="saliency-missing",
            )
        )
    return [found.get(name) for name in names]


def _renamed(files: dict[str, str], prefix: str, suffix: str | None) -> dict[str, str]:
    """Names with the split's prefix and without the end that does not count; files that lack that end are left out."""
    if suffix:
        files = {name.removesuffix(suffix): path for name, path in files.items() if name.endswith(suffix)}
    return {prefix + name: path for name, path in files.items()} if prefix else files


def _complain_twice(complain: Complain, folder: Path, twice: list[str]) -> None:
    if twice:
        complain(
            Finding(
                "error",
                f"several files in {folder} have the same name but for the suffix",
                twice,
                len(twice),
                expected="one file for each name",
                fix="keep one of them",
                kind="name-twice",
            )
        )


def _folders(root: Path) -> str:
    if not root.is_dir():
        return "none, there is no such folder"
    return ", ".join(sorted(child.name for child in root.iterdir() if child.is_dir())) or "none"


def _option(settings: DataSettings, name: str) -> Any:
    return settings.options.get(name)
