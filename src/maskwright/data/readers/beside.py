"""Which mask belongs to which image where their names differ, and masks that lie beside their images."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from maskwright.data.folders import IMAGE_WORDS, MASK_ENDS, looks_like_mask
from maskwright.data.images import image_suffixes
from maskwright.data.names import normal, plain

PHOTOGRAPHS = (".jpg", ".jpeg", ".webp", ".heic", ".heif")
LOOKED_AT = 4  # files whose pixels tell whether they are masks


def masks_beside(
    images: Mapping[str, str], twice: Sequence[str], end: str | None
) -> tuple[dict[str, str], dict[str, str], str]:
    """Part files of one folder into images and the masks that lie beside them.

    `a_mask.png` is the mask of `a.jpg`: the end is a usual one, or all files with it look like masks. So is `a.png`
    that of `a.jpg`, where such files look like masks.

    Args:
        images: name -> path of every file.
        twice: names that several files have.
        end: of the names of masks, where it is given.

    Returns:
        Images and masks by the names of the images, and in words how the masks are named; no masks and no words where
        none lie beside.
    """
    found = end or _common_end(images)
    if found:
        ours = {name.removesuffix(found): path for name, path in images.items() if name.endswith(found)}
        ours = {name: path for name, path in ours.items() if name in images}
        masks = set(ours.values())
        return {name: path for name, path in images.items() if path not in masks}, ours, f"ends in {found!r}"
    pairs = _by_word(images)
    if pairs:
        first = next(iter(pairs))
        ours = {image: images[mask] for mask, image in pairs.items()}
        return (
            {name: path for name, path in images.items() if name not in pairs},
            ours,
            f"is as {first!r} is for {pairs[first]!r}",
        )
    photographs, ours = _by_suffix(images, twice)
    words = f"is the {Path(next(iter(ours.values()))).suffix} file" if ours else ""
    return {**images, **photographs}, ours, words


def _by_suffix(images: Mapping[str, str], twice: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Photographs and masks of files that come in pairs of one name; nothing where some do not."""
    pairs = {
        name: sorted(_of_one_name(images[name]), key=lambda path: not path.lower().endswith(PHOTOGRAPHS))
        for name in twice
    }
    photographs = {name: pair[0] for name, pair in pairs.items() if len(pair) == 2}
    masks = {name: pair[1] for name, pair in pairs.items() if len(pair) == 2}
    known = all(path.lower().endswith(PHOTOGRAPHS) for path in photographs.values())
    if len(masks) < len(twice) or not known or not all(map(looks_like_mask, list(masks.values())[:LOOKED_AT])):
        return {}, {}
    return photographs, masks


def _by_word(names: Collection[str]) -> dict[str, str]:
    """Mask -> image where all files begin, or end, with a word for one or the other, as `mask_1` and `img_1`."""
    for form in (r"(?P<word>[^\W\d_]+)[_. -]*(?P<core>.*)", r"(?P<core>.*?)[_. -]*(?P<word>[^\W\d_]+)"):
        images: dict[str, str] = {}
        masks: dict[str, str] = {}
        for name in names:
            folder, _, file = name.rpartition("/")
            found = re.fullmatch(form, file)
            word = plain(found["word"]) if found else ""
            if word not in MASK_ENDS and word not in IMAGE_WORDS:
                break
            assert found is not None
            (masks if word in MASK_ENDS else images)[f"{folder}/{found['core']}"] = name
        else:
            if masks and len(masks) + len(images) == len(names) and masks.keys() <= images.keys():
                return {mask: images[core] for core, mask in masks.items()}
    return {}


def _common_end(images: Mapping[str, str]) -> str | None:
    """The end that names of masks have and those of their images lack; None where there is none."""
    ends: dict[str, list[str]] = {}
    for name in images:
        last = name.rfind("/") + 1
        for place in range(last + 1, len(name)):
            if not name[place].isalnum() and name[:place] in images:
                ends.setdefault(name[place:], []).append(name)
    for end, names in sorted(ends.items(), key=lambda pair: -len(pair[1])):
        if sum(name.endswith(end) for name in images) > len(names):
            continue  # some have no image
        half = 2 * len(names) == len(images)
        if plain(end) in MASK_ENDS or (
            half and len(names) > 1 and all(looks_like_mask(images[name]) for name in names[:LOOKED_AT])
        ):
            return end
    return None


def _of_one_name(path: str) -> list[str]:
    stem = normal(Path(path).stem)
    folder = Path(path).parent
    return sorted(
        entry.path
        for entry in os.scandir(folder)
        if normal(Path(entry.name).stem) == stem and Path(entry.name).suffix.lower() in image_suffixes()
    )


def paired(images: Collection[str], masks: Collection[str]) -> tuple[dict[str, str], str]:
    """Masks in a folder of their own that are not named as their images, by what all their names have more or instead.

    Args:
        images: names, none of which is that of a mask.
        masks: names.

    Returns:
        Mask -> image for every mask, and in words how they are named; empty where the names do not tell.
    """
    if not masks:
        return {}, ""
    first = next(iter(masks))
    more = next((name.removeprefix(first) for name in images if name.startswith(first)), "")
    if more and not more[0].isalnum() and all(name.endswith(more) for name in images):
        pairs = {mask: mask + more for mask in masks}
        if set(pairs.values()) <= set(images):
            return pairs, f"lack the end {more!r} of those of images"
    last = first.rfind("/") + 1
    for place in range(last + 1, len(first)):
        end = first[place:]
        if end[0].isdigit() or (len(masks) < 2 and plain(end) not in MASK_ENDS):
            continue
        pairs = {mask: mask.removesuffix(end) for mask in masks if mask.endswith(end)}
        if len(pairs) == len(masks) and set(pairs.values()) <= set(images):
            return pairs, f"end in {end!r}"
    if len(masks) < 2 or len(images) < 2:
        return {}, ""
    ours, theirs = _cores(images), _cores(masks)
    by_core = {core: name for name, core in ours.items()}
    if len(by_core) == len(ours) and len(set(theirs.values())) == len(theirs) and set(theirs.values()) <= set(by_core):
        pairs = {mask: by_core[core] for mask, core in theirs.items()}
        return pairs, f"are as {first!r} is for {pairs[first]!r}"
    return {}, ""


def _common(words: Sequence[str]) -> str:
    """What all of some words begin with."""
    first, last = min(words), max(words)
    return first[: next((place for place, (a, b) in enumerate(zip(first, last)) if a != b), len(first))]


def _cores(names: Collection[str]) -> dict[str, str]:
    """What names have of their own, without the words that all begin and end with, in small letters."""
    split = {name: name.rpartition("/") for name in names}
    files = [parts[2] for parts in split.values()]
    begin, end = _common(files), _common([file[::-1] for file in files])[::-1]
    begin = begin[: max((place + 1 for place, mark in enumerate(begin) if mark in "_-. "), default=0)]
    end = end[min((place for place, mark in enumerate(end) if mark in "_-. "), default=len(end)) :]
    return {
        name: f"{parts[0]}/{parts[2].removeprefix(begin).removesuffix(end)}".casefold() for name, parts in split.items()
    }
