"""A training of seconds; as a script, also by torchrun: `train_toy.py FOLDER key=value ... [-- FOLDER ...]`."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from maskwright.data.loading import TrainingSet
from maskwright.engine import distributed
from maskwright.engine.fit import fit
from maskwright.settings import TrainSettings

LABELS = {"names": ["background", "bright"], "background": 0, "ignore_index": 255, "palette": [[0, 0, 0], [128, 0, 0]]}
METADATA = {
    "kind": "segmenter",
    "model": {"name": "toy", "backbone": "none", "output_stride": None, "options": {}, "num_classes": 2},
    "labels": LABELS,
    "preprocessing": {"mean": [0.0] * 3, "std": [1.0] * 3},
    "recipe": {},
}


class Toy:
    """Grey noise; the class is whether a pixel is bright."""

    def __init__(self, count=24):
        self.names = [f"image{index}" for index in range(count)]

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return torch.randint(0, 256, (1, 8, 8), generator=generator, dtype=torch.uint8)


def augment(image, rng):
    """Random flip, and noise that the order of calls would change if it had a history."""
    if rng.random() < 0.5:
        image = image.flip(-1)
    return {"image": image, "mask": (image[0] > rng.integers(120, 136)).to(torch.uint8)}


def train_set(count=24, seed=0):
    return TrainingSet(Toy(count), augment, seed)


def network(norm=True, dropout=0.3, seed=0):
    torch.manual_seed(seed)
    middle = [nn.BatchNorm2d(6)] if norm else []
    return nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), *middle, nn.ReLU(), nn.Dropout(dropout), nn.Conv2d(6, 2, 1))


def step(model, batch):
    logits = model(batch["image"].float() / 255 - 0.5)
    loss = F.cross_entropy(logits, batch["mask"].long())
    return loss, {"cross_entropy": loss.detach()}


def settings(**changes):
    fields = {"steps": 14, "batch_size": 4, "lr": 0.2, "workers": 0, "log_every": 3, "checkpoint_seconds": 0.0}
    return TrainSettings(**{**fields, **changes})


def train(folder, *, model=None, validate=None, step=step, data=None, **changes):
    """`fit` on the toy set; returns the model and what `fit` returned."""
    model = network() if model is None else model
    result = fit(
        model,
        step,
        train_set() if data is None else data,
        settings(**changes),
        folder,
        validate=validate,
        metadata=METADATA,
        device="cpu",
        title="toy",
    )
    return model, result


def killed_in_step(number):
    """A `step` during whose call `number` (from 0) the process is killed without warning."""
    calls = iter(range(10**9))

    def deadly(model, batch):
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(model, batch)

    return deadly


def main():
    torch.set_num_threads(1)
    distributed.initialise("cpu")
    for arguments in " ".join(sys.argv[1:]).split(" -- "):
        run(*arguments.split())
    distributed.shutdown()


def run(folder, *rest):
    given = {key: json.loads(value) for key, value in (pair.split("=") for pair in rest)}
    norm, dropout = given.pop("norm", True), given.pop("dropout", 0.3)
    kill, different = given.pop("kill", None), given.pop("different_parts", False)

    def two_names(model, batch):
        loss, parts = step(model, batch)
        return loss, parts | ({"more": loss.detach()} if distributed.rank() == 1 else {})

    def validate(model):
        seen = distributed.all_reduce_sum(torch.ones(1))
        return {"processes": int(seen), "sum": sum(float(p.double().sum()) for p in model.parameters())}

    chosen = killed_in_step(kill) if kill is not None else two_names if different else step
    model = network(norm, dropout, seed=distributed.rank())
    _, result = train(Path(folder), model=model, validate=validate, step=chosen, **given)
    if distributed.is_main():
        print(json.dumps(result))


if __name__ == "__main__":
    main()
