"""CVAT's "Segmentation mask 1.1": `labelmap.txt` and masks in its colours, with or without the images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from maskwright.data.classes import resolve
from maskwright.data.finding import Complain, Finding, FindingError, number_of, refuse
from maskwright.data.images import ImageSet, list_images
from maskwright.data.masks import DECODE_ERRORS, read_mask
from maskwright.data.names import normal
from maskwright.data.provenance import check_masks, refuse_made
from maskwright.data.readers.annotated import PARTS
from maskwright.data.readers.folder import saliency_paths
from maskwright.data.readers.official import Colour, tag_source
from maskwright.data.readers.shapes import IGNORED
from maskwright.data.readers.splits import Listing, hash_split, split_names
from maskwright.data.sample import LabelSpace, voc_palette
from maskwright.data.tables.grid import read_text
from maskwright.data.tags import TagTable, image_key, match_tags
from maskwright.errors import DataError, unknown_name
from maskwright.settings import DataSettings

LABELMAP, MASKS, LISTS = "labelmap.txt", "SegmentationClass", "ImageSets/Segmentation"
NO_LABEL = ("ignored", IGNORED)  # the label that stands for none in maps of PASCAL VOC, and in what is exported here
OPTIONS = ("images", "tolerant")


class LabelmapSet(ImageSet):
    """Images whose masks have the colours of a label map, or in grey files the line numbers of its labels.

    Args:
        lines: line number -> label value; the `label_map` of `fields` is that of colours.
    """

    def __init__(self, labels: LabelSpace, *, lines: dict[int, int], **fields: object) -> None:
        super().__init__(labels, **fields)  # type: ignore[arg-type]
        self.lines = lines

    def label_values(self, index: int) -> np.ndarray | None:
        path = self.masks[index]
        if path is None:
            return None
        try:
            return read_mask(path, self.lines) if _is_grey(path) else read_mask(path, self.label_map, by_colour=True)
        except FindingError as error:
            found = error.finding
        if found is not None and found.kind in ("mask-colours", "mask-unlisted"):
            found = replace(
                found,
                what=found.what.replace("label_map", LABELMAP),
                expected=f"the colours of {LABELMAP}, or in a grey file the numbers of its labels from 0",
                fix=f"add a line for each to {LABELMAP}, as in cat:128,0,0::",
            )
        raise FindingError(found or f"{path}: mask cannot be read")


def _is_grey(path: str) -> bool:
    try:
        with Image.open(path) as picture:
            return picture.mode not in ("P", "PA", "RGB", "RGBA", "RGBX")
    except DECODE_ERRORS:
        return False  # whoever reads it says why


def open_cvat_masks(settings: DataSettings, split: str, complain: Complain = refuse) -> LabelmapSet:
    """One split of an export of CVAT, "Segmentation mask 1.1".

    `labelmap.txt`, `SegmentationClass/NAME.png`, `ImageSets/Segmentation/SPLIT.txt`, and `JPEGImages/` where images
    were saved too; else `data.options.images` is their folder. Classes are the labels in the order of `labelmap.txt`,
    background in front: the label of that name, else the black one, else black itself. `ignored` and `__ignore__` stand
    for no label. The list `default.txt`, if it is the only one, is divided as in `data.readers.folder.open_folder`.

    Args:
        settings: `root`, `rename`, `background`, `ignore_index`, `tags`, `saliency`; classes and masks are the
            export's own. `options`: `images`, `tolerant` (decode truncated images).
        split: a list, `train`, `val`, `test` for CVAT's `Train`, `Validation`, `Test`, or `all`.
        complain: what to do with findings; by default errors are raised.

    Raises:
        DataError: a file or folder that is missing or not as described, or images that are missing.
    """
    root = Path(settings.root)
    for key in sorted(set(settings.options) - set(OPTIONS)):
        raise DataError(unknown_name("option of cvat_masks", key, OPTIONS))
    for key in ("classes", "masks", "masks_are", "label_map"):
        if getattr(settings, key) is not None:
            raise DataError(
                f"layout cvat_masks has its own {key}, found data.{key}={getattr(settings, key)}. "
                "Fix: leave it out, or read the files with layout=folder"
            )
    colours = read_labelmap(root / LABELMAP, complain)
    labels, values = _labels(settings, colours)
    folder = root / MASKS
    if not folder.is_dir():
        raise DataError(f"{root} has no folder {MASKS}. Expected an export of CVAT, Segmentation mask 1.1")
    check_masks({str(folder)}, None)
    masks, _ = list_images(folder, made=True)
    if not masks:
        raise DataError(f"{folder} holds no masks. Expected an export of CVAT, Segmentation mask 1.1")
    image_folder, images = _images(settings, root)
    table = TagTable(str(folder))
    by_key = {image_key(name): path for name, path in masks.items()}
    for key, path in by_key.items():
        table.add(key, (), path)
    spelled = {normal(name): name for name in images}
    found = match_tags(table, spelled, lambda finding: complain(_of_masks(finding, image_folder)))
    matched = {spelled[name]: key for name, key in found.items()}
    listing = Listing({name: images[name] for name in images if name in matched}, None, {"images": str(image_folder)})
    names, split_source = _split(root, split, listing, complain)
    tags, facts = tag_source(settings, labels, names, list(images), complain)
    return LabelmapSet(
        labels,
        lines={line: values[name] for line, name in enumerate(colours)},
        names=names,
        images=[images[name] for name in names],
        masks=[by_key[matched[name]] for name in names],
        tags=tags,
        saliency=saliency_paths(settings, names, complain),
        label_map=_by_colour(colours, values, labels),
        source={
            "root": settings.root,
            "layout": "cvat_masks",
            "split": split,
            "split_source": split_source,
            "count": len(names),
            "classes": str(root / LABELMAP),
            "masks": str(folder),
            "mask_count": len(names),
            **facts,
        },
        tolerant=bool(settings.options.get("tolerant")),
    )


def read_labelmap(path: Path, complain: Complain = refuse) -> dict[str, Colour]:
    """Label -> colour of a label map, in the order of its lines; without colours they are those of PASCAL VOC.

    A line is `label:red,green,blue:parts:actions`; lines that begin with # are left out.

    Raises:
        DataError: no such file, or no label in it; lines that are not as described are findings.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist. Expected an export of CVAT, Segmentation mask 1.1")
    found: dict[str, Colour | None] = {}
    wrong = []
    for number, line in enumerate(read_text(path)[0].splitlines(), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        label, *rest = text.rsplit(":", 3)
        try:
            red, green, blue = (int(part) for part in rest[0].split(",")) if rest[0] else (-1, 0, 0)
            colour = (red, green, blue) if red >= 0 else None
            if len(rest) != 3 or not label or label in found or max(red, green, blue) > 255 or min(green, blue) < 0:
                raise ValueError
            if colour is not None and colour in found.values():
                raise ValueError
        except (ValueError, IndexError):
            wrong.append(f"line {number}: {text}")
            continue
        found[label] = colour
    if wrong:
        complain(
            Finding(
                "error",
                f"{path} has {number_of(len(wrong), 'line')} that no label can be read from",
                wrong,
                len(wrong),
                expected="lines such as cat:128,0,0::, each label and each colour once",
                fix="correct them, or export again",
                kind="labelmap-line",
            )
        )
    if not found:
        raise DataError(f"{path} has no labels. Expected lines such as cat:128,0,0::")
    voc = voc_palette(256)
    return {label: colour or voc[min(index, 255)] for index, (label, colour) in enumerate(found.items())}


def _labels(settings: DataSettings, colours: dict[str, Colour]) -> tuple[LabelSpace, dict[str, int]]:
    """The label space, and the value of each label of the map; labels that `rename` gives one name are one class."""
    rename = {normal(old): normal(new.split(";")[0].strip()) for old, new in (settings.rename or {}).items()}
    classes = {label: rename.get(normal(label), normal(label)) for label in colours}
    classes = {label: IGNORED if not name or name in NO_LABEL else name for label, name in classes.items()}
    known = [name for name in classes.values() if name.strip("_ ").lower() == "background"]
    known += [classes[label] for label, colour in colours.items() if colour == (0, 0, 0) and classes[label] != IGNORED]
    background: str | None = known[0] if known else "background"
    if settings.background in (None, "none"):
        background = None
    elif settings.background != "auto":
        background = str(settings.background)
        if background not in classes.values():
            raise DataError(f"background: {unknown_name('class', background, classes.values())}")
    names = list(dict.fromkeys([*([] if background is None else [background]), *classes.values()]))
    names = [name for name in names if name != IGNORED]
    palette = [next((colours[label] for label, name in classes.items() if name == one), (0, 0, 0)) for one in names]
    labels = LabelSpace(tuple(names), None if background is None else 0, settings.ignore_index, tuple(palette))
    values = {name: value for value, name in enumerate(names)} | {IGNORED: settings.ignore_index}
    return labels, {label: values[name] for label, name in classes.items()}


def _by_colour(colours: dict[str, Colour], values: dict[str, int], labels: LabelSpace) -> dict[int, int]:
    """0xRRGGBB -> label value; black, where no label has it, is what CVAT leaves unlabelled."""
    keys = {red << 16 | green << 8 | blue: values[label] for label, (red, green, blue) in colours.items()}
    return {0: labels.ignore_index if labels.background is None else labels.background, **keys}


def _images(settings: DataSettings, root: Path) -> tuple[Path, dict[str, str]]:
    typed = settings.options.get("images")
    folder = root / "JPEGImages" if typed is None else resolve(root, typed)
    if not folder.is_dir():
        raise DataError(
            f"{root} has no folder {typed or folder.name}. CVAT leaves the images out unless they are asked for. "
            "Fix: give data.options.images=FOLDER, the images that were labelled"
        )
    refuse_made(folder, "images")
    images, _ = list_images(folder)
    if not images:
        raise DataError(f"{folder} holds no images. Fix: give data.options.images=FOLDER")
    return folder, images


def _of_masks(finding: Finding, folder: Path) -> Finding:
    if finding.kind != "tag-no-image":
        return finding
    return replace(
        finding,
        level="error",
        what=f"{number_of(finding.count, 'mask')} without an image in {folder}",
        fix="add the images, or give data.options.images=FOLDER",
        kind="image-missing",
    )


def _split(root: Path, split: str, listing: Listing, complain: Complain) -> tuple[list[str], str]:
    """Names of a split by CVAT's lists, whose names begin with a capital, or by a part of the only one."""
    lists = {path.stem: path for path in sorted((root / LISTS).glob("*.txt"))}
    if split in lists or split == "all":
        return split_names(root, split, listing, complain)
    for stem in lists:
        if stem.lower() in PARTS.get(split, (split.lower(),)):
            return split_names(root, stem, listing, complain)
    if list(lists) == ["default"] and split in ("train", "val"):
        names, source = split_names(root, "default", listing, complain)
        train, val = hash_split(names)
        return (train if split == "train" else val), f"{source}, divided by hash of the name"
    return split_names(root, split, listing, complain)
