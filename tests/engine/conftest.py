"""`toy`: the module of the toy training; one thread, so that tests do not fight for cores."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parent / "train_toy.py"


@pytest.fixture(scope="session")
def toy():
    spec = importlib.util.spec_from_file_location("train_toy", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_toy"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def quiet(one_thread):
    """For every test here."""


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="session")
def bit_equal():
    return same
