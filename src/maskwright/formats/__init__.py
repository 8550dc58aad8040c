"""What masks are written as for other tools: one writer for each format, by the name that `format=` gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from maskwright.data.content import file_digest
from maskwright.data.provenance import FILE_NAME, changed_since_export, export_record
from maskwright.errors import DataError, unknown_name
from maskwright.files import atomic_folder, write_json
from maskwright.formats.coco import write_coco, write_coco_polygons
from maskwright.formats.cvat import write_cvat
from maskwright.formats.export import Export
from maskwright.formats.fiftyone import write_fiftyone
from maskwright.formats.huggingface import write_huggingface
from maskwright.formats.label_studio import write_label_studio
from maskwright.formats.labelme import write_labelme
from maskwright.formats.yolo import write_yolo, write_yolo_semantic

# Each writes everything into an empty folder and returns what it had to leave out or change, in sentences.
FORMATS: dict[str, Callable[[Export, Path], list[str]]] = {
    "coco": write_coco,
    "coco-polygons": write_coco_polygons,
    "yolo": write_yolo,
    "yolo-semantic": write_yolo_semantic,
    "labelme": write_labelme,
    "fiftyone": write_fiftyone,
    "huggingface": write_huggingface,
    "cvat": write_cvat,
    "label-studio": write_label_studio,
}

# What models are written as, by `maskwright.inference.export`: the suffix of the file for each format.
MODEL_FORMATS = {"onnx": ".onnx", "torch-export": ".pt2", "safetensors": ".safetensors"}


def write(export: Export, name: str, out: str | Path) -> list[str]:
    """Write images and masks as another tool reads them, wholly or not at all.

    An earlier export in the same folder is replaced, unless a file in it was changed since, or is not from it.

    Args:
        export: what is written.
        name: one of `FORMATS`.
        out: the folder.

    Returns:
        What was left out or changed, in sentences.

    Raises:
        DataError: no such format, a folder that holds anything else, or an image or mask that cannot be read.
    """
    check(name, out)
    with atomic_folder(out) as folder:
        said = FORMATS[name](export, folder)
        digests = {
            path.relative_to(folder).as_posix(): file_digest(str(path))
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        write_json(folder / FILE_NAME, export_record(export.what, name, export.labels, digests, export.made_by))
    return said


def check(name: str, out: str | Path) -> None:
    """What `write` refuses before it reads anything.

    Raises:
        DataError: no such format, or a folder that holds anything but an export as it was written.
    """
    if name not in FORMATS:
        raise DataError(unknown_name("format", name, [*FORMATS, *MODEL_FORMATS]))
    folder = Path(out)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if folder.resolve() == Path.cwd():
        raise DataError(f"out={out} is the folder that you are in; give one of its own")
    changed = changed_since_export(folder)
    if changed is None:
        raise DataError(
            f"{folder} holds files already, and none of maskwright's exports. Fix: choose another out=, nothing is "
            "written over"
        )
    if changed:
        shown = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
        raise DataError(
            f"{folder} holds an export in which files were changed or added since: {shown}. Fix: choose another out=, "
            "so that corrections are not lost"
        )
