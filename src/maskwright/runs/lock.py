"""One process at a time works in a run folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from maskwright.errors import MaskwrightError
from maskwright.files import remove_unfinished
from maskwright.runs.folder import RunFolder


@contextmanager
def run_lock(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a run folder for this process; where the system has no `flock` (Windows) nothing is held.

    What processes that were killed in the middle of writing left in it is deleted then.

    Raises:
        MaskwrightError: another process works in the folder now.
    """
    run = RunFolder(folder)
    run.path.mkdir(parents=True, exist_ok=True)
    if os.name == "nt":
        yield
        return
    import fcntl

    with open(run.lock, "w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MaskwrightError(f"another process is working in {run}; wait for it, or choose another out=") from None
        remove_unfinished(run.path)
        yield
