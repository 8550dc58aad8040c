"""Runs of version 0.1 open, resume and report: no stage that they finished is made again.

`runs_before.zip` holds what that version left: six images (`photos`, each 32 x 32), a run from masks (`masks`) and one
from tags (`tags`), and one from masks that SIGTERM stopped after 6 of 12 steps (`stopped`); its commands are in each
`run.json`. Version 0.1 knew files by their time of change, which a working copy does not keep: it is set here.
"""

import os
import zipfile
from pathlib import Path

import pytest

from maskwright.engine.checkpoint import weights_hash
from maskwright.files import read_json, write_json
from maskwright.pipeline import run as pipeline
from maskwright.pipeline.evaluate import evaluate_run, judge_seeds, report_run
from maskwright.pipeline.stages import recipe_stages
from maskwright.plan.plan import plan
from maskwright.recipe.load import load_recipe
from maskwright.runs.context import RunContext
from maskwright.runs.folder import RunFolder
from maskwright.runs.stages import states
from maskwright.runs.taking_over import share_stages
from maskwright.settings import MaskSettings

CHANGED = 1_700_000_000


@pytest.fixture
def old(tmp_path, monkeypatch) -> Path:
    with zipfile.ZipFile(Path(__file__).with_suffix(".zip").with_name("runs_before.zip")) as archive:
        archive.extractall(tmp_path)
    for path in tmp_path.glob("photos/*/*"):
        os.utime(path, (CHANGED, CHANGED))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(name: str, *changes: str) -> list[str]:
    said: list[str] = []
    pipeline.run(load_recipe(f"{name}/recipe.yaml", changes), say=said.append)
    return said


def results(folder: Path) -> dict[str, int]:
    return {
        str(path): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.suffix in (".npz", ".png", ".safetensors") and path.parent not in (folder, folder / "charts")
    }


@pytest.mark.parametrize(("name", "count"), [("masks", 2), ("tags", 5)])
def test_a_finished_run_is_done_already(old, name, count):
    assert {row.state for row in plan(load_recipe(f"{name}/recipe.yaml", []))} == {"finished"}
    before, scores = results(old / name), read_json(old / name / "metrics.json")
    said = run(name)
    assert sum("done already" in line for line in said) == count
    assert results(old / name) == before
    assert read_json(old / name / "metrics.json") == scores
    assert (old / name / "picture.png").is_file()
    # The records are now of this version: they stay known when all times are others.
    for path in (old / "photos").glob("*/*"):
        os.utime(path)
    assert sum("done already" in line for line in run(name)) == count


def test_a_changed_setting_concerns_only_what_depends_on_it(old):
    said = run("tags", "inference.flip=true")
    assert sum("done already" in line for line in said) == 4
    assert any("inference.flip absent -> true" in line for line in said)


def test_a_sweep_that_was_the_default_is_no_change(old):
    """Their `recipe.yaml` says it, and the recipe that they were made with says nothing."""
    assert "- 0.6\n" in (old / "tags/recipe.yaml").read_text()
    assert MaskSettings().sweep == (0.05, 0.95, 0.05)
    for sweep in ("[0.05, 0.95, 0.05]", "[0.05, 0.6, 0.05]"):
        assert sum("done already" in line for line in run("tags", f"pseudo_masks.sweep={sweep}")) == 5
    context = RunContext(load_recipe("tags/recipe.yaml", ["pseudo_masks.sweep=[0.05, 0.9, 0.05]"]), old / "tags", print)
    found = states(recipe_stages(context), old / "tags")
    assert (found["seeds"].word, found["pseudo_masks"].word) == ("finished", "stale")


def test_a_best_threshold_at_the_end_of_the_sweep_is_said(old):
    said: list[str] = []
    for out, sweep in (("narrow", "[0.05, 0.6, 0.05]"), ("wide", "[0.05, 0.95, 0.05]")):
        recipe = load_recipe(
            "tags/recipe.yaml", [f"pseudo_masks.sweep={sweep}", f"out={out}", "pseudo_masks.threshold=0.2"]
        )
        share_stages(recipe_stages(RunContext(recipe, out, print)), out, [old / "tags"], said.append)
        pipeline.run(recipe, until="pseudo_masks", say=said.append)
    found = [line.partition("at threshold ")[2] for line in said if "pseudo-masks: mIoU" in line]
    best = read_json("wide/pseudo_masks/scores.json")["best_threshold"]
    assert found == ["0.20 (best 0.60, the last that was tried)", f"0.20 (best {best:.2f})"]
    assert 0.6 < best < 0.95


def test_the_places_may_be_spelled_in_another_way(old):
    said = run("tags", f"data={old / 'photos'}/", "tags=tags.csv")
    assert sum("done already" in line for line in said) == 5


def test_a_file_that_was_touched_is_another_to_version_0_1(old):
    os.utime(old / "photos/images/00.png")
    context = RunContext(load_recipe("tags/recipe.yaml", []), old / "tags", print)
    assert states(recipe_stages(context), old / "tags")["classifier"].word == "stale"


def test_a_stopped_training_is_finished(old):
    said = run("stopped")
    assert [line for line in said if line.startswith("[1/2]")] == ["[1/2] train the segmenter: resuming"]
    assert read_json(old / "stopped/segmenter/stage.json")["finished"] is True
    steps = [line for line in (old / "stopped/segmenter/log.jsonl").read_text().splitlines() if '"step": 12' in line]
    assert steps
    again = run("stopped", "out=whole")
    assert [line for line in again if line.startswith("[1/2]")] == ["[1/2] train the segmenter"]
    hashes = {weights_hash(RunFolder(name).model("segmenter")) for name in ("stopped", "whole")}
    assert len(hashes) == 1


def test_stopped_seeds_go_on(old):
    record = old / "tags/seeds/stage.json"
    write_json(record, {**read_json(record), "finished": False})
    gone = sorted((old / "tags/seeds/maps").glob("*.npz"))[1]
    gone.unlink()
    said = run("tags")
    assert sum("done already" in line for line in said) == 4
    assert gone.is_file()


def test_it_is_reported_evaluated_and_judged(old):
    (old / "photos").rename(old / "moved")
    (old / "tags/report.html").unlink()
    assert report_run(Path("tags"), ["data=moved"]) == Path("tags/report.html")
    assert "mIoU" in "".join(evaluate_run(Path("tags"), ["data=moved"]))
    assert "4 images of split train" in "".join(judge_seeds(Path("tags"), ["data=moved"]))
