"""Runs that are killed at random moments and started again until they end, against one that nobody disturbed."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.reliability.children import KILLED, Child
from benchmarks.reliability.victims import Victim
from maskwright.files import TEMPORARY

# How often which: a scheduler sends TERM to one process or to all and then KILL, a person INT to all.
SIGNALS = (
    (signal.SIGKILL, False),
    (signal.SIGKILL, True),
    (signal.SIGTERM, False),
    (signal.SIGTERM, True),
    (signal.SIGINT, True),
)
STAGE_LINE = re.compile(r"^\[\d+/\d+\] .+", re.MULTILINE)
IN_A_STAGE = 0.8  # of the kills come when a run has begun to make something
STAGE = re.compile(r"^\[\d+/\d+\] ([^:\n]+)", re.MULTILINE)
EACH = 8  # kills of one run, at most
OF_A_WORKER = 0.5  # of the starts of a run that has workers lose one of them first
WORKER = "SIGKILL of a worker"
LEAVES = 60.0  # seconds after which a process that was told to stop counts as one that hangs


@dataclass
class Outcome:
    """What came of runs that were killed.

    Args:
        runs: that were killed and then ended.
        kills: signal -> how often it ended a process.
        stages: where they came, by the last line that a run said.
        equal: runs that ended with the results of the undisturbed one.
        problems: what must not be: other results, files left over, a traceback, a process that does not end.
        seconds: in all.
    """

    runs: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    stages: Counter[str] = field(default_factory=Counter)
    equal: int = 0
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0


def killed(
    victim: Victim, folder: Path, *, kills: int, each: int, seed: int, say: Callable[[str], None] = lambda line: None
) -> Outcome:
    """Kill runs of one kind.

    Args:
        victim: the kind.
        folder: an empty one, for them.
        kills: how many in all.
        each: how many a run, at most; then it is left alone until it ends.
        seed: of the moments and the signals.
        say: told after each run.
    """
    generator, outcome, began = random.Random(seed), Outcome(), time.monotonic()
    made = folder / "made"
    made.mkdir()
    victim.prepare(made)
    whole = Path(shutil.copytree(made, folder / "whole"))
    started = time.monotonic()
    _end(victim, whole)
    takes = time.monotonic() - started
    wanted = victim.digest(whole / victim.results)
    while outcome.kills.total() < kills:
        place = Path(shutil.copytree(made, folder / f"run{outcome.runs}"))
        wanted_now, before = min(each, kills - outcome.kills.total()), outcome.kills.total()
        _kill(victim, place, wanted_now, takes, generator, outcome)
        # The first run was slow, as first ones are: shorter moments where a run ends before its kills have come.
        takes *= 0.6 if outcome.kills.total() - before < wanted_now else 1.1
        compare(victim, place, wanted, outcome)
        say(f"{outcome.kills.total()} kills, {outcome.runs} runs, {outcome.equal} equal, {len(outcome.problems)} wrong")
    for text in outcome.problems:
        say(text)
    outcome.seconds = time.monotonic() - began
    return outcome


def compare(victim: Victim, place: Path, wanted: dict[str, str], outcome: Outcome) -> None:
    """Note whether a run that has ended has the wanted results and left nothing half written; then delete it."""
    found = victim.digest(place / victim.results)
    differ = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    left = sorted(path.name for path in place.rglob(".*") if TEMPORARY.fullmatch(path.name))
    outcome.runs += 1
    outcome.equal += not differ
    if differ or left:
        outcome.problems.append(f"{place}: differ {differ[:5]}, left over {left[:5]}")
    else:
        shutil.rmtree(place)


def _kill(victim: Victim, place: Path, most: int, takes: float, generator: random.Random, outcome: Outcome) -> None:
    """Kill one run some times, at moments spread over the time that it takes, and let it end."""
    for _ in range(most):
        child = victim.start(victim.words, place)
        number, group = generator.choice(SIGNALS)
        if victim.stages and generator.random() < IN_A_STAGE:
            _wait_for_a_stage(child)
        moment = generator.uniform(0, 2 * takes / most)
        told: tuple[int, ...] = ()  # exit codes that are right, beside 0 and those of signals
        if victim.workers is not None and generator.random() < OF_A_WORKER:
            killed = _kill_a_worker(victim.workers, child, generator.uniform(0, moment), generator, outcome)
            told = victim.told if killed else ()
        stopped = child.wait(moment) is None
        if stopped:
            told = victim.told
            child.send(number, group=group)
            if child.wait(LEAVES) is None:
                outcome.problems.append(f"{place}: works {LEAVES:.0f} s after signal {number}: {child.said()[-300:]}")
        child.end()  # those that it started outlive a kill for some seconds
        code, said = child.process.exitcode, child.said()
        if code in KILLED or (stopped and code in told):
            _count(signal.Signals(number).name, said, outcome)
        # What a loader process says when its parent was killed is no word of ours, nor what launches it.
        ours = code != -signal.SIGKILL and not told
        if code not in (*KILLED, *told, 0) or (ours and "Traceback" in said):
            outcome.problems.append(f"{place}: exit code {code}: {said[-600:]}")
        if code == 0:
            break
    _end(victim, place)


def _kill_a_worker(
    workers: Callable[[int], list[int]], child: Child, moment: float, generator: random.Random, outcome: Outcome
) -> bool:
    """Kill one of the processes that work for a run, so long after they began; false where it has ended before."""
    while child.process.exitcode is None and not workers(child.process.pid or 0):
        time.sleep(0.01)
    working = workers(child.process.pid or 0) if child.wait(moment) is None else []
    if not working:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(generator.choice(working), signal.SIGKILL)
        _count(WORKER, child.said(), outcome)
    return True


def _count(kind: str, said: str, outcome: Outcome) -> None:
    outcome.kills[kind] += 1
    outcome.stages[next(reversed(STAGE.findall(said)), "before the first stage")] += 1


def _wait_for_a_stage(child: Child) -> None:
    """Wait until a run makes something: each start begins with looking at the data, which loses nothing."""
    while child.process.exitcode is None:
        stages = STAGE_LINE.findall(child.said())
        if stages and not stages[-1].endswith("done already"):
            return
        time.sleep(0.01)


def _end(victim: Victim, place: Path) -> Child:
    child = victim.start(victim.words, place)
    if child.wait(600) != 0:
        child.end()
        raise RuntimeError(f"{place}: exit code {child.process.exitcode}: {child.said()[-2000:]}")
    return child
