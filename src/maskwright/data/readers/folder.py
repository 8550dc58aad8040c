"""Readers of folders: the PASCAL VOC layout, and plain folders of images, masks and tags."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maskwright.data.classes import label_space, resolve
from maskwright.data.finding import Complain, Finding, refuse
from maskwright.data.folders import find_masks
from maskwright.data.images import ImageSet, list_images
from maskwright.data.names import spelled
from maskwright.data.readers.listing import Place, find_places, folders_in, list_files, only_ours
from maskwright.data.readers.splits import Listing, split_names
from maskwright.data.readers.tags_found import tag_table
from maskwright.data.saliency import DETECTORS
from maskwright.data.spelling import blank_finding, join_finding, number_finding
from maskwright.data.tags import match_tags, tag_values, told
from maskwright.errors import DataError, unknown_name
from maskwright.settings import DataSettings


def open_voc(
    settings: DataSettings, split: str, complain: Complain = refuse, *, without_masks: bool = False
) -> ImageSet:
    """One split of a set in the PASCAL VOC layout.

    `JPEGImages/NAME.jpg`, `SegmentationClass/NAME.png` (or the folder named by `masks`),
    `ImageSets/Segmentation/SPLIT.txt`. Lists of pairs (`/JPEGImages/a.jpg /SegmentationClassAug/a.png`) are read too,
    and a split whose name ends in `aug` takes its masks from `SegmentationClassAug` unless `masks` says otherwise.

    Args:
        settings: see `open_folder`.
        split: name of a list; `all` for every image.
        complain: what to do with findings; by default errors are raised.
        without_masks: masks are not looked for.

    Raises:
        DataError: as `open_folder`.
    """
    root = Path(settings.root)
    typed = settings.options.get("images")
    images = spelled(root / "JPEGImages") if typed is None else resolve(root, typed)
    if not images.is_dir():
        raise DataError(
            f"{root} has no folder {typed or images.name}. Expected the VOC layout; folders there: {folders_in(root)}"
        )
    masks: Path | None
    if without_masks:
        masks = None
    elif settings.masks is None:
        augmented = split.endswith("aug") and (root / "SegmentationClassAug").is_dir()
        usual = root / ("SegmentationClassAug" if augmented else "SegmentationClass")
        masks = find_masks(root, usual, any_name=settings.tags in (None, "masks"))
        masks = None if masks is None or only_ours(settings, masks, complain) else masks
    else:
        masks = resolve(root, settings.masks)
        if not masks.is_dir():
            raise DataError(f"masks {settings.masks}: no such folder in {root}. Folders there: {folders_in(root)}")
    listing = list_files(settings, complain, [Place(images, masks)])
    return build_set(settings, split, "voc", listing, complain)


def open_folder(
    settings: DataSettings, split: str, complain: Complain = refuse, *, without_masks: bool = False
) -> ImageSet:
    """One split of a plain folder.

    Images lie in `images/`, or a folder that is called alike in any capitals, else in the folder itself, else in its
    subfolders; masks of the same name in `masks/`, in a folder that is called alike, or beside their images as
    `NAME_mask.png`; see `maskwright.data.folders`. Tags are those of `tags`; without masks also those of a table that
    lies in the folder, or of one folder per tag.
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
            as `_mask`), `tag_separator` (between the tags in a cell), `tolerant` (decode truncated images);
            and those of `maskwright.data.open_split`.
        split: which images.
        complain: what to do with findings; by default errors are raised.
        without_masks: masks are not looked for.

    Raises:
        DataError: a folder, list, class or tag file that is missing or not as described, an unknown split or option,
            listed images that do not exist, tags that are no class, nothing that tells the classes, or masks that
            maskwright wrote and that are not asked for by name.
    """
    if not Path(settings.root).is_dir():
        raise DataError(f"data {settings.root} is not a folder")
    places, parts = find_places(settings, complain, without_masks=without_masks)
    listing = list_files(settings, complain, places)
    listing.prefixes = parts
    return build_set(settings, split, "folder", listing, complain)


def build_set(settings: DataSettings, split: str, layout: str, listing: Listing, complain: Complain) -> ImageSet:
    """One split of listed images and masks: its names, classes and tags, as `open_folder` says."""
    root = Path(settings.root)
    names, split_source = split_names(root, split, listing, complain)
    table = tag_table(settings, layout, listing, complain)
    if table is not None:
        told(table, settings.rename, complain)
    labels, class_source = label_space(settings, layout, listing.images, listing.masks, table)
    if table is not None and class_source == table.source:
        for finding in (join_finding, number_finding, blank_finding):
            found = finding(table.source, table.names)
            if found is not None:
                complain(found)
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
    return ImageSet(
        labels,
        names,
        [listing.images[name] for name in names],
        masks=masks,
        tags=tags,
        saliency=saliency_paths(settings, names, complain),
        label_map=settings.label_map,
        source=source,
        tolerant=bool(settings.options.get("tolerant")),
    )


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
