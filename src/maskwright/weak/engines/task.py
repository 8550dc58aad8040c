"""The engine `task`: task i of N, for arrays of jobs (Slurm, Kubernetes, SkyPilot) that know nothing of each other."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from maskwright.engine.device import choose_device
from maskwright.errors import RecipeError
from maskwright.runs.sharing import Sharing
from maskwright.weak.engines.job import Job, attempt, one_thread


def run_task(job: Job, parts: Sequence[str], sharing: Sharing, tell: Callable[[], object]) -> None:
    """Do every N-th part, then help with what others have left, in an order of one's own.

    Tasks see of each other the receipts alone. Two may do the same part at the end, which costs time but no harm: both
    write the same bytes.

    Raises:
        RecipeError: `task` is no `i/N`.
    """
    number, count = task_of(sharing.task)
    device = str(choose_device(sharing.device))
    one_thread(device)
    work = job.open(device)
    others = [part for place, part in enumerate(parts) if place % count != number]
    np.random.default_rng(number).shuffle(others)
    for part in [*parts[number::count], *others]:
        if not job.is_done(part):
            attempt(work, job, part)
            tell()


def task_of(text: str | None) -> tuple[int, int]:
    """The number of a task, from 0, and how many there are.

    Raises:
        RecipeError: it is not written `i/N`, or there is no such task.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text or "")
    if found is None or not int(found[1]) < int(found[2]):
        raise RecipeError(f"engine=task needs task=i/N, i from 0 to N - 1, as in task=3/16; found task={text}")
    return int(found[1]), int(found[2])
