"""The table at the front of the README, from the rows of the recipes for photographs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from maskwright.files import atomic_write

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- made by python -m benchmarks.claims -->\n", "<!-- end -->"
# What it says, the command, the row and the score; and the stages whose time that is.
LINES = (
    ("masks of the 354 photographs", "maskwright label photos/ tags.csv", "instant", "train"),
    ("a model, on 82 other photographs", "maskwright run instant data=photos/ tags=tags.csv", "instant", "model"),
    ("better masks of the 354", "maskwright label photos/ tags.csv recipe=seam", "seam", "train"),
    ("and by a model", "maskwright run seam ... out=DIR`, `maskwright relabel DIR", "seam", "relabelled"),
    ("the same model from 354 true masks", "fully_supervised=true", "instant", "model from true masks"),
)
AHEAD = ("segmenter", "evaluation", "oracle", "oracle_evaluation")  # stages after the masks


def front(rows: Sequence[dict[str, Any]]) -> str:
    """The table, or nothing where a row has not been run.

    Args:
        rows: of `claims.json`.
    """
    lines = ["| what | command | mIoU | processor time |", "|---|---|---|---|"]
    for what, command, recipe, score in LINES:
        mine = [row for row in rows if row["row"] == f"recipe {recipe}" and score in row["scores"]]
        if not mine:
            return ""
        values = [row["scores"][score] for row in mine]
        of_some = f" (median of {len(values)})" if len(set(values)) > 1 else ""
        minutes = median(_minutes(row["stages"], score) for row in mine)
        lines.append(f"| {what} | `{command}` | {median(values):.3f}{of_some} | {minutes:.0f} min |")
    found = mine[0]["facts"]
    lines += ["", f"({found['machine']}, commit {found['commit']}, {found['date']}.)"]
    return "\n".join(lines) + "\n"


def _minutes(stages: dict[str, float], score: str) -> float:
    """Processor time up to the masks, or up to the model's evaluation."""
    masks = sum(seconds for name, seconds in stages.items() if name not in AHEAD)
    if score == "train":
        return masks / 60
    if score == "model from true masks":
        return sum(stages.get(name, 0) for name in AHEAD[2:]) / 60
    return (masks + sum(stages.get(name, 0) for name in AHEAD[:2])) / 60


def write_front(rows: Sequence[dict[str, Any]]) -> None:
    """Put the table where the README has it."""
    table = front(rows)
    if not table:
        return
    text = README.read_text(encoding="utf-8")
    found = re.sub(re.escape(BEGIN) + ".*?" + re.escape(END), lambda _: BEGIN + table + END, text, flags=re.DOTALL)
    with atomic_write(README) as temporary:
        temporary.write_text(found, encoding="utf-8")
