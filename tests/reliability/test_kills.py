"""Killed at random moments in any stage, started again until it ends: the bits of a run that nobody disturbed."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
from PIL import Image

from benchmarks.reliability import kills
from benchmarks.reliability.labels import ENGINES, is_there, trained
from benchmarks.reliability.victims import MASKS, VICTIMS, Victim, digest, photographs, tagged_and_masked

LABELS = dataclasses.replace(ENGINES["task"], prepare=functools.partial(trained, images=12))
SHORT = Victim((*MASKS, "epochs=1"), tagged_and_masked)


@pytest.mark.bit_equal
def test_a_run_that_is_killed_ends_with_the_same_bits(tmp_path):
    outcome = kills.killed(SHORT, tmp_path, kills=2, each=2, seed=0)
    assert outcome.kills.total() >= 2
    assert (outcome.equal, outcome.problems) == (outcome.runs, [])


@pytest.mark.long
@pytest.mark.bit_equal
@pytest.mark.parametrize("name", VICTIMS)
def test_every_kind_of_run_is_killed_often(name, tmp_path):
    outcome = kills.killed(VICTIMS[name], tmp_path, kills=30, each=kills.EACH, seed=1)
    assert outcome.kills.total() >= 30
    assert (outcome.equal, outcome.problems) == (outcome.runs, [])


@pytest.mark.bit_equal
def test_labelling_in_parts_that_is_killed_ends_with_the_same_bytes(tmp_path):
    outcome = kills.killed(LABELS, tmp_path, kills=2, each=2, seed=0)
    assert outcome.kills.total() >= 2
    assert (outcome.equal, outcome.problems) == (outcome.runs, [])
    made = digest(tmp_path / "whole" / "run" / "pseudo_masks")
    assert {"train-000000.tar", "train-000000.json", "train-000000.receipt.json"} <= made.keys()
    masks = [np.asarray(Image.open(path)) for path in (tmp_path / "whole/run/pseudo_masks").glob("Seg*Class/*.png")]
    assert len(np.unique(masks)) > 1  # of background alone all would be equal


@pytest.mark.long
@pytest.mark.bit_equal
@pytest.mark.distributed
@pytest.mark.parametrize("engine", ENGINES)
def test_labelling_by_every_engine_is_killed_often(engine, tmp_path):
    if not is_there(engine):
        pytest.skip(f"{engine} is not installed")
    outcome = kills.killed(ENGINES[engine], tmp_path, kills=8, each=4, seed=1)
    assert outcome.kills.total() >= 8
    assert (outcome.equal, outcome.problems) == (outcome.runs, [])


def test_a_lost_result_would_be_seen(tmp_path):
    """The harness sees one file that differs, and one that is left over."""

    def start(words, folder):
        child = SHORT.start(("recipes", "ls"), folder)
        (folder / "run").mkdir(exist_ok=True)
        (folder / "run" / "a.txt").write_text(folder.name)
        (folder / "run" / f".a.{2**70}.tmp.png").touch()
        return child

    outcome = kills.Outcome()
    place = tmp_path / "run0"
    place.mkdir()
    victim = dataclasses.replace(SHORT, start=start)
    victim.start(victim.words, place).wait(60)
    kills.compare(victim, place, {"a.txt": "other", "b.txt": "x"}, outcome)
    assert outcome.equal == 0
    assert "a.txt" in outcome.problems[0]
    assert "b.txt" in outcome.problems[0]
    assert "tmp.png" in outcome.problems[0]


def test_a_digest_sees_what_a_run_made_and_no_clock(tmp_path):
    photographs(tmp_path)
    (tmp_path / "metrics.json").write_text('{"miou": 0.5, "seconds": 3}')
    before = digest(tmp_path)
    assert {"metrics.json", "images/00.png", "classes.txt"} <= before.keys()
    (tmp_path / "metrics.json").write_text('{"miou": 0.5, "seconds": 4}')
    assert digest(tmp_path) == before
    (tmp_path / "metrics.json").write_text('{"miou": 0.6, "seconds": 4}')
    assert digest(tmp_path) != before
