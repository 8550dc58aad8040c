"""Predictions while a segmenter learns: kept at each validation, shown in the report, and without a trace in it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from maskwright.data.scenes import Scenes
from maskwright.errors import RecipeError
from maskwright.files import read_json
from maskwright.pipeline.check_networks import check_words
from maskwright.pipeline.run import run
from maskwright.recipe.load import load_recipe
from maskwright.report.film_strip import film_strip
from maskwright.runs.contents import read_run

LABELS = Scenes.labels

TINY = (
    *("data=scenes", "data.options={count: 6, size: [48, 48]}", "supervision=masks", "device=cpu"),
    "model={name: fcn, backbone: test_resnet, pretrained: false, options: {}, output_stride: 32}",
    "inference.size=none",
)
TRAIN = "epochs: 2, steps: null, frozen: false, batch_size: 3, workers: 0, augment: {crop: [48, 48]}, validate_every: 1"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs that differ in what is kept of them alone."""
    place = tmp_path_factory.mktemp("runs")
    for name, count in (("plain", 0), ("film", 2)):
        settings = [*TINY, f"train={{{TRAIN}, snapshots: {count}}}", f"out={place / name}"]
        run(load_recipe("deeplabv3plus-quick", settings), say=lambda line: None)
    return place


def test_every_validation_keeps_the_predictions_of_some_images(runs):
    kept = sorted(path.relative_to(runs / "film" / "segmenter") for path in runs.rglob("snapshots/*/*/*.png"))
    names = ("val_00000", "val_00005")
    assert [str(path) for path in kept] == [
        f"snapshots/{frame}/predictions/{name}.png" for frame in ("001", "002") for name in names
    ]


def test_the_model_is_the_same(runs):
    models = [(runs / name / "segmenter" / "model.safetensors").read_bytes()[-4096:] for name in ("plain", "film")]
    assert models[0] == models[1]
    scores = [read_json(runs / name / "evaluation" / "metrics.json")["miou"] for name in ("plain", "film")]
    assert scores[0] == scores[1]


def test_the_report_shows_them(runs):
    page = (runs / "film" / "report.html").read_text()
    section = page[page.index('<section id="film"') :]
    section = section[: section.index("</section>")]
    for word in ("While it learned", "epoch 1", "epoch 2", "ground truth", "val_00000", "val_00005"):
        assert word in section
    assert 'id="film"' not in (runs / "plain" / "report.html").read_text()


def test_images_in_folders_have_their_row(runs, tmp_path):
    film = Path(shutil.copytree(runs / "film", tmp_path / "film"))
    for frame in film.glob("segmenter/snapshots/*/predictions"):
        (frame / "photos").mkdir()
        (frame / "val_00000.png").rename(frame / "photos" / "a.b.png")
    kept = read_run(film)
    strip = film_strip(kept, None, LABELS, side=64)
    assert [row.name for row in strip["rows"]] == ["photos/a.b", "val_00005"]
    assert all(set(row.cells) == {"epoch 1", "epoch 2"} for row in strip["rows"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["train.snapshots=2"], "give train.validate_every=1, too"),
        (["classifier.train.snapshots=2"], "classifier.train.snapshots: they are of the segmenter"),
    ],
)
def test_snapshots_that_would_not_be_made_are_refused(settings, said):
    with pytest.raises(RecipeError, match=said):
        check_words(load_recipe("cam-scratch", settings))
