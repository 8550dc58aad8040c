"""What makes a stopped run resume as if it had not been stopped."""

from __future__ import annotations

import json
import pickle
import random
import signal
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskwright.engine import distributed
from maskwright.engine.checkpoint import MODEL
from maskwright.errors import DataError
from maskwright.settings import TrainSettings

STATE = "state.pt"  # the name of the resume point in its folder

# What a resume point says.
FINISHED = ("finished", "identity", "result")
WEIGHTS = ("model", "extra", "optimizer", "average", "scaler")
UNFINISHED = (
    "finished",
    "identity",
    "step",
    "validated",
    "seconds",
    *WEIGHTS,
    "window",
    "window_steps",
    "last",
    "log_bytes",
)

# Settings that do not change what the weights become; a run may go on with others.
FREE_SETTINGS = ("workers", "validate_every", "checkpoint_seconds", "log_every")


def read_state(folder: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The resume point of a folder, or None where there is none.

    Args:
        folder: holds `state.pt`, and `model.safetensors` where training is finished.
        identity: as `identity_of` gives it.

    Raises:
        DataError: it cannot be read, or belongs to another training; the message names what differs.
    """
    path = folder / STATE
    if not path.is_file():
        return None
    try:
        if not zipfile.is_zipfile(path):  # torch would take anything else for a pickle of its oldest format
            raise EOFError("it is cut off or not a state")
        with zipfile.ZipFile(path) as archive:  # torch does not look at the checksums
            damaged = archive.testzip()
        if damaged is not None:
            raise EOFError(f"{damaged} in it is damaged")
        state = torch.load(path, map_location="cpu", weights_only=True)
        said = state if isinstance(state, dict) else {}
        needed = FINISHED if said.get("finished") is True else UNFINISHED
        missing = [key for key in needed if key not in said]
        if missing:
            raise EOFError(f"it does not hold {', '.join(missing)}")
    except (RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read ({error}); delete it to train from the start") from error
    if state["finished"] and not (folder / MODEL).is_file():
        return None
    before = _with_later_settings(json.loads(state["identity"]))
    changed = [
        f"{key} was {before.get(key)}, is {identity[key]}" for key in identity if before.get(key) != identity[key]
    ]
    if changed:
        raise DataError(
            f"{path} belongs to another training: {'; '.join(changed)}. "
            "Give the same settings to resume it, or choose another folder"
        )
    return state


def _with_later_settings(identity: dict[str, Any]) -> dict[str, Any]:
    """An identity in which settings that the version which wrote it did not have are at their default."""
    default = TrainSettings().model_dump(mode="json")
    return {**default, **identity, "augment": {**default["augment"], **identity["augment"]}}


def identity_of(settings: TrainSettings, train_set: Any) -> dict[str, Any]:
    """All that decides how a training goes besides the model: settings, count of images, seed; JSON-able.

    `channels_last=auto` goes by what was the default before it, so that trainings of earlier versions go on.
    """
    return {
        **settings.model_dump(mode="json", exclude=set(FREE_SETTINGS)),
        "channels_last": settings.channels_last is True,
        "training images": len(train_set),
        "seed of the training set": train_set.seed,
    }


def seed_everything(*keys: int) -> None:
    """Start torch's, numpy's and Python's global generators from numbers such as (seed, step, rank).

    Done before every step, so that what a network draws (dropout) has no history that a stopped run could lose.
    """
    drawn = int(np.random.SeedSequence([key % 2**64 for key in keys]).generate_state(1, np.uint32)[0])
    # Not torch.manual_seed: where CUDA is not in use it queues a call with a formatted stack, each time.
    torch.default_generator.manual_seed(drawn)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(drawn)
    np.random.seed(drawn)  # noqa: NPY002
    random.seed(drawn)


class StopSignals:
    """Inside the block the first SIGINT or SIGTERM asks for a stop after the present step; a second acts as always."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        self.received = number
        signal.signal(number, self.before[number])

    def leave(self, message: str) -> None:
        """End the process as the signal would have, with a message."""
        if distributed.is_main():
            print(message, file=sys.stderr)
        raise SystemExit(128 + (self.received or signal.SIGTERM))
