"""Files written whole, and beside the work."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from maskwright.files import atomic_write, is_there, remove_unfinished, write_json, written_beside
from maskwright.runs.lock import run_lock


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


KILLED_WHILE_IT_WRITES = """
import os, signal, sys
from maskwright.files import atomic_write
with atomic_write(sys.argv[1]) as temporary:
    temporary.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("clean", [remove_unfinished, None], ids=["by itself", "when a run folder is held"])
def test_what_killed_processes_left_is_deleted(tmp_path, clean):
    folder = tmp_path / "run" / "seeds" / "maps"
    for name in ("a.b.npz", "plain"):
        subprocess.run([sys.executable, "-c", KILLED_WHILE_IT_WRITES, str(folder / name)], check=False)
    left = sorted(path.name.rsplit(".tmp")[0][:5] for path in folder.iterdir())
    assert left == [".a.b.", ".plai"]
    others = [folder / name for name in ("kept.npz", ".hidden", ".a.tmp.npz", ".a.x1.tmp.npz", "a.12.tmp.npz")]
    for path in others:
        path.touch()
    with atomic_write(folder / "now.npz") as temporary:  # of a process that runs
        temporary.touch()
        if clean is None:
            with run_lock(tmp_path / "run"):
                pass
        else:
            clean(tmp_path / "run")
        assert sorted(folder.iterdir()) == sorted([*others, temporary])
    assert (folder / "now.npz").exists()


def test_folders_that_killed_processes_left_are_deleted(tmp_path):
    (tmp_path / f".seeds.{2**70}.tmp" / "maps").mkdir(parents=True)
    (tmp_path / f".seeds.{os.getpid()}.tmp").mkdir()
    remove_unfinished(tmp_path)
    assert os.listdir(tmp_path) == [f".seeds.{os.getpid()}.tmp"]


def test_a_temporary_file_of_a_process_that_cannot_be(tmp_path):
    (tmp_path / f".a.{2**70}.tmp.png").touch()
    remove_unfinished(tmp_path)
    assert os.listdir(tmp_path) == []


def test_what_must_outlast_a_power_cut_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    path, seen = tmp_path / "stage.json", []
    monkeypatch.setattr(os, "fsync", lambda number: seen.append(path.exists()))
    with atomic_write(path) as temporary:
        temporary.write_text("1")
    assert seen == []
    path.unlink()
    write_json(path, {}, lasting=True)
    assert seen == [False]


def test_an_empty_file_does_not_count_as_there(tmp_path):
    path = tmp_path / "a.npz"
    assert not is_there(path)
    path.touch()
    assert not is_there(path)
    path.write_bytes(b"1")
    assert is_there(path)
    assert not is_there(tmp_path)
    assert not is_there(path / "b")
