"""The whole path on a handful of small scenes: it ends, resumes to the same numbers, and runs on two processes."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.forks import Forks
from typer.testing import CliRunner

from maskwright.cli import app
from maskwright.engine.checkpoint import weights_hash
from maskwright.errors import DataError
from maskwright.files import read_json

COUNT = 12
TINY = [
    f"data.options={{count: {COUNT}, size: [64, 64]}}",
    "classifier.backbone=resnet10t",
    "classifier.train.epochs=2",
    "classifier.train.batch_size=4",
    "classifier.train.checkpoint_seconds=0",
    "classifier.train.augment.crop=[64, 64]",
    "seeds.scales=[1.0]",
    "pseudo_masks.threshold=0.05",
    "backbone=resnet10t",
    "train.epochs=2",
    "train.batch_size=4",
    "train.checkpoint_seconds=0",
    "train.augment.crop=[64, 64]",
]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
STAGES = ("classifier", "seeds", "pseudo_masks", "segmenter", "evaluation", "oracle", "oracle_evaluation")


pytestmark = pytest.mark.usefixtures("one_thread")


def command(out: Path, *extra: str) -> list[str]:
    return ["run", "demo", f"out={out}", *TINY, *extra]


def finish(words: list[str], *launcher: str) -> str:
    """The command in a process of its own, or in several."""
    start = [sys.executable, "-m", *launcher, *(["-m"] if launcher else []), "maskwright", *words]
    done = subprocess.run(start, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def here(*words: str, code: int = 0) -> str:
    """What the command prints in this process."""
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == code, done.output + str(done.exception)
    return done.output


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "whole"
    return out, finish(command(out))


def numbers(out: Path) -> dict:
    return read_json(out / "metrics.json")


@pytest.mark.versions
def test_one_command_gives_masks_model_scores_and_report(uninterrupted):
    out, printed = uninterrupted
    found = numbers(out)
    assert set(found) == {"pseudo_masks", "segmenter", "oracle"}
    assert 0 < found["segmenter"]["miou"] < 1
    assert found["segmenter"]["split"] == "val"
    assert found["segmenter"]["tags_read"] is False
    assert len(list((out / "pseudo_masks" / "SegmentationClass").rglob("*.png"))) == COUNT
    assert (out / "report.html").stat().st_size > 10_000
    assert (out / "segmenter" / "model.safetensors").is_file()
    assert f"{found['segmenter']['miou']:.3f}" in printed
    for stage in STAGES:
        assert read_json(out / stage / "stage.json")["finished"] is True
    assert list(read_json(out / "seed_evaluation.json")["stages"]) == ["seeds", "pseudo_masks"]
    assert re.search(r"^verdict +(bad|doubtful) \(0\.\d\d of 1\): ", printed, re.M)
    # The tags of the scenes follow from their masks: only those that the model learned from may be asked.
    assert not (out / "evaluation" / "tags.json").exists()
    agreement = read_json(out / "evaluation" / "training" / "tags.json")
    assert (agreement["split"], agreement["images"], agreement["trained_on"]) == ("train", COUNT, True)
    assert not (out / "oracle_evaluation" / "training").exists()


@pytest.mark.versions
def test_same_command_again_does_nothing_and_says_so(uninterrupted):
    out, _ = uninterrupted
    kept = [*out.rglob("*.safetensors"), out / "seed_evaluation.json"]
    before = {path: path.stat().st_mtime_ns for path in kept}
    printed = here(*command(out))
    assert printed.count("done already") == len(STAGES)
    assert before == {path: path.stat().st_mtime_ns for path in kept}


def test_evaluate_scores_another_split_and_refuses_other_classes(uninterrupted, tmp_path):
    out, _ = uninterrupted
    printed = here("evaluate", str(out), "split=test", f"out={tmp_path / 'scores'}")
    assert f"{COUNT} images of split test" in printed
    assert read_json(tmp_path / "scores" / "metrics.json")["split"] == "test"
    (tmp_path / "other" / "images").mkdir(parents=True)
    (tmp_path / "other" / "masks").mkdir()
    _picture(tmp_path / "other" / "images" / "a.png", 3)
    _picture(tmp_path / "other" / "masks" / "a.png", 0)
    arguments = [f"data={tmp_path / 'other'}", "split=all", "classes=[sky, road]", "data.options={}"]
    refused = CliRunner().invoke(app, ["evaluate", str(out), *arguments])
    assert isinstance(refused.exception, DataError)
    assert "sky, road" in str(refused.exception)


def _picture(path: Path, channels: int) -> None:
    import numpy as np
    from PIL import Image

    Image.fromarray(np.zeros((40, 56, 3) if channels else (40, 56), np.uint8)).save(path)


@pytest.mark.versions
def test_predict_goes_on_past_a_broken_image(uninterrupted, tmp_path):
    out, _ = uninterrupted
    _picture(tmp_path / "good.png", 3)
    (tmp_path / "bad.png").write_bytes(b"not an image")
    printed = here("predict", str(out), str(tmp_path), f"out={tmp_path / 'made'}", code=1)
    assert "bad.png" in printed
    assert "1 predicted, 1 failed" in printed
    assert (tmp_path / "made" / "masks" / "good.png").is_file()


def test_report_is_written_anew(uninterrupted):
    out, _ = uninterrupted
    (out / "report.html").unlink()
    printed = here("report", str(out))
    assert (out / "report.html").is_file()
    assert "report.html" in printed


@pytest.mark.bit_equal
def test_killed_in_every_stage_ends_with_the_same_numbers(uninterrupted, tmp_path):
    whole, _ = uninterrupted
    out = tmp_path / "killed"
    killed_in = []
    with Forks(ENVIRONMENT) as forks:
        for stage in STAGES:
            forks.start(command(out))
            deadline = time.monotonic() + 240
            while time.monotonic() < deadline and forks.ended(0.005) is None:
                if _in_the_middle(out / stage):
                    killed_in.append(stage)
                    forks.kill()
                    break
        forks.start(command(out))
        assert forks.ended(240) == 0
    assert {"classifier", "segmenter", "oracle"} <= set(killed_in), killed_in
    assert numbers(out) == numbers(whole)
    for model in ("classifier", "segmenter", "oracle"):
        found, expected = (weights_hash(run / model / "model.safetensors") for run in (out, whole))
        assert found == expected, f"{model} differs after being killed"


def _in_the_middle(folder: Path) -> bool:
    """A stage that has begun, has something to lose, and has not ended."""
    record = folder / "stage.json"
    if not record.is_file() or json.loads(record.read_text())["finished"]:
        return False
    return sum(1 for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")) > 1


def test_changed_setting_redoes_only_what_depends_on_it(uninterrupted, tmp_path):
    out, _ = uninterrupted
    printed = here(*command(out, "inference.flip=true"))
    assert printed.count("done already") == 5
    assert "inference.flip absent -> true" in printed
    here(*command(out))


def test_mixed_labels_train_on_the_real_masks_named(tmp_path):
    from maskwright.recipe.load import load_recipe
    from maskwright.runs.context import RunContext

    (tmp_path / "real.txt").write_text("")
    recipe = load_recipe("demo", [*TINY, f"out={tmp_path / 'run'}", "supervision=mixed"])
    assert len(RunContext(recipe, tmp_path / "run", print).real) == COUNT
    listed = load_recipe("demo", [*TINY, "supervision=mixed", f"mixed_list={tmp_path / 'real.txt'}"])
    assert RunContext(listed, tmp_path / "run", print).real == []


IRN = (
    "refine=[irn, crf]",
    "irn={backbone: resnet10t, options: {dilate: false}, train_radius: 4, "
    "train: {steps: 2, batch_size: 4, augment: {crop: [64, 64]}}}",
)


def test_irn_refines_the_maps_and_a_changed_walk_leaves_the_network_alone(uninterrupted, tmp_path):
    whole, _ = uninterrupted
    out = tmp_path / "irn"
    shutil.copytree(whole, out)
    label = ["label", "demo", f"out={out}", *TINY, *IRN]
    printed = here(*label)
    assert printed.count("done already") == 2  # classifier and seeds are those of the run without IRN
    for stage in ("irn", "crf"):
        assert len(list((out / stage / "maps").rglob("*.npz"))) == COUNT
    record = read_json(out / "pseudo_masks" / "provenance.json")
    assert record["crf"] == "IR labels: irn, maps: seam"
    assert record["refinement"]["irn"]["beta"] == 10
    judged = read_json(out / "seed_evaluation.json")["stages"]
    assert list(judged) == ["seeds", "irn", "crf", "pseudo_masks"]  # of this run, not the one that was copied
    # It ends with a report of what is there, to which the page that was shown meanwhile leads.
    assert printed.splitlines()[-2:] == [
        f"report: {(out / 'report.html').as_uri()}",
        f"written to {out / 'pseudo_masks'}",
    ]
    assert f"preview: {(out / 'preview.html').as_uri()}" in printed
    assert re.search(r"^verdict +(bad|doubtful|good) ", printed, re.M)
    assert "url=report.html" in (out / "preview.html").read_text()
    again = here(*label, "irn.beta=5")
    assert again.count("done already") == 5
    assert "beta absent -> 5" in again


def test_irn_with_another_backbone_is_refused_before_anything_runs(tmp_path):
    from maskwright.errors import RecipeError
    from maskwright.plan.plan import plan
    from maskwright.recipe.load import load_recipe

    recipe = load_recipe("demo", [*TINY, f"out={tmp_path / 'run'}", "refine=[irn]", "irn={backbone: resnet18}"])
    with pytest.raises(RecipeError, match=r"irn\.backbone=resnet10t"):
        plan(recipe)


@pytest.mark.parametrize("block", ["seeds", "inference"])
def test_float16_on_a_cpu_is_refused_before_anything_runs(tmp_path, block):
    from maskwright.errors import RecipeError
    from maskwright.pipeline import run as pipeline
    from maskwright.recipe.load import load_recipe

    recipe = load_recipe("demo", [*TINY, f"out={tmp_path / 'run'}", "device=cpu", f"{block}.autocast=float16"])
    with pytest.raises(RecipeError, match="autocast=bfloat16"):
        pipeline.run(recipe)
    assert not (tmp_path / "run" / "recipe.yaml").exists()


@pytest.mark.distributed
def test_two_processes_run_the_whole_path(tmp_path):
    out = tmp_path / "two"
    launcher = ("torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29611")
    printed = finish(command(out, "fully_supervised=false"), *launcher)
    found = numbers(out)
    assert found["segmenter"]["images"] == COUNT
    assert sum(map(sum, found["segmenter"]["confusion"])) == found["segmenter"]["pixels"]
    assert len(read_json(out / "evaluation" / "images.json")) == COUNT
    single = here("evaluate", str(out))
    assert f"mIoU {found['segmenter']['miou']:.4f}" in single
    assert printed.count("train the segmenter") == 1
