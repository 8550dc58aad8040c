"""Predictions while a segmenter learned, as a film strip: which classes come first, which are lost again."""

from __future__ import annotations

from typing import Any

from maskwright.data.dataset import Dataset
from maskwright.data.provenance import REFERENCES
from maskwright.data.sample import LabelSpace
from maskwright.report.gallery import Ranked, picture_row, stored_mask
from maskwright.report.pictures import spread
from maskwright.runs.contents import RunContents, read_log

MOST_FRAMES = 7  # beside the photograph and what it is compared with


def film_strip(run: RunContents, dataset: Dataset | None, labels: LabelSpace, side: int) -> dict[str, Any] | None:
    """The gallery of `train.snapshots`, one row per image and one column per validation; None where none were kept.

    Args:
        run: the run.
        dataset: the split that was evaluated on, for photographs and ground truth; else masks are shown alone.
        labels: names and colours.
        side: long side of a picture, in pixels.
    """
    frames = run.folder.snapshots()
    validations = [line for line in read_log(run.folder.log("segmenter")) if line["event"] == "validate"]
    if not frames or len(frames) > len(validations):
        return None
    shown = spread(len(frames), MOST_FRAMES)
    titles = {place: f"epoch {validations[place]['epoch']:g}" for place in shown}
    places = {} if dataset is None else {name: index for index, name in enumerate(dataset.names)}
    names = [path.relative_to(frames[-1]).as_posix()[: -len(".png")] for path in sorted(frames[-1].rglob("*.png"))]
    rows = []
    for name in names:
        masks = {titles[place]: stored_mask(frames[place], name) for place in shown}
        known = dataset if name in places else None
        rows.append(picture_row(Ranked(name, places.get(name, -1), None, ""), known, labels, masks, {}, side))
    columns = ["image", *titles.values(), *REFERENCES]
    columns = [column for column in columns if any(column in row.cells for row in rows)]
    note = f"{len(names)} images after {len(shown)} of {len(frames)} validations."
    return {"key": "film", "title": "While it learned", "note": note, "columns": columns, "rows": rows}
