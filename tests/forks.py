"""The command in processes that are forks of one that has imported all: each begins at once, and can be killed."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys

SERVER = """
import json, os, signal, sys
import torch._dynamo
import maskwright.cli, maskwright.pipeline.run, maskwright.report.build
from maskwright.models.backbones import import_timm

import_timm()

for line in sys.stdin:
    words = json.loads(line)
    child = os.fork()
    if not child:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        sys.argv = ["maskwright", *words]
        maskwright.cli.main()
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Forks:
    """Runs one command after another, each in a process and a group of its own.

    Args:
        environment: of all of them.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment,
        )  # fmt: skip
        self.running = 0

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.server.stdin.close()
        self.server.wait(timeout=60)

    def start(self, words: list[str]) -> None:
        """Begin a command; the one before it has ended."""
        self.server.stdin.write(json.dumps(words) + "\n")
        self.running = int(self.server.stdout.readline())

    def ended(self, seconds: float = 0.0) -> int | None:
        """The exit code, or minus the signal, of what was started; None where it still runs after so many seconds."""
        if not select.select([self.server.stdout], [], [], seconds)[0]:
            return None
        self.running = 0
        return int(self.server.stdout.readline())

    def kill(self) -> None:
        """Kill what runs, with all that it started."""
        if self.running and self.ended() is None:
            os.killpg(self.running, signal.SIGKILL)
            assert self.ended(60) is not None
