"""Sets of shards of tiny images, and runs whose networks are ready to label them."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from maskwright.data.sample import LabelSpace
from maskwright.data.shards.index import SetIndex, shard_record, write_index, write_shard_index
from maskwright.data.shards.tars import Hashed, write_tar
from maskwright.engine.progress import track

LABELS = LabelSpace(("background", "cat", "dog", "cow"))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def write_shards(folder: Path, shards: int, images: int, side: int) -> None:
    """Shards of noise with two tags an image, the same for the same numbers; one of the split `val`, too.

    Args:
        folder: gets them.
        shards: how many.
        images: in each.
        side: of each image, in pixels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for number in track(range(shards + 1), title="writing shards"):
        split = "train" if number < shards else "val"
        name, random = f"{split}-{number % shards:06d}", np.random.default_rng(number)
        names = [f"{number:06d}/{index:04d}" for index in range(images)]
        contents = [_png(random, side) for _ in names]
        with open(folder / f"{name}.tar", "wb") as stream:
            hashed = Hashed(stream)
            places = write_tar(hashed, [(f"{key}.png", content) for key, content in zip(names, contents, strict=True)])
        tags = [tuple(sorted(random.choice([1, 2, 3], 2, replace=False).tolist())) for _ in names]
        facts = {"split": split, "number": number, "bytes": hashed.bytes, "sha256": hashed.digest.hexdigest()}
        columns = {"image": [("png", *place) for place in places]}
        record = shard_record(names, columns, tags, [(side, side)] * images, **facts, channels=3)
        entries.append(write_shard_index(str(folder), name, record))
    splits = {split: {"tag_source": "made up"} for split in ("train", "val")}
    write_index(str(folder), SetIndex(LABELS, splits, entries, {}, {}))


def _png(random: np.random.Generator, side: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(stream, "png", compress_level=1)
    return stream.getvalue()


def command(data: Path, out: Path, side: int, *words: str, backbone: str = "resnet10t") -> list[str]:
    """The command that labels such a set."""
    return [
        *(sys.executable, "-m", "maskwright", "label", "demo", f"data={data}", f"out={out}", "data.options={}"),
        *(f"classifier.backbone={backbone}", f"model.backbone={backbone}", "seeds.scales=[1.0]"),
        *("device=cpu", "refine=[]"),
        f"classifier.train={{steps: 2, epochs: null, batch_size: 4, workers: 0, augment: {{crop: [{side}, {side}]}}}}",
        *("pseudo_masks.threshold=0.3", "sample=8", *words),
    ]


def prepare(data: Path, out: Path, side: int, backbone: str = "resnet10t") -> None:
    """Train the network of a run that labels such a set."""
    run(command(data, out, side, "engine=task", "task=first", backbone=backbone))


def run(words: list[str]) -> str:
    """Run a command to its end.

    Raises:
        RuntimeError: it failed.
    """
    done = subprocess.run(words, capture_output=True, text=True, env=ENVIRONMENT)
    if done.returncode:
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
    return done.stdout


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of the parts in a folder, by name."""
    files = [
        path for path in folder.iterdir() if path.name.endswith((".tar", ".json")) and path.name.startswith("train-")
    ]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}
