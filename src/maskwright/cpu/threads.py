"""Work of compiled functions shared by threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch

_inside = threading.local()


def in_parts(function: Callable[[int, int], Any], length: int, least: int = 1) -> list[Any]:
    """What `function(first, end)` returns for each part of `range(length)`, one part for each of torch's threads.

    The calling thread takes the first part. A call from within a part is not divided further.

    Args:
        function: holds no interpreter lock while it works, as a compiled one.
        length: what is divided.
        least: the shortest part that is worth a thread.
    """
    parts = max(1, min(torch.get_num_threads(), length // max(1, least)))
    if parts == 1 or getattr(_inside, "part", False):
        return [function(0, length)]
    bounds = [length * part // parts for part in range(parts + 1)]
    others = [_pool(parts - 1).submit(_part, function, *bound) for bound in pairwise(bounds[1:])]
    return [_part(function, 0, bounds[1]), *(other.result() for other in others)]


def _part(function: Callable[[int, int], Any], first: int, end: int) -> Any:
    _inside.part = True
    try:
        return function(first, end)
    finally:
        _inside.part = False


@lru_cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Kept, since starting threads takes as long as many a part."""
    return ThreadPoolExecutor(threads, "maskwright part")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # its threads do not live there
