"""The same work by one process and by two: seed maps of a folder, steps of training, scenes.

The first two run as `torchrun` starts them, joined by gloo; the work is shared as the product shares it. Each process
has one thread. What is timed lies between two barriers, so starting the processes is not in it.
"""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing

from benchmarks.speed.cam_extraction import Photographs
from maskwright.data.scenes import scenes
from maskwright.engine import distributed
from maskwright.models import create_classifier, create_model
from maskwright.settings import SeedSettings
from maskwright.weak.seeds.extract import extract_folder

Work = Callable[[], Any]


def seed_maps(folder: Path, count: int) -> Work:
    """Maps of a folder of images from a small network; each process takes its share of the batches."""
    dataset = Photographs(count, 96, 128)
    torch.manual_seed(0)
    network = create_classifier(backbone="resnet10t", num_tags=20).eval()
    return lambda: extract_folder(dataset, network, SeedSettings(), folder, "cpu", batch_pixels=2**18)


def training(folder: Path, count: int) -> Work:
    """Steps on batches of 8, each process with its share, gradients averaged."""
    torch.manual_seed(0)
    device = torch.device("cpu")
    model: Any = create_model("deeplabv3plus", backbone="resnet10t", num_classes=21, output_stride=16)
    runner = distributed.wrap(model.train(), device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    share = 8 // distributed.world_size()
    images, labels = torch.randn(share, 3, 96, 96), torch.randint(0, 21, (share, 96, 96))

    def steps() -> None:
        for _ in range(count):
            torch.nn.functional.cross_entropy(runner(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

    return steps


def drawn(folder: Path, count: int) -> Work:
    """Built-in scenes of 128 x 128 pixels."""
    data = scenes("train", count=count, size=128)

    def draw() -> None:
        for index in range(distributed.rank(), count, distributed.world_size()):
            data[index]

    return draw


WORK: dict[str, tuple[Callable[[Path, int], Work], int]] = {
    "seed maps": (seed_maps, 32),
    "training, batch 8": (training, 6),
    "scenes of 128 x 128": (drawn, 300),
}


def measured_processes(share: float = 1.0) -> list[dict[str, Any]]:
    """Clock and processor seconds with 1 and 2 processes, and their ratios.

    Args:
        share: of the usual amount of work.
    """
    found = []
    for name, (_, count) in WORK.items():
        amount = max(2, round(share * count))
        (clock, processor), (clock_2, processor_2) = (_run(name, amount, size) for size in (1, 2))
        found.append(
            {
                "name": name,
                "amount": amount,
                "wall_s": [clock, clock_2],
                "cpu_s": [processor, processor_2],
                "clock": clock / clock_2,
                "processor": processor_2 / processor,
            }
        )
    return found


def _run(name: str, amount: int, size: int) -> tuple[float, float]:
    """Longest clock time and summed processor time of `size` processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    results: Any = context.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_worker, (name, amount, size, port, Path(folder), results), nprocs=size)
    found = [results.get() for _ in range(size)]
    return max(clock for clock, _ in found), sum(processor for _, processor in found)


def _worker(rank: int, name: str, amount: int, size: int, port: int, folder: Path, results: Any) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    distributed.initialise("cpu")
    make = WORK[name][0]
    make(folder / "warm", 2)()
    work = make(folder / "all", amount)
    distributed.barrier()
    clock, processor = time.perf_counter(), time.process_time()
    work()
    distributed.barrier()
    results.put((time.perf_counter() - clock, time.process_time() - processor))
    distributed.shutdown()
