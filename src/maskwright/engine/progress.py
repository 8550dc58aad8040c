"""What a person sees during the work, and the log that stays: JSON lines, and TensorBoard where it is installed."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

from maskwright.engine import processes
from maskwright.files import append_jsonl

LOG = "log.jsonl"  # the name of the log of a training in its folder
PLAIN_SECONDS = 10.0  # least time between lines where the output is not a terminal

# Set where the work of others would only be noise.
QUIET: ContextVar[bool] = ContextVar("QUIET", default=False)

# Called with each piece of work that moves on, for a person who does not look at the terminal.
WATCHER: ContextVar[Callable[[Progress], None] | None] = ContextVar("WATCHER", default=None)

T = TypeVar("T")

# One live display serves all nested bars, since a terminal can show only one.
_display: Any = None
_bars = 0


class Progress:
    """How far a piece of work is: a live line on a terminal, else a plain line now and then; only in the main process.

    Args:
        title: what is being done.
        total: steps in all, or None where nobody knows.
        done: steps that were done before, by a run that was stopped.
    """

    def __init__(self, title: str, total: int | None, done: int = 0) -> None:
        self.title = title
        self.total = total
        self.done = self.done_before = done
        self.info = ""
        self.started = self.last_line = time.monotonic()
        self.shown = processes.is_main() and not QUIET.get()
        self.live = self.shown and sys.stderr.isatty()

    def __enter__(self) -> Progress:
        if self.live:
            self.task = _open_display().add_task(self.title, total=self.total, completed=self.done, info="")
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            _close_display(self.task)
        if self.shown and self.seconds >= PLAIN_SECONDS:
            print(f"{self.title}: {self.done} done in {in_words(self.seconds)}  {self.info}".rstrip(), file=sys.stderr)

    def update(self, done: int, info: str = "") -> None:
        """Say how many steps are done, and what else there is to say."""
        self.done, self.info = done, info or self.info
        if not self.shown:
            return
        if (watch := WATCHER.get()) is not None:
            watch(self)
        if self.live:
            _display.update(self.task, completed=done, info=self.info)
        elif time.monotonic() - self.last_line >= PLAIN_SECONDS:
            self.last_line = time.monotonic()
            print(self.line(), file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """One line of its own."""
        if self.live:
            _display.console.print(f"{self.title}: {text}", markup=False, highlight=False)
        elif self.shown:
            print(f"{self.title}: {text}", file=sys.stderr, flush=True)

    def line(self) -> str:
        """The plain line: title, steps, what else was said, time left."""
        if not self.total:
            return f"{self.title}: {self.done}  {self.info}".rstrip()
        parts = [f"{self.title}: {self.done}/{self.total} ({100 * self.done // self.total} %)", self.info]
        newly = self.done - self.done_before
        if newly > 0 and self.done < self.total:
            parts.append(f"about {in_words(self.seconds * (self.total - self.done) / newly)} left")
        return "  ".join(part for part in parts if part)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


def track(items: Iterable[T], title: str, total: int | None = None) -> Iterator[T]:
    """Go through items while showing how far it is.

    Args:
        items: anything that can be iterated.
        title: what is being done.
        total: count of items, where `len(items)` cannot say.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Progress(title, total) as progress:
        for number, item in enumerate(items, start=1):
            yield item
            progress.update(number)


def in_words(seconds: float) -> str:
    """A duration to read: `45 s`, `12 min`, `3 h 20 min`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


class RunLog:
    """Writes `log.jsonl`, one line per event, and the same numbers for TensorBoard where it is installed.

    TensorBoard's files go to `tensorboard/` in the same folder; `MASKWRIGHT_TENSORBOARD=0` turns them off. Only the
    main process writes. Lines after `keep_bytes` were written by a run that was stopped; they are cut off and made
    again.

    Args:
        folder: where `log.jsonl` is.
        keep_bytes: length of the log at the point where training resumes.
        step: optimiser steps done at that point.
    """

    def __init__(self, folder: Path, keep_bytes: int = 0, step: int = 0) -> None:
        self.path = folder / LOG
        self.writer = None
        if not processes.is_main():
            return
        folder.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab") as stream:
            stream.truncate(min(keep_bytes, stream.seek(0, os.SEEK_END)))
        if os.environ.get("MASKWRIGHT_TENSORBOARD", "1") != "0":
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                return
            self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, event: str, step: int, epoch: float, values: dict[str, Any]) -> dict[str, Any]:
        """Write one event; numbers that are not finite become null.

        Returns:
            The line that was written.
        """
        line = {**plain(values), "event": event, "step": step, "epoch": epoch}
        line = {key: line[key] for key in ("event", "step", "epoch")} | line
        if processes.is_main():
            append_jsonl(self.path, line)
            if self.writer is not None:
                for name, value in _numbers(plain(values)):
                    self.writer.add_scalar(f"{event}/{name}", value, step)
        return line

    @property
    def bytes(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self.writer is not None:
            self.writer.close()


def plain(value: Any) -> Any:
    """The same value in types that strict JSON has: array and tensor scalars as numbers, NaN and infinity as None."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(values: dict[str, Any], path: str = "") -> Iterator[tuple[str, float]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{path}{key}/")
        elif isinstance(value, int | float):
            yield path + key, value


def _open_display() -> Any:
    global _display, _bars
    if _display is None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Display

        _display = Display(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[info]}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        _display.start()
    _bars += 1
    return _display


def _close_display(task: Any) -> None:
    global _display, _bars
    _display.remove_task(task)
    _bars -= 1
    if _bars == 0:
        _display.stop()
        _display = None
