"""COCO (Lin et al., ECCV 2014): masks painted from the instance annotations when they are asked for, tags without."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskwright.data.finding import Complain, refuse
from maskwright.data.images import ImageSet
from maskwright.data.readers.coco_annotations import Annotations, read_annotations
from maskwright.data.readers.folder import saliency_paths
from maskwright.data.readers.official import (
    Part,
    choose_part,
    complain_incomplete,
    complain_unlisted,
    files_in,
    need,
    official_labels,
    tag_source,
)
from maskwright.data.sample import LabelSpace
from maskwright.errors import DataError
from maskwright.settings import DataSettings

COUNTS = {"train2014": 82783, "val2014": 40504, "train2017": 118287, "val2017": 5000}
OPTIONS = ("year",)


class CocoSet(ImageSet):
    """Images whose masks are painted from their annotations."""

    def __init__(self, labels: LabelSpace, annotations: Annotations, rows: Sequence[int], **fields: Any) -> None:
        super().__init__(labels, **fields)
        self.annotations = annotations
        self.rows = list(rows)

    def label_values(self, index: int) -> np.ndarray:
        return self.annotations.paint(self.rows[index])


def open_coco(settings: DataSettings, split: str, complain: Complain = refuse) -> CocoSet:
    """One split of COCO 2014 with semantic masks of its 80 classes and background.

    `train2014/`, `val2014/` (in the root or in `images/`) and `annotations/instances_{train,val}2014.json`. As in the
    papers on weak supervision: instances are painted in file order, later over earlier, crowds are left out, raw ids
    (1 to 90 with gaps) become 1 to 80, the rest is background, nothing is ignored. An image without annotations is all
    background and has the tags `()`. Pixels are those of the official tools, see `polygons.paint_polygon`.

    Tags come from the annotations, including instances that others hide; `tags=masks` takes the painted pixels instead.
    The annotation file is read once per process, in pieces.

    Args:
        settings: see `data.readers.folder.open_folder`; classes and masks are the set's own. `options.year`: 2014,
            or 2017, which has the same form.
        split: `train`, `val`, or a folder's name such as `train2014`.
        complain: what to do with findings; by default errors are raised.

    Raises:
        DataError: an unknown split, missing folders or images, or an annotation file that is not as described.
    """
    year = settings.options.get("year", 2014)
    if year not in (2014, 2017):
        raise DataError(f"data.options.year must be 2014 or 2017, found {year}")
    root = Path(settings.root)
    base = root if (root / f"train{year}").is_dir() or (root / f"val{year}").is_dir() else root / "images"
    place = "" if base == root else "images/"
    known = {name: (_part(name, place),) for name in COUNTS}
    known |= {"train": known[f"train{year}"], "val": known[f"val{year}"]}
    (part,) = choose_part("coco", split, known)
    official_labels(settings, "coco", ("background",), background=0, options=OPTIONS)
    if settings.label_map is not None:
        raise DataError("layout coco paints its own masks, found data.label_map. Fix: leave it out")
    images_archive, masks_archive = part.archives.split(" and ")
    assert part.masks is not None
    need(root, {part.images: images_archive, part.masks: masks_archive}, f"the {split} split of COCO")
    path = root / part.masks
    facts = path.stat()
    annotations = read_annotations(str(path), facts.st_mtime_ns, facts.st_size)
    for finding in annotations.findings:
        complain(finding)
    labels = LabelSpace(("background", *annotations.classes), 0, settings.ignore_index)
    found = files_in(root / part.images, "")
    stems = [Path(file).stem for file in annotations.files]
    there = set(complain_unlisted(complain, stems, found, part.images))
    rows = sorted((row for row, stem in enumerate(stems) if stem in there), key=stems.__getitem__)
    names = [stems[row] for row in rows]
    if not names:
        raise DataError(f"{path} names no image that is in {part.images}. Expected {part.count}")
    complain_incomplete(complain, part, names, None, what=f"{part.name} of COCO")
    tags, tag_facts = tag_source(settings, labels, names, names, complain)
    if settings.tags is None:
        tags, tag_facts = [annotations.tags(row) for row in rows], {"tag_source": f"instances in {path}"}
    return CocoSet(
        labels,
        annotations,
        rows,
        names=names,
        images=[found[name] for name in names],
        masks=[str(path)] * len(names),
        tags=tags,
        saliency=saliency_paths(settings, names, complain),
        source={
            "root": settings.root,
            "layout": "coco",
            "split": split,
            "count": len(names),
            "published_count": part.count,
            "classes": str(path),
            "masks": f"painted from {path}",
            "mask_count": len(names),
            **tag_facts,
        },
    )


def _part(name: str, place: str) -> Part:
    kind, year = name[:-4], name[-4:]
    archives = f"{name}.zip and annotations_trainval{year}.zip"
    return Part(name, COUNTS[name], place + name, f"annotations/instances_{kind}{year}.json", archives)
