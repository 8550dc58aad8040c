"""The clock that every row of the speed table shares: what is measured, how, and where it is written.

A row is a module with `ROW = Row(...)`, which says how to build each of its cases: the contestants as functions of no
arguments, ours first, and a check that they found the same. `main(ROW)` then does this for every case:

- Peak memory, each contestant in a child process of its own with one thread: the case is built and the contestant runs
  once on the row's tiny size, so that libraries have loaded what they load; freed memory is given back to the system
  and the high-water mark reset (Linux). What one call adds to the memory held at that moment is its peak, so the
  inputs are not in it. On a GPU the allocator's own count is taken.
- Time in rounds: one round runs every contestant once, in an order that turns round each time, after a round that warms
  up. Rounds go on until the case's seconds are spent. A ratio is the median over rounds of other / ours, each round its
  own pair, with quartiles; so what slows the machine for a while slows both.
- Twice over: with all threads by the clock (on a GPU: by its events), and with one thread by processor time, children
  included, which other work on the machine hardly touches; rows whose calls take seconds leave the second out.
- The check, and then bytes and operations that no implementation can do without, against what this machine copied
  and multiplied a moment ago.
"""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks.facts import facts
from benchmarks.speed.table import keep, sentences

THREADS = min(2, os.cpu_count() or 1)
PEERS = ("numpy", "timm", "torchvision", "segmentation-models-pytorch", "torchmetrics", "grad-cam", "pydensecrf2")


@dataclass(frozen=True)
class Bar:
    """A ratio that ours must reach.

    Args:
        against: name of the other contestant.
        least: the other's time (or memory) over ours.
        of: "time" or "memory".
        ours: name of our contestant; default the first.
        words: how the bar reads, where "at least N times as fast" is not it.
        obstacle: what stands in the way; printed where the bar is missed.
    """

    against: str
    least: float
    of: str = "time"
    ours: str = ""
    words: str = ""
    obstacle: str = ""


@dataclass(frozen=True)
class Scaled:
    """A contestant too slow for the size of the case: it runs at a smaller one and its figures are multiplied."""

    time: float
    memory: float
    law: str


@dataclass
class Comparison:
    """One case, ready to run.

    Args:
        functions: contestants by name, ours first.
        check: takes what each of them returned, raises where results differ, and gives the differences by name.
        bars: what ours must reach.
        moved: bytes that any implementation must read or write.
        flops: operations that any implementation must make.
        once: contestants so slow that one run is all they get.
        scaled: contestants that run at a smaller size.
        precision: type of the products that `flops` counts.
        images: that one call works through, where images a second are worth saying.
        notes: what else the reader must know, such as a peer that is not installed.
    """

    functions: Mapping[str, Callable[[], Any]]
    check: Callable[[dict[str, Any]], dict[str, float]]
    bars: Sequence[Bar] = ()
    moved: float = 0.0
    flops: float = 0.0
    once: Collection[str] = ()
    scaled: Mapping[str, Scaled] = field(default_factory=dict)
    precision: torch.dtype = torch.float32
    images: int = 0
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Row:
    """One line of the table of speeds.

    Args:
        work: what is done.
        build: `build(device, **case) -> Comparison`.
        cases: settings of each case by its name; with `apart` its contestants run in processes of their own.
        tiny: settings that make any case small: for tests, and to load libraries.
        seconds: time for the rounds of one case, for each of the two ways to count; three rounds are made at least.
        on_gpu: whether the row makes sense on a GPU.
        memory: whether peak memory is measured: not where it is held by other processes, or takes minutes to reach.
        one_thread: whether rounds with one thread are made too.
    """

    work: str
    build: Callable[..., Comparison]
    cases: Mapping[str, Mapping[str, Any]]
    tiny: Mapping[str, Any]
    seconds: float = 5.0
    on_gpu: bool = True
    memory: bool = True
    one_thread: bool = True

    def small(self, case: str) -> Mapping[str, Any]:
        """Settings of a case at its tiny size."""
        return {**self.cases[case], **self.tiny}


def main(row: Row) -> None:
    """Measure the row that runs as a script, print what was found, and keep it in `results/`."""
    parser = argparse.ArgumentParser(description=row.work)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--seconds", type=float, default=row.seconds, help="for the rounds of one case")
    parser.add_argument("--cases", nargs="+", choices=list(row.cases), default=list(row.cases))
    parser.add_argument("--tiny", action="store_true", help="the size of the tests, to try the script; nothing is kept")
    parser.add_argument("--dry", action="store_true", help="keep nothing")
    options = parser.parse_args()
    if options.device != "cpu" and not row.on_gpu:
        print(f"SKIPPED: nothing of this row runs on {options.device}")
        return
    name = sys.modules["__main__"].__spec__.name.rpartition(".")[2]  # type: ignore[union-attr]
    memory: dict[str, dict[str, float]] = {}
    for case in options.cases:  # before this process computes anything: a fork of running threads may hang
        settings = row.small(case) if options.tiny else row.cases[case]
        wanted = row.memory and not settings.get("apart")
        memory[case] = _memory_of_case(row, case, settings, options.device) if wanted else {}
    found = []
    for case in options.cases:
        settings = row.small(case) if options.tiny else row.cases[case]
        comparison = row.build(options.device, **settings)
        found.append(
            {
                "case": case,
                "settings": dict(settings),
                **measure(comparison, memory[case], options.device, options.threads, options.seconds, row.one_thread),
            }
        )
        print(*sentences(found[-1]), sep="\n", flush=True)
    record = {"row": name, "work": row.work, "device": options.device, **facts(), "threads": options.threads}
    record |= {"versions": _versions(), "cases": found}
    if not (options.tiny or options.dry):
        keep(record)


def measure(
    comparison: Comparison,
    memory: Mapping[str, float],
    device: str,
    threads: int,
    seconds: float,
    one_thread: bool = True,
) -> dict[str, Any]:
    """What the table holds of one case.

    Args:
        comparison: the case.
        memory: peak bytes of each contestant; where empty, memory is not compared.
        device: "cpu" or "cuda".
        threads: of the rounds by the clock.
        seconds: for each kind of rounds.
        one_thread: whether rounds with one thread are made too; without them nothing is said of processor time.
    """
    torch.set_num_threads(threads)
    wall, cpu, results = rounds(comparison, device, seconds)
    for name in comparison.once:
        spent, busy, results[name] = timed(comparison.functions[name], device)
        wall[name], cpu[name] = [spent], [busy]
    differences = comparison.check(results)
    results.clear()
    if device != "cpu" or (threads > 1 and not one_thread):
        cpu.clear()
    elif threads > 1:
        torch.set_num_threads(1)
        cpu |= rounds(comparison, device, seconds)[1]
        torch.set_num_threads(threads)
    figures: dict[str, dict[str, Any]] = {}
    for name in comparison.functions:
        scale = comparison.scaled.get(name, Scaled(1.0, 1.0, ""))
        figures[name] = {
            "wall_s": _spread([value * scale.time for value in wall[name]]),
            "cpu_s": _spread([value * scale.time for value in cpu[name]]) if name in cpu else None,
            "peak_bytes": memory[name] * scale.memory if name in memory else None,
            "scaled_by": scale.law or None,
            "images_per_s": comparison.images / statistics.median(wall[name]) if comparison.images else None,
        }
    first = next(iter(comparison.functions))
    return {
        "contestants": figures,
        "bars": [
            _judged(bar, bar.ours or first, figures, wall, cpu, comparison.scaled)
            for bar in comparison.bars
            if bar.against in comparison.functions
        ],
        "differences": {key: float(value) for key, value in differences.items()},
        "limit": _limit(comparison, device, threads, figures[first]["wall_s"]["median"]),
        "notes": list(comparison.notes),
    }


def rounds(
    comparison: Comparison, device: str, seconds: float, least: int = 3, most: int = 50
) -> tuple[dict[str, list[float]], dict[str, list[float]], dict[str, Any]]:
    """Seconds by the clock and of the processor, per contestant and round, and what each returned at first."""
    order = [name for name in comparison.functions if name not in comparison.once]
    wall: dict[str, list[float]] = {name: [] for name in order}
    cpu: dict[str, list[float]] = {name: [] for name in order}
    results = {name: comparison.functions[name]() for name in order}
    start = time.perf_counter()
    while len(wall[order[0]]) < least or (time.perf_counter() - start < seconds and len(wall[order[0]]) < most):
        for name in order:
            spent, busy, _ = timed(comparison.functions[name], device)
            wall[name].append(spent)
            cpu[name].append(busy)
        order.reverse()
    return wall, cpu, results


def timed(function: Callable[[], Any], device: str) -> tuple[float, float, Any]:
    """Seconds by the clock (a GPU's by its events), seconds of the processor, and what the function returned."""
    busy = processor_seconds()
    if device == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        result = function()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1000, processor_seconds() - busy, result
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, processor_seconds() - busy, result


def processor_seconds() -> float:
    """Of this process and of its children, those that run and those that have ended."""
    ended = os.times()
    total = time.process_time() + ended.children_user + ended.children_system
    if not multiprocessing.active_children():
        return total
    tick = os.sysconf("SC_CLK_TCK")
    for child in multiprocessing.active_children():
        try:
            words = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += (int(words[11]) + int(words[12])) / tick
    return total


def peak_memory(function: Callable[[], Any], warm: Callable[[], Any]) -> float:
    """Bytes that one call of a function adds to a child process; `warm` runs before, to load libraries.

    Raises:
        RuntimeError: the child failed; its own message is on the error stream.
    """

    def call() -> float:
        torch.set_num_threads(torch.get_num_threads())  # a fork needs the pool anew, and two threads would fail at it
        warm()
        libc: Any = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(-3, 65536)  # M_MMAP_THRESHOLD: what is freed goes back to the system at once
            libc.malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
        before = _high_water()
        function()
        return _high_water() - before

    return in_child(call)


def in_child(function: Callable[[], Any]) -> Any:
    """What a function returns in a child process forked from this one.

    Raises:
        RuntimeError: it failed.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=lambda: sender.send(function()))
    child.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise RuntimeError("a child process of the benchmark failed") from None
    finally:
        child.join()


def _memory_of_case(row: Row, case: str, settings: Mapping[str, Any], device: str) -> dict[str, float]:
    if device == "cuda":
        return _memory_on_gpu(row.build(device, **settings))
    if not Path("/proc/self/clear_refs").exists():
        print("SKIPPED: peak memory is only measured on Linux")
        return {}

    def all_of_them() -> dict[str, float]:
        torch.set_num_threads(1)
        comparison, small = row.build(device, **settings), row.build(device, **row.small(case))
        return {
            name: peak_memory(function, small.functions[name])
            for name, function in comparison.functions.items()
            if name not in comparison.once
        }

    return in_child(all_of_them)


def _memory_on_gpu(comparison: Comparison) -> dict[str, float]:
    found = {}
    for name, function in comparison.functions.items():
        if name in comparison.once:
            continue
        function()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        found[name] = float(torch.cuda.max_memory_allocated() - before)
    return found


def _high_water() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * float(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))


def _spread(values: Sequence[float]) -> dict[str, float | int]:
    low, middle, high = values[0], values[0], values[0]
    if len(values) > 1:
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "low": low, "high": high, "rounds": len(values)}


def _judged(
    bar: Bar,
    ours: str,
    figures: Mapping[str, Any],
    wall: Mapping[str, Sequence[float]],
    cpu: Mapping[str, Sequence[float]],
    scaled: Mapping[str, Scaled],
) -> dict[str, Any]:
    """The ratios of two contestants, and whether they reach the bar."""
    factor = scaled[bar.against].time if bar.against in scaled else 1.0
    own, other = (figures[name]["peak_bytes"] for name in (ours, bar.against))
    memory = None if own is None or other is None else other / max(own, 4096)
    clock = _spread([factor * value for value in _pairs(wall[bar.against], wall[ours])])
    found = memory if bar.of == "memory" else clock["median"]
    return {
        "ours": ours,
        "against": bar.against,
        "of": bar.of,
        "words": bar.words or (f"1/{bar.least:g} of the memory" if bar.of == "memory" else f"{bar.least:g} x"),
        "least": bar.least,
        "clock": clock,
        "processor": _spread([factor * value for value in _pairs(cpu[bar.against], cpu[ours])]) if cpu else None,
        "memory": memory,
        "met": None if found is None else bool(found >= bar.least),
        "obstacle": bar.obstacle,
    }


def _pairs(others: Sequence[float], ours: Sequence[float]) -> list[float]:
    """Other / ours of every round; a contestant that ran once is compared with every round of ours."""
    others = list(others) * len(ours) if len(others) == 1 else others
    return [other / max(own, 1e-9) for other, own in zip(others, ours, strict=True)]


def _limit(comparison: Comparison, device: str, threads: int, seconds: float) -> dict[str, float]:
    """Seconds that the machine needs at least, and the share of that which ours reaches."""
    bandwidth, arithmetic = machine_limits(device, threads, comparison.precision)
    least = max(comparison.moved / bandwidth, comparison.flops / arithmetic)
    return {
        "bytes": comparison.moved,
        "flops": comparison.flops,
        "bytes_per_s": bandwidth,
        "flops_per_s": arithmetic,
        "seconds": least,
        "share": least / seconds,
    }


@cache
def machine_limits(device: str, threads: int, precision: torch.dtype = torch.float32) -> tuple[float, float]:
    """Bytes a second that a copy moves, and operations a second of a product of matrices: the best of six."""
    torch.set_num_threads(threads)
    source = torch.ones(2**28 if device == "cuda" else 2**25, device=device)
    target = torch.empty_like(source)
    side = 8192 if device == "cuda" else 1024
    square = torch.ones(side, side, device=device, dtype=precision)
    copies = [timed(partial(target.copy_, source), device)[0] for _ in range(6)]
    products = [timed(partial(torch.mm, square, square), device)[0] for _ in range(6)]
    return 2 * source.nbytes / min(copies), 2 * side**3 / min(products)


def _versions() -> dict[str, str]:
    found = {}
    for name in PEERS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
