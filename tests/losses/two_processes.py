"""Started by torchrun: a gradient under DDP with loss max-pooling, written by the first process."""

import sys
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from maskwright.engine import distributed
from maskwright.losses.loss_max_pooling import LossMaxPooling


def example():
    """A network, images `(4, 3, 12, 12)` and labels of which one image is much harder than the others."""
    torch.manual_seed(0)
    network = torch.nn.Conv2d(3, 4, 3, padding=1).double()
    images = torch.randn(4, 3, 12, 12, dtype=torch.float64)
    images[3] *= 8
    labels = torch.randint(0, 4, (4, 12, 12))
    labels[:, :2] = 255
    return network, images, labels


def main(scope: str, path: str) -> None:
    distributed.initialise("cpu")
    network, images, labels = example()
    half = slice(2 * distributed.rank(), 2 * distributed.rank() + 2)
    wrapped = DistributedDataParallel(network)
    LossMaxPooling(p=1.3, scope=scope)(wrapped(images[half]), labels[half]).backward()
    if distributed.is_main():
        torch.save(network.weight.grad, path)


if __name__ == "__main__":
    for number in range(1, len(sys.argv), 2):
        main(*sys.argv[number : number + 2])
    distributed.barrier()
    distributed.shutdown()
    threads = [name.read_text().strip() for name in Path("/proc/self/task").glob("*/comm")]
    assert not [name for name in threads if "gloo" in name], threads  # they may abort the process at its end
