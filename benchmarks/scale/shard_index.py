"""Memory and time to open a set of shards of ten million images, by simulation, against a list of paths.

    python -m benchmarks.scale.shard_index                 # 10,000 shards of 1000 images
    python -m benchmarks.scale.shard_index --shards 100 --dry

The indices are real ones with made-up names of 40 letters, masks and two tags for each image; tar files are empty
space of the right length. Each way is opened in a process of its own, by one thread; memory is what its resident set
grows by, time is the processor's, which other work on the machine hardly touches.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.facts import as_lines, facts
from maskwright.data.sample import LabelSpace
from maskwright.data.shards.index import SetIndex, shard_record, write_index, write_shard_index

RESULTS = Path(__file__).parent / "results"
SIZE = 1000  # images in a shard
ACCESSES = 100_000
LISTED = 1_000_000  # images that are listed as paths; what they need is multiplied
CLASSES = 21


def name_of(number: int) -> str:
    """A name as camera archives have them: three folders deep, 40 letters."""
    return f"archive/{number // 10**6:03d}/{number // 1000 % 1000:04d}/photograph-{number:012d}"


def write_set(place: Path, shards: int) -> None:
    """Indices of a set of so many shards."""
    random = np.random.default_rng(0)
    entries = []
    for shard in range(shards):
        names = [name_of(shard * SIZE + row) for row in range(SIZE)]
        position, members = 0, {"image": [], "mask": []}
        for image, mask in zip(
            random.integers(40_000, 200_000, SIZE).tolist(), random.integers(900, 9000, SIZE).tolist()
        ):
            for kind, suffix, length in (("image", "jpg", image), ("mask", "mask.png", mask)):
                members[kind].append((suffix, position + 512, length))
                position += 512 + length + -length % 512
        tags = [(first, first + 1) for first in random.integers(0, CLASSES - 1, SIZE).tolist()]
        sizes = [(int(height), 640) for height in random.integers(360, 640, SIZE)]
        name = f"train-{shard:06d}"
        record = shard_record(
            names, members, tags, sizes, split="train", number=shard, bytes=position, sha256="0" * 64, channels=3
        )
        with open(place / f"{name}.tar", "wb") as stream:
            stream.truncate(position)
        entries.append(write_shard_index(str(place), name, record))
    labels = LabelSpace(tuple(f"class_{value}" for value in range(CLASSES)))
    write_index(str(place), SetIndex(labels, {"train": {}}, entries, {}, {}))


def resident() -> float:
    """Resident memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_set(place: str) -> dict[str, float]:
    """Open a set; megabytes, seconds, and microseconds of each access to a random example."""
    from maskwright.data import open_dataset
    from maskwright.data.content import content_hash
    from maskwright.data.shards.tally import tally
    from maskwright.settings import DataSettings

    settings = DataSettings(root=place)
    before, started = resident(), time.process_time()
    dataset: Any = open_dataset(settings, "train")
    found = {"open_s": time.process_time() - started, "open_mb": resident() - before}
    order = np.random.default_rng(1).integers(0, len(dataset), ACCESSES).tolist()
    for what, ask in (("name", dataset.names.__getitem__), ("tags", dataset.tags), ("size", dataset.size)):
        started = time.process_time()
        for index in order:
            ask(index)
        found[f"{what}_us"] = (time.process_time() - started) / ACCESSES * 1e6
    started = time.process_time()
    count = sum(1 for _ in dataset.names)
    found["all_names_s"] = time.process_time() - started
    assert count == len(dataset)
    wanted = [dataset.names[index] for index in order[:1000]]
    started = time.process_time()
    assert wanted[0] in dataset.names
    found["first_lookup_s"] = time.process_time() - started
    found["lookup_mb"] = resident() - before
    started = time.process_time()
    assert [dataset.names.index(name) for name in wanted] == order[:1000]
    found["lookup_us"] = (time.process_time() - started) / 1000 * 1e6
    for what, ask in (("tally", tally), ("content", content_hash)):
        started = time.process_time()
        ask(dataset)
        found[f"{what}_s"] = time.process_time() - started
    started = time.process_time()
    part: Any = open_dataset(settings, "train", shard=dataset.shards[-1].name)
    found["one_shard_s"] = time.process_time() - started
    assert len(part) == SIZE
    return found


def list_paths(count: int) -> dict[str, float]:
    """Hold the lists that a folder of so many images is read into: names, paths of images and masks, tags."""
    before = resident()
    names = [name_of(number) for number in range(count)]
    kept = (
        names,
        [f"/data/photographs/images/{name}.jpg" for name in names],
        [f"/data/photographs/masks/{name}.png" for name in names],
        [(number % 20, 20) for number in range(count)],
    )
    assert len(kept) == 4
    return {"mb": resident() - before}


def in_a_process(*words: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale.shard_index", *words], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def table(images: int, shards: int, opened: dict[str, float], listed: dict[str, float]) -> list[str]:
    """The results in words."""
    lists = listed["mb"] * images / LISTED
    rows = [
        (f"memory: {images:,} images in {shards:,} shards, open", f"{opened['open_mb']:,.0f} MB"),
        ("memory: the lists of a folder of as many images", f"{lists:,.0f} MB (measured on {LISTED:,}, multiplied)"),
        ("memory: open, with the table that finds names", f"{opened['lookup_mb']:,.0f} MB"),
        ("time to open all shards", f"{opened['open_s']:.1f} s"),
        ("time to open one shard", f"{opened['one_shard_s']:.2f} s"),
        (
            "time for one name, tags, size of a random image",
            " / ".join(f"{opened[key]:.1f}" for key in ("name_us", "tags_us", "size_us")) + " us",
        ),
        ("time to go through all names", f"{opened['all_names_s']:.1f} s"),
        ("time to make the table that finds names", f"{opened['first_lookup_s']:.1f} s"),
        ("time to find one name", f"{opened['lookup_us']:.1f} us"),
        ("time to count tags, masks and which tags are together, before a run", f"{opened['tally_s']:.1f} s"),
        ("time to see whether the data are those of a run, each time", f"{opened['content_s']:.1f} s"),
        ("bytes of the indices on disk", f"{opened['disk_mb']:,.0f} MB"),
    ]
    return ["| what | measured |", "|---|---|", *(f"| {what} | {value} |" for what, value in rows)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--dry", action="store_true", help="print the table, keep nothing")
    parser.add_argument("--open", help=argparse.SUPPRESS)
    parser.add_argument("--list", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.open or given.list:
        print(json.dumps(open_set(given.open) if given.open else list_paths(given.list)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_set(Path(folder), given.shards)
        opened = in_a_process("--open", folder)
        opened["disk_mb"] = sum(path.stat().st_size for path in Path(folder).glob("*.json")) / 1e6
    listed = in_a_process("--list", str(LISTED))
    lines = table(given.shards * SIZE, given.shards, opened, listed)
    print("\n".join(lines))
    if not given.dry:
        head = ["# A set of ten million images in shards, opened", "", *as_lines(facts())]
        about = (__doc__ or "").strip().splitlines()
        note = [" ".join(about[5:]), ""]
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "shard-index.md").write_text("\n".join([*head, *note, *lines]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
