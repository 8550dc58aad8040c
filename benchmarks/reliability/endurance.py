"""A training of many epochs: memory and handles at its end are those of its beginning; and any number of loaders."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from maskwright.data.loading import TrainingSet
from maskwright.engine.checkpoint import load_weights
from maskwright.engine.fit import fit
from maskwright.settings import TrainSettings

METADATA = {"kind": "segmenter", "labels": {"names": ["background", "bright"]}}


class Noise:
    """Images of noise; the class of a pixel is whether it is bright."""

    names = tuple(map(str, range(8)))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> np.ndarray:
        return np.random.default_rng(index).integers(0, 256, (3, 16, 16), np.uint8)


def augmented(image: np.ndarray, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    image = image[..., ::-1] if rng.random() < 0.5 else image
    return {
        "image": torch.tensor(image.copy()),
        "mask": torch.tensor((image[0] > rng.integers(120, 136)).astype(np.uint8)),
    }


def step(network: nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    loss = F.cross_entropy(network(batch["image"].float() / 255), batch["mask"].long())
    return loss, {"cross_entropy": loss.detach()}


def train(folder: Path, epochs: int, *, workers: int = 0, seen: Any = None) -> dict[str, torch.Tensor]:
    """Train a small network; its weights.

    Args:
        folder: an empty one.
        epochs: how long.
        workers: loader processes.
        seen: called at each validation.
    """
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(4, 2, 1)
    )
    settings = TrainSettings(
        epochs=epochs, batch_size=4, lr=0.01, workers=workers, validate_every=1, checkpoint_seconds=0
    )
    train_set = TrainingSet(Noise(), augmented, 0)
    validate = lambda model: (seen and seen(), {"sum": float(sum(p.sum() for p in model.parameters()))})[1]  # noqa: E731
    fit(network, step, train_set, settings, folder, validate=validate, metadata=METADATA, device="cpu")
    return load_weights(folder / "model.safetensors")


def epochs(folder: Path, count: int = 500, *, workers: int = 0) -> dict[str, list[float]]:
    """Resident megabytes, handles and objects that Python tracks after each tenth of so many epochs."""
    found: dict[str, list[float]] = {"megabytes": [], "handles": [], "objects": []}
    calls = iter(range(1, 10 * count))

    def seen() -> None:
        if next(calls) % (count // 10) == 0:
            gc.collect()
            found["megabytes"].append(resident())
            found["handles"].append(len(os.listdir("/proc/self/fd")))
            found["objects"].append(len(gc.get_objects()))

    train(folder, count, workers=workers, seen=seen)
    return found


def loaders_are_equal(folder: Path, counts: tuple[int, ...] = (0, 1, 4)) -> bool:
    """Whether any number of loader processes gives the same bits."""
    trained = [train(folder / str(count), 3, workers=count) for count in counts]
    return all(torch.equal(trained[0][name], other[name]) for other in trained for name in trained[0])


def resident() -> float:
    """Megabytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
