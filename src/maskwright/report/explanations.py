"""Pictures of what `maskwright explain` wrote into a run's folder `explanations`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from maskwright.data.decode import Reading
from maskwright.data.images import read_image
from maskwright.data.sample import LabelSpace
from maskwright.files import read_arrays, read_json
from maskwright.report.gallery import Layer, Row, css
from maskwright.report.pictures import heat_uri, photo_uri
from maskwright.runs.folder import EXPLANATIONS, MAPS, RunFolder

MOST_ROWS = 12
PLAIN = Reading()


def explanation_gallery(
    run_folder: RunFolder, labels: LabelSpace, side: int, reading: Reading = PLAIN
) -> dict[str, Any] | None:
    """The gallery of evidence maps, one row per image; None where nothing was explained.

    Args:
        run_folder: the run folder.
        labels: names and colours.
        side: long side of a picture, in pixels.
        reading: how the run reads images.

    Raises:
        DataError: explanations.json is not JSON, or an image that it names can no longer be read.
    """
    folder = run_folder.explanations
    records = read_json(folder / EXPLANATIONS) if (folder / EXPLANATIONS).is_file() else []
    found = [record for record in records if (folder / MAPS / f"{record['name']}.npz").is_file()]
    rows = [_row(folder, record, labels, side, reading) for record in found[:MOST_ROWS]]
    if not rows:
        return None
    ways = sorted({f"region {record['region']}, layer {record['layer'] or 'default'}" for record in found})
    note = f"{len(rows)} of {len(found)} images. Grad-CAM: {'; '.join(ways)}."
    columns = [column for column in ("image", "evidence") if any(column in row.cells for row in rows)]
    return {"key": "explanations", "title": "Evidence for classes", "note": note, "columns": columns, "rows": rows}


def _row(folder: Path, record: dict[str, Any], labels: LabelSpace, side: int, reading: Reading) -> Row:
    name = record["name"]
    arrays = read_arrays(folder / MAPS / f"{name}.npz", ("keys", "cam"))
    keys, maps = arrays["keys"].tolist(), arrays["cam"].astype(np.float32)
    height, width = maps.shape[1:]
    photo = Path(record["image"])
    there = photo.is_file()
    row = Row(
        name=name,
        score=None,
        kind="",
        tags=None,
        photo=photo_uri(read_image(photo, reading=reading), side) if there else "",
        ratio=round(width / height, 4),
    )
    if there:
        row.cells["image"] = [Layer("", f"Photograph {name}")]
    layers = [
        Layer(
            heat_uri(score, (width, height), max(96, side // (1 if len(keys) == 1 else 2))),
            f"evidence for {labels.names[key]} in {name}",
            caption=labels.names[key],
            colour=css(labels.palette[key]),
            heat=True,
        )
        for key, score in zip(keys, maps)
    ]
    if layers:
        row.cells["evidence"] = layers
    return row
