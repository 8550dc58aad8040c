"""Which files of a folder are images and which are their masks, before any is opened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskwright.data.classes import resolve
from maskwright.data.finding import ASSUMED, Complain, Finding, FindingError, number_of
from maskwright.data.folders import (
    IMAGE_FOLDERS,
    MASK_FOLDERS,
    called,
    contents,
    find_images,
    find_masks,
    has_image,
    looks_like_mask,
    subfolders,
)
from maskwright.data.images import left_out, list_images
from maskwright.data.names import normal, plain, spelled
from maskwright.data.provenance import as_exported, check_masks, corrected_masks, export_of, refuse_made
from maskwright.data.provenance import made as made_by_us
from maskwright.data.readers.beside import masks_beside, paired
from maskwright.data.readers.splits import SPLITS, Listing
from maskwright.errors import DataError, unknown_name
from maskwright.settings import DataSettings

OPTIONS = ("images", "image_suffix", "mask_suffix", "tag_separator", "tolerant", "range", "channels")


@dataclass(frozen=True)
class Place:
    """A folder of images and that of their masks, which may be the same, or None.

    Args:
        images: the folder.
        masks: the folder.
        prefix: of the names of its images, such as `train/`.
    """

    images: Path
    masks: Path | None
    prefix: str = ""


def find_places(
    settings: DataSettings, complain: Complain, *, without_masks: bool = False
) -> tuple[list[Place], list[str]]:
    """Where the images and masks of a plain folder lie, and the parts of it that are splits.

    Args:
        settings: of the data.
        complain: what to do with findings.
        without_masks: masks are not looked for.

    Raises:
        DataError: a folder that was typed and is not there.
    """
    root = Path(settings.root)
    typed = settings.options.get("images")
    images = find_images(root) if typed is None else resolve(root, typed)
    if typed is not None and (images is None or not images.is_dir()):
        raise DataError(f"images {typed}: no such folder in {root}. Folders there: {folders_in(root)}")
    # With tags masks are for evaluation alone, and nobody may have meant what is called otherwise.
    any_name = settings.tags in (None, "masks")

    def masks_of(folder: Path, any_name: bool = any_name) -> Path | None:
        if without_masks:
            return None
        if settings.masks is None:
            return find_masks(folder, folder / "masks", any_name=any_name)
        return resolve(root, settings.masks) if folder == root else spelled(folder / settings.masks)

    parts = {} if images is not None else {part: found for part in subfolders(root) if (found := find_images(part))}
    if images is not None:
        places = [Place(images, masks_of(root))]
    elif parts:
        places = [Place(found, masks_of(part), f"{part.name}/") for part, found in parts.items()]
    elif settings.masks is None and not without_masks and (pairs := _pairs(root)):
        places = pairs
    else:
        direct = bool(list_images(root, recursive=False)[0])
        places = [Place(root, masks_of(root, any_name and direct))]
    places = [
        Place(place.images, None, place.prefix)
        if place.masks is not None and only_ours(settings, place.masks, complain)
        else place
        for place in places
    ]
    if (
        settings.masks is not None
        and not without_masks
        and not any(place.masks is not None and place.masks.is_dir() for place in places)
    ):
        raise DataError(f"masks {settings.masks}: no such folder in {root}. Folders there: {folders_in(root)}")
    usual = {plain(part) for part in ("images", "masks")}
    for place in places:
        if place.masks is not None and settings.masks is None and {plain(place.masks.name)} - usual:
            what = f"{place.masks}: taken as the masks of {place.images}; masks=FOLDER takes another"
            complain(Finding("info", what, kind=ASSUMED))
    if not any_name and images is not None and places[0].masks is None and settings.masks is None:
        for other in called(root, MASK_FOLDERS)[:1]:
            what = f"{other} holds {contents(other)}, not read as masks beside tags; masks={other.name} reads them"
            complain(Finding("info", what, kind=ASSUMED))
    return places, [place.prefix.rstrip("/") for place in places if place.prefix]


def _pairs(root: Path) -> list[Place]:
    """Folders of images each with one of masks beside it, as `train` and `train_masks`, `val_images` and `val_gt`."""
    there = {plain(child.name): child for child in subfolders(root) if has_image(child)}
    found: dict[str, tuple[str, str]] = {}
    for key in there:
        begin = next((key.removesuffix(word) for word in IMAGE_FOLDERS if key.endswith(word)), key)
        ends = (begin + word for word in MASK_FOLDERS)
        other = next((end for end in ends if end in there and end != key), None)
        if other is not None and begin:
            found[key] = begin, other
    left = set(there) - set(found) - {other for _, other in found.values()}
    if not found or not left <= SPLITS:
        return []
    places = {begin: Place(there[key], there[other], f"{begin}/") for key, (begin, other) in found.items()}
    places |= {key: Place(there[key], None, f"{key}/") for key in left}
    return [places[name] for name in sorted(places)]


def only_ours(settings: DataSettings, masks: Path, complain: Complain) -> bool:
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
    if not found and masks.is_dir():
        what = f"{masks} holds {contents(masks)}: passed over, since there are tags"
        complain(Finding("warning", what, fix="save masks as PNG, or take the folder away", kind="masks-unreadable"))
        return True
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


def list_files(settings: DataSettings, complain: Complain, places: list[Place]) -> Listing:
    """The images and masks in some folders, masks by the names of their images.

    Raises:
        DataError: an unknown option, no images, or what maskwright wrote and nobody asked for.
    """
    unknown = set(settings.options) - set(OPTIONS)
    if unknown:
        raise DataError(unknown_name("data option", min(unknown), OPTIONS))
    root = Path(settings.root)
    others = [resolve(root, name) for name in (settings.tags, settings.saliency) if name and name != "masks"]
    images: dict[str, str] = {}
    masks: dict[str, str] = {}
    mask_folders: list[str] = []
    unread: Counter[str] = Counter()
    for place in places:
        if export_of(place.images) is None:  # photographs beside exported masks are photographs
            refuse_made(place.images, "images")
        together = place.masks is not None and place.masks.resolve() == place.images.resolve()
        skip = [path.resolve() for path in (place.masks, *others) if path and path.resolve() != place.images.resolve()]
        here: Counter[str] = Counter()
        found, twice = list_images(root, recursive=False, others=here) if place.images == root else ({}, [])
        if not found:
            here.clear()
            found, twice = list_images(place.images, skip=skip, others=here)
        unread += here
        if together or place.masks is None:
            found, ours = _beside(settings, complain, place, found, twice)
            twice = [name for name in twice if name not in ours]
            masks.update(_renamed(ours, place.prefix, _option(settings, "image_suffix")))
            mask_folders += [str(place.images)] if ours else []
        complain_twice(complain, place.images, twice)
        images.update(_renamed(found, place.prefix, _option(settings, "image_suffix")))
        if place.masks is not None and not together and place.masks.is_dir():
            found, twice = list_images(place.masks, made=True)
            if not found:
                check_masks([place.masks], settings.masks_are)
                raise _nothing_readable(place, images)
            found = corrected_masks(found, settings.masks_are, complain)
            complain_twice(complain, place.masks, twice)
            masks.update(_renamed(found, place.prefix, _option(settings, "mask_suffix")))
            mask_folders.append(str(place.masks))
    _complain_line_breaks(complain, images)
    if not images:
        also = f"; {left_out(unread)}" if unread else ""
        raise DataError(
            f"{places[0].images}: no images{also}. Expected files that Pillow reads; folders: {folders_in(root)}"
        )
    if unread:
        complain(Finding("warning", left_out(unread), [str(places[0].images)], kind="left-out"))
    listing = Listing(images, masks if mask_folders else None, {"images": str(places[0].images)})
    if mask_folders:
        listing.folders["masks"] = mask_folders[0]
        if not any(name in images for name in masks):
            listing.masks = _named_otherwise(settings, complain, listing, masks)
        else:
            _in_other_capitals(complain, listing, masks)
    return listing


def _beside(
    settings: DataSettings, complain: Complain, place: Place, found: dict[str, str], twice: list[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Files of a folder as images and the masks among them; with tags such masks are only left out."""
    end = _option(settings, "mask_suffix")
    images, masks, words = masks_beside(found, twice, end)
    if not masks and place.masks is not None:
        raise FindingError(
            Finding(
                "error",
                "masks are said to lie in the folder of images, and no file there has the name of another with "
                f"{end or 'more'} at its end",
                [str(place.masks)],
                expected="photo_mask.png beside photo.jpg",
                fix="give data.options.mask_suffix, the end of the names of masks, or masks=FOLDER",
                kind="mask-names",
            )
        )
    if masks and end is None:
        what = f"{place.images}: {number_of(len(masks), 'mask')} beside their images: the name of a mask {words}"
        unused = place.masks is None and settings.tags not in (None, "masks")
        if unused:
            what = f"{what}; left out, since there are tags; masks=. reads them"
        complain(Finding("info", what, kind=ASSUMED))
        if unused:
            return images, {}
    return images, masks


def _nothing_readable(place: Place, images: Mapping[str, str]) -> FindingError:
    """The error for a folder of masks that holds no image; it names the folder beside it that does hold masks."""
    assert place.masks is not None
    beside = {
        child: len(found.keys() & {name.removeprefix(place.prefix) for name in images})
        for child in subfolders(place.masks.parent)
        if child.resolve() not in (place.masks.resolve(), place.images.resolve())
        and (found := list_images(child)[0])
        and looks_like_mask(next(iter(found.values())))
    }
    best = max(beside, key=lambda child: beside[child], default=None)
    fix = "save the masks as PNG files whose pixels are the numbers of the classes, or give tags=FILE to do without"
    if best is not None and beside[best]:
        fix = f"give masks={best.name}, which holds {beside[best]} masks named as images"
    return FindingError(
        Finding(
            "error",
            f"the folder of masks holds {contents(place.masks)}",
            [str(place.masks)],
            expected="masks in PNG or another format that Pillow reads, named as their images",
            fix=fix,
            kind="masks-unreadable",
        )
    )


def _named_otherwise(
    settings: DataSettings, complain: Complain, listing: Listing, masks: dict[str, str]
) -> dict[str, str]:
    """Masks none of which is named as an image, by the names of their images where all names tell."""
    given = any(_option(settings, key) for key in ("image_suffix", "mask_suffix"))
    pairs, words = ({}, "") if given else paired(listing.images, masks)
    if pairs:
        complain(Finding("info", f"{listing.folders['masks']}: the names of masks {words}", kind=ASSUMED))
        return {image: masks[mask] for mask, image in pairs.items()}
    complain(
        Finding(
            "error",
            f"none of the {len(masks)} masks is named as an image",
            list(masks.values()),
            len(masks),
            expected=f"names such as {next(iter(listing.images))}.png",
            fix="rename the masks, or give data.options.mask_suffix, the end of their names to leave out",
            kind="mask-names",
        )
    )
    return masks


def _in_other_capitals(complain: Complain, listing: Listing, masks: dict[str, str]) -> None:
    """Give masks whose names differ in capitals alone to their images, and tell of those that no image is there for."""
    bare = {name.casefold(): name for name in listing.images if name not in masks}
    for name in [name for name in masks if name not in listing.images]:
        image = bare.pop(name.casefold(), None)
        if image is not None:
            masks[image] = masks.pop(name)
    left = [path for name, path in masks.items() if name not in listing.images]
    if left:
        what = f"{number_of(len(left), 'mask')} of {listing.folders['masks']} whose name is no image's"
        complain(Finding("info", what, left, len(left), kind="mask-no-image"))


def _renamed(files: dict[str, str], prefix: str, suffix: str | None) -> dict[str, str]:
    """Names with the split's prefix and without the end that does not count; files that lack that end are left out."""
    if suffix:
        files = {name.removesuffix(suffix): path for name, path in files.items() if name.endswith(suffix)}
    return {prefix + name: path for name, path in files.items()} if prefix else files


def _complain_line_breaks(complain: Complain, images: Mapping[str, str]) -> None:
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


def complain_twice(complain: Complain, folder: Path, twice: list[str]) -> None:
    """Tell of files that have one name, but for the suffix."""
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


def folders_in(root: Path) -> str:
    if not root.is_dir():
        return "none, there is no such folder"
    return ", ".join(sorted(child.name for child in root.iterdir() if child.is_dir())) or "none"


def _option(settings: DataSettings, name: str) -> Any:
    value = settings.options.get(name)
    return normal(value) if isinstance(value, str) else value
