"""Decisions on the disk: whole whatever happens, and what they make of a mask."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from maskwright.data.decisions import (
    Decision,
    Older,
    corrected,
    in_words,
    read_decision,
    read_decisions,
    write_decision,
)
from maskwright.data.images import list_images
from maskwright.data.masks import palette_png
from maskwright.data.sample import LabelSpace
from maskwright.errors import DataError

LABELS = LabelSpace(("background", "cat", "dog", "cow"))
MASK = np.array([[0, 1, 2], [0, 1, 2]], np.uint8)


def painted(values: list[list[int]]) -> bytes:
    return palette_png(np.array(values, np.uint8), LABELS)


def test_a_painted_mask_wins():
    found = corrected(MASK, Decision("a", "accepted", mask=painted([[3, 3, 3], [0, 0, 0]])), LABELS)
    assert found.tolist() == [[3, 3, 3], [0, 0, 0]]


def test_a_class_that_the_image_does_not_show_is_ignored():
    assert corrected(MASK, Decision("a", "accepted", removed=("dog",)), LABELS).tolist() == [[0, 1, 255]] * 2
    mask = painted([[1, 2, 2], [0, 0, 0]])
    found = corrected(MASK, Decision("a", "accepted", removed=("cat",), mask=mask), LABELS)
    assert found.tolist() == [[255, 2, 2], [0, 0, 0]]


def test_where_a_class_is_missing_the_background_is_ignored():
    assert corrected(MASK, Decision("a", "accepted", added=("cow",)), LABELS).tolist() == [[255, 1, 2]] * 2
    assert corrected(MASK, Decision("a", "accepted", added=("cat",)), LABELS).tolist() == MASK.tolist()
    without = LabelSpace(("cat", "dog", "cow"), background=None)
    assert corrected(MASK, Decision("a", "accepted", added=("cow",)), without).tolist() == MASK.tolist()


def test_a_mask_of_another_size_and_a_class_of_another_set_are_refused():
    with pytest.raises(DataError, match=r"painted of a is \(1, 2\), its image \(2, 3\)"):
        corrected(MASK, Decision("a", "accepted", mask=painted([[1, 1]])), LABELS)
    with pytest.raises(DataError, match="horse"):
        corrected(MASK, Decision("a", "accepted", removed=("horse",)), LABELS)


def test_what_counts_and_what_is_said_of_it():
    mask = painted([[1]])
    said = [
        Decision("a"), Decision("b", "accepted"), Decision("c", "open", removed=("cat",), mask=mask),
        Decision("d", "rejected"), Decision("e", "accepted", mask=mask), Decision("f", "accepted", mask=mask),
        Decision("g", "accepted", removed=("cat",)),
    ]  # fmt: skip
    assert [one.name for one in said if one.counts] == ["d", "e", "f", "g"]
    words = in_words({one.name: one for one in said})
    assert words == "2 masks painted, 1 image with other tags, 1 image left out"


def test_decisions_come_back_and_are_no_images(tmp_path):
    names = ["a", "a.1", "b/same", "größe/日本"]
    for number, name in enumerate(names):
        kept = write_decision(
            tmp_path / "review", Decision(name, "accepted", ("cat",), ("dog",)), LABELS, MASK + number % 2
        )
        assert read_decision(tmp_path / "review", name) == kept
    found = read_decisions(tmp_path / "review")
    assert list(found) == sorted(names, key=lambda name: tmp_path / f"{name}.json")
    assert {len(one.mask) > 60 for one in found.values()} == {True}
    assert list_images(tmp_path) == ({}, [])
    assert read_decisions(tmp_path / "nothing") == {}


def test_a_mask_that_was_deleted_is_named(tmp_path):
    write_decision(tmp_path, Decision("a", "accepted"), LABELS, MASK)
    (tmp_path / "masks/a.1.png").unlink()
    with pytest.raises(DataError, match=r"a\.1\.png is missing"):
        read_decisions(tmp_path)


WRITER = """
import sys
import numpy as np
from pathlib import Path
from maskwright.data.decisions import read_decision, write_decision
from maskwright.data.sample import LabelSpace
labels, folder = LabelSpace(("background", "cat")), Path(sys.argv[1])
while True:
    decision = read_decision(folder, "a")
    mask = np.zeros((64, 64), np.uint8)
    mask.ravel()[: decision.version + 1] = 1  # as many pixels as the version says
    print(write_decision(folder, decision, labels, mask).version, flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_whenever_the_writer_is_killed_the_last_version_is_whole(tmp_path):
    acknowledged = 0
    for wait in (0.0, 0.013, 0.037):
        with subprocess.Popen([sys.executable, "-c", WRITER, tmp_path], stdout=subprocess.PIPE, text=True) as process:
            first = process.stdout.readline()
            assert int(first) == acknowledged + 1 or int(first) == acknowledged + 2  # one may be written and not said
            time.sleep(wait)
            process.send_signal(signal.SIGKILL)
            rest = process.stdout.read()
        acknowledged = int((first + rest).splitlines()[-1])
        decision = read_decision(tmp_path, "a")
        assert decision.version in (acknowledged, acknowledged + 1)
        size = corrected(np.zeros((64, 64), np.uint8), replace(decision, state="accepted"), LABELS)
        assert int(size.sum()) == decision.version
        acknowledged = decision.version
    kept = write_decision(tmp_path, decision, LABELS, None)
    assert kept.version == decision.version + 1
    assert not list(Path(tmp_path, "masks").glob("[!.]*")), "nor does what a kill left stay"


def test_what_was_painted_for_another_version_goes_and_another_images_stays(tmp_path):
    mask = np.ones((4, 4), np.uint8)
    first = write_decision(tmp_path, read_decision(tmp_path, "a"), LABELS, mask)
    for left in ("a.7.png", "a.3.1.png", "ab.1.png"):  # of a killed writer, of the images a.3 and ab
        (tmp_path / "masks" / left).write_bytes(b"png")
    write_decision(tmp_path, first, LABELS, mask)
    assert sorted(path.name for path in (tmp_path / "masks").glob("[!.]*")) == ["a.2.png", "a.3.1.png", "ab.1.png"]
    (tmp_path / "masks" / "a.3.png").write_bytes(b"png")  # of a writer of the next version, which has no mask here
    write_decision(tmp_path, read_decision(tmp_path, "a"), LABELS, None)
    assert sorted(path.name for path in (tmp_path / "masks").glob("[!.]*")) == ["a.3.1.png", "ab.1.png"]


SAVER = """
import sys
from pathlib import Path
from maskwright.data.decisions import Decision, Older, read_decision, write_decision
from maskwright.data.sample import LabelSpace
labels, folder = LabelSpace(("background", "cat")), Path(sys.argv[1])
won = 0
for _ in range(40):
    try:
        write_decision(folder, read_decision(folder, "a"), labels, None)
        won += 1
    except Older:
        pass
print(won)
"""


@pytest.mark.skipif(os.name == "nt", reason="without flock, threads alone are kept apart")
def test_two_processes_never_write_the_same_version(tmp_path):
    command = [sys.executable, "-c", SAVER, tmp_path]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    won = sum(int(process.communicate(timeout=60)[0]) for process in processes)
    assert read_decision(tmp_path, "a").version == won
    with pytest.raises(Older, match=f"saved as version {won} meanwhile"):
        write_decision(tmp_path, Decision("a", version=won - 1), LABELS, None)
