"""Out, corrected, back, and trained on to the end: what people drew counts, and no later command touches it."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from maskwright.cli import app
from maskwright.data import open_dataset, with_masks
from maskwright.files import read_json, write_json
from maskwright.recipe.load import load_recipe
from maskwright.runs.context import RunContext
from maskwright.runs.folder import RunFolder

SIDE = 48
WORDS = [
    "classifier.backbone=resnet10t", "classifier.train.epochs=1", "classifier.train.batch_size=4",
    "classifier.train.augment.resize=none", "classifier.train.augment.crop=[48, 48]", "seeds.scales=[1.0]",
    "seeds.size=none", "pseudo_masks.threshold=0.2", "backbone=resnet10t", "train.epochs=1", "train.batch_size=4",
    "train.augment.resize=none", "train.augment.crop=[48, 48]", "inference.size=none", "device=cpu",
    "classifier.train.workers=0", "train.workers=0",
]  # fmt: skip


def said(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.output + str(result.exception or "")


def digests(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def photos(tmp_path):
    """A dozen photographs with a red square or a green one, and a table of their tags."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rows = ["image,tags"]
    for number in range(12):
        pixels = np.random.default_rng(number).integers(90, 130, (SIDE, SIDE, 3), np.uint8)
        pixels[8:28, 6 + number : 26 + number, number % 2] = 230
        Image.fromarray(pixels).save(folder / f"p{number}.png")
        rows.append(f"p{number}.png,{('cat', 'dog')[number % 2]}")
    (folder / "tags.csv").write_text("\n".join(rows), encoding="utf-8")
    return folder


def test_corrected_masks_are_trained_on_and_stay(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = [f"data={photos}", "tags=tags.csv", *WORDS]
    code, text = said("label", "cam-scratch", *data, "out=runs/first")
    assert code == 0, text
    code, text = said("export", "runs/first", "format=labelme", "out=drawn", "select=uncertain", "n=3")
    assert code == 0, text
    drawn = tmp_path / "drawn"
    names = sorted(path.stem for path in drawn.glob("*.json") if path.stem != "provenance")
    assert len(names) == 3
    for name in names:  # what a person sees in it
        record = read_json(drawn / f"{name}.json")
        left = 6 + int(name[1:])
        corners = [[left, 8], [left + 20, 8], [left + 20, 28], [left, 28]]
        shape = {"label": ("cat", "dog")[int(name[1:]) % 2], "points": corners, "shape_type": "polygon", "flags": {}}
        write_json(drawn / f"{name}.json", {**record, "shapes": [shape]})
    before = digests(drawn)

    code, text = said("run", "cam-scratch", *data, "supervision=mixed", "masks=../drawn", "out=runs/second")
    assert code == 0, text
    assert (tmp_path / "runs/second/segmenter/model.safetensors").is_file()
    assert (tmp_path / "runs/second/report.html").is_file()
    recipe = load_recipe("cam-scratch", [*data, "supervision=mixed", "masks=../drawn", "out=runs/second"])
    context = RunContext(recipe, RunFolder(tmp_path / "runs/second"), lambda line: None)
    assert set(context.real) <= set(names)
    assert context.real
    trained_on = with_masks(context.train, tmp_path / "runs/second/pseudo_masks/SegmentationClass", context.real)
    for index, name in enumerate(trained_on.names):
        mask = trained_on.mask(index)
        if name in names:
            expected = np.zeros((SIDE, SIDE), np.uint8)
            expected[8:28, 6 + int(name[1:]) : 26 + int(name[1:])] = 1 + int(name[1:]) % 2
            assert np.array_equal(mask, expected), name

    # Whatever comes later: another export, predictions, a run into their folder, the same run again, labels anew.
    for words in (
        ("export", "runs/second", "format=labelme", "out=drawn"),
        ("predict", "runs/second", str(photos), "out=drawn", "device=cpu"),
        ("run", "cam-scratch", *data, "out=drawn/run"),
    ):
        code, text = said(*words)
        assert code != 0
        assert "corrections are not lost" in text
    assert said("run", "cam-scratch", *data, "supervision=mixed", "masks=../drawn", "out=runs/second")[0] == 0
    assert said("relabel", "runs/second", "device=cpu")[0] == 0
    assert digests(drawn) == before
    # They are not asked for again.
    code, text = said("export", "runs/second", "format=labelme", "out=next", "select=uncertain", "n=3")
    assert code == 0, text
    following = {path.stem for path in (tmp_path / "next").glob("*.json")} - {"provenance"}
    assert following
    assert not following & set(names)
    assert json.loads((tmp_path / "next/provenance.json").read_text())["select"] == "uncertain"
    assert len(open_dataset(recipe.data, "all")) == 12
