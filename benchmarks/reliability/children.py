"""The command line in processes of their own that begin at once: a server that has imported everything forks them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path

from benchmarks.reliability.family import descendants, group_of

# What the server imports, so that none of its children has to; the guard comes before timm.
PRELOADED = [
    *("torch._dynamo", "maskwright._torchvision_guard", "timm", "numba", "matplotlib.figure"),
    *("maskwright.cli.endings", "maskwright.pipeline.run", "maskwright.pipeline.relabel", "maskwright.inference.load"),
]
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(PRELOADED)
KILLED = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, 128 + signal.SIGTERM, 128 + signal.SIGINT)


@dataclass
class Child:
    """A command that works.

    Args:
        process: that does; the first of a group of its own.
        log: gets all that it says.
        elsewhere: processes that it has started in other groups, when it was last sent a signal.
    """

    process: BaseProcess
    log: Path
    elsewhere: set[int] = field(default_factory=set)

    def wait(self, seconds: float) -> int | None:
        """The exit code, negative where a signal ended it; None where it still works after so many seconds."""
        self.process.join(seconds)
        return self.process.exitcode

    def send(self, number: int, *, group: bool = False) -> None:
        """Send a signal to the process, or to all that it has started too."""
        first = self.process.pid or 0
        if self.process.exitcode is None:
            self.elsewhere |= {pid for pid in descendants(first) if group_of(pid) not in (first, None)}
        for pid in self.elsewhere if group else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(first, number)

    def end(self) -> None:
        """Kill all that is left of it and of what it started, and wait until it is gone."""
        self.send(signal.SIGKILL, group=True)
        self.process.join()

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.is_file() else ""


def start(words: Sequence[str], folder: Path, *, before: Callable[[], None] | None = None) -> Child:
    """Begin `maskwright WORDS` in a folder; it has begun when this returns.

    Args:
        words: of the command line.
        folder: becomes the working folder.
        before: called in the process before the command, such as to set its limits; a function of a module.
    """
    log = folder / ".said"
    begun = SERVER.Event()
    process = SERVER.Process(target=_work, args=(list(words), str(folder), str(log), before, begun))
    process.start()
    begun.wait(60)
    return Child(process, log)


def finish(
    words: Sequence[str], folder: Path, *, seconds: float = 600, before: Callable[[], None] | None = None
) -> Child:
    """As `start`, and wait until it has ended."""
    child = start(words, folder, before=before)
    if child.wait(seconds) is None:
        child.end()
        raise TimeoutError(f"{' '.join(words)} works after {seconds} seconds: {child.said()[-2000:]}")
    return child


def _work(words: list[str], folder: str, log: str, before: Callable[[], None] | None, begun: Event) -> None:
    os.setpgrp()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    multiprocessing.set_start_method("fork", force=True)  # of loader processes, as in a process that no server forked
    os.chdir(folder)
    number = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(number, stream)
    os.close(number)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115  # for as long as the process lives
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.argv = ["maskwright", *words]
    import torch

    from maskwright.cli.endings import main

    torch.set_num_threads(1)
    begun.set()
    if before is not None:
        before()
    main()


def wait_for(path: Path, child: Child, seconds: float = 300) -> bool:
    """Wait until a file is there; false where the command ended without it."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if path.exists():
            return True
        if child.process.exitcode is not None:
            return path.exists()
        time.sleep(0.01)
    raise TimeoutError(f"{path} is not there after {seconds} seconds: {child.said()[-2000:]}")


def launched(count: int) -> list[str]:
    """The words before those of `maskwright` that start it in so many processes of this machine, by torchrun."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(count), "--master-port", str(port)]
    return [sys.executable, *launcher, "-m", "maskwright"]
