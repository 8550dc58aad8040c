"""Recipes whose backbone keeps its weights: what a plan says of them, and what a run leaves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from maskwright.data.scenes import scenes
from maskwright.models.backbones import create_backbone
from maskwright.pipeline.run import run
from maskwright.pipeline.stages import recipe_stages
from maskwright.plan.cut import trainings
from maskwright.plan.dryrun import dry_run
from maskwright.plan.plan import estimates, plan, shared_features, table
from maskwright.recipe.load import load_recipe
from maskwright.runs.context import RunContext
from maskwright.runs.folder import RunFolder
from maskwright.weak.seeds.extract import load_maps

BACKBONE = "test_efficientnet"
CPU = torch.device("cpu")
IMAGES = 12


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    state = create_backbone(BACKBONE, pooled=True).state_dict()
    torch.save({key.removeprefix("network."): value for key, value in state.items()}, path)
    return [
        "data=scenes", f"data.options={{count: {IMAGES}, size: [64, 64]}}", "device=cpu", f"backbone={BACKBONE}",
        f"pretrained={path}", "seeds.size=96", "train.augment.long_side=[96, 96]", "train.epochs=1",
        "inference.size=96",
    ]  # fmt: skip


def test_the_maps_of_a_frozen_backbone_are_kept_until_the_whole_run_is_finished(settings, tmp_path):
    recipe = load_recipe("cam", [*settings, f"out={tmp_path / 'run'}"])
    out = RunFolder(tmp_path / "run")
    run(recipe, until="pseudo_masks", say=lambda line: None)
    kept = [path.stat().st_size for path in out.features.rglob("*.safetensors")]
    assert len(kept) == IMAGES
    dataset = scenes("train", count=IMAGES, size=(64, 64))
    _, _, disk = estimates(load_recipe("cam", settings), dataset, dataset, CPU, "classifier")["classifier"]
    model = out.model("classifier").stat().st_size
    assert disk == pytest.approx(sum(kept) + model, rel=0.1)
    run(recipe, say=lambda line: None)
    assert not out.features.exists()
    said: list[str] = []
    run(recipe, say=said.append)
    assert sum("done already" in line for line in said) == len(recipe_stages(RunContext(recipe, out.path, print)))
    assert not out.features.exists()


def test_windows_are_seen_by_the_network_itself_and_share_its_heads(settings, tmp_path):
    out = RunFolder(tmp_path / "run")
    found = []
    for windows in ([], ["seeds.window=[64, 64]"]):
        said: list[str] = []
        run(load_recipe("cam", [*settings, f"out={out.path}", *windows]), until="seeds", say=said.append)
        found.append([load_maps(out.maps("seeds"), path.stem)[1] for path in sorted(out.maps("seeds").glob("*.npz"))])
    assert any("train the tag classifier: done already" in line for line in said)
    assert any("changed since it was made: seeds.window" in line for line in said)
    assert max(np.abs(whole - parted).max(initial=0) for whole, parted in zip(*found, strict=True)) > 0.01


def test_a_plan_counts_the_making_of_maps_and_no_steps_of_a_head_that_is_fitted(settings, tmp_path):
    recipe = load_recipe("recam", [*settings, f"out={tmp_path / 'run'}"])
    assert list(trainings(recipe)) == ["segmenter"]
    rows = plan(recipe)
    names = ["classifier", "recam", "seeds", "threshold", "pseudo_masks", "segmenter", "evaluation"]
    assert [row.name for row in rows] == names
    assert all(row.seconds > 0 for row in rows)
    # A hundred times the images do not fit a head a hundred times.
    larger = scenes("train", count=100 * IMAGES, size=(64, 64))
    many = estimates(recipe, larger, larger, CPU, "recam")["recam"][0]
    assert many < 50 * rows[names.index("recam")].seconds
    assert "made once, and deleted when the run is finished" in table(rows, recipe)[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_segmenter_finds_the_maps_of_the_classifier_made_where_both_see_the_same(settings):
    same = load_recipe("cam", settings)
    assert shared_features(same)
    for change in ("seeds.size=64", "seeds.scales=[0.5]", "model.output_stride=8", "supervision=masks"):
        assert not shared_features(load_recipe("cam", [*settings, change])), change
    alone = load_recipe("cam", [*settings, "supervision=masks"])
    dataset = scenes("train", count=IMAGES, size=(64, 64))
    said: list[str] = []
    training = dry_run(alone, say=said.append)["segmenter"].training
    assert training.features > 0
    assert training.trained < training.parameters
    assert any("once the maps of the frozen backbone are made" in line for line in said)
    few, many = (estimates(alone, data, data, CPU)["segmenter"] for data in (dataset, scenes("train", count=4000)))
    assert many[2] > 50 * few[2] / 2, "the maps of all images"
