"""The study of two losses: what it trains on, what it measures, that it resumes, and what it says."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from PIL import Image
from typer.testing import CliRunner

from maskwright.cli import app
from maskwright.data.sample import LabelSpace
from maskwright.data.scenes import scenes
from maskwright.errors import DataError, RecipeError
from maskwright.files import read_json
from maskwright.metrics import ConfusionMatrix
from maskwright.recipe.load import load_recipe
from maskwright.studies import bce_sce as study
from maskwright.studies.bce_sce import OneOf, bce_sce, choose_classes, confusable_pairs, logit_gradients, measure
from maskwright.studies.bce_sce_confusion import confusion_lines
from maskwright.studies.bce_sce_results import read_epochs, table, verdicts
from maskwright.weak import seed_labels
from maskwright.weak.networks.recam import first_head_loss
from maskwright.weak.seeds.extract import extract_maps

TINY = [
    "data.options={count: 40, size: [32, 32]}",
    "classifier.train.augment.crop=[32, 32]",
    "classifier.train.workers=0",
    "classifier.train.epochs=2",
    "seeds.scales=[1.0]",
    "seeds.flip=false",
]


def recipe(*overrides):
    return load_recipe("demo", [*TINY, *overrides])


def test_images_of_exactly_one_class(memory_set):
    dataset = memory_set(sizes=((24, 40),) * 5, tags=[(1, 2), (1, 3), (), None, (3,)])
    found = OneOf(dataset, [2, 3])  # dog and cow
    assert found.labels.names == ("background", "dog", "cow")
    assert found.names == [dataset.names[index] for index in (0, 1, 4)]
    assert [found.tags(index) for index in range(3)] == [(1,), (2,), (2,)]
    table_ = {0: 0, 1: 0, 2: 1, 3: 2, 255: 255}
    expected = np.vectorize(table_.get)(dataset.masks[1])
    assert_array_equal(found.mask(1), expected)
    assert_array_equal(found[1].mask, expected)
    assert found[1].tags == (2,)
    assert_array_equal(found.labels.tag_vector(found.tags(0)), [1, 0])
    assert OneOf(dataset, [2, 3], most=2).names == [found.names[0], found.names[2]]


def test_without_a_background_class_the_rest_becomes_one(memory_set):
    stuff = LabelSpace(("sky", "road", "tree"), background=None)
    dataset = memory_set(stuff, tags=[(0,), (1,), (0, 1), (2,)])
    dataset.mask = lambda index: dataset.masks[index]
    found = OneOf(dataset, [0, 2])
    assert found.labels.names == ("background", "sky", "tree")
    assert found.labels.background == 0
    assert len(found) == 3
    assert_array_equal(found.mask(0) == 1, dataset.masks[0] == 0)


@pytest.mark.parametrize("loss", ["bce", "sce"])
def test_gradients_are_those_of_the_loss_that_trains(loss):
    torch.manual_seed(3)
    logits = 3 * torch.randn(6, 4, dtype=torch.float64)
    logits.requires_grad_()
    tags = torch.nn.functional.one_hot(torch.tensor([0, 3, 1, 1, 2, 0]), 4).double()
    (first_head_loss(logits, tags, loss) * len(logits)).backward()
    found = logit_gradients(logits.detach(), tags, loss)
    target, confusing = [], []
    for row, gradient, tag in zip(logits.detach(), logits.grad, tags, strict=True):
        target.append(gradient[tag.argmax()])
        confusing.append(gradient[max((k for k in range(4) if not tag[k]), key=lambda k: row[k])])
    assert found["gradient_target"] == pytest.approx(float(torch.stack(target).mean()))
    assert found["gradient_confusing"] == pytest.approx(float(torch.stack(confusing).mean()))


def test_two_confident_classes_are_parted_by_the_softmax_alone():
    logits, tags = torch.tensor([[10.0, 10.0, -10.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    sce, bce = (logit_gradients(logits, tags, loss) for loss in ("sce", "bce"))
    assert sce["gradient_target"] == pytest.approx(-0.5, abs=1e-4)
    assert bce["gradient_target"] == pytest.approx(0, abs=1e-4)
    assert sce["gradient_confusing"] == pytest.approx(0.5, abs=1e-4)
    assert bce["gradient_confusing"] == pytest.approx(1 / 3, abs=1e-4)


def test_pairs_that_scores_tell_apart_worst():
    tags = np.repeat(np.eye(3), 5, 0)
    tags = np.concatenate([tags, [[1, 1, 0]] * 5])  # shows both: says nothing of the pair
    scores = np.zeros((20, 3))
    scores[:5] = (5, 4, 0)
    scores[5:10] = (4, 5, 0)
    scores[5] = (6, 4, 0)  # wrong against all five of the first class
    scores[10:15] = (0, 0, 9)
    pairs = confusable_pairs(1000 * scores + np.array([7, 0, -3]), tags)
    assert pairs[0] == (pytest.approx(0.2), 0, 1)
    assert [pair[0] for pair in pairs[1:]] == [0, 0]
    assert confusable_pairs(scores, tags[:, :1]) == []
    ties = confusable_pairs(np.zeros((10, 2)), np.repeat(np.eye(2), 5, 0))
    assert ties == [(0.5, 0, 1)]
    assert confusable_pairs(np.zeros((8, 2)), np.repeat(np.eye(2), (5, 3), 0)) == []  # too few of one


def test_classes_of_the_worst_pairs():
    pairs = [(0.4, "cat", "dog"), (0.3, "dog", "cow"), (0.2, "car", "bus"), (0.1, "cat", "sign"), (0.0, "a", "b")]
    assert choose_classes(pairs) == ["cat", "dog", "cow", "sign"]
    assert choose_classes(pairs, 2) == ["cat", "dog"]
    assert choose_classes([]) == []


def test_measures_are_the_plain_ones(network):
    data = OneOf(scenes("val", count=30, size=(32, 48)), [1, 2])
    own = recipe("pseudo_masks.threshold=0.33", "pseudo_masks.sweep=[0.2, 0.6, 0.2]")
    network.classifier = torch.nn.Conv2d(7, 2, 1, bias=False)
    with torch.no_grad():
        found = measure(network, data, own, torch.device("cpu"))
        right, confusions = 0, {threshold: ConfusionMatrix(data.labels) for threshold in (0.2, 0.33, 0.4, 0.6)}
        for index in range(len(data)):
            sample = data[index]
            key = sample.tags[0] - 1
            image = torch.from_numpy(sample.image).permute(2, 0, 1)[None] / 255
            image = (image - torch.tensor(network.mean)[:, None, None]) / torch.tensor(network.std)[:, None, None]
            right += int(network(image).argmax()) == key
            maps = extract_maps(network, sample.image, [key], scales=(1.0,), flip=False).high_res.numpy()
            for threshold, confusion in confusions.items():
                confusion.update(seed_labels(maps, [key], threshold, 0, (1, 2)), sample.mask)
    assert found["accuracy"] == right / len(data)
    mious = {threshold: confusion.scores()["miou"] for threshold, confusion in confusions.items()}
    assert found["seed_miou"] == mious[0.33]
    assert found["seed_best"] == max(mious.values())
    assert mious[found["seed_best_threshold"]] == found["seed_best"]
    tuned = recipe("pseudo_masks.threshold=best")
    assert measure(network, data, tuned, torch.device("cpu"))["seed_miou"] is None
    data.inner.dataset.has_mask = lambda index: False
    assert measure(network, data, own, torch.device("cpu"))["seed_best"] is None


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("study") / "out"
    said = []
    result = bce_sce(recipe(f"out={out}", "device=cpu"), classes=["car", "person"], images=10, say=said.append)
    return out, result, said


def test_numbers_of_every_epoch_and_a_picture(studied):
    out, result, _ = studied
    written = read_json(out / "study.json")
    assert written["runs"] == json.loads(json.dumps(result["runs"]))
    assert written["classes"] == ["person", "car"]
    assert sum(written["images"]["judged"].values()) == 10
    assert "commit" not in written["facts"]
    for loss in ("bce", "sce"):
        (run,) = written["runs"][loss]
        assert [epoch["epoch"] for epoch in run["epochs"]] == [1, 2]
        for epoch in run["epochs"]:
            assert -1 < epoch["gradient_target"] < 0 < epoch["gradient_confusing"] < 1
            assert 0 <= epoch["accuracy"] <= 1
            assert epoch["seed_best"] >= epoch["seed_miou"] > 0
        settings = read_json(out / f"{loss}-0" / "stage.json")["settings"]["classifier"]
        assert settings.get("loss", "bce") == loss
    with Image.open(out / "study.png") as picture:
        assert picture.size[0] > 1000
    lines = "\n".join(table(result))
    assert "SCE pushes the most confusing class down harder" in lines
    assert "One repeat" in lines
    # Two classes, one label: the softmax's gradients at the two cancel, those of the sigmoids are halved.
    epoch = written["runs"]["sce"][0]["epochs"][0]
    assert epoch["gradient_confusing"] == pytest.approx(-epoch["gradient_target"], rel=1e-4)
    assert max(e["gradient_confusing"] for e in written["runs"]["bce"][0]["epochs"]) <= 0.5


def test_what_is_taken_for_what_on_images_that_were_learned_from_and_on_others(studied):
    out, _, _ = studied
    written = read_json(out / "study.json")
    assert list(written["confusion"]) == ["learned", "judged"]
    for loss in ("bce", "sce"):
        learned, judged = (np.array(written["confusion"][part][loss]) for part in ("learned", "judged"))
        assert_array_equal(judged.sum(1), [written["images"]["judged"][name] for name in written["classes"]])
        assert np.trace(judged) / 10 == written["runs"][loss][0]["epochs"][-1]["accuracy"]
        assert learned.sum() == 10
    with Image.open(out / "confusion.png") as picture:
        assert picture.size[1] > 700  # two rows
    split = bce_sce(recipe(f"out={out.parent / 'own'}", "split=train", "device=cpu"), classes=["car", "person"],
                    images=10, say=str)  # fmt: skip
    assert list(split["confusion"]) == ["judged"]
    assert split["splits"] == {"learned": "train", "judged": "train"}


def test_confusion_in_words():
    result = {
        "classes": ["cat", "dog", "cow"],
        "splits": {"learned": "train", "judged": "val"},
        "confusion": {
            "learned": {"bce": [[4, 0, 0], [0, 2, 0], [0, 0, 2]]},
            "judged": {"bce": [[3, 1, 0], [2, 2, 0], [0, 0, 0]]},
        },
    }
    assert confusion_lines(result) == [
        "BCE on train: 100.0 % right; takes none for another",
        "BCE on val: 62.5 % right; takes dog for cat 50 %, cat for dog 25 %",
    ]


def test_both_losses_start_alike(studied):
    """Same start and same first batch: the loss at the first step follows from the same logits, which are near 0."""
    out, _, _ = studied
    first = {}
    for loss in ("bce", "sce"):
        first[loss] = json.loads((out / f"{loss}-0" / "log.jsonl").read_text().splitlines()[0])
    assert first["bce"]["loss"] == pytest.approx(np.log(2), abs=0.1)
    assert first["sce"]["loss"] == pytest.approx(np.log(2), abs=0.1)
    assert first["bce"]["gradient_target"] == pytest.approx(first["sce"]["gradient_target"] / 2, abs=0.02)


def test_the_same_command_goes_on_and_adds_repeats(studied, monkeypatch):
    out, result, _ = studied
    (out / "study.json").unlink()
    said = []
    again = bce_sce(
        recipe(f"out={out}", "device=cpu"), classes=["person", "car"], images=10, repeats=2, say=said.append
    )
    assert [line for line in said if "done already" in line] == [
        "[1/4] train with BCE, seed 0: done already",
        "[2/4] train with SCE, seed 0: done already",
    ]
    assert again["runs"]["bce"][0] == result["runs"]["bce"][0]
    assert [run["seed"] for run in again["runs"]["sce"]] == [0, 1]
    assert again["runs"]["sce"][0]["epochs"] != again["runs"]["sce"][1]["epochs"]
    assert "over 2 repeats" in "\n".join(table(again))

    # One of them stopped in the middle of its second epoch ends with the same numbers.
    trained = out / "bce-0"
    for path in (*trained.glob("*.safetensors"), *trained.glob("*.pt"), trained / "log.jsonl"):
        path.unlink()
    record = json.loads((trained / "stage.json").read_text())
    (trained / "stage.json").write_text(json.dumps({**record, "finished": False}))
    measured = study.measure
    calls = []

    def stop_at_the_second(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measured(*arguments)

    monkeypatch.setattr(study, "measure", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        bce_sce(recipe(f"out={out}", "device=cpu"), classes=["car", "person"], images=10, say=said.append)
    third = bce_sce(recipe(f"out={out}", "device=cpu"), classes=["car", "person"], images=10, say=said.append)
    same = ("epoch", "loss", "accuracy", "seed_best", "gradient_target", "gradient_confusing")
    for found, expected in zip(third["runs"]["bce"][0]["epochs"], result["runs"]["bce"][0]["epochs"], strict=True):
        assert {key: found[key] for key in same} == {key: expected[key] for key in same}


def test_classes_are_found_where_none_are_given(tmp_path):
    done = CliRunner().invoke(app, ["study", "bce-sce", *TINY, "epochs=1", "images=6", f"out={tmp_path / 'out'}"])
    assert done.exit_code == 0, done.output
    written = read_json(tmp_path / "out" / "study.json")
    worst = written["confusable_pairs"]
    assert worst == sorted(worst, key=lambda pair: -pair[0])
    assert set(written["classes"]) == set(choose_classes(worst))
    assert "told apart worst" in done.output
    assert f"written to {tmp_path / 'out'}: study.json, study.png, confusion.png" in done.output


def test_mistakes(tmp_path):
    own = recipe(f"out={tmp_path}", "device=cpu")
    with pytest.raises(DataError, match="Did you mean 'cat'"):
        bce_sce(own, classes=["cta", "dog"], say=str)
    with pytest.raises(DataError, match="at least two classes"):
        bce_sce(own, classes=["cat"], say=str)
    with pytest.raises(DataError, match="shows ball and none of person"):
        bce_sce(own, classes=["ball", "person"], say=str)
    with pytest.raises(RecipeError, match="at least 1, found 0"):
        bce_sce(own, classes=["cat", "dog"], repeats=0, say=str)


def run_of(accuracy, push, seeds=None):
    epochs = [
        {"epoch": place + 1, "accuracy": a, "gradient_confusing": p, "seed_best": seeds, "seed_miou": seeds}
        for place, (a, p) in enumerate(zip(accuracy, push, strict=True))
    ]
    return {"seed": 0, "epochs": epochs}


def test_verdicts_in_words():
    runs = {
        "bce": [run_of([0.2, 0.5], [0.1, 0.1]), run_of([0.2, 0.5], [0.1, 0.1])],
        "sce": [run_of([0.2, 0.6], [0.3, 0.1]), run_of([0.9, 0.4], [0.1, 0.3])],
    }
    push, accuracy = verdicts(runs, 4)  # nothing of seeds without true masks
    assert (push["holds"], push["repeats"], accuracy["holds"]) == (2, 2, 1)
    assert "harder: holds. 0.200 against 0.100" in push["text"]
    assert "would be 0.400" in push["text"]
    assert "holds in 1 of 2. 50.0 % against 50.0 %" in accuracy["text"]
    assert "-10 to +10" in accuracy["text"]
    equal = verdicts({"bce": [run_of([0.5], [0.2], 0.3)], "sce": [run_of([0.5], [0.1], 0.4)]}, 2)
    assert [verdict["holds"] for verdict in equal] == [0, 0, 1, 1]
    assert "does not hold" in equal[1]["text"]


def test_epochs_from_a_log(tmp_path):
    lines = [{"event": "train", "step": s, "epoch": s / 2, "loss": s, "gradient_target": -s, "gradient_confusing": s}
             for s in (1, 2, 3, 4)]  # fmt: skip
    lines.insert(2, {"event": "validate", "step": 2, "epoch": 1.0, "accuracy": 0.5})
    lines.append({"event": "validate", "step": 4, "epoch": 2.0, "accuracy": 0.75})
    (tmp_path / "log.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    first, second = read_epochs(tmp_path / "log.jsonl")
    assert (first["loss"], first["gradient_target"], first["accuracy"]) == (1.5, -1.5, 0.5)
    assert (second["loss"], second["epoch"]) == (3.5, 2.0)
