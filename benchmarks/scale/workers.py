"""What a second worker brings, what a worker that dies costs, and what ten million images would take.

    python -m benchmarks.scale.workers shards=12 images=50 side=224 folder=/tmp/workers

Rates are of the time from when each worker may have done its first part to the last, without the start of the workers.
A dead worker's cost is what the same work takes longer when one is killed after a third of it, in seconds and in those
of a part: that part is done again, and somebody starts anew. Of the engines `task` and `torchrun` a process is killed,
and the command given again. Run it on a quiet machine.
"""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

from benchmarks.facts import as_lines, facts
from benchmarks.reliability.family import called, descendants, workers_of
from benchmarks.scale.kills import RESULTS
from benchmarks.scale.tiny import ENVIRONMENT, command, prepare, write_shards
from maskwright.recipe.load import load_recipe
from maskwright.runs.context import RunContext
from maskwright.runs.sharing import Sharing
from maskwright.weak.engines import ENGINES
from maskwright.weak.one_pass.stage import LabelJob, label_job

DEFAULTS = {"shards": "12", "images": "50", "side": "224", "backbone": "resnet18", "folder": "rates-of-labels"}
MANY = 10**7


def main(words: list[str]) -> None:
    given = {**DEFAULTS, **dict(word.split("=", 1) for word in words)}
    folder, side, images = Path(given["folder"]).absolute(), int(given["side"]), int(given["images"])
    if not (folder / "data" / "index.json").is_file():
        write_shards(folder / "data", int(given["shards"]), images, side)
    shutil.rmtree(folder / "run", ignore_errors=True)
    prepare(folder / "data", folder / "run", side, given["backbone"])
    typed = command(folder / "data", folder / "run", side, backbone=given["backbone"])[5:]
    recipe = load_recipe("demo", [word for word in typed if not word.startswith("sample=")])
    context = RunContext(recipe, folder / "run", print, {"sample": 8})
    rows, rates = [], {}
    for engine, workers in (("local", 1), ("local", 2), ("ray", 1), ("ray", 2)):
        job = _anew(context, folder)
        try:
            found = _timed(job, Sharing(engine=engine, workers=workers, device="cpu"))
        except Exception as error:
            rows.append(f"| {engine}, {workers} | not measured: {error} | | | |")
            continue
        rates[engine, workers] = found.rate
        killed = _timed(_anew(context, folder), Sharing(engine=engine, workers=workers, device="cpu"), kill=True)
        rows.append(_row(engine, workers, found, killed, images, rates[engine, 1]))
    for engine, workers in (("task", 1), ("torchrun", 2)):
        words = _words(engine, workers, folder, side, given["backbone"])
        found, killed = (_by_command(words, folder, int(given["shards"]), workers, kill) for kill in (False, True))
        rows.append(_row(engine, workers, found, killed, images, rates["local", 1]))
    rate = rates["local", 1] * images
    hours = MANY / rate / 3600
    size = statistics.mean(path.stat().st_size for path in (folder / "labels").glob("*.tar")) / images
    terabytes = 2 * (2 * side * side + 2 * (side // 4) ** 2) * MANY / 1e12
    text = "\n".join(
        [
            "# Workers that label",
            "",
            *as_lines(facts()),
            f"{given['shards']} shards of {images} images {side}x{side}, {given['backbone']}, CAM at one size with its "
            "mirror, on a CPU.",
            "",
            "| engine, workers | images/s | efficiency over one | seconds until the first part | a dead worker costs |",
            "|---|---|---|---|---|",
            *rows,
            "",
            f"On paper, ten million such images: {hours:.0f} hours of one core, {hours / 64:.1f} hours of 64; "
            f"{size * MANY / 1e9:.0f} GB of masks and confidences in {MANY // 1000} tar files, where float16 maps as "
            f"files would be {terabytes:.1f} TB with two tags an image.",
            "",
        ]
    )
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "workers.md").write_text(text)


def _row(engine: str, workers: int, found: _Times, killed: _Times, images: int, alone: float) -> str:
    longer = killed.parts_seconds - found.parts_seconds
    return (
        f"| {engine}, {workers} | {found.rate * images:.1f} | {found.rate / alone / workers:.2f} | {found.start:.1f} | "
        f"{longer:.1f} s, {longer * found.rate / workers:.1f} parts ({killed.deaths} killed) |"
    )


def _words(engine: str, workers: int, folder: Path, side: int, backbone: str) -> list[str]:
    """The command of an engine whose workers are commands themselves."""
    label = command(folder / "data", folder / "run", side, f"engine={engine}", backbone=backbone)
    if engine == "task":
        return [*label, "task=0/1"]
    return [*label[:1], "-m", "torch.distributed.run", "--nproc-per-node", str(workers), *label[1:]]


def _by_command(words: list[str], folder: Path, parts: int, workers: int, kill: bool) -> _Times:
    """Label all parts by a command that is given again when it ends too early."""
    place = folder / "run" / "pseudo_masks"
    for path in place.glob("train-*"):
        path.unlink()
    times = _Times(workers)
    process = subprocess.Popen(words, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(times.moments) < parts:
        time.sleep(0.02)
        for _ in range(sum(1 for _ in place.glob("*.receipt.json")) - len(times.moments)):
            times.tell()
        if kill and not times.deaths and len(times.moments) >= parts // 3:
            ranks = [pid for pid in descendants(process.pid) if b"maskwright" in called(pid)]
            os.kill(ranks[0] if ranks else process.pid, signal.SIGKILL)
            times.deaths += 1
        if process.poll() is not None and len(times.moments) < parts:
            process = subprocess.Popen(words, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    process.send_signal(signal.SIGTERM)  # what is left is sums and a page
    process.wait()
    return times


class _Times:
    """When parts were done, and how many workers were killed."""

    def __init__(self, workers: int) -> None:
        self.began, self.workers, self.deaths = time.monotonic(), workers, 0
        self.moments: list[float] = []

    def tell(self) -> None:
        self.moments.append(time.monotonic())

    @property
    def start(self) -> float:
        return self.moments[0] - self.began

    @property
    def parts_seconds(self) -> float:
        return self.moments[-1] - self.moments[0]

    @property
    def rate(self) -> float:
        # Of two workers the first parts are done together, and count for none.
        return (len(self.moments) - self.workers) / (self.moments[-1] - self.moments[self.workers - 1])


def _timed(job: LabelJob, sharing: Sharing, kill: bool = False) -> _Times:
    times = _Times(sharing.workers)

    def killer() -> None:
        while len(times.moments) < len(job.parts) // 3:
            time.sleep(0.05)
        for worker in workers_of(os.getpid())[:1]:
            os.kill(worker, signal.SIGKILL)
            times.deaths += 1

    thread = threading.Thread(target=killer, daemon=True)
    if kill:
        thread.start()
    ENGINES[sharing.engine](job, list(job.parts), sharing, times.tell)
    return times


def _anew(context: RunContext, folder: Path) -> LabelJob:
    place = folder / "labels"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    job = label_job(context, place)
    return LabelJob(job.recipe, job.out, str(place), job.fingerprint, job.parts, job.sharing)


if __name__ == "__main__":
    main(sys.argv[1:])
