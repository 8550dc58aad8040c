"""What packing a data set and reading it from shards costs for an image, against reading it from its folder.

    python -m benchmarks.scale.shard_reading FOLDER masks=masks classes=classes.txt tags=tags.csv

Every image is read once in random order, from the folder and from the shards in turns of 50; both must be equal. Times
are the processor's; files are in the system's cache.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.facts import as_lines, facts
from maskwright.data import open_dataset
from maskwright.data.dataset import Dataset
from maskwright.pipeline.shard import shard
from maskwright.recipe.load import apply_override, build_recipe

RESULTS = Path(__file__).parent / "results"
TURN = 50


def seconds_of(dataset: Dataset, order: list[int]) -> float:
    """Processor time to read these examples."""
    started = time.process_time()
    for index in order:
        dataset[index]
    return time.process_time() - started


def measure(words: list[str], place: str) -> list[str]:
    """The results as a table.

    Args:
        words: a folder and settings of its data.
        place: to write shards to.
    """
    fields: dict = {"data": {"root": words[0]}}
    for word in words[1:]:
        apply_override(fields, word)
    data = build_recipe(fields, source="shard_reading").data
    started = time.process_time()
    shard(data, place, 100, "all")
    packing = time.process_time() - started
    started = time.process_time()
    shard(data, place, 100, "all")
    again = time.process_time() - started
    sets = [open_dataset(data, "all"), open_dataset(data.__class__(root=place), "all")]
    order = np.random.default_rng(0).permutation(len(sets[0])).tolist()
    for index in order[:TURN]:  # also warms both
        plain, packed = (dataset[index] for dataset in sets)
        assert np.array_equal(plain.image, packed.image)
        assert plain.tags == packed.tags
        assert plain.mask is packed.mask or np.array_equal(plain.mask, packed.mask)
    folder, shards = [], []
    for start in range(0, len(order), TURN):
        part = order[start : start + TURN]
        folder.append(seconds_of(sets[0], part) / len(part))
        shards.append(seconds_of(sets[1], part) / len(part))
    count = len(order)
    rows = [
        ("reading from the folder", f"{1e3 * np.median(folder):.2f} ms"),
        ("reading from shards", f"{1e3 * np.median(shards):.2f} ms"),
        ("packing, with all checks", f"{1e3 * packing / count:.2f} ms"),
        ("packing again, all of it there", f"{1e3 * again / count:.2f} ms"),
    ]
    return ["| of each image | measured |", "|---|---|", *(f"| {what} | {value} |" for what, value in rows)]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        lines = measure(sys.argv[1:], folder)
    print("\n".join(lines))
    head = ["# Packing shards, and reading them", "", *as_lines(facts())]
    about = (__doc__ or "").strip().splitlines()
    RESULTS.mkdir(exist_ok=True)
    text = "\n".join([*head, " ".join(about[4:]), "", *lines]) + "\n"
    (RESULTS / "shard-reading.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
