"""The engine `local`: processes of this machine, one a processor or GPU; those that die are started again."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from maskwright.engine.progress import QUIET
from maskwright.errors import MaskwrightError
from maskwright.runs.sharing import Sharing
from maskwright.weak.engines.job import LOOK_SECONDS, Job, Schedule, attempt, devices, in_one_line, one_thread

STARTS = 3  # workers in a row that may die before they have loaded what they need


def run_local(job: Job, parts: Sequence[str], sharing: Sharing, tell: Callable[[], object]) -> None:
    """Do parts in processes of this machine; each takes the next part when it is ready.

    Raises:
        MaskwrightError: the processes cannot load what they need.
    """
    schedule = Schedule(parts, job, tell)
    workers = [_Worker(job, device) for device in devices(sharing)[: len(parts)]]
    failures = 0
    try:
        while schedule.open:
            for place in _ready(workers):
                worker = workers[place]
                try:
                    word, text = worker.pipe.recv()
                except (EOFError, ConnectionResetError):
                    how = worker.ended()
                    if worker.part is not None:
                        schedule.died(worker.part, how)
                    failures += worker.loading
                    if failures >= STARTS:
                        raise MaskwrightError(
                            f"workers die before they begin ({how}); is there enough memory?"
                        ) from None
                    workers[place] = _Worker(job, worker.device)
                    continue
                if word == "broken":
                    raise MaskwrightError(text)
                failures, worker.loading = 0, False
                if worker.part is not None:
                    schedule.done(worker.part)
                worker.part = None
            for worker in workers:
                if not worker.loading and worker.part is None and (part := schedule.take()) is not None:
                    worker.give(part)
    finally:
        for worker in workers:
            worker.process.kill()  # what it works on now is done, or will be done again
        for worker in workers:
            worker.process.join()


class _Worker:
    """A process and what it works on."""

    def __init__(self, job: Job, device: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(job, device, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.device, self.loading = device, True
        self.part: str | None = None

    def give(self, part: str) -> None:
        self.part = part
        try:
            self.pipe.send(part)
        except (BrokenPipeError, ConnectionResetError):
            return  # it has died, which is noticed where its answer is waited for

    def ended(self) -> str:
        """How its process came to its end, in words."""
        self.process.join()
        code = self.process.exitcode or 0
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _ready(workers: Sequence[_Worker]) -> list[int]:
    """Places of the workers that have something to say, or have died."""
    pipes: dict[Any, int] = {worker.pipe: place for place, worker in enumerate(workers)}
    return [pipes[pipe] for pipe in wait(list(pipes), LOOK_SECONDS)]


def _work(job: Job, device: str, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal's whole group; the main process ends this one
    QUIET.set(True)
    one_thread(device)
    try:
        work = job.open(device)
    except MaskwrightError as error:
        pipe.send(("broken", in_one_line(error)))
        return
    pipe.send(("ready", ""))
    while True:
        try:
            part = pipe.recv()
        except EOFError:  # the main process is gone
            return
        attempt(work, job, part)
        pipe.send(("done", part))
