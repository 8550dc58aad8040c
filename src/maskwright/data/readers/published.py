"""Classes and sizes of published sets, known without their files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from maskwright.data.classes import VOC_CLASSES, read_classes
from maskwright.data.readers import ade20k, camvid, cityscapes, nyu_depth, pascal_context
from maskwright.data.readers.official import Part
from maskwright.data.sample import LabelSpace
from maskwright.errors import DataError
from maskwright.settings import DataSettings

VOC_COUNTS = {"train": 1464, "val": 1449, "trainval": 2913, "trainaug": 10582}


def published_labels(settings: DataSettings) -> tuple[LabelSpace, dict[str, int]]:
    """Classes of a published set that need not be there, and images in its splits.

    Raises:
        DataError: a layout without classes of its own.
    """
    ignore = settings.ignore_index
    if isinstance(settings.classes, str) and Path(settings.classes).is_file():
        return _with_names(read_classes(Path(settings.classes)), ignore), {}
    if isinstance(settings.classes, list):
        return _with_names(settings.classes, ignore), {}
    if settings.layout == "voc":
        return _with_names(VOC_CLASSES, ignore), VOC_COUNTS
    if settings.layout == "coco":
        return _with_names(["background", *(f"class_{value}" for value in range(1, 81))], ignore), {}
    if settings.layout == "cityscapes":
        return _with_names([name for name, _, _ in cityscapes.CLASSES], ignore), _counts(cityscapes.SPLITS)
    if settings.layout == "ade20k":
        return _with_names(ade20k.CLASSES, ignore), _counts(ade20k.SPLITS)
    if settings.layout == "nyu_depth":
        return _with_names(nyu_depth.CLASSES, ignore), _counts(nyu_depth.SPLITS)
    if settings.layout == "camvid":
        return _with_names(camvid.GROUPS, ignore), {}
    if settings.layout == "pascal_context":
        rest = ["background"] if settings.options.get("classes") == len(pascal_context.CLASSES) + 1 else []
        return _with_names([*rest, *pascal_context.CLASSES], ignore), _counts(pascal_context.SPLITS)
    raise DataError(
        f"data {settings.root} is not here, and layout {settings.layout!r} does not tell the classes. "
        "Fix: give data=FOLDER, or data.layout=voc (cityscapes, ade20k, ...), or data.classes='[name, name]'"
    )


def _with_names(names: Iterable[str], ignore_index: int) -> LabelSpace:
    names = tuple(names)
    return LabelSpace(names, names.index("background") if "background" in names else None, ignore_index)


def _counts(splits: Mapping[str, tuple[Part, ...]]) -> dict[str, int]:
    return {name: sum(part.count for part in parts) for name, parts in splits.items()}
