"""Runs of several processes: equal to those of one, and ended as a whole when one of them dies."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.reliability.children import launched
from benchmarks.reliability.family import children_of, runs
from benchmarks.reliability.victims import DATA, NETWORK, digest, tagged_and_masked
from maskwright.engine.checkpoint import load_weights

# No augmentation by rank, no dropout, fixed normalisation: what several processes add up is what one does, in another
# order of additions.
TRAIN = "epochs: 2, batch_size: 4, checkpoint_seconds: 0, workers: 0, freeze_batchnorm: true, augment: {crop: [48, 48]}"
WORDS = (
    *("run", "demo", *DATA, "tags=tags.csv", "fully_supervised=false", "seeds.scales=[1.0]", "refine=[crf]"),
    *("pseudo_masks.threshold=0.3", f"classifier={{{NETWORK}, train: {{{TRAIN}}}}}"),
    *(f"model={{name: fcn, {NETWORK}}}", f"train={{{TRAIN}}}"),
)


@dataclass
class Ranks:
    """What came of a run of several processes.

    Args:
        count: of processes.
        farthest: the largest difference of a trained weight to the run of one process.
        same: results that follow from the same weights are the same.
        seconds: that it took.
    """

    count: int
    farthest: float
    same: bool
    seconds: float


def torchrun(count: int, words: Sequence[str], folder: Path) -> subprocess.Popen[str]:
    """Begin `maskwright WORDS` in so many processes on this machine."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [*launched(count), *words],
        cwd=folder, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def equal(folder: Path, counts: Sequence[int] = (1, 2, 4)) -> list[Ranks]:
    """The same run by 1, 2, ... processes, and what the label stages make of one classifier by each."""
    found: list[Ranks] = []
    first: dict[str, torch.Tensor] = {}
    labels: dict[str, str] = {}
    for count in counts:
        place = folder / f"of{count}"
        place.mkdir(parents=True)
        tagged_and_masked(place)
        began = time.monotonic()
        process = torchrun(count, WORDS, place)
        said = process.communicate(timeout=900)[0]
        assert process.returncode == 0, said[-2000:]
        seconds = time.monotonic() - began
        weights = load_weights(place / "run/classifier/model.safetensors")
        first = first or weights
        farthest = max(float((weights[name].double() - first[name].double()).abs().max()) for name in first)
        found.append(Ranks(count, farthest, _labels_are_the_same(folder, count, labels), seconds))
    return found


def _labels_are_the_same(folder: Path, count: int, labels: dict[str, str]) -> bool:
    """Maps and masks of the classifier that the first run trained, made again by so many processes."""
    place = Path(shutil.copytree(folder / "of1", folder / f"labels{count}", dirs_exist_ok=True))
    for stage in ("seeds", "crf", "pseudo_masks"):
        shutil.rmtree(place / "run" / stage)
    process = torchrun(count, WORDS, place)
    said = process.communicate(timeout=900)[0]
    assert process.returncode == 0, said[-2000:]
    made = {
        name: value
        for name, value in digest(place / "run").items()
        if name.startswith(("seeds/", "crf/", "pseudo_masks/"))
    }
    labels.update(labels or made)
    return labels == made


def dead(folder: Path, count: int = 2, number: int = signal.SIGKILL) -> dict[str, Any]:
    """Kill the last process of a run in its training; seconds until all are gone, and what was said."""
    place = folder / f"dead{count}"
    place.mkdir(parents=True)
    tagged_and_masked(place)
    long = tuple(word.replace("epochs: 2", "epochs: 5000") for word in WORDS)
    process = torchrun(count, long, place)
    state = place / "run/classifier/state.pt"
    until = time.monotonic() + 300
    while not state.is_file():
        assert process.poll() is None, process.communicate()[0][-2000:]
        assert time.monotonic() < until, "no resume point after 300 seconds"
        time.sleep(0.05)
    ranks = sorted(children_of(process.pid))
    assert len(ranks) == count, ranks
    os.kill(ranks[-1], number)
    began = time.monotonic()
    try:
        said = process.communicate(timeout=120)[0]
    finally:
        took = time.monotonic() - began
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return {"seconds": took, "code": process.returncode, "said": said, "left": [pid for pid in ranks if runs(pid)]}
