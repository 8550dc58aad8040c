"""A contestant in a process of its own, for what a whole process is set up for, such as how it keeps memory."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch


class Apart:
    """Called like the function that it stands for, which is made and runs in a new process.

    Args:
        make: gives the function; found by name in the other process, so defined at the top of a module.
        arguments: for `make`.
    """

    def __init__(self, make: Callable[..., Callable[[], Any]], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        self.process.start()
        theirs.close()

    def __call__(self) -> Any:
        self.connection.send(torch.get_num_threads())
        return self.connection.recv()


def _serve(connection: Any, make: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...]) -> None:
    function = make(*arguments)
    while True:
        try:
            torch.set_num_threads(connection.recv())
        except EOFError:
            return
        connection.send(function())
