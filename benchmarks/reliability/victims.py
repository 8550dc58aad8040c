"""Kinds of runs that the harness kills: each a command on tiny data, and what of its results must not change.

Another kind is one more entry of `VICTIMS`; a kind that is not one command gives its own `start`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from benchmarks.reliability import children
from benchmarks.reliability.children import Child

CLASSES = ("background", "red", "green", "blue")
# What a clock or a place gives, at whatever depth of a JSON file.
TIMED = {
    "seconds",
    "processor_seconds",
    "images_per_second",
    "memory_mb",
    "making",
    "made_of",
    "host",
    "started",
    "date",
}
COMPARED = (".npz", ".png", ".safetensors", ".txt", ".jpg", ".tar", ".receipt.json")
UNCOMPARED = {"run.json", "stage.json", ".digests.json", "report.html", "preview.html"}


class Start(Protocol):
    def __call__(self, words: tuple[str, ...], folder: Path) -> Child: ...


@dataclass(frozen=True)
class Victim:
    """A kind of run.

    Args:
        words: of the command that starts it and goes on with it, in a folder that `prepare` has filled.
        prepare: fills an empty folder with what it reads.
        results: the folder in it whose files are compared.
        stages: it says which stage it is in, as `maskwright run` does.
        start: begins it, or goes on with it.
        workers: of the process that was started, those that may be killed beside it; the run goes on.
        told: exit codes of a program that starts it or works for it, as torchrun and Ray do, when it is told to
            stop or a process has died.
        digest: of that folder; equal where two runs have the same results.
    """

    words: tuple[str, ...]
    prepare: Callable[[Path], None]
    results: str = "run"
    stages: bool = True
    start: Start = children.start
    workers: Callable[[int], list[int]] | None = None
    told: tuple[int, ...] = ()
    digest: Callable[[Path], dict[str, str]] = lambda folder: digest(folder)


def digest(folder: Path) -> dict[str, str]:
    """Each result below a folder by its hash; what is timed, and pages that show it, does not count."""
    found = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).as_posix()
        passing = ".stale-" in inside or inside.startswith(("after/", "features/"))
        if passing or path.is_dir() or path.name in UNCOMPARED:
            continue
        held = path.read_bytes() if path.name.endswith(COMPARED) else b""
        if not held and path.suffix in (".json", ".jsonl"):
            held = path.read_bytes()
            text = path.read_text(errors="replace")
            lines = text.splitlines() if path.suffix == ".jsonl" else [text]
            with contextlib.suppress(ValueError):  # one that is damaged counts as it is
                held = repr([untimed(json.loads(line)) for line in lines]).encode()
        if held:
            found[inside] = hashlib.sha256(held).hexdigest()[:16]
    return found


def untimed(value: Any) -> Any:
    """A JSON value without what a clock gives, and without places, which are those of the run that was copied."""
    if isinstance(value, dict):
        kept = {key: inner for key, inner in value.items() if not (isinstance(inner, str) and inner.startswith("/"))}
        return {key: untimed(inner) for key, inner in kept.items() if key not in TIMED}
    return [untimed(inner) for inner in value] if isinstance(value, list) else value


def photographs(root: Path, count: int = 12, side: int = 48) -> None:
    """Noise with a square of a class in each image; its masks, and a table of its tags."""
    rng = np.random.default_rng(0)
    rows = ["image,tags"]
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        value = 1 + number % (len(CLASSES) - 1)
        image = rng.integers(0, 120, (side, side, 3), dtype=np.uint8)
        mask = np.zeros((side, side), np.uint8)
        top, left = rng.integers(2, side // 2, 2)
        area = np.s_[top : top + side // 3, left : left + side // 3]
        image[area][..., value - 1] = 230
        mask[area] = value
        Image.fromarray(image).save(root / "images" / f"{number:02}.png")
        Image.fromarray(mask).save(root / "masks" / f"{number:02}.png")
        rows.append(f"{number:02}.png,{CLASSES[value]}")
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    (root / "tags.csv").write_text("\n".join(rows) + "\n")


def tagged_and_masked(folder: Path) -> None:
    photographs(folder / "photos")


TINY = "epochs: 2, batch_size: 4, checkpoint_seconds: 0, augment: {crop: [48, 48], flip: 0.5}"
NETWORK = "backbone: test_resnet, pretrained: false, options: {}, output_stride: 32"
DATA = ("data=photos", "layout=folder", "data.options={}", "device=cpu", "out=run")
TAGS = (
    *("run", "demo", *DATA, "tags=tags.csv", "data.saliency=barrier"),
    f"classifier={{{NETWORK}, train: {{{TINY}, workers: 1}}}}",
    *("seeds.scales=[1.0]", "refine=[crf, saliency, irn]", "pseudo_masks.threshold=auto"),
    "irn={backbone: test_resnet, train_radius: 3, options: {}, exp_times: 3}",
    f"irn.train={{{TINY}, workers: 0}}",
    f"model={{name: fcn, {NETWORK}}}",
    f"train={{{TINY}, workers: 0}}",
)
MASKS = (
    *("run", "deeplabv3plus-quick", *DATA, "supervision=masks", f"model={{name: fcn, {NETWORK}}}"),
    f"train={{{TINY}, workers: 2, ema: 0.9, validate_every: 1}}",
)
RELABEL = ("relabel", "run", "device=cpu")
PREDICT = ("predict", "run", "photos/images", "out=predicted", "device=cpu", "probabilities=true")


def finished(folder: Path) -> None:
    """A run from masks that is done, beside its data."""
    tagged_and_masked(folder)
    child = children.finish(MASKS, folder)
    assert child.process.exitcode == 0, child.said()


VICTIMS = {
    "tags to masks to model": Victim(TAGS, tagged_and_masked),
    "masks to model": Victim(MASKS, tagged_and_masked),
    "predict": Victim(PREDICT, finished, results="predicted", stages=False),
}
