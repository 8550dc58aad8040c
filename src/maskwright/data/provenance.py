"""What maskwright wrote itself is never taken for ground truth: every folder of masks says what it holds and by what.

`provenance.json` lies in the folder, or, for pseudo-masks, in the one above it:

    {"format": "maskwright predictions 1", "model": "...", "weights": "...", "maskwright": "0.2.0"}
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from maskwright.data.content import file_digest
from maskwright.data.finding import Complain, Finding
from maskwright.data.sample import LabelSpace
from maskwright.errors import DataError
from maskwright.files import read_json, remove_unfinished, write_json
from maskwright.version import __version__

FILE_NAME = "provenance.json"
GIVEN_AS = ("predictions", "pseudo-masks")  # what masks may be that one trains on; the words of `data.masks_are`
REFERENCES = ("ground truth", *(f"given {word}" for word in GIVEN_AS))  # what `reference` calls the masks of a data set


def mark(folders: Mapping[Path, str], made_by: Mapping[str, Any], *, ours: bool = False) -> None:
    """Say in each folder, before anything is written to it, what it will hold. Call it in one process.

    What processes that were killed while they wrote left in it is deleted.

    Args:
        folders: folder -> what it holds: predictions, pseudo-masks, overlays, saliency maps, ...
        made_by: by what: model file, hash of its weights, ...
        ours: the folders are known to hold nothing else, though an older version may not have said so.

    Raises:
        DataError: one holds other files already, or lies in an export; none is marked then.
    """
    for folder, what in folders.items():
        refuse_in_export(folder)
        if not ours and _marked_as(folder) != what and folder.is_dir() and any(folder.iterdir()):
            raise DataError(
                f"{folder} holds files already, and no {FILE_NAME} in it says that they are {what}. Expected a folder "
                f"that is empty or holds {what}, so that nothing is overwritten or taken for what it is not. "
                "Fix: choose another out=; or, if they are results of an older version, delete them"
            )
    for folder, what in folders.items():
        remove_unfinished(folder)
        write_json(folder / FILE_NAME, {"format": f"maskwright {what} 1", **made_by, "maskwright": __version__})


def is_marked(folder: str | Path) -> bool:
    """Whether a folder itself says that maskwright wrote what it holds; such are passed over in search of images."""
    return _marked_as(folder) is not None


def made(folder: str | Path) -> tuple[str, Path] | None:
    """What a folder holds by its own record or that of a folder above it, and that record; None where nobody says."""
    real = Path(folder).resolve()
    for place in (real, *real.parents):
        what = _marked_as(place)
        if what is not None:
            return what, place / FILE_NAME
    return None


def export_record(
    what: str, written_as: str, labels: LabelSpace, digests: Mapping[str, str], made_by: Mapping[str, Any]
) -> dict[str, Any]:
    """The record of a folder that masks were exported to. Ground truth stays ground truth: no reader refuses it.

    Args:
        what: the masks are.
        written_as: name of the format.
        labels: what they mean.
        digests: path below the folder -> hash of the file as it was written.
        made_by: run, model, split, ...
    """
    ours = f"maskwright {what} 1"
    return {
        "format": ours if what != "ground truth" else "ground truth, exported by maskwright",
        "exported_as": written_as,
        **made_by,
        "labels": labels.to_dict(),
        "maskwright": __version__,
        "files": dict(digests),
    }


def changed_since_export(folder: str | Path) -> list[str] | None:
    """Files of an export that are not as they were written, or were not written with it.

    Args:
        folder: that was exported to.

    Returns:
        Their paths below the folder, sorted; None where it is no export.
    """
    record = _export_record(Path(folder))
    if record is None:
        return None
    there = {file.relative_to(folder).as_posix(): file for file in Path(folder).rglob("*") if file.is_file()}
    there.pop(FILE_NAME)
    return sorted(name for name, file in there.items() if record["files"].get(name) != file_digest(str(file)))


def _export_record(folder: Path) -> dict[str, Any] | None:
    """The record of a folder that was exported to; None where it is no export."""
    path = folder / FILE_NAME
    try:
        record = read_json(path) if path.is_file() else None
    except (DataError, OSError, UnicodeDecodeError):
        return None
    known = isinstance(record, dict) and "exported_as" in record and isinstance(record.get("files"), dict)
    return record if known else None


def export_of(path: str | Path) -> Path | None:
    """The folder at or above a path that masks which maskwright made were exported to; None where there is none."""
    found = made(path if os.path.isdir(path) else os.path.dirname(path))
    record = read_json(found[1]) if found is not None else {}
    return found[1].parent if found is not None and "exported_as" in record else None


def refuse_in_export(folder: str | Path) -> None:
    """Refuse to write into a folder that masks were exported to: what people correct there is read as it lies.

    Raises:
        DataError: the folder is one, or lies in one.
    """
    real = Path(folder).resolve()
    for place in (real, *real.parents):
        if _export_record(place) is not None:
            raise DataError(
                f"{folder} lies in {place}, an export that people may correct in another tool. Fix: choose another "
                "out=, so that corrections are not lost"
            )


def as_exported(files: Iterable[str | Path]) -> set[str]:
    """Those of some files that are as an export of maskwright's own masks wrote them: nobody has corrected them."""
    places: dict[str, tuple[Path, dict[str, str]] | None] = {}
    ours = set()
    for file in map(str, files):
        folder = os.path.dirname(file)
        if folder not in places:
            place = export_of(folder)
            places[folder] = None if place is None else (place, read_json(place / FILE_NAME).get("files") or {})
        known = places[folder]
        if known is not None:
            inside = Path(file).resolve().relative_to(known[0]).as_posix()
            if known[1].get(inside) == file_digest(file):
                ours.add(file)
    return ours


def corrected_masks(masks: Mapping[str, str], masks_are: str | None, complain: Complain) -> dict[str, str]:
    """Masks without those that maskwright exported and nobody has corrected since.

    Args:
        masks: name -> path.
        masks_are: what they are, where not ground truth; then all are used.
        complain: told what was left out.

    Raises:
        DataError: as `check_masks`; also where nobody has corrected any.
    """
    ours = as_exported(masks.values()) if masks_are is None else set()
    kept = {name: path for name, path in masks.items() if path not in ours}
    if ours and kept:
        complain(unchanged_finding(sorted(ours), len(kept)))
    folders = {os.path.dirname(path) for path in (kept or masks).values()}
    if kept and masks_are is None:
        folders = {folder for folder in folders if export_of(folder) is None}
    check_masks(folders, masks_are)
    return kept or dict(masks)


def unchanged_finding(files: Sequence[str], changed: int) -> Finding:
    """The finding for masks of an export that nobody has corrected, beside some that somebody has."""
    return Finding(
        "info",
        f"{len(files)} of {len(files) + changed} masks are as maskwright exported them: left out, the others count as "
        "ground truth",
        list(files),
        len(files),
        kind="mask-as-exported",
    )


def refuse_made(folder: str | Path, expected: str) -> None:
    """Refuse to read as part of a data set what maskwright wrote.

    Raises:
        DataError: the folder holds that; the message says which file says so.
    """
    found = made(folder)
    if found is not None:
        raise DataError(_refusal(folder, *found, expected) + "choose another folder, or move this one away")


def check_masks(folders: Iterable[str | Path], masks_are: str | None) -> None:
    """Refuse masks that maskwright wrote, unless they are asked for by name.

    Args:
        folders: that hold masks.
        masks_are: what they are, where not ground truth: one of `GIVEN_AS`.

    Raises:
        DataError: a folder holds anything else that maskwright wrote; the message says what to do.
    """
    for folder in folders:
        found = made(folder)
        if found is None or found[0] == masks_are:
            continue
        what, record = found
        ways = ["give masks=FOLDER with masks that people drew, or move this folder out of the data set"]
        if what in GIVEN_AS:
            ways.append(f"to train on them knowingly, give masks_are={what}; scores against them are then called so")
            ways.append(f"if people have corrected them all, delete {record}")
        expected = "ground truth" if masks_are is None else f"{masks_are} (masks_are={masks_are})"
        raise DataError(_refusal(folder, what, record, expected) + "; or ".join(ways))


def against(source: Mapping[str, Any]) -> str:
    """What to add to a score where the masks that it was measured against are not ground truth; else nothing.

    Args:
        source: of the data set, as kept beside scores.
    """
    masks_are = source.get("masks_are")
    return f"against {masks_are}, NOT ground truth: how far the two agree, not how right they are" if masks_are else ""


def reference(source: Mapping[str, Any]) -> str:
    """What the masks of a data set are called beside others; `source` as for `against`."""
    return f"given {source['masks_are']}" if source.get("masks_are") else "ground truth"


def _refusal(folder: str | Path, what: str, record: Path, expected: str) -> str:
    return f"{folder} holds {what} that maskwright wrote ({record} says so), expected {expected}. Fix: "


def _marked_as(folder: str | Path) -> str | None:
    path = os.path.join(folder, FILE_NAME)
    if not os.path.isfile(path):
        return None
    try:
        record = read_json(path)
    except (DataError, OSError, UnicodeDecodeError):
        return None  # somebody else's file of that name; ours are written whole
    text = record.get("format") if isinstance(record, dict) else None
    match = re.fullmatch(r"maskwright (.+) \d+", text) if isinstance(text, str) else None
    return match[1] if match else None
