"""Work shared by threads: every part once and in order, wherever it is asked for."""

from __future__ import annotations

import multiprocessing
import sys
import threading

import pytest
import torch

from maskwright.cpu.threads import in_parts


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("length", "least"), [(0, 1), (1, 1), (7, 1), (7, 4), (100, 7)])
def test_every_part_once_and_in_order(threads, length, least):
    torch.set_num_threads(threads)
    found = in_parts(lambda first, end: list(range(first, end)), length, least)
    assert [index for part in found for index in part] == list(range(length))
    assert len(found) <= threads
    assert len(found) == 1 or min(map(len, found)) >= least


def test_parts_run_in_different_threads():
    torch.set_num_threads(2)
    together = threading.Barrier(2, timeout=10)  # passed only if both parts run at the same time
    numbers = in_parts(lambda first, end: together.wait() is not None and threading.get_ident(), 2)
    assert len(set(numbers)) == 2
    assert threading.get_ident() in numbers


def test_a_part_is_not_divided_further():
    torch.set_num_threads(2)
    found = in_parts(lambda first, end: in_parts(lambda a, b: (a, b), 10), 2)
    assert found == [[(0, 10)], [(0, 10)]]
    assert in_parts(lambda a, b: (a, b), 10) == [(0, 5), (5, 10)]


def test_errors_come_out():
    torch.set_num_threads(2)
    for wrong in (0, 1):

        def fail(first, end, wrong=wrong):
            if first == wrong:
                raise ValueError("this part")

        with pytest.raises(ValueError, match="this part"):
            in_parts(fail, 2)
    assert in_parts(lambda a, b: (a, b), 2) == [(0, 1), (1, 2)]


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_it_works_in_a_fork():
    torch.set_num_threads(2)
    assert len(in_parts(lambda a, b: b, 2)) == 2
    queue = multiprocessing.get_context("fork").SimpleQueue()
    child = multiprocessing.get_context("fork").Process(target=lambda: queue.put(in_parts(lambda a, b: (a, b), 4)))
    child.start()
    child.join(20)
    alive = child.is_alive()
    child.kill()
    assert not alive, "the child waits for threads that it does not have"
    assert queue.get() == [(0, 2), (2, 4)]
