"""Labelling of many shards while its processes are killed at random, compared with an undisturbed run.

    python -m benchmarks.scale.kills shards=10000 images=10 pause=20 folder=/tmp/kills

Workers and main processes are killed with SIGKILL, the main ones with SIGTERM and SIGINT too; the same command is given
again until it ends. The undisturbed run labels every n-th shard in a process of its own.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from benchmarks.facts import as_lines, facts
from benchmarks.reliability.family import workers_of
from benchmarks.scale.tiny import ENVIRONMENT, command, digests, prepare, write_shards
from maskwright.recipe.load import load_recipe
from maskwright.runs.context import RunContext
from maskwright.weak.one_pass.stage import label_job

RESULTS = Path(__file__).parent / "results"
DEFAULTS = {"shards": "10000", "images": "10", "side": "16", "pause": "20", "every": "100", "folder": "kills-of-labels"}


def main(words: list[str]) -> None:
    given = {**DEFAULTS, **dict(word.split("=", 1) for word in words)}
    folder, side, shards = Path(given["folder"]).absolute(), int(given["side"]), int(given["shards"])
    if not (folder / "data" / "index.json").is_file():
        write_shards(folder / "data", shards, int(given["images"]), side)
    shutil.rmtree(folder / "run", ignore_errors=True)
    prepare(folder / "data", folder / "run", side)
    began = time.monotonic()
    kills, starts = _disturbed(command(folder / "data", folder / "run", side, "engine=local", "workers=2"), given)
    seconds = time.monotonic() - began
    found = digests(folder / "run" / "pseudo_masks")
    compared, differ = _undisturbed(folder, side, found, int(given["every"]))
    receipts = sum(name.endswith(".receipt.json") for name in found)
    table = [
        "| what | count |",
        "|---|---|",
        f"| shards, images | {shards}, {shards * int(given['images'])} |",
        f"| kills: {', '.join(f'{word} {count}' for word, count in sorted(kills.items()))} | {sum(kills.values())} |",
        f"| times that the command was given | {starts} |",
        f"| receipts at the end | {receipts} |",
        f"| shards lost | {shards - receipts} |",
        f"| files compared with those of an undisturbed process, differing | {compared}, {differ} |",
        f"| seconds, kills and starts included | {seconds:.0f} |",
    ]
    text = "\n".join(["# Shards labelled while processes are killed", "", *as_lines(facts()), *table, ""])
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "kills.md").write_text(text)
    if receipts != shards or differ:
        sys.exit("shards were lost, or differ")


def _disturbed(words: list[str], given: dict[str, str]) -> tuple[Counter[str], int]:
    """Give a command until it ends, and kill its processes at random moments."""
    dice, kills, starts = random.Random(0), Counter[str](), 0
    while True:
        starts += 1
        process = subprocess.Popen(words, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while True:
            try:
                code = process.wait(timeout=dice.uniform(0.2, 2 * float(given["pause"])))
            except subprocess.TimeoutExpired:
                victim = dice.choice(["worker", "worker", "worker", "main"])
                workers = workers_of(process.pid)
                if victim == "worker" and workers:
                    os.kill(dice.choice(workers), signal.SIGKILL)
                    kills["worker SIGKILL"] += 1
                    continue
                word = dice.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
                process.send_signal(word)
                kills[f"main {word.name}"] += 1
                process.wait()
                break
            if code == 0:
                return kills, starts
            break


def _undisturbed(folder: Path, side: int, found: dict[str, str], every: int) -> tuple[int, int]:
    """Files of every n-th shard labelled in this process: how many were compared, and how many differ."""
    words = command(folder / "data", folder / "run", side)[5:]
    recipe = load_recipe("demo", [word for word in words if not word.startswith("sample=")])
    context = RunContext(recipe, folder / "run", print, {"sample": 8})
    job = label_job(context, folder / "run" / "pseudo_masks")
    alone = folder / "alone"
    shutil.rmtree(alone, ignore_errors=True)
    alone.mkdir()
    work = type(job)(job.recipe, job.out, str(alone), job.fingerprint, job.parts, job.sharing).open("cpu")
    for part in list(job.parts)[::every]:
        work(part)
    files = digests(alone)
    return len(files), sum(found.get(name) != digest for name, digest in files.items())


if __name__ == "__main__":
    main(sys.argv[1:])
