import inspect
import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from maskwright.cli import app
from maskwright.data.augment import Augment
from maskwright.data.readers.published import published_labels
from maskwright.data.sample import LabelSpace
from maskwright.engine.fit import total_steps
from maskwright.errors import DataError, RecipeError
from maskwright.losses import create_loss
from maskwright.models import MODELS, backbones, create_model
from maskwright.models.backbones import import_timm
from maskwright.plan import dryrun
from maskwright.plan.cut import reduced
from maskwright.recipe.load import load_recipe, recipe_names

DOCS = Path(__file__).parents[1] / "docs" / "recipes.md"
SMALL = ["train.batch_size=2", "train.augment.crop=[64, 64]"]
TINY = [*SMALL, "classifier.train.batch_size=2", "classifier.train.augment.crop=[64, 64]", "device=cpu"]


pytestmark = pytest.mark.usefixtures("one_thread")


def labels_of(recipe):
    if recipe.data.layout == "auto":
        return LabelSpace(("background", *(f"class_{value}" for value in range(1, 6))))
    return published_labels(recipe.data)[0]


def test_demo_is_tried_with_classifier_and_segmenter(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = ["data.options={count: 12, size: [64, 64]}", "classifier.train.epochs=8", "train.epochs=5", *TINY]
    result = CliRunner().invoke(app, ["run", "demo", "--dry-run", *settings])
    assert result.exit_code == 0, result.output
    text = result.output
    assert "12 images in split train, 11 classes" in text
    classifier, segmenter = re.findall(r"([\d.]+) M parameters, ([\d.]+) M trained", text)
    network = create_model(
        "deeplabv3plus", backbone="resnet10t", num_classes=11, output_stride=16, decoder_channels=128
    )
    count = sum(parameter.numel() for parameter in network.parameters())
    assert segmenter == (f"{count / 1e6:.2f}",) * 2
    assert classifier[0] != segmenter[0]
    # 12 images, 2 a batch: 6 steps an epoch.
    assert "; 48 steps: " in text
    assert "; 30 steps: " in text
    assert text.count("measured 2 steps at 2x64x64 on cpu: loss ") == 2
    assert "the segmenter twice (oracle)" in text
    assert list(tmp_path.iterdir()) == []


def test_dry_run_is_also_a_setting(monkeypatch):
    seen = []
    monkeypatch.setattr(dryrun, "dry_run", lambda recipe, say: seen.append(recipe.name))
    for arguments in (["run", "demo", "dry_run=true"], ["train", "demo", "--dry-run"]):
        assert CliRunner().invoke(app, arguments).exit_code == 0
    assert seen == ["demo", "demo"]


def test_missing_data_and_a_large_crop():
    said = []
    small = ["model.backbone=resnet10t", "model.pretrained=false", "model.output_stride=16"]
    longer = ["epochs=4", "train.steps=none", "train.accumulate=2"]
    recipe = load_recipe("cityscapes-lmp", [*small, *longer, "device=cpu"])
    trial = dryrun.dry_run(recipe, say=said.append)["segmenter"].training
    text = "\n".join(said)
    assert "cityscapes is not here; 19 classes of layout cityscapes, 2975 images in train as published" in text
    assert trial.batch == (10, 512, 1024)
    assert trial.measured == (2, 192, 352)
    assert trial.factor == 2 * (10 * 512 * 1024) / (2 * 192 * 352)
    assert trial.steps == -(-4 * (2975 // 10) // 2)
    assert trial.step_seconds == trial.seconds * trial.factor
    # What is kept for going backward grows with the pixels, weights do not.
    assert trial.memory == pytest.approx(trial.fixed + trial.kept * trial.factor / 2)
    assert trial.fixed > 12 * trial.trained
    assert trial.kept > 2 * 192 * 352 * 4 * 10
    assert f"{trial.factor:.4g} times the pixels" in text
    assert "better than uniform" in text


def test_expected_number_and_weights_that_cannot_be_had(monkeypatch):
    def nothing(*_):
        raise RecipeError("no server answers")

    monkeypatch.setattr(dryrun, "check_weights", nothing)
    said = []
    dryrun.dry_run(load_recipe("voc-dupsampling-os32", [*SMALL, "device=cpu"]), say=said.append)
    text = "\n".join(said)
    assert "miou 0.7209" in text
    assert "a run would stop here: no server answers" in text
    assert "VOCdevkit/VOC2012 is not here; 21 classes of layout voc, 10582 images in trainaug" in text


def test_weights_that_are_a_file_of_ones_own_are_asked_for(monkeypatch):
    monkeypatch.setattr(backbones, "find_weights", lambda *_: ({}, None, None))
    trunk, segmenter = dryrun.weights_lines(load_recipe("voc-l2g"))
    assert "no weights of resnet38 to download" in trunk
    assert segmenter == "weights    resnet101, pretrained=tv_in1k: can be had; not loaded now"
    assert list(dryrun.weights_lines(load_recipe("voc-cam-irn"))) == [
        segmenter.replace("resnet101", "resnet50"),
        segmenter,
    ]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("model.options={decoder_chanels: 3}", "decoder_channels"),
        ("loss.class_weights=[1.0, 2.0]", "2 numbers for 11 classes"),
        ("loss.options={p: 1.7}", "option of loss"),
        ("loss.auxiliary={aux: 0.4}", "auxiliary output"),
        ("train.epochs=none", "how long to train"),
        ("train.augment={crop: null, scale: [0.5, 2.0]}", "must have one size"),
        ("train.augment={resize: [64, 64], long_side: [64, 64]}", "set one of them"),
    ],
)
def test_mistakes_in_a_recipe_show_up(setting, words):
    small = ["supervision=masks", "data.options={count: 4, size: [64, 64]}", "model.pretrained=false", *TINY]
    with pytest.raises((RecipeError, DataError), match=words):
        dryrun.dry_run(load_recipe("demo", [*small, setting]), say=lambda line: None)


def test_classes_must_be_known():
    with pytest.raises(DataError, match="does not tell the classes"):
        dryrun.dry_run(load_recipe("deeplabv3plus-quick", ["data=nowhere", "layout=folder"]), say=lambda line: None)
    names = ["data=nowhere", "layout=folder", "classes=[sky, tree]", "device=cpu", *SMALL]
    trials = dryrun.dry_run(load_recipe("deeplabv3plus-quick", names), say=lambda line: None)
    assert trials["segmenter"].training.steps is None


@pytest.mark.parametrize(
    ("batch", "pixels", "expected"),
    [
        ((16, 96, 96), 2**20, (16, 96, 96)),
        ((16, 128, 128), 2**17, (8, 128, 128)),
        ((16, 513, 513), 2**17, (2, 257, 257)),
        ((8, 1024, 2048), 2**17, (2, 192, 352)),
        ((1, 1024, 1024), 2**17, (1, 352, 352)),
        ((4, 2000, 30), 2**14, (2, 736, 30)),
    ],
)
def test_a_batch_is_cut_down(batch, pixels, expected):
    assert reduced(batch, pixels) == expected


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_names_what_exists(name):
    recipe = load_recipe(name)
    labels = labels_of(recipe)
    create_loss(recipe.loss, labels, [1.0] * labels.num_classes)
    Augment(recipe.train.augment, labels)
    assert total_steps(recipe.train, 100) > 0
    known = {*inspect.signature(MODELS[recipe.model.name]).parameters, *inspect.signature(create_model).parameters}
    assert set(recipe.model.options) <= known
    assert import_timm().is_model(recipe.model.backbone)
    if recipe.expected or recipe.source:
        assert re.search(r"\((measured|published|uncertain)", recipe.source)
        assert all(0 < value < 1 for value in recipe.expected.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_builds_and_gives_what_its_loss_wants(name):
    recipe = load_recipe(name)
    labels = labels_of(recipe)
    chosen = recipe.model
    with torch.device("meta"):
        model = create_model(
            chosen.name,
            backbone=chosen.backbone,
            num_classes=labels.num_classes,
            output_stride=chosen.output_stride,
            **chosen.options,
        )
        outputs = model(torch.zeros(2, 3, 129, 193), auxiliary=True)
    assert outputs["logits"].shape == (2, labels.num_classes, 129, 193)
    for wanted in recipe.loss.auxiliary:
        assert any(key == wanted or key.startswith(f"{wanted}.") for key in outputs)


def test_the_table_of_recipes_is_complete():
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (.*) \|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE))
    for name in recipe_names():
        recipe = load_recipe(name)
        if recipe.source:
            assert all(f"{100 * value:.2f}" in rows[name] for value in recipe.expected.values()), name
            mark = re.search(r"\((measured|published|uncertain)", recipe.source).group(1)
            assert mark in rows[name], name
    assert set(rows) <= set(recipe_names())
