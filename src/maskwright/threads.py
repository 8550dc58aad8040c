"""Work of compiled functions shared by threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch


def in_parts(function: Callable[[int, int], Any], length: int, least: int = 1) -> list[Any]:
    """What `function(first, end)` returns for each part of `range(length)`, one part for each of torch's threads.

    Args:
        function: holds no interpreter lock while it works, as a compiled one.
        length: what is divided.
        least: the shortest part that is worth a thread.
    """
    parts = max(1, min(torch.get_num_threads(), length // max(1, least)))
    if parts == 1:
        return [function(0, length)]
    bounds = [length * part // parts for part in range(parts + 1)]
    with ThreadPoolExecutor(parts) as pool:
        return list(pool.map(function, bounds[:-1], bounds[1:]))
