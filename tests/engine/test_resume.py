"""A training that is killed and started again ends bit-equal to one that was not."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from maskwright.engine.checkpoint import load_weights
from maskwright.engine.resume import read_state
from maskwright.errors import DataError

OPTIONS = {"ema": 0.9, "clip": 1.0, "accumulate": 2, "warmup": 3, "validate_every": 1}


def validate(network):
    return {"sum": sum(float(p.double().sum()) for p in network.parameters())}


def content(folder):
    """Log lines without what a clock gives, and the weights."""
    timed = ("images_per_second", "memory_mb")
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in timed} for line in lines], load_weights(
        folder / "model.safetensors"
    )


@pytest.fixture(scope="module")
def uninterrupted(toy, tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("uninterrupted")
    toy.train(folder, validate=validate, **OPTIONS)
    return content(folder)


def killed(target):
    """Run in a child process that is expected to be killed by signal 9."""
    child = multiprocessing.get_context("fork").Process(target=target)
    child.start()
    child.join()  # with a timeout it would also wait for loader processes, which notice after five seconds
    assert child.exitcode == -signal.SIGKILL


# Two batches a step, 14 steps, three steps an epoch: in the first step, between the batches of one, before and after a
# validation, in the last step. Resume points at every step, or at validations only.
@pytest.mark.bit_equal
@pytest.mark.parametrize(
    ("call", "workers", "seconds"), [(0, 0, 0), (7, 1, 0), (11, 0, 1000), (12, 2, 1000), (27, 0, 0), (27, 1, 1000)]
)
def test_killed_in_a_step(toy, tmp_path, uninterrupted, bit_equal, call, workers, seconds):
    options = {**OPTIONS, "workers": workers, "checkpoint_seconds": seconds, "validate": validate}
    killed(lambda: toy.train(tmp_path, step=toy.killed_in_step(call), **options))
    assert not (tmp_path / "model.safetensors").exists()
    toy.train(tmp_path, **{**options, "workers": 1 - min(workers, 1)})
    log, weights = content(tmp_path)
    assert log == uninterrupted[0]
    assert bit_equal(weights, uninterrupted[1])


@pytest.mark.bit_equal
@pytest.mark.parametrize("time_of_death", [2, 5])
def test_killed_in_a_validation(toy, tmp_path, uninterrupted, bit_equal, time_of_death):
    calls = iter(range(1, 100))

    def deadly(network):
        if next(calls) == time_of_death:
            os.kill(os.getpid(), signal.SIGKILL)
        return validate(network)

    killed(lambda: toy.train(tmp_path, validate=deadly, **OPTIONS))
    toy.train(tmp_path, validate=validate, **OPTIONS)
    log, weights = content(tmp_path)
    assert log == uninterrupted[0]
    assert bit_equal(weights, uninterrupted[1])


@pytest.mark.bit_equal
def test_killed_again_and_again(toy, tmp_path, uninterrupted, bit_equal):
    for _ in range(4):
        killed(lambda: toy.train(tmp_path, step=toy.killed_in_step(6), validate=validate, **OPTIONS))
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 12
    toy.train(tmp_path, validate=validate, **OPTIONS)
    log, weights = content(tmp_path)
    assert log == uninterrupted[0]
    assert bit_equal(weights, uninterrupted[1])


@pytest.mark.bit_equal
def test_killed_while_the_model_is_written(toy, tmp_path, uninterrupted, bit_equal, monkeypatch):
    def deadly():
        monkeypatch.setattr("maskwright.engine.fit.save_model", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        toy.train(tmp_path, validate=validate, **OPTIONS)

    killed(deadly)
    toy.train(tmp_path, validate=validate, **OPTIONS)
    log, weights = content(tmp_path)
    assert log == uninterrupted[0]
    assert bit_equal(weights, uninterrupted[1])


@pytest.mark.bit_equal
def test_killed_while_the_state_is_written(toy, tmp_path, uninterrupted, bit_equal, monkeypatch):
    saves = iter(range(100))
    whole = torch.save

    def deadly(state, path):
        whole(state, path)
        if next(saves) == 5:
            path.write_bytes(path.read_bytes()[:1000])
            os.kill(os.getpid(), signal.SIGKILL)

    def die():
        monkeypatch.setattr(torch, "save", deadly)
        toy.train(tmp_path, validate=validate, **OPTIONS)

    killed(die)
    assert len(list(tmp_path.glob(".state.*"))) == 1
    toy.train(tmp_path, validate=validate, **OPTIONS)
    log, weights = content(tmp_path)
    assert log == uninterrupted[0]
    assert bit_equal(weights, uninterrupted[1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "model.safetensors", "state.pt"]


@pytest.mark.bit_equal
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_present_step(toy, tmp_path, uninterrupted, bit_equal, capsys, number):
    calls = iter(range(100))

    def interrupted(model, batch):
        if next(calls) == 8:
            os.kill(os.getpid(), number)
        return toy.step(model, batch)

    handlers = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    options = {**OPTIONS, "checkpoint_seconds": 1000, "validate": validate}
    with pytest.raises(SystemExit) as left:
        toy.train(tmp_path, step=interrupted, **options)
    assert left.value.code == 128 + number
    assert "stopped after step 5 of 14; give the same command again" in capsys.readouterr().err
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == handlers
    toy.train(tmp_path, **options)
    log, weights = content(tmp_path)
    assert log == uninterrupted[0]
    assert bit_equal(weights, uninterrupted[1])


@pytest.mark.bit_equal
def test_killed_from_outside_at_any_moment(toy, tmp_path, bit_equal):
    """The whole process, with its imports and loader processes, as `kill -9` finds it."""
    command = [sys.executable, toy.__file__, str(tmp_path / "killed"), "steps=200", "workers=1", "log_every=1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    state = tmp_path / "killed" / "state.pt"
    for _ in range(3000):  # imports can take long on a busy machine
        if state.is_file() or process.poll() is not None:
            break
        time.sleep(0.05)
    time.sleep(0.05)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert 0 < torch.load(state, weights_only=True)["step"] < 200
    options = {"steps": 200, "log_every": 1, "checkpoint_seconds": 1000.0}
    toy.train(tmp_path / "killed", **options)
    toy.train(tmp_path / "whole", **options)
    (log, weights), (expected_log, expected) = content(tmp_path / "killed"), content(tmp_path / "whole")
    assert log == expected_log
    assert bit_equal(weights, expected)


def test_lines_of_a_run_without_state_are_made_again(toy, tmp_path, uninterrupted):
    tmp_path.joinpath("log.jsonl").write_text('{"event": "train", "step": 3}\n')
    toy.train(tmp_path, validate=validate, **OPTIONS)
    assert content(tmp_path)[0] == uninterrupted[0]


@pytest.mark.parametrize("moment", ["validation", "saving"])
def test_a_signal_after_the_last_step_is_not_lost(toy, tmp_path, uninterrupted, bit_equal, capsys, monkeypatch, moment):
    from maskwright.engine import fit

    def validated(network):
        before = torch.load(tmp_path / "state.pt", weights_only=True)["validated"]
        if moment == "validation" and before == 12:  # of 14 steps
            os.kill(os.getpid(), signal.SIGTERM)
        return validate(network)

    def saved(*given):
        os.kill(os.getpid(), signal.SIGTERM)
        save(*given)

    save = fit.save_model
    if moment == "saving":
        monkeypatch.setattr(fit, "save_model", saved)
    with pytest.raises(SystemExit) as left:
        toy.train(tmp_path, validate=validated, **OPTIONS)
    assert left.value.code == 128 + signal.SIGTERM
    assert "stopped after the last step; give the same command again" in capsys.readouterr().err
    toy.train(tmp_path, validate=validate, step=None, **OPTIONS)  # finished: no step is taken
    log, weights = content(tmp_path)
    assert log == uninterrupted[0]
    assert bit_equal(weights, uninterrupted[1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_is_a_stop_and_not_a_failure(toy, tmp_path, number):
    """As Ctrl-C, schedulers and torchrun send it: to the loader processes too."""
    command = [sys.executable, toy.__file__, str(tmp_path / "run"), "steps=100000", "workers=2", "checkpoint_seconds=0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    state = tmp_path / "run" / "state.pt"
    for _ in range(3000):
        if state.is_file() or process.poll() is not None:
            break
        time.sleep(0.05)
    os.killpg(process.pid, number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number, said
    assert "give the same command again" in said
    assert "Traceback" not in said
    assert torch.load(state, weights_only=True)["step"] > 0
    with pytest.raises(ProcessLookupError):  # nobody of the group is left
        os.killpg(process.pid, 0)


@pytest.mark.parametrize(("then", "now"), [(False, "auto"), ("auto", "auto"), ("auto", False)])
def test_a_training_of_the_earlier_default_layout_goes_on(toy, tmp_path, then, now):
    killed(lambda: toy.train(tmp_path, step=toy.killed_in_step(7), channels_last=then, checkpoint_seconds=0))
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert json.loads(state["identity"])["channels_last"] is False  # as earlier versions wrote
    toy.train(tmp_path, channels_last=now, checkpoint_seconds=0)
    assert (tmp_path / "model.safetensors").is_file()


@pytest.mark.parametrize("state", [[], {}, {"finished": True}, {"finished": False, "identity": "{}", "step": 3}])
def test_a_resume_point_that_lacks_something_says_so(tmp_path, state):
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(DataError, match=r"state\.pt cannot be read \(it does not hold .*delete it to train"):
        read_state(tmp_path, {})
