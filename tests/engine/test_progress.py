from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from maskwright.engine import progress
from maskwright.engine.device import choose_device, deterministic, memory_mb
from maskwright.engine.progress import Progress, RunLog, in_words, plain, track
from maskwright.errors import RecipeError


@pytest.fixture
def clock(monkeypatch):
    """A clock that is moved by hand."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def forward(seconds):
        now[0] += seconds

    return forward


def test_plain_lines_are_few_and_say_how_long(clock, capsys):
    with Progress("segmenter", 100, done=20) as bar:
        for done in range(21, 51):
            clock(1)
            bar.update(done, "loss 0.5  12.0 images/s  300 MB")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "segmenter: 30/100 (30 %)  loss 0.5  12.0 images/s  300 MB  about 70 s left",
        "segmenter: 40/100 (40 %)  loss 0.5  12.0 images/s  300 MB  about 60 s left",
        "segmenter: 50/100 (50 %)  loss 0.5  12.0 images/s  300 MB  about 50 s left",
        "segmenter: 50 done in 30 s  loss 0.5  12.0 images/s  300 MB",
    ]


def test_short_work_says_nothing(capsys):
    assert list(track(range(3), title="counting")) == [0, 1, 2]
    assert list(track((letter for letter in "ab"), "letters")) == ["a", "b"]
    assert capsys.readouterr().err == ""


def test_other_processes_say_nothing(clock, capsys, monkeypatch):
    monkeypatch.setattr(progress.processes, "is_main", lambda: False)
    for _ in track(range(30), "counting"):
        clock(5)
    assert capsys.readouterr().err == ""


def test_live_lines_nest_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress("training", 4) as bar:
        bar.update(1, "loss 0.5")
        assert list(track(range(2), "judging")) == [0, 1]
        bar.update(2)
        assert progress._display is not None
    assert progress._display is None
    capsys.readouterr()


def test_durations_read_well():
    assert in_words(3.2) == "3 s"
    assert in_words(600) == "10 min"
    assert in_words(12000) == "3 h 20 min"


def test_log_is_strict_json_and_cut_where_told(tmp_path):
    log = RunLog(tmp_path)
    line = log.write(
        "train", 1, 0.5, {"loss": np.float32(0.25), "miou": torch.tensor(float("nan")), "per_class": {"a": 1}}
    )
    kept = log.bytes
    log.write("train", 2, 1.0, {"loss": float("inf")})
    assert [json.loads(text) for text in (tmp_path / "log.jsonl").read_text().splitlines()] == [
        line,
        {"event": "train", "step": 2, "epoch": 1.0, "loss": None},
    ]
    assert line == {"event": "train", "step": 1, "epoch": 0.5, "loss": 0.25, "miou": None, "per_class": {"a": 1}}
    RunLog(tmp_path, keep_bytes=kept, step=1)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 1
    RunLog(tmp_path, keep_bytes=10**6)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 1
    RunLog(tmp_path)
    assert (tmp_path / "log.jsonl").read_text() == ""


def test_tensorboard_gets_the_same_numbers(tmp_path, monkeypatch):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("MASKWRIGHT_TENSORBOARD", "1")
    with RunLog(tmp_path) as log:
        log.write(
            "validate", 3, 1.0, {"miou": 0.5, "per_class": {"sky": {"iou": 0.75}}, "names": ["sky"], "nothing": None}
        )
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert found == {"validate/miou": [(3, 0.5)], "validate/per_class/sky/iou": [(3, 0.75)]}


def test_plain_values():
    assert plain((np.int64(3), np.array([1.0, np.nan]), "a", None, True)) == [3, [1.0, None], "a", None, True]


def test_devices_are_chosen_or_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == choose_device(torch.device("cpu")) == torch.device("cpu")
    with pytest.raises(RecipeError, match=r"'cuda:1' was asked for, but .*use device=cpu"):
        choose_device("cuda:1")
    with pytest.raises(RecipeError, match="Did you mean 'cuda'"):
        choose_device("cud")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda:1")
    assert choose_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(RecipeError, match=r"GPU 2 was asked for, but there are 2 \(0 to 1\)"):
        choose_device("cuda:2")


def test_memory_is_what_the_process_holds():
    before = memory_mb("cpu")
    block = np.ones(40 * 2**20, np.uint8)
    assert 10 < before <= memory_mb(torch.device("cpu")) < 2**20
    assert block.sum() > 0


def test_deterministic_mode_is_given_back():
    with deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
        torch.backends.cudnn.benchmark = True
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.benchmark
