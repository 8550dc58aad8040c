"""One setting at several values: what is run, what is shared, and what the curve says."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from maskwright.cli import app
from maskwright.errors import RecipeError
from maskwright.files import read_json
from maskwright.studies.sweep import lines, plot, rows, sweep, values_of

TINY = [
    "data.options={count: 6, size: [32, 32]}",
    "fully_supervised=false",
    "networks=[classifier, recam]",
    "seeds.method=recam",
    "classifier.train.steps=1",
    "classifier.train.batch_size=4",
    "classifier.train.augment={crop: [32, 32]}",
    "recam.train={steps: 2, batch_size: 4, lr: 0.5, workers: 0, augment: {crop: [32, 32]}}",
    "seeds.scales=[1.0]",
    "seeds.flip=false",
    "pseudo_masks.threshold=0.3",
]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_command_runs_each_value_once_and_draws_the_curve(tmp_path):
    out = tmp_path / "out"
    words = ["study", "sweep", "demo", *TINY, "over=recam.sce_weight", "values=0.1,2,1", "until=seeds", "images=1"]
    result = CliRunner().invoke(app, [*words, f"out={out}"])
    assert result.exit_code == 0, result.output
    stored = read_json(out / "sweep.json")
    assert [point["value"] for point in stored["points"]] == ["0.1", "2", "1"]
    assert result.output.count("train the tag classifier: the same as in") == 2  # made once, taken over twice
    assert len({(out / value / "recam" / "model.safetensors").read_bytes()[-4096:] for value in ("0.1", "2", "1")}) == 3
    compared = {method["label"]: method for method in read_json(out / "compare.json")["methods"]}
    for point in stored["points"]:
        assert point["scores"] == compared[point["value"]]["scores"]
        assert point["scores"]["seeds_best"]["mean"] == compared[point["value"]]["runs"][0]["seeds_best"] > 0
        assert "model" not in point["scores"]
    with open(out / "sweep.csv", newline="", encoding="utf-8") as stream:
        table = list(csv.reader(stream))
    assert [row[0] for row in table] == ["recam.sce_weight", "0.1", "2", "1"]
    assert float(table[1][table[0].index("seeds_best")]) == stored["points"][0]["scores"]["seeds_best"]["mean"]
    with Image.open(out / "sweep.png") as picture:
        assert picture.size == (832, 546)


def swept(*means):
    points = [
        {"value": value, "scores": {"model": {"mean": mean, "interval": 0.02, "runs": 3}} if mean else {}, "failed": []}
        for value, mean in zip(("[256, 256]", "[320, 320]", "[448, 448]"), means)
    ]
    points[1]["failed"] = ["the loss is not finite"]
    return {"recipe": "voc-l2g", "over": "l2g.view_size", "points": points, "folder": "out"}


def test_a_run_that_failed_is_a_gap_and_is_named(tmp_path):
    result = swept(0.5, None, 0.25)
    assert rows(result)[1:] == [
        ["[256, 256]", 0.5, 0.02, 3],
        ["[320, 320]", None, None, None],
        ["[448, 448]", 0.25, 0.02, 3],
    ]
    text = lines(result)
    assert text[0].split() == ["l2g.view_size", "Model"]
    assert text[1].split()[-1] == "50.0"
    assert text[2].split()[-1] == "-"
    assert text[3] == "  failed: the loss is not finite"
    plot(result, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.1, 0.5,1", ["0.1", "0.5", "1"]),
        ("w1,product", ["w1", "product"]),
        ("[[256, 256], [320, 320]]", ["[256, 256]", "[320, 320]"]),
        ("[w1, {a: 1}]", ["w1", json.dumps({"a": 1})]),
    ],
)
def test_values_are_read(text, expected):
    assert values_of(text) == expected


@pytest.mark.parametrize("text", ["1", "1,1", "[1]", "", "[1, 2"])
def test_values_that_make_no_curve_are_refused(text):
    with pytest.raises(RecipeError, match=r"values (must be at least two|cannot be read)"):
        values_of(text)


def test_a_setting_is_not_both_varied_and_set(tmp_path):
    with pytest.raises(RecipeError, match=r"recam\.sce_weight is what varies, and recam\.sce_weight=2 sets it"):
        sweep("demo", ["recam.sce_weight=2"], over="recam.sce_weight", values="1,2", out=tmp_path)
    result = CliRunner().invoke(app, ["study", "sweep", "demo", "values=1,2"])
    assert "over= is missing" in str(result.exception)
