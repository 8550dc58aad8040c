"""Over a hundred files that cannot be used: each is refused by its name in our words, and the sound ones go on."""

from __future__ import annotations

import pytest
import torch

from benchmarks.reliability.bad_inputs import cases, predictor_of, said_of

CASES = cases()


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    torch.set_num_threads(1)
    return predictor_of(tmp_path_factory.mktemp("model"))


def test_they_are_more_than_a_hundred_of_all_kinds():
    assert len(CASES) > 100
    assert len({(bad.kind, bad.name) for bad in CASES}) == len(CASES)


@pytest.mark.parametrize("bad", CASES, ids=lambda bad: f"{bad.kind}: {bad.name}")
def test_a_bad_file_is_named_and_the_rest_goes_on(bad, tmp_path, predictor, capfd):
    assert said_of(bad, tmp_path, predictor)
    assert "Traceback" not in "".join(capfd.readouterr())
