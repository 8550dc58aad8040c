"""The engine `torchrun`: the ranks that torchrun started pull parts from one counter, on one machine or many."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.distributed as dist

from maskwright.engine import distributed
from maskwright.engine.device import choose_device
from maskwright.errors import RecipeError
from maskwright.runs.sharing import Sharing
from maskwright.weak.engines.job import Job, attempt, one_thread


def run_torchrun(job: Job, parts: Sequence[str], sharing: Sharing, tell: Callable[[], object]) -> None:
    """Do parts in all ranks; each takes the next part when it is ready. A rank that dies ends all, as ever.

    Args:
        job: the same in all ranks.
        parts: the same in all ranks.
        sharing: see `Sharing`.
        tell: called after each part of this rank.

    Raises:
        RecipeError: there is one process.
    """
    if distributed.world_size() == 1:
        raise RecipeError("engine=torchrun is for processes that torchrun starts; engine=local starts its own")
    device = str(choose_device(sharing.device))
    one_thread(device)
    work = job.open(device)
    store = dist.distributed_c10d._get_default_store()
    while (place := store.add("maskwright parts", 1) - 1) < len(parts):
        attempt(work, job, parts[place])
        tell()
    distributed.barrier()
