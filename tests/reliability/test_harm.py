"""No room, no right to write, few handles, two runs, harmed files, data that changes: in words, and nothing is lost."""

from __future__ import annotations

import pytest

from benchmarks.reliability import harm
from benchmarks.reliability.victims import MASKS, TAGS


def assert_all_well(outcomes: list[harm.Harmed]) -> None:
    wrong = [f"{outcome.name}: {outcome.said}" for outcome in outcomes if not outcome.equal]
    assert not wrong, "\n".join(wrong)


@pytest.mark.bit_equal
def test_a_second_run_in_the_folder_is_refused_and_the_first_ends(there):
    outcomes = harm.two_runs(there, MASKS)
    assert [outcome.refused for outcome in outcomes] == [True]
    assert_all_well(outcomes)


def test_advice_is_followed_where_it_names_what_is_there(tmp_path):
    (tmp_path / "run/seeds/maps").mkdir(parents=True)
    path = tmp_path / "run/seeds/maps/a.npz"
    path.touch()
    assert harm.follow("error: run/seeds/maps/a.npz must hold the arrays keys (x); delete it and run again", tmp_path)
    assert not path.exists()
    assert harm.follow(
        "run/seeds/stage.json is damaged; delete the folder run/seeds and give the same command", tmp_path
    )
    assert not path.parent.exists()
    assert not harm.follow("delete it", tmp_path)
    assert not harm.follow("something else", tmp_path)


@pytest.mark.long
@pytest.mark.bit_equal
class TestLong:
    def test_full_disk(self, there):
        outcomes = harm.full_disk(there, TAGS, (0.5, 2, 6))
        assert any("disk is full" in outcome.said for outcome in outcomes)
        assert_all_well(outcomes)

    def test_read_only(self, there):
        outcomes = harm.read_only(there, MASKS)
        assert all(outcome.refused for outcome in outcomes)
        assert_all_well(outcomes)

    def test_few_handles(self, there):
        outcomes = harm.few_handles(there, TAGS, (0, 4, 64))
        assert any("too many files are open" in outcome.said for outcome in outcomes)
        assert_all_well(outcomes)

    def test_another_recipe_in_the_folder(self, there):
        assert_all_well(harm.foreign(there))

    def test_data_that_changes_under_a_run(self, there):
        assert_all_well(harm.changed_data(there, TAGS))

    def test_files_that_are_harmed(self, there):
        assert_all_well(harm.torn(there, TAGS, TAGS))
