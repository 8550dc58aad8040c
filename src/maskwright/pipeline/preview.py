"""A page to look at while masks are made: which stage it is in, how far, and a dozen images with what there is of them.

It is made in the process that works, between two steps, and takes at most a tenth of the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from maskwright.data import without_masks
from maskwright.engine.progress import WATCHER, Progress
from maskwright.errors import MaskwrightError
from maskwright.report.gallery import Ranked, Row, training_rows
from maskwright.report.pictures import spread
from maskwright.report.preview import lead_to_report, write_preview
from maskwright.runs.contents import read_run
from maskwright.runs.context import RunContext
from maskwright.runs.stages import Stage, states

IMAGES = 12
SIDE = 320  # long side of a picture, in pixels
SECONDS = 3.0  # least time between two writings
WORK = 9  # times as long as a writing took, before the next


@contextmanager
def previewed(
    context: RunContext, stages: Sequence[Stage], say: Callable[[str], None]
) -> Iterator[Callable[[str], None]]:
    """Keep `preview.html` of a run true while the body works; at the end it leads to the report.

    Args:
        context: of the run.
        stages: of the run, whose last makes pseudo-masks.
        say: prints one line.

    Yields:
        Prints one line, and looks whether the page is due.
    """
    page = _Preview(context, stages)
    page.write()
    say(f"preview: {context.out.preview.resolve().as_uri()}")

    def tell(line: str) -> None:
        say(line)
        page.look(None)

    token = WATCHER.set(page.look)
    try:
        yield tell
    except BaseException as error:
        with suppress(OSError):  # a full disk may be why the work ended, which is to be told
            page.write(ended=_why(error))
        raise
    finally:
        WATCHER.reset(token)
    lead_to_report(context.out.preview, page.name, context.out.report)


class _Preview:
    """What is shown of a run.

    Args:
        context: of the run.
        stages: of it.
    """

    def __init__(self, context: RunContext, stages: Sequence[Stage]) -> None:
        self.context, self.stages = context, list(stages)
        self.images = without_masks(context.train)
        self.name = context.out.path.resolve().name
        self.tagged = [index for index in range(len(self.images)) if self.images.tags(index)]
        self.chosen: list[int] = []
        self.rows: dict[int, tuple[list[str], Row]] = {}
        self.due = 0.0

    def look(self, progress: Progress | None) -> None:
        """Write the page if it is time."""
        if time.monotonic() >= self.due:
            self.write(progress)

    def write(self, progress: Progress | None = None, ended: str = "") -> None:
        """Write the page; nothing is drawn twice."""
        started = time.monotonic()
        words = {name: state.word for name, state in states(self.stages, self.context.out).items()}
        own = [name for name, word in words.items() if word in ("finished", "unfinished")]
        rows = self._rows(own)
        said = self._said(words, progress)
        write_preview(self.context.out.preview, self.name, said, rows, self.images.labels, ended=ended)
        now = time.monotonic()
        self.due = now + max(SECONDS, WORK * (now - started))

    def _said(self, words: dict[str, str], progress: Progress | None) -> list[dict[str, Any]]:
        current = next((name for name, word in words.items() if word != "finished"), None)
        said: list[dict[str, Any]] = []
        for stage in self.stages:
            row: dict[str, Any] = {"title": stage.title, "words": "", "share": 0.0, "now": stage.name == current}
            if words[stage.name] == "finished":
                row |= {"words": "done", "share": 1.0}
            elif row["now"] and progress is not None:
                row |= {"words": progress.line(), "share": min(0.99, progress.done / max(1, progress.total or 0))}
            said.append(row)
        return [*said, {"title": "verdict and report", "words": "", "share": 0.0, "now": current is None}]

    def _rows(self, own: Sequence[str]) -> list[Row]:
        """A row for each chosen image; of stages that are stale or of another recipe nothing is shown."""
        out = self.context.out
        self._choose("seeds" in own)
        run = read_run(out)
        columns = {"seeds": "seed", **run.refined, "pseudo_masks": "pseudo-mask"}
        fresh = {column: name for name, column in columns.items() if name in own}
        for index in self.chosen:
            name = self.images.names[index]
            files = {
                column: out.masks / f"{name}.png" if stage == "pseudo_masks" else out.maps(stage) / f"{name}.npz"
                for column, stage in fresh.items()
            }
            there = [column for column, path in files.items() if path.is_file()]
            if index not in self.rows or self.rows[index][0] != there:
                item = Ranked(name, index, None, "")
                (row,) = training_rows(run, self.images, self.images.labels, [item], SIDE)
                row.cells = {key: cell for key, cell in row.cells.items() if key == "image" or key in there}
                self.rows[index] = there, row
        return [self.rows[index][1] for index in self.chosen]

    def _choose(self, seeds: bool) -> None:
        """Images from all over the set; once a dozen has maps, of those that have."""
        maps = self.context.out.maps("seeds")
        mapped = (
            [index for index in self.tagged if (maps / f"{self.images.names[index]}.npz").is_file()] if seeds else []
        )
        enough = len(mapped) >= min(IMAGES, len(self.tagged))
        if not self.chosen or (enough and not set(self.chosen) <= set(mapped)):
            among = mapped if enough else self.tagged
            self.chosen = [among[place] for place in spread(len(among), IMAGES)]


def _why(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "The same command goes on from here."
    if isinstance(error, MaskwrightError):
        return str(error)
    return f"The terminal says why ({type(error).__name__}); the same command goes on from here."
