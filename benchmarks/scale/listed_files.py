"""Check, plan and restart of labelling a folder of listed files: processor time and memory as the folder grows.

    python -m benchmarks.scale.listed_files counts=10000,100000,1000000 folder=/tmp/listed

Images are 16 px, many names of a few files, with two tags each in a table and lists of both splits. "Restart" is the
command again after its network is trained and some parts are labelled, up to the first part that it adds. Times are the
processor's, of all processes of a command; memory is the largest resident set of the main one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.facts import as_lines, facts
from benchmarks.scale.tiny import ENVIRONMENT, command

RESULTS = Path(__file__).parent / "results"
DEFAULTS = {"counts": "10000,100000,1000000", "folder": "listed-files"}
NAMES = 60_000  # of one file: file systems allow some 65,000
SIDE = 16
TAGS = ("cat", "cow", "dog")


def main(words: list[str]) -> None:
    given = {**DEFAULTS, **dict(word.split("=", 1) for word in words)}
    folder = Path(given["folder"]).absolute()
    rows = []
    for count in map(int, given["counts"].split(",")):
        data, out = folder / f"data-{count}", folder / f"run-{count}"
        if not data.is_dir():
            write_folder(data, count)
        label = command(data, out, SIDE, "layout=folder", "engine=local", "workers=1")
        first = command(data, out, SIDE, "layout=folder", "engine=task", "task=first")
        measured(first)
        until_part(label, out)
        rows += [
            (count, "`data check`", *measured([*label[:3], "data", "check", f"data={data}"])),
            (count, "`plan=true`", *measured([*label, "plan=true"])),
            (count, "restart", *until_part(label, out)),
        ]
    table = ["| images | what | processor, s | us an image | memory, MB |", "|---|---|---|---|---|"]
    for count, what, seconds, memory in rows:
        table.append(f"| {count} | {what} | {seconds:.0f} | {seconds / count * 1e6:.0f} | {memory:.0f} |")
    text = "\n".join(["# A folder of listed files", "", *as_lines(facts()), *table, ""])
    print(text)
    (RESULTS / "listed-files.md").write_text(text)


def write_folder(data: Path, count: int) -> None:
    """Images, a table of tags, and lists of the splits, of which `val` has every thousandth image."""
    random = np.random.default_rng(0)
    making = data.with_name(data.name + ".part")
    (making / "images").mkdir(parents=True, exist_ok=True)
    lists: dict[str, list[str]] = {"train": [], "val": []}
    with open(making / "tags.csv", "w") as table:
        table.write("image,tags\n")
        for number in range(count):
            path = making / "images" / f"{number:08d}.png"
            if number % NAMES == 0:
                one = path
                Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(path)
            else:
                os.link(one, path)
            table.write(f"{path.name},{TAGS[number % 3]};{TAGS[(number + 1) % 3]}\n")
            lists["val" if number % 1000 == 999 else "train"].append(f"{path.stem}\n")
    for split, lines in lists.items():
        (making / f"{split}.txt").write_text("".join(lines))
    making.rename(data)


def measured(words: Sequence[str]) -> tuple[float, float]:
    """Processor seconds and megabytes of a command.

    Raises:
        RuntimeError: it failed.
    """
    process = subprocess.Popen(words, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}: {' '.join(words)}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def until_part(words: Sequence[str], out: Path) -> tuple[float, float]:
    """The same of a command that is stopped when it has labelled one more part."""
    parts = lambda: sum(1 for _ in (out / "pseudo_masks").glob("*.receipt.json"))  # noqa: E731
    before = parts()
    process = subprocess.Popen(words, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while parts() == before:
        if process.poll() is not None:
            raise RuntimeError(f"it ended before a part was labelled: {' '.join(words)}")
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 128 + signal.SIGTERM
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


if __name__ == "__main__":
    main(sys.argv[1:])
