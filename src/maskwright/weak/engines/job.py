"""What an engine works on: parts of a set by name, each done by itself, in any order, by any process."""

from __future__ import annotations

import os
import statistics
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from maskwright.engine.device import choose_device
from maskwright.errors import MaskwrightError
from maskwright.runs.sharing import Sharing

LATE, LATE_SECONDS = 3.0, 5.0  # how many times as long as others a part may take, and at least this long
LOOK_SECONDS = 1.0  # between looks for parts that are late
ATTEMPTS = 2  # workers that may die over one part before it is passed over


class Job(Protocol):
    """Work in parts. It is sent to the processes that work on it, so it can be pickled and is small.

    A part that is done leaves a receipt, written last and at once, and doing it twice gives the same bytes: so whoever
    finds a receipt passes over the part, and two that work on one part do no harm.
    """

    def open(self, device: str) -> Callable[[str], None]:
        """In the process that works: load what it takes, and give what does one part, by its name.

        Raises:
            MaskwrightError: what it takes is missing.
        """

    def is_done(self, part: str) -> bool:
        """Whether a part has its receipt."""

    def failed(self, part: str, why: str) -> None:
        """Note that a part could not be done."""


# Called with the job, the parts that are not done yet, what a person said, and what to call after each part.
Engine = Callable[[Job, Sequence[str], Sharing, Callable[[], object]], None]


def attempt(work: Callable[[str], None], job: Job, part: str) -> None:
    """Do one part; an error is noted, and the others go on."""
    try:
        work(part)
    except Exception as error:  # whatever it is, it is of this part alone, and is told
        job.failed(part, in_one_line(error))


def in_one_line(error: BaseException) -> str:
    """The text of an error of ours; of another one its kind as well."""
    text = " ".join(str(error).split())
    return text if isinstance(error, MaskwrightError) else f"{type(error).__name__}: {text}"


def devices(sharing: Sharing) -> list[str]:
    """Where each worker computes.

    Raises:
        RecipeError: as `choose_device`.
    """
    kind = choose_device(sharing.device)
    if kind.type != "cuda":
        processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return [str(kind)] * (sharing.workers or (processors if kind.type == "cpu" else 1))
    if ":" in sharing.device:
        return [sharing.device] * (sharing.workers or 1)
    count = torch.cuda.device_count()
    return [f"cuda:{number % count}" for number in range(sharing.workers or count)]


def one_thread(device: str) -> None:
    """Compute with one thread on a CPU: the processors are shared by whole workers, and bits depend on the count."""
    if device == "cpu":
        torch.set_num_threads(1)


class Schedule:
    """Which part a worker takes next: one that nobody has; at the end one that another takes long over.

    Args:
        parts: to be done.
        job: is told of parts over which workers die.
        tell: called after each part.
    """

    def __init__(self, parts: Sequence[str], job: Job, tell: Callable[[], object]) -> None:
        self.waiting, self.job, self.tell = deque(parts), job, tell
        self.open = set(parts)
        self.begun: dict[str, float] = {}  # when somebody began, of parts that somebody works on
        self.hands: Counter[str] = Counter()  # how many work on each
        self.deaths: Counter[str] = Counter()
        self.seconds: list[float] = []

    def take(self) -> str | None:
        """The next part of a worker; None where there is nothing for it, now or ever."""
        if self.waiting:
            part = self.waiting.popleft()
        elif (late := self._late()) is not None:
            part = late
        else:
            return None
        self.begun.setdefault(part, time.monotonic())
        self.hands[part] += 1
        return part

    def _late(self) -> str | None:
        """The first part that one worker takes far longer over than parts take."""
        if not self.seconds:
            return None
        limit = time.monotonic() - max(LATE_SECONDS, LATE * statistics.median(self.seconds))
        return next((part for part, begun in self.begun.items() if begun < limit and self.hands[part] == 1), None)

    def done(self, part: str) -> None:
        """A worker has ended a part, well or with a note of what failed."""
        self.hands[part] -= 1
        if part in self.open:
            self.seconds.append(time.monotonic() - self.begun[part])
            self._close(part)

    def died(self, part: str, how: str) -> None:
        """A worker has died over a part; others try again."""
        self.hands[part] -= 1
        self.deaths[part] += 1
        if part not in self.open or self.hands[part]:
            return
        del self.begun[part]
        if self.deaths[part] < ATTEMPTS:
            self.waiting.appendleft(part)
            return
        self.job.failed(part, f"{ATTEMPTS} workers died over it ({how})")
        self._close(part)

    def _close(self, part: str) -> None:
        self.open.remove(part)
        self.begun.pop(part, None)
        self.tell()
