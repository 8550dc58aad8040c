"""Masks that people drew or corrected in another tool, for images of a folder: `masks=` is what the tool exported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from maskwright.data.classes import resolve
from maskwright.data.finding import Complain, Finding, number_of
from maskwright.data.images import ImageSet, list_images
from maskwright.data.sample import LabelSpace
from maskwright.settings import DataSettings

Reader = Callable[..., Any]


class CorrectedSet(ImageSet):
    """Images whose masks are another set's, by its own class names."""

    def __init__(self, labels: LabelSpace, drawn: ImageSet, rows: list[int | None], table: np.ndarray, **fields: Any):
        super().__init__(labels, **fields)
        self.drawn, self.rows, self.table = drawn, rows, table

    def label_values(self, index: int) -> np.ndarray | None:
        row = self.rows[index]
        values = None if row is None else self.drawn.label_values(row)
        return None if values is None else self.table[values]


def open_corrected(
    settings: DataSettings, split: str, complain: Complain, opener: Reader, layout: str, reader: Reader
) -> ImageSet:
    """A plain folder whose masks are what an annotation tool exported; images that it does not have are without.

    Classes are the folder's, by `classes`, `classes.txt` or tags; where none of these tells them, the tool's. Images
    are the same where their names are, or their file names where only one image has that.

    Args:
        settings: of the folder; `masks` is the tool's.
        split: which images.
        complain: what to do with findings.
        opener: opens the folder.
        layout: name of the reader of what the tool exported.
        reader: opens it.

    Raises:
        DataError: as the two readers; a class that the folder does not have.
    """
    root = Path(settings.root)
    place = resolve(root, str(settings.masks))
    inner: dict[str, Any] = {
        "root": str(place), "layout": layout, "masks": None, "tags": None, "saliency": None, "classes": None,
        "background": "auto", "options": {},
    }  # fmt: skip
    bare = not (place / "JPEGImages").is_dir() if layout == "cvat_masks" else not list_images(place)[0]
    if bare:  # annotations alone: the images are the folder's
        usual = "JPEGImages" if (root / "JPEGImages").is_dir() else "images"
        images = resolve(root, str(settings.options.get("images", usual)))
        inner["options"] = {"images": str((images if images.is_dir() else root).resolve())}
    drawn = reader(settings.model_copy(update=inner), "all", complain)
    plain: dict[str, Any] = {"masks": None}
    if settings.tags == "masks":
        plain["tags"] = None
    tagged = settings.tags not in (None, "masks")
    told = settings.classes is not None or tagged or (root / "classes.txt").is_file()
    if not told:
        plain |= {"classes": list(drawn.labels.names), "background": drawn.labels.background}
    base = opener(settings.model_copy(update=plain), split, complain, without_masks=True)
    table, strange = _values(drawn.labels, base.labels)
    if strange:
        complain(
            Finding(
                "error",
                f"classes of {place} that the images do not have: {', '.join(strange)}",
                [str(place)],
                len(strange),
                expected=f"one of {', '.join(base.labels.names)}",
                fix="rename them in the tool, or give classes= with all of them",
                kind="class-unknown",
            )
        )
    rows, left = _rows(base.names, drawn)
    if left:
        complain(
            Finding(
                "info",
                f"{number_of(left, 'mask')} of {place} for images that are not in split {split!r}",
                [str(place)],
                left,
                kind="mask-elsewhere",
            )
        )
    masks = [None if row is None else drawn.masks[row] for row in rows]
    source = {"masks": str(place), "mask_count": sum(path is not None for path in masks)}
    return CorrectedSet(
        base.labels,
        drawn,
        rows,
        table,
        names=base.names,
        images=base.images,
        masks=masks,
        tags="masks" if settings.tags == "masks" else base.given_tags,
        saliency=base.saliency,
        source={**base.source, **source},
        tolerant=base.tolerant,
    )


def _values(drawn: LabelSpace, labels: LabelSpace) -> tuple[np.ndarray, list[str]]:
    """`(256,)` label value of each value of another label space, by names, and names that only that one has."""
    table = np.full(256, labels.ignore_index, np.uint8)
    strange = []
    for value, name in enumerate(drawn.names):
        if name in labels.names:
            table[value] = labels.names.index(name)
        elif value == drawn.background and labels.background is not None:
            table[value] = labels.background
        elif value != drawn.background:
            strange.append(name)
    return table, strange


def _rows(names: list[str], drawn: ImageSet) -> tuple[list[int | None], int]:
    """For each image its row in another set, where that has a mask of it; and masks there of other images."""
    known = {name: row for row, name in enumerate(drawn.names) if drawn.has_mask(row)}
    ends: dict[str, list[str]] = {}
    for name in known:
        parts = name.split("/")
        for start in range(1, len(parts)):
            ends.setdefault("/".join(parts[start:]), []).append(name)
    rows: list[int | None] = []
    for name in names:
        parts = name.split("/")
        tails = ["/".join(parts[start:]) for start in range(len(parts))]
        found = next((known[tail] for tail in tails if tail in known), None)
        if found is None and len(ends.get(name, [])) == 1:
            found = known[ends[name][0]]
        rows.append(found)
    return rows, len(known) - len({row for row in rows if row is not None})
