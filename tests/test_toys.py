"""Every kind of method is one file, here in `toys/`, and one line in a dictionary; a recipe then names it."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import yaml

from maskwright.data import READERS
from maskwright.errors import DataError, RecipeError
from maskwright.files import read_json
from maskwright.losses import LOSSES
from maskwright.models import MODELS
from maskwright.pipeline.evaluate import report_run
from maskwright.pipeline.run import run
from maskwright.plan.dryrun import dry_run
from maskwright.plan.plan import plan
from maskwright.recipe import dump_recipe, load_recipe, recipe_type
from maskwright.runs.folder import RunFolder
from maskwright.weak.networks import NETWORKS
from maskwright.weak.refine import REFINEMENTS
from maskwright.weak.seeds import SEED_METHODS
from maskwright.weak.seeds.extract import load_maps

RECIPE = {
    "supervision": "tags",
    "networks": ["toy"],
    "toy": {"strength": 0.5},
    "classifier": {"backbone": "resnet10t"},
    "seeds": {"method": "toy", "scales": [1.0], "options": {"power": 2.0}},
    "refine": ["sharp", "sharp"],
    "sharp": {"power": 1.5},
    "pseudo_masks": {"threshold": 0.1},
    "model": {"name": "toy", "backbone": "resnet10t", "output_stride": 32, "options": {"bias": False}},
    "loss": {"name": "toy", "options": {"temperature": 3.0}},
    "train": {"steps": 2, "batch_size": 4, "workers": 0},
}


def toy(kind):
    path = Path(__file__).parent / "toys" / f"{kind}.py"
    spec = importlib.util.spec_from_file_location(f"toy_{kind}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def toys(monkeypatch):
    monkeypatch.setitem(NETWORKS, "toy", toy("network").TOY)
    monkeypatch.setitem(REFINEMENTS, "sharp", toy("refinement").TOY)
    monkeypatch.setitem(SEED_METHODS, "plain", toy("seeds").TOY)
    monkeypatch.setitem(LOSSES, "toy", toy("loss").Toy)
    monkeypatch.setitem(MODELS, "toy", toy("model").Toy)
    monkeypatch.setitem(READERS, "toy", toy("reader").open_toy)


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(RECIPE))
    (tmp_path / "photos").mkdir()
    data = [f"data={tmp_path / 'photos'}", "layout=toy", f"out={tmp_path / 'run'}", "device=cpu"]
    return str(tmp_path / "toy.yaml"), data


def test_toys_run_end_to_end(toys, settings, tmp_path):
    recipe = load_recipe(settings[0], settings[1])
    assert recipe.toy.train.steps == 1, "what is not said is the paper's"
    written = dump_recipe(recipe)
    assert list(yaml.safe_load(written))[7:14] == [
        "networks", "classifier", "toy", "seeds", "refine", "sharp", "pseudo_masks",
    ]  # fmt: skip
    rows = {row.name: row for row in plan(recipe)}
    assert list(rows) == [
        "toy", "seeds", "sharpened", "sharpened-2", "pseudo_masks", "segmenter", "evaluation",
    ]  # fmt: skip
    assert all(row.seconds > 0 for row in rows.values())
    out = run(recipe, say=lambda line: None)
    assert read_json(out / "toy" / "stage.json")["settings"]["toy"] == {"strength": 0.5, "train": TRAINED}
    page = (out / "report.html").read_text()
    assert "sharpened 2" in page
    said = []
    run(load_recipe(settings[0], settings[1]), say=said.append)
    assert sum("done already" in line for line in said) == len(rows)
    assert report_run(out).is_file()


TRAINED = {"steps": 1, "batch_size": 4, "freeze_batchnorm": True}


def test_a_dry_run_tries_toys(toys, settings):
    lines = []
    found = dry_run(load_recipe(settings[0], settings[1]), say=lines.append)
    assert found["toy"].training.steps == 1
    assert any(line.startswith("toy on resnet10t") for line in lines)


def test_a_toy_seed_method_takes_maps_of_any_network(toys, settings):
    overrides = [*settings[1], "networks=[classifier]", "toy=none"]
    with pytest.raises(RecipeError, match="toy"):
        load_recipe(settings[0], overrides)
    recipe = load_recipe("cam-scratch", [*settings[1], "seeds.method=plain", "seeds.options={blur: box}"])
    assert recipe.seeds.method == "plain"
    with pytest.raises(RecipeError, match=r"seeds.options.blur: Input should be 'none' or 'box', found 'bos'"):
        load_recipe("cam-scratch", [*settings[1], "seeds.method=plain", "seeds.options={blur: bos}"])
    with pytest.raises(RecipeError, match=r"seeds.method=toy needs a network with background.*networks=\[toy\]"):
        load_recipe("cam-scratch", [*settings[1], "seeds.method=toy"])


def test_a_toy_seed_method_runs_end_to_end_on_a_network_of_ours(toys, settings, tmp_path):
    short = "{epochs: null, steps: 1, batch_size: 4, workers: 0, augment: {crop: [32, 32]}}"
    maps = {}
    for blur in ("none", "box"):
        overrides = [
            *settings[1], f"out={tmp_path / blur}", "backbone=resnet10t", f"classifier.train={short}", f"train={short}",
            "seeds.method=plain", f"seeds.options={{blur: {blur}}}", "seeds.scales=[1.0]", "seeds.size=[32, 32]",
        ]  # fmt: skip
        out = run(load_recipe("cam-scratch", overrides), say=lambda line: None)
        assert read_json(RunFolder(out).provenance)["method"] == "plain"
        assert "plain" in (out / "report.html").read_text()
        path = next(RunFolder(out).maps("seeds").glob("*.npz"))
        maps[blur] = load_maps(path.parent, path.stem)[1]
    assert not np.array_equal(maps["none"], maps["box"])


def test_the_type_of_a_recipe_has_what_there_is(toys):
    schema = recipe_type().model_json_schema()
    assert {"toy", "sharp", "irn", "recam"} <= set(schema["properties"])
    assert "toy" in schema["properties"]["networks"]["items"]["enum"]
    assert "sharp" in schema["properties"]["refine"]["items"]["enum"]
    assert recipe_type() is recipe_type()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ("networks=[toy]", RecipeError, "networks"),
        ("refine=[sharp]", RecipeError, "refine"),
        ("seeds.method=plain", RecipeError, "unknown seed method 'plain'"),
        ("sharp.power=2", RecipeError, "unknown key 'sharp'"),
    ],
)
def test_without_the_line_the_word_is_refused(change, error, words):
    with pytest.raises(error, match=words):
        load_recipe("cam-scratch", ["data=scenes", change])


def test_without_the_line_a_layout_is_refused(settings):
    from maskwright.data import open_dataset

    with pytest.raises(DataError, match="unknown layout 'toy'"):
        open_dataset(load_recipe("cam-scratch", settings[1]).data, "train")
