"""Many epochs are flat in memory and handles; 0, 1 and 4 loaders, and 1, 2 and 4 processes, are one."""

from __future__ import annotations

import pytest

from benchmarks.reliability import endurance, ranks

pytestmark = pytest.mark.usefixtures("one_thread")


def assert_flat(found: dict[str, list[float]]) -> None:
    """After the first tenth, in which caches fill, nothing grows."""
    assert found["handles"][-1] == found["handles"][1]
    assert found["objects"][-1] - found["objects"][1] < 1000
    assert found["megabytes"][-1] - found["megabytes"][1] < 8


def test_twenty_epochs_are_flat(tmp_path):
    assert_flat(endurance.epochs(tmp_path, 20))


@pytest.mark.long
@pytest.mark.parametrize("workers", [0, 1])
def test_five_hundred_epochs_are_flat(tmp_path, workers):
    assert_flat(endurance.epochs(tmp_path, 500, workers=workers))


@pytest.mark.long
@pytest.mark.bit_equal
def test_0_1_and_4_loaders_are_equal(tmp_path):
    assert endurance.loaders_are_equal(tmp_path)


@pytest.mark.long
@pytest.mark.distributed
def test_1_2_and_4_processes_are_equal(tmp_path):
    for found in ranks.equal(tmp_path):
        assert found.same, f"{found.count} processes make other maps or masks of the same classifier"
        assert found.farthest < 1e-5


@pytest.mark.long
@pytest.mark.distributed
@pytest.mark.parametrize("count", [2, 4])
def test_a_dead_process_ends_all_with_its_reason(tmp_path, count):
    found = ranks.dead(tmp_path, count)
    assert found["seconds"] < 60
    assert found["code"] != 0
    assert found["left"] == []
    assert "SIGKILL" in found["said"]
