"""Files written whole, and beside the work."""

from __future__ import annotations

import threading

import pytest

from maskwright.files import written_beside


def test_all_calls_are_made_in_order():
    made: list[int] = []
    with written_beside(2) as write:
        for number in range(20):
            write(made.append, number)
    assert made == list(range(20))


def test_the_caller_waits_where_too_much_does():
    free, made = threading.Event(), []

    def slow(number: int) -> None:
        free.wait(10)
        made.append(number)

    threading.Timer(0.2, free.set).start()
    with written_beside(2) as write:
        write(slow, 0)
        write(slow, 1)
        assert not free.is_set()
        write(slow, 2)
        assert free.is_set()
        assert made[0] == 0


def test_an_error_ends_the_work_soon_and_at_the_latest_with_the_block():
    def fails() -> None:
        raise OSError(28, "No space left on device")

    calls: list[int] = []

    def work(count: int) -> None:
        with written_beside(10**6) as write:
            write(fails)
            for number in range(count):
                calls.append(number)
                write(int)

    for count in (10**6, 0):
        with pytest.raises(OSError, match="No space left"):
            work(count)
    assert len(calls) < 10**6
