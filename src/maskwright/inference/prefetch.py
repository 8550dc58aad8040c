"""Work in threads beside the caller's, its results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def prefetched(function: Callable[[T], R], items: Iterable[T], *, workers: int, ahead: int) -> Iterator[Future[R]]:
    """Results of `function` in order, computed in threads while the caller works.

    Args:
        function: decodes one item; Pillow and NumPy let other threads run meanwhile.
        items: what it is called with.
        workers: threads.
        ahead: the most results that wait to be taken.
    """
    pool = ThreadPoolExecutor(workers)
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        pool.shutdown(cancel_futures=True)
