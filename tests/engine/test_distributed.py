"""Two processes under torchrun, on the CPU by gloo."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest
import torch

from maskwright.engine import distributed
from maskwright.engine.checkpoint import load_weights
from maskwright.engine.fit import fit
from maskwright.errors import RecipeError

pytestmark = pytest.mark.distributed


def torchrun(script, *trainings):
    """Run one training after the other, each a list of the script's arguments."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    arguments = [str(word) for training in trainings for word in ("--", *training)][1:]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([*launcher, script, *arguments], capture_output=True, text=True, timeout=300, env=environment)


@pytest.mark.bit_equal
def test_two_processes_train_as_one_and_resume(toy, tmp_path, bit_equal):
    plain = ("norm=false", "dropout=0.0", "accumulate=2", "clip=1.0", "validate_every=1")
    drawing = ("accumulate=2", "ema=0.9")  # each process has dropout of its own

    # killed in the sixth step of the third training; then the same command again
    first = torchrun(toy.__file__, (tmp_path / "two", *plain), (tmp_path / "whole", *drawing),
                     (tmp_path / "killed", *drawing, "kill=10"))  # fmt: skip
    assert first.returncode != 0
    assert torch.load(tmp_path / "killed" / "state.pt", weights_only=True)["step"] in (4, 5)
    second = torchrun(toy.__file__, (tmp_path / "killed", *drawing), (tmp_path / "parts", "different_parts=true"))
    assert second.returncode != 0
    assert "process 1 logs ['cross_entropy', 'more'], process 0 ['cross_entropy']" in second.stderr
    assert not (tmp_path / "parts" / "state.pt").exists()

    whole, resumed = (load_weights(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert bit_equal(whole, resumed)

    assert "toy: 4 images a batch, 2 in each process" in first.stderr
    result = json.loads(first.stdout.strip().splitlines()[0])
    model = toy.network(norm=False, dropout=0.0)
    _, alone = toy.train(
        tmp_path / "one", model=model, accumulate=2, clip=1.0, validate_every=1,
        validate=lambda network: {"processes": 1, "sum": sum(float(p.double().sum()) for p in network.parameters())},
    )  # fmt: skip
    shared = load_weights(tmp_path / "two" / "model.safetensors")
    torch.testing.assert_close(shared, dict(model.state_dict()), rtol=1e-5, atol=1e-6)
    assert result["validate"]["processes"] == 2
    assert result["train"]["loss"] == pytest.approx(alone["train"]["loss"], rel=1e-5)
    assert result["validate"]["sum"] == pytest.approx(alone["validate"]["sum"], rel=1e-5)


def test_batches_that_cannot_be_shared_are_refused(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    monkeypatch.setattr(distributed, "barrier", lambda: None)
    with pytest.raises(RecipeError, match="4 cannot be shared evenly by 3 processes"):
        fit(toy.network(), toy.step, toy.train_set(), toy.settings(), tmp_path, metadata={}, device="cpu")


def test_one_process_needs_no_group():
    distributed.initialise("cpu")
    assert not torch.distributed.is_initialized()
    value = torch.ones(2)
    assert distributed.all_reduce_sum(value) is value
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert distributed.broadcast("x") == "x"
    assert distributed.gather("x") == ["x"]
    assert distributed.any_process(True)
    distributed.barrier()
    distributed.shutdown()
