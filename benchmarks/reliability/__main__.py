"""The long harness, which writes `benchmarks/results/reliability.md`:

    python -m benchmarks.reliability [kills=240] [PART ...]

Without a part all are run, in about an hour on one thread. What a part found is kept in `reliability.json` beside
the page, so that parts can be run one after the other. `kills` are those of the part of that name; `labels` has a
fourth as many, shared by the engines.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.facts import facts
from benchmarks.reliability import bad_inputs, endurance, harm, kills, ranks
from benchmarks.reliability.labels import ENGINES, is_there
from benchmarks.reliability.page import page
from benchmarks.reliability.victims import MASKS, TAGS, VICTIMS, Victim
from maskwright.files import atomic_write, read_json, write_json

RESULTS = Path(__file__).parents[1] / "results"


def say(line: str) -> None:
    print(line, flush=True)


def kill_runs(folder: Path, count: int, victims: Mapping[str, Victim] = VICTIMS) -> dict[str, Any]:
    """All kinds of runs, two at a time."""
    share = -(-count // len(victims))

    def work(name: str) -> dict[str, Any]:
        number = list(victims).index(name)
        place = folder / f"kills{number}"
        place.mkdir()
        told = partial(_told, name)
        outcome = kills.killed(victims[name], place, kills=share, each=kills.EACH, seed=number, say=told)
        return {**vars(outcome), "problems": [text[-400:] for text in outcome.problems]}

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(victims, pool.map(work, victims), strict=True))


def kill_labels(folder: Path, count: int) -> dict[str, Any]:
    """Labelling by each engine, a fourth of the kills as one takes longer; one that is not installed is named."""
    found = kill_runs(folder, count // 4, {name: victim for name, victim in ENGINES.items() if is_there(name)})
    return {f"engine={name}": found.get(name) for name in ENGINES}


def _told(name: str, line: str) -> None:
    say(f"{name}: {line}")


def harms(folder: Path, count: int) -> dict[str, Any]:
    there = harm.Undisturbed(folder / "harm")
    parts: dict[str, Callable[[], list[harm.Harmed]]] = {
        "the disk is full": lambda: harm.full_disk(there, TAGS, (1, 2, 4, 6, 8, 12)),
        "nothing may be written": lambda: harm.read_only(there, MASKS),
        "few handles": lambda: harm.few_handles(there, TAGS, (0, 1, 2, 4, 8, 16, 32)),
        "two runs in one folder": lambda: harm.two_runs(there, MASKS),
        "another recipe in the folder": lambda: harm.foreign(there),
        "data changes under the run": lambda: harm.changed_data(there, TAGS),
        "a file of the run is harmed, then the same command": lambda: harm.torn(there, TAGS, TAGS),
    }
    found = {}
    for name, work in parts.items():
        outcomes = work()
        found[name] = [vars(outcome) for outcome in outcomes]
        wrong = [outcome for outcome in outcomes if not outcome.equal]
        say(
            f"{name}: {len(outcomes)} tried, {sum(outcome.refused for outcome in outcomes)} refused, {len(wrong)} wrong"
        )
        for outcome in wrong:
            say(f"    {outcome.name}: {outcome.said[:600]}")
    return found


def bad_files(folder: Path, count: int) -> dict[str, Any]:
    predictor = bad_inputs.predictor_of(folder)
    tried, wrong = Counter[str](), []
    for number, bad in enumerate(bad_inputs.cases()):
        place = folder / f"bad{number}"
        place.mkdir()
        tried[bad.kind] += 1
        try:
            bad_inputs.said_of(bad, place, predictor)
        except Exception as error:
            wrong.append(f"{bad.kind}: {bad.name}: {type(error).__name__}: {error}"[:400])
            say(wrong[-1])
    return {"tried": tried, "wrong": wrong}


def many_ranks(folder: Path, count: int) -> dict[str, Any]:
    equal = [vars(one) for one in ranks.equal(folder / "ranks")]
    say(str(equal))
    dead = []
    for processes in (2, 4):
        found = ranks.dead(folder, processes)
        reason = next((line.strip() for line in found["said"].splitlines() if "SIGKILL" in line), "")
        dead.append({"count": processes, **{key: found[key] for key in ("seconds", "code", "left")}, "reason": reason})
        say(str(dead[-1]))
    return {"equal": equal, "dead": dead}


def long_training(folder: Path, count: int) -> dict[str, Any]:
    found = {
        f"{workers} loaders": endurance.epochs(folder / f"epochs{workers}", 500, workers=workers) for workers in (0, 1)
    }
    say(str(found))
    return {"epochs": 500, **found, "loaders are equal": endurance.loaders_are_equal(folder / "loaders")}


PARTS: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "kills": kill_runs,
    "labels": kill_labels,
    "harms": harms,
    "files": bad_files,
    "ranks": many_ranks,
    "epochs": long_training,
}


def main() -> None:
    torch.set_num_threads(1)
    os.environ["MASKWRIGHT_TENSORBOARD"] = "0"
    words = sys.argv[1:]
    count = next((int(word.partition("=")[2]) for word in words if word.startswith("kills=")), 240)
    chosen = [word for word in words if "=" not in word] or list(PARTS)
    kept = RESULTS / "reliability.json"
    found = read_json(kept) if kept.is_file() else {}
    for name in chosen:
        with tempfile.TemporaryDirectory(prefix="reliability") as folder:
            found[name] = {"found": PARTS[name](Path(folder), count), "facts": facts()}
        write_json(kept, json.loads(json.dumps(found)))
        with atomic_write(RESULTS / "reliability.md") as temporary:
            temporary.write_text(page(read_json(kept)), encoding="utf-8")


if __name__ == "__main__":
    main()
