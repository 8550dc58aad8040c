"""`preview.html`: how far a run is and what its first images look like, while it goes on."""

from __future__ import annotations

import html
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maskwright.data.sample import LabelSpace
from maskwright.files import atomic_write
from maskwright.report.build import gallery_columns, write_page
from maskwright.report.gallery import Row, css

EVERY = 4  # seconds after which a browser loads the page again
FORWARD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="color-scheme" content="light dark">
<meta http-equiv="refresh" content="0; url={target}">
<title>{name} · maskwright preview</title>
</head>
<body>
<p>{name} is done: <a href="{target}">its report</a>.</p>
</body>
</html>
"""


def write_preview(
    path: Path,
    name: str,
    stages: Sequence[dict[str, Any]],
    rows: list[Row],
    labels: LabelSpace,
    *,
    ended: str = "",
) -> Path:
    """Write the page as things are now.

    Args:
        path: of the page.
        name: of the run.
        stages: in order: `title`; `words`, how far it is; `share` of it that is done, 0 to 1; `now`, whether it is
            being worked on.
        rows: images with what there is of them.
        labels: names and colours.
        ended: why the work does not go on; "" while it does: the page then loads itself again.
    """
    columns = gallery_columns(rows)
    title = "The first masks" if "pseudo-mask" in columns else "The first maps" if len(columns) > 1 else "Some images"
    note = "These images stay while more is made of them."
    if len(columns) == 1:
        note = "Are these their tags? Maps and masks come to stand beside them."
    gallery = {"key": "pictures", "title": title, "note": note, "columns": columns, "rows": rows}
    context = {
        "name": name,
        "stages": stages,
        "done": sum(stage["share"] == 1 for stage in stages),
        "legend": [(label, css(colour)) for label, colour in zip(labels.names, labels.palette)],
        "at": time.strftime("%H:%M:%S"),
        "every": 0 if ended else EVERY,
        "ended": ended,
    }
    return write_page(path, "preview.html.j2", context, lambda side: [gallery] if rows else [])


def lead_to_report(path: Path, name: str, report: Path) -> None:
    """Make of the page one that leads to the report beside it, for a browser that has it open."""
    with atomic_write(path) as temporary:
        text = FORWARD.format(name=html.escape(name), target=html.escape(report.name))
        temporary.write_text(text, encoding="utf-8")
