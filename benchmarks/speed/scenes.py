"""How fast the built-in scenes are drawn: pictures of 128 x 128 a second from 1 and from 2 worker processes.

python benchmarks/speed/scenes.py
"""

from __future__ import annotations

import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from maskwright.data.scenes import scenes

COUNT = 600


def draw(indices: range, size: int) -> float:
    """Draws the pictures and returns the processor seconds they took."""
    data = scenes("train", count=COUNT, size=size)
    start = time.process_time()
    for i in indices:
        data[i]
    return time.process_time() - start


def main() -> None:
    for size in (128, 256):
        for workers in (1, 2):
            with ProcessPoolExecutor(workers) as pool:
                list(
                    pool.map(partial(draw, size=size), [range(20)] * workers)
                )  # starts the processes, fills the caches
                start = time.perf_counter()
                busy = sum(pool.map(partial(draw, size=size), [range(k, COUNT, workers) for k in range(workers)]))
                wall = time.perf_counter() - start
            print(
                f"{size} x {size}, {workers} worker{'s'[: workers - 1]}: {COUNT / wall:.0f} images/s, "
                f"{1000 * busy / COUNT:.2f} ms of processor time an image"
            )


if __name__ == "__main__":
    main()
