"""Every example runs, small."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from maskwright.weak.seeds import SEED_METHODS

EXAMPLES = Path(__file__).parents[1] / "examples"
# The built-in scenes, few and small, and the shortest of trainings.
# `instant` on images of any size, without weights.
QUICK = [
    *("random_seed=1", "classifier.backbone=resnet10t", "classifier.pretrained=false", "classifier.options={}"),
    *("classifier.train={steps: 2, batch_size: 4}", "seeds.size=64", "crf={preset: largefov}"),
    *("model.backbone=resnet10t", "model.pretrained=false", "model.options={}", "inference.size=64"),
    *("train={steps: 2, batch_size: 4, workers: 0}", "inference.scales=[1.0]", "inference.crf=none"),
]
SMALL = [
    *("data.options={size: [48, 48], count: 10}", "classifier.train.epochs=none", "classifier.train.steps=2"),
    *("classifier.backbone=resnet10t", "classifier.train.batch_size=4", "classifier.train.augment.crop=[48, 48]"),
    *("model.backbone=resnet10t", "train.epochs=none", "train.steps=2", "train.batch_size=4", "train.workers=0"),
    *("train.augment.crop=[48, 48]", "classifier.train.workers=0", "seeds.scales=[1.0]"),
]


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested():
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {path.stem for path in EXAMPLES.glob("*.py")} <= tested


def test_tags_to_masks(tmp_path):
    out = example("tags_to_masks").main("", "", *QUICK, out=str(tmp_path / "run"), count=14)
    assert (out / "report.html").is_file()
    assert (out / "first_mask.png").is_file()
    labelled = (out / "pseudo_masks" / "ImageSets" / "Segmentation" / "train.txt").read_text().split()
    assert {path.stem for path in (out / "pseudo_masks" / "SegmentationClass").glob("*.png")} == set(labelled)
    assert len(labelled) > 7


def test_the_notebook_of_the_first_runs_cell_by_cell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    cells = json.loads((EXAMPLES / "tags_to_masks.ipynb").read_text())["cells"]
    names = {}
    for cell in cells:
        text = "".join(cell["source"]).replace("count=40", "count=14").replace("settings = []", f"settings = {QUICK}")
        if cell["cell_type"] == "code":
            exec(compile(text, "cell", "exec"), names)
    assert (tmp_path / "runs/notebook/report.html").is_file()
    assert sum(names["predict"](str(names["first"])).classes.values()) > 0.99


def test_loss_in_your_loop():
    losses = example("loss_in_your_loop").main(10)
    assert losses[-1] < losses[0]


def test_cpp_on_a_foreign_model():
    losses = example("cpp_on_a_foreign_model").main(4)
    assert losses[-1] < losses[0]


def test_a_seed_method(tmp_path, monkeypatch):
    monkeypatch.setattr("maskwright.weak.seeds.SEED_METHODS", SEED_METHODS)
    try:
        out = example("a_seed_method").main(*SMALL, f"out={tmp_path}", "seeds.options={patch: 24}")
        record = json.loads((out / "pseudo_masks" / "provenance.json").read_text())
        assert record["method"] == "occlusion"
    finally:
        SEED_METHODS.pop("occlusion", None)


def test_mixed_supervision(tmp_path):
    scores = example("mixed_supervision").main(*SMALL, out=str(tmp_path))
    assert set(scores) == {"tags", "tags and some masks"}
    assert (tmp_path / "masks.txt").read_text().count("\n") == 1


def test_frozen_features(tmp_path):
    right = example("frozen_features").main(str(tmp_path), pretrained=False, count=16)
    assert 0.5 < right <= 1
    assert list(tmp_path.rglob("*.safetensors"))
