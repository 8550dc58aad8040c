"""What tests of several folders share."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def one_thread(monkeypatch):
    """Work with one thread, without TensorBoard: small trainings are quicker so, and repeat bit by bit."""
    monkeypatch.setenv("MASKWRIGHT_TENSORBOARD", "0")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
