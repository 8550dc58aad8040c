"""What the readers of published sets share: fixed classes, expected folders and counts, the same messages."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskwright.data.classes import resolve
from maskwright.data.finding import Complain, Finding, number_of
from maskwright.data.images import ImageSet, list_images
from maskwright.data.names import normal
from maskwright.data.provenance import refuse_made
from maskwright.data.readers.folder import saliency_paths
from maskwright.data.sample import LabelSpace
from maskwright.data.tables import read_tags
from maskwright.data.tables.grid import read_text
from maskwright.data.tags import match_tags, tag_values, told
from maskwright.errors import DataError, unknown_name
from maskwright.settings import DataSettings

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Part:
    """One split of a published set.

    Args:
        name: as the set names it.
        count: images that it has when complete.
        images: folder of the images, below the root.
        masks: folder of the masks; None where they are not published.
        archives: the downloads that hold both.
    """

    name: str
    count: int
    images: str
    masks: str | None
    archives: str


def official_labels(
    settings: DataSettings,
    layout: str,
    names: Sequence[str],
    palette: Sequence[Colour] = (),
    *,
    background: int | None = None,
    options: Collection[str] = (),
) -> LabelSpace:
    """The label space of a set whose classes are fixed; settings that would have no effect are refused.

    Args:
        settings: `ignore_index` is used; `classes`, `masks`, `masks_are` must be unset, `background` must agree.
        layout: name of the reader.
        names: of the classes, in the order of their values.
        palette: one colour per class; the VOC colour map by default.
        background: its value, or None.
        options: keys that the reader knows in `settings.options`.

    Raises:
        DataError: a setting that contradicts the set, an unknown option, or no such root.
    """
    if not Path(settings.root).is_dir():
        raise DataError(f"data {settings.root} is not a folder")
    for key in sorted(set(settings.options) - set(options)):
        raise DataError(unknown_name(f"option of {layout}", key, options))
    for key in ("classes", "masks", "masks_are"):
        if getattr(settings, key) is not None:
            raise DataError(
                f"layout {layout} has its own {key}, found data.{key}={getattr(settings, key)}. "
                "Fix: leave it out, or read the files with layout=folder"
            )
    agrees = ("auto", "none", None) if background is None else ("auto", background, names[background])
    if settings.background not in agrees:
        found = "no background class" if background is None else f"the background {names[background]!r}"
        raise DataError(f"layout {layout} has {found}, found data.background={settings.background}. Fix: leave it out")
    return LabelSpace(tuple(names), background, settings.ignore_index, tuple(palette))


def choose_part(layout: str, split: str, parts: Mapping[str, tuple[Part, ...]]) -> tuple[Part, ...]:
    """The parts that a split consists of.

    Raises:
        DataError: no such split; the message names the nearest.
    """
    if split not in parts:
        raise DataError(unknown_name(f"split of {layout}", split, parts))
    return parts[split]


def need(root: Path, folders: Mapping[str, str], what: str) -> None:
    """Refuse a set that lacks folders or files.

    Args:
        root: of the set.
        folders: path below the root -> the download that holds it.
        what: is read, in words, as "the val split of Cityscapes".

    Raises:
        DataError: one is missing; the message lists them all with their downloads, and what there is instead.
    """
    missing = {path: archive for path, archive in folders.items() if not (root / path).exists()}
    if missing:
        listed = ", ".join(f"{path} (from {archive})" for path, archive in missing.items())
        there = ", ".join(sorted(child.name for child in root.iterdir() if not child.name.startswith("."))[:12])
        raise DataError(
            f"{root}: {what} needs {listed}, found only: {there or 'nothing'}. "
            f"Fix: unpack {' and '.join(dict.fromkeys(missing.values()))} into {root}, or correct data.root"
        )


def files_in(folder: Path, ending: str) -> dict[str, str]:
    """Files of a folder and its subfolders whose names (without suffix) end in `ending`: name without it -> path.

    Raises:
        DataError: maskwright wrote them.
    """
    refuse_made(folder, "files of the published set")
    found, _ = list_images(folder)
    return {name.removesuffix(ending): path for name, path in found.items() if name.endswith(ending)}


def complain_incomplete(
    complain: Complain,
    part: Part,
    images: Collection[str],
    masks: Mapping[str, Any] | None,
    *,
    what: str,
) -> None:
    """Report images without a mask (an error) and fewer images than published (a warning).

    Args:
        complain: what to do with findings.
        part: what is expected.
        images: names of the images found, or listed.
        masks: name -> mask; None where the split has none.
        what: the split in words.
    """
    missing = [name for name in images if name not in masks] if masks is not None else []
    extra = [name for name in masks if name not in images] if masks is not None else []
    counts = f"{number_of(len(images), 'image')} and {number_of(len(masks or {}), 'mask')} found"
    if missing:
        complain(
            Finding(
                "error",
                f"{what}: {number_of(len(missing), 'image')} without a mask in {part.masks} ({counts})",
                missing,
                len(missing),
                expected=f"{part.count} images in {part.images}, each with a mask in {part.masks}",
                fix=f"unpack {part.archives} again, whole; or delete the images that are not to be used",
                kind="mask-missing",
            )
        )
    if len(images) < part.count:
        complain(
            Finding(
                "warning",
                f"{what} has {len(images)} of its {part.count} images"
                + (f", and {number_of(len(extra), 'mask')} without image" if extra else ""),
                extra,
                max(1, len(extra)),
                expected=f"{part.count} images in {part.images}",
                fix=f"unpack {part.archives} again, whole; scores on a part do not compare with published ones",
                kind="set-incomplete",
            )
        )


def read_name_list(path: Path) -> list[str]:
    """Names in a published list, one a line, empty lines left out.

    Raises:
        DataError: the file does not exist or names nothing.
    """
    if not path.is_file():
        raise DataError(f"list {path} does not exist. Expected one image name per line")
    names = [normal(line.strip()) for line in read_text(path)[0].splitlines() if line.strip()]
    if not names:
        raise DataError(f"list {path} is empty. Expected one image name per line")
    return names


def complain_unlisted(complain: Complain, listed: Sequence[str], images: Mapping[str, str], where: str) -> list[str]:
    """Names of a list that have an image; those without are an error."""
    missing = [name for name in listed if name not in images]
    if missing:
        complain(
            Finding(
                "error",
                f"{len(missing)} of {len(listed)} images listed are not in {where} "
                f"({number_of(len(images), 'image')} there)",
                missing,
                len(missing),
                expected="an image for every line of the list",
                fix="unpack the images again, whole",
                kind="image-missing",
            )
        )
    return [name for name in listed if name in images]


def tag_source(
    settings: DataSettings, labels: LabelSpace, names: Sequence[str], all_names: Sequence[str], complain: Complain
) -> tuple[Sequence[tuple[int, ...] | None] | str, dict[str, Any]]:
    """Tags of the images of a split from where the settings say, and what the record says of them.

    Raises:
        DataError: a tag file that is missing or not as described.
    """
    if settings.tags == "masks":
        return "masks", {"tag_source": "derived from the masks"}
    if settings.tags is None:
        return [None] * len(names), {"tag_source": None}
    table = read_tags(resolve(Path(settings.root), settings.tags), all_names)
    told(table, settings.rename, complain)
    matched = match_tags(table, list(all_names), complain)
    values = tag_values(table, labels, complain)
    tags = [values[matched[name]] if name in matched else None for name in names]
    return tags, {"tag_source": table.source, "tag_count": sum(row is not None for row in tags)}


def official_set(
    settings: DataSettings,
    split: str,
    layout: str,
    labels: LabelSpace,
    images: Mapping[str, str],
    masks: Mapping[str, str],
    label_map: Mapping[int, int] | None,
    complain: Complain,
    *,
    expected: int,
    source: Mapping[str, Any] | None = None,
    kind: type[ImageSet] = ImageSet,
) -> ImageSet:
    """The data set of one split, in the order of `images`.

    Args:
        settings: `tags`, `saliency`, `label_map` and `ignore_index` are read.
        split: as asked for.
        layout: name of the reader.
        labels: of the set.
        images: name -> path.
        masks: name -> path; images that it lacks have no mask.
        label_map: value in the files -> label value, where `settings.label_map` says nothing else.
        complain: what to do with findings.
        expected: number of images that the split has when complete.
        source: further facts for the record.
        kind: what to make.

    Raises:
        DataError: no image at all, or tags or saliency maps that are not as described.
    """
    names = list(images)
    if not names:
        raise DataError(f"{settings.root}: the split {split} of {layout} has no images. Expected {expected}")
    tags, facts = tag_source(settings, labels, names, names, complain)
    paths = [masks.get(name) for name in names]
    return kind(
        labels,
        names,
        list(images.values()),
        masks=paths,
        tags=tags,
        saliency=saliency_paths(settings, names, complain),
        label_map=settings.label_map or label_map,
        source={
            "root": settings.root,
            "layout": layout,
            "split": split,
            "count": len(names),
            "published_count": expected,
            "classes": layout,
            "mask_count": sum(path is not None for path in paths),
            **facts,
            **(source or {}),
        },
    )
