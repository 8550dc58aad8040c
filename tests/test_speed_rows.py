"""Every row of the speed table runs at a tiny size, and its forms give the same; no test looks at a clock."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
try:
    ROWS = importlib.import_module("benchmarks.speed.__main__").ROWS
    timer = importlib.import_module("benchmarks.speed.timer")
    table = importlib.import_module("benchmarks.speed.table")
    scaling = importlib.import_module("benchmarks.speed.scaling")
    processes = importlib.import_module("benchmarks.speed.processes")
    MODULES = {name: importlib.import_module(f"benchmarks.speed.{name}") for name in ROWS}
finally:
    sys.path.remove(str(ROOT))


def cases():
    """Row and case, once where the tiny size makes several the same; what starts processes or compiles is slow."""
    for name, module in MODULES.items():
        tried = []
        for case, settings in module.ROW.cases.items():
            if (small := module.ROW.small(case)) in tried:
                continue
            tried.append(small)
            slow = settings.get("apart") or name in ("deeplab_compiled", "startup") or "cityscapes" in case
            yield pytest.param(name, case, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize(("name", "case"), list(cases()), ids=lambda value: value.replace(" ", "-"))
def test_contestants_agree(name, case, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of a contestant in a process of its own
    torch.set_num_threads(1)
    row = MODULES[name].ROW
    comparison = row.build("cpu", **row.small(case))
    first = next(iter(comparison.functions))
    differences = comparison.check({name: function() for name, function in comparison.functions.items()})
    assert all(value == value for value in differences.values())
    assert all(bar.ours in ("", *comparison.functions) and bar.against != first for bar in comparison.bars)
    skipped = {bar.against for bar in comparison.bars} - set(comparison.functions)
    assert not skipped or comparison.notes, f"{skipped} are left out without a word"


def test_measured_case_reads_as_words_and_as_lines(tmp_path, monkeypatch):
    """Ratios are other / ours, and a bar is met, missed with its reason, or not measured."""
    times = {"ours": 1.0, "theirs": 3.0, "released": 2.0}
    monkeypatch.setattr(timer, "timed", lambda function, device: (function(), function(), function()))
    monkeypatch.setattr(timer, "machine_limits", lambda *given: (1e9, 1e9))
    comparison = timer.Comparison(
        {name: lambda value=value: value for name, value in times.items()},
        lambda results: {"difference": results["theirs"] - results["ours"]},
        [
            timer.Bar("theirs", 2),
            timer.Bar("theirs", 4, of="memory"),
            timer.Bar("released", 1000, obstacle="the network"),
            timer.Bar("absent", 2),
        ],
        moved=5e8,
        once=("released",),
        scaled={"theirs": timer.Scaled(2.0, 4.0, "doubled")},
    )
    found = timer.measure(comparison, {"ours": 100.0, "theirs": 50.0}, "cpu", 1, 0.0)
    assert [bar["clock"]["median"] for bar in found["bars"]] == [6.0, 6.0, 2.0]
    assert found["contestants"]["theirs"]["peak_bytes"] == 200.0
    assert [bar["met"] for bar in found["bars"]] == [True, False, False]
    assert found["limit"]["share"] == 0.5
    assert found["differences"] == {"difference": 2.0}

    monkeypatch.setattr(table, "RESULTS", tmp_path)
    case = {"case": "one", "settings": {}, **found}
    words = "\n".join(table.sentences(case))
    assert "6 x by the clock" in words
    assert "missed: the network" in words
    record = {"row": "row", "work": "work", "device": "cpu", "command": "python", "commit": "abc", "date": "2000-01-01"}
    record |= {"machine": "one core", "threads": 1, "python": "3", "torch": "2", "cases": [case]}
    table.keep(record)
    table.keep(record | {"device": "cuda"})
    lines = (tmp_path / "README.md").read_text().splitlines()
    assert sum(line.startswith("| row | one: ours | theirs | 2 x | 6 x |") for line in lines) == 1
    assert sum(line.startswith("| row (cuda) | one: ours |") for line in lines) == 3


CURVES = {
    **{f"pixels, {c.name}": c for c in scaling.BY_PIXELS},
    **{f"classes, {c.name}": c for c in scaling.BY_CLASSES},
}


@pytest.mark.parametrize("name", list(CURVES))
def test_curve_can_be_made_at_its_smallest_size(name):
    torch.set_num_threads(1)
    curve = CURVES[name]
    assert scaling.processor_time(curve.make(curve.sizes[0]), least=0.0) >= 0
    assert list(curve.sizes) == sorted(curve.sizes)


def test_work_on_files_grows_with_the_set(tmp_path):
    """Every step does its work for each image: nothing is found done, nothing is left out."""
    torch.set_num_threads(1)
    for name, work in scaling.of_files(tmp_path / "set", 7):
        found = work()
        if name == "listing":
            assert len(found) == 7
    assert len(list((tmp_path / "set" / "maps").glob("*.npz"))) == 7
    assert len(list((tmp_path / "set" / "labels" / "SegmentationClass").glob("*.png"))) == 7


def test_exponents_are_those_of_the_law(tmp_path):
    sizes = (100, 1000, 10_000, 100_000)
    linear = scaling.fitted("linear", "images", sizes, [0.01 * size for size in sizes])
    fixed = scaling.fitted("fixed cost first", "images", sizes, [50 + 1e-6 * size**1.5 for size in sizes], why="sorted")
    assert linear["exponent"] == pytest.approx(1)
    assert linear["met"]
    assert fixed["exponent"] < fixed["exponent_late"] < 1.5
    squared = scaling.fitted("squared", "pixels", sizes, [size**2 for size in sizes], why="all pairs")
    assert squared["exponent_late"] == pytest.approx(2)
    assert not squared["met"]
    assert "all pairs" in scaling.said(squared)
    scaling.draw([linear, squared], tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_share_the_work(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    found = processes.measured_processes(0.1)
    assert [one["name"] for one in found] == list(processes.WORK)
    assert all(one["clock"] > 0 and one["processor"] > 0 for one in found)
