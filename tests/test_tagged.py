"""Images whose tags are known: predicted among those classes, from Python, by `predict tags=` and by `relabel`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from maskwright.cli import app
from maskwright.data import open_dataset
from maskwright.data.masks import read_mask, write_mask
from maskwright.data.sample import LabelSpace
from maskwright.engine.checkpoint import save_model
from maskwright.errors import DataError
from maskwright.files import read_json
from maskwright.inference.files import predict_files
from maskwright.inference.load import load
from maskwright.inference.predict import Predictor
from maskwright.inference.tagged import possible_classes, tags_of_files
from maskwright.inference.views import predict_labels, predict_probabilities
from maskwright.metrics import ConfusionMatrix
from maskwright.models import create_model
from maskwright.models.base import SegmentationModel
from maskwright.pipeline.relabel import relabel
from maskwright.settings import DataSettings, InferenceSettings
from maskwright.weak import read_provenance

torch.set_num_threads(1)

LABELS = LabelSpace(("background", "cat", "dog", "sheep"))
CHANGES = [{}, {"scales": (1.0, 1.5), "flip": True}, {"window": (24, 24)}]


class Whole(nn.Module):
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)

    def forward(self, images):
        return [images]


class Colours(SegmentationModel):
    """Logits that are sums of colours; a class may be made certain."""

    def __init__(self, certain: float = 0.0) -> None:
        super().__init__(Whole(), len(LABELS.names))
        torch.manual_seed(0)
        self.classifier = nn.Conv2d(3, len(LABELS.names), 1)
        self.certain = certain
        self.seen = 0

    def head(self, features, size):
        self.seen += 1
        logits = self.classifier(features[0])
        logits[:, 3] += self.certain
        return {"logits": logits}


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def picture(seed=0, size=(40, 56)):
    small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC))


# Probabilities.


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_classes_share_what_the_others_had(change):
    images, settings = noise(2, 3, 32, 40), InferenceSettings(**change)
    free = predict_probabilities(Colours(), images, settings)
    found = predict_probabilities(Colours(), images, settings, (0, 2))
    torch.testing.assert_close(found[:, [0, 2]], free[:, [0, 2]] / free[:, [0, 2]].sum(1, keepdim=True))
    assert not found[:, [1, 3]].any()
    labels = predict_labels(Colours(), images, settings, classes=(0, 2))
    assert torch.equal(labels, found.argmax(1))
    assert set(labels.unique().tolist()) == {0, 2}
    assert not torch.equal(labels, predict_labels(Colours(), images, settings))


def test_it_is_before_the_crf_that_they_do():
    from maskwright.crf.dense_crf import dense_crf, preset_settings, unary_from_probabilities

    pixels = torch.from_numpy(picture().copy())[None]
    images = ((pixels / 255 - 0.5) / 0.25).permute(0, 3, 1, 2)
    shares = predict_probabilities(Colours(), images, InferenceSettings(), (0, 2))[:, [0, 2]]
    expected = dense_crf(pixels, unary_from_probabilities(shares), **preset_settings("deeplab", (40, 56), "image"))
    found = predict_probabilities(Colours(), images, InferenceSettings(crf="deeplab"), (0, 2))
    torch.testing.assert_close(found[:, [0, 2]], expected)
    assert not found[:, [1, 3]].any()
    after = predict_probabilities(Colours(), images, InferenceSettings(crf="deeplab"))[:, [0, 2]]
    assert (after / after.sum(1, keepdim=True) - expected).abs().max() > 0.05


def test_a_network_that_is_certain_of_another_class_leaves_numbers():
    found = predict_probabilities(Colours(certain=1e4), noise(1, 3, 8, 8), InferenceSettings(), (0, 1))
    torch.testing.assert_close(found[:, :2].sum(1), torch.ones(1, 8, 8))


# One image.


def test_names_and_values_of_one_image():
    predictor = Predictor(Colours(), LABELS)
    found = predictor(picture(), tags=["dog"])
    assert set(np.unique(found.mask)) == {0, 2}
    np.testing.assert_array_equal(predictor(picture(), tags=[2]).mask, found.mask)
    np.testing.assert_array_equal(predictor(picture(), tags="dog").mask, found.mask)
    np.testing.assert_array_equal(predictor(picture(), tags=(2, "background")).mask, found.mask)
    assert not found.probabilities[[1, 3]].any()
    np.testing.assert_allclose(found.probabilities.sum(0), 1, atol=1e-6)
    at_once = predictor(picture(), tags=["dog"], probabilities=True)
    np.testing.assert_array_equal(at_once.mask, found.mask)
    np.testing.assert_array_equal(at_once.probabilities, found.probabilities)
    assert set(np.unique(predictor(picture()).mask)) > {0, 2}
    several = predictor([picture(), picture()], tags=[["dog"], None])
    np.testing.assert_array_equal(several[0].mask, found.mask)
    np.testing.assert_array_equal(several[1].mask, predictor(picture()).mask)
    for tags in ([["dog"]], "do"):
        with pytest.raises(DataError, match="a list of tags for each of the 2 images"):
            predictor([picture(), picture()], tags=tags)


def test_an_empty_list_is_background_and_costs_nothing():
    model = Colours(certain=1e4)
    found = Predictor(model, LABELS)(picture(), tags=[])
    assert not found.mask.any()
    assert found.mask.shape == (40, 56)
    assert found.probabilities[0].min() == 1
    assert model.seen == 0


@pytest.mark.parametrize(
    ("tags", "background", "message"),
    [
        (["dgo"], 0, r"unknown class 'dgo'\. Did you mean 'dog'"),
        ([1, 4], 0, r"tags hold 4, expected names of classes or values 0\.\.3"),
        ([-1], 0, "tags hold -1"),
        ([], None, "no tags, and the model no background"),
    ],
)
def test_tags_that_cannot_be_are_refused(tags, background, message):
    labels = LabelSpace(LABELS.names, background=background)
    with pytest.raises(DataError, match=message):
        Predictor(Colours(), labels)(picture(), tags=tags)


def test_without_a_background_only_the_tags_may_win():
    assert possible_classes([1, 3], LabelSpace(LABELS.names, background=None)) == (1, 3)
    assert possible_classes(None, LABELS) is None


# Many files.


@pytest.fixture
def photos(tmp_path):
    """Images with tags, with an empty list, and one that the table does not name."""
    for number, name in enumerate(("a", "trip/b", "trip/empty", "unknown")):
        path = tmp_path / "photos" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number)).save(path)
    (tmp_path / "tags.csv").write_text(
        "image,tags\na.png,dog\ntrip/b.png,cat;sheep\ntrip/empty.png,\nelsewhere/c.png,cat\n", encoding="utf-8"
    )
    return tmp_path / "photos"


def test_files_are_predicted_among_their_tags(photos, tmp_path):
    predictor, said = Predictor(Colours(), LABELS), []
    tags = tmp_path / "tags.csv"
    done, failures = predict_files(predictor, photos, tmp_path / "out", probabilities=True, tags=tags, say=said.append)
    assert (len(done), failures) == (4, [])
    known = {"a": [2], "trip/b": [1, 3], "trip/empty": [], "unknown": None}
    for name, values in known.items():
        mask = read_mask(tmp_path / "out" / "masks" / f"{name}.png")
        np.testing.assert_array_equal(mask, predictor(photos / f"{name}.png", tags=values).mask)
    with np.load(tmp_path / "out" / "probabilities" / "a.npz") as stored:
        assert not stored["probabilities"][[1, 3]].any()
    assert said == [
        f"{tags}: 2 images predicted among their tags; 1 with an empty list, background; 1 whose tags are not known, "
        "predicted freely"
    ]
    for folder in ("masks", "overlays", "probabilities"):
        assert read_json(tmp_path / "out" / folder / "provenance.json")["tags_read"] == str(tags)


def test_without_tags_nothing_is_different(photos, tmp_path):
    predictor, said = Predictor(Colours(), LABELS), []
    predict_files(predictor, photos, tmp_path / "out", say=said.append)
    mask = read_mask(tmp_path / "out" / "masks" / "a.png")
    np.testing.assert_array_equal(mask, predictor(photos / "a.png").mask)
    assert not said
    assert "tags_read" not in read_json(tmp_path / "out" / "masks" / "provenance.json")


def tags_of(table: str, tmp_path, *paths: str, names=None, **data):
    (tmp_path / "tags.csv").write_text(f"image,tags\n{table}", encoding="utf-8")
    files = {name: str(tmp_path / path) for name, path in zip(names or paths, paths)}
    return tags_of_files(tmp_path / "tags.csv", files, LABELS, data)


def test_rows_of_other_images_of_the_same_name_are_not_taken(tmp_path):
    rows = "x/1.jpg,cat\ny/1.jpg,dog\n"
    assert tags_of(rows, tmp_path, "y/1.jpg", names=["1"]) == {"1": (2,)}
    assert tags_of(rows, tmp_path, "y/1.jpg", "y/2.jpg", names=["1", "2"]) == {"1": (2,)}
    assert tags_of("/home/bob/y/1.jpg,dog\n", tmp_path, "y/1.jpg", names=["1"]) == {"1": (2,)}
    assert tags_of("1.jpg,cat\n1.jpg,dog\n", tmp_path, "y/1.jpg", names=["1"]) == {"1": (1, 2)}
    with pytest.raises(DataError, match=r"tags\.csv, line 2: '1' may be .*x/1\.jpg or .*y/1\.jpg"):
        tags_of("1.jpg,cat\n", tmp_path, "x/1.jpg", "y/1.jpg")
    with pytest.raises(DataError, match="rows that fit an image that another row fits as well"):
        tags_of("bob/x/1.jpg,cat\nbob/y/1.jpg,dog\n", tmp_path, "z/1.jpg", names=["1"])


def test_tables_are_read_as_for_the_training(tmp_path):
    assert tags_of("1.jpg,dogs+cat\n", tmp_path, "1.jpg", options={"tag_separator": "+"}, rename={"dogs": "dog"}) == {
        "1.jpg": (1, 2)
    }
    with pytest.raises(DataError, match=r"'cats'\. Did you mean 'cat'.*Fix: correct the tag, or remove it"):
        tags_of("1.jpg,cats\n", tmp_path, "1.jpg")
    with pytest.raises(DataError, match=r"no row of .* names an image that exists.*or leave tags= out"):
        tags_of("7.jpg,cat\n", tmp_path, "1.jpg")


# A run's own training images.

BUILT = {"name": "deeplabv3plus", "backbone": "resnet10t", "output_stride": 16, "num_classes": 4}
OPTIONS = {"decoder_channels": 16}


@pytest.fixture
def run_folder(tmp_path):
    """A finished run from tags, as far as its model: five images, all with ground truth, one without known tags."""
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    (root / "classes.txt").write_text("\n".join(LABELS.names), encoding="utf-8")
    rows = {"0": "cat", "1": "dog;sheep", "2": "", "3": "sheep"}
    rng = np.random.default_rng(0)
    for name in (*rows, "4"):
        Image.fromarray(picture(int(name))).save(root / "images" / f"{name}.png")
        write_mask(root / "masks" / f"{name}.png", rng.integers(0, 4, (40, 56)).astype(np.uint8), LABELS)
    (root / "train.txt").write_text("0\n1\n2\n3\n4\n", encoding="utf-8")
    (root / "val.txt").write_text("0\n", encoding="utf-8")
    table = "".join(f"{name}.png,{tags}\n" for name, tags in rows.items())
    (root / "tags.csv").write_text(f"image,tags\n{table}", encoding="utf-8")
    recipe = {"name": "test", "supervision": "tags", "data": {"root": str(root), "tags": "tags.csv"}}
    recipe |= {"inference": {"flip": True}, "model": {"pretrained": True}}
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    torch.manual_seed(3)
    model = create_model(BUILT["name"], **{key: value for key, value in BUILT.items() if key != "name"}, **OPTIONS)
    for parameter in model.parameters():
        if parameter.ndim == 4:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu")
    described = {"kind": "segmenter", "model": {**BUILT, "options": OPTIONS}, "labels": LABELS.to_dict()}
    described |= {"recipe": recipe, "preprocessing": {"mean": [0.5] * 3, "std": [0.25] * 3}, "maskwright": "0.0"}
    save_model(run / "segmenter" / "model.safetensors", model, described)
    return run


def test_training_images_become_pseudo_masks_again(run_folder, tmp_path):
    out, data = run_folder / "relabelled", tmp_path / "data"
    lines = list(relabel(run_folder, ["data.classes=classes.txt"], device="cpu"))
    predictor, confusion = load(run_folder, device="cpu"), ConfusionMatrix(LABELS)
    for name, values in {"0": [1], "1": [2, 3], "2": [], "3": [3]}.items():
        mask = read_mask(out / "SegmentationClass" / f"{name}.png")
        np.testing.assert_array_equal(mask, predictor(data / "images" / f"{name}.png", tags=values).mask)
        confusion.update(mask, read_mask(data / "masks" / f"{name}.png"))
        assert read_mask(out / "Confidence" / f"{name}.png").shape == (40, 56)
    assert read_mask(out / "Confidence" / "2.png").min() == 255
    assert lines[0].endswith(
        "3 images predicted among their tags; 1 with an empty list, background; 1 whose tags are not known, left out"
    )
    assert lines[1] == f"mIoU {confusion.scores()['miou']:.4f} on train (4 images)"
    assert read_json(out / "scores.json")["miou"] == confusion.scores()["miou"]
    record = read_provenance(out)
    assert record["tag_source"] == str(data / "tags.csv")
    assert record["model"] == str(run_folder / "segmenter" / "model.safetensors")
    assert (record["method"], record["pretrained"], record["ground_truth_tuned"]) == ("relabel", True, [])
    assert "tags" in record["tags_read"]

    typed = dict(word.split("=") for word in lines[-1].split(": ", 1)[1].split())
    assert typed.pop("supervision") == "masks"
    read = open_dataset(DataSettings(root=str(data), **typed), "train")
    assert [read.has_mask(index) for index in range(5)] == [True, True, True, True, False]
    assert read.labels == LABELS
    written = CliRunner().invoke(
        app, ["export", str(data), *(f"{k}={v}" for k, v in typed.items()), "format=coco", f"out={tmp_path / 'coco'}"]
    )
    assert "4 images of split train with pseudo-masks" in written.output, written.exception


def test_ground_truth_has_no_part_in_them_and_need_not_be_there(run_folder, tmp_path):
    list(relabel(run_folder, [], out=str(tmp_path / "with"), device="cpu"))
    (tmp_path / "data" / "masks").rename(tmp_path / "away")
    lines = list(relabel(run_folder, [], out=str(tmp_path / "without"), device="cpu"))
    assert not any("mIoU" in line for line in lines)
    assert read_json(tmp_path / "without" / "scores.json")["miou"] is None
    for name in "0123":
        masks = [tmp_path / where / "SegmentationClass" / f"{name}.png" for where in ("with", "without")]
        assert masks[0].read_bytes() == masks[1].read_bytes()


def test_it_resumes_and_begins_anew_where_settings_differ(run_folder, monkeypatch):
    predicted = []
    original = Predictor.of_pixels
    monkeypatch.setattr(
        Predictor, "of_pixels", lambda self, image, **more: predicted.append(1) or original(self, image, **more)
    )

    def again(*settings):
        predicted.clear()
        list(relabel(run_folder, settings, device="cpu"))
        return len(predicted)

    assert again() == 4
    scores = read_json(run_folder / "relabelled" / "scores.json")
    (run_folder / "relabelled" / "SegmentationClass" / "1.png").unlink()
    assert again() == 1
    assert read_json(run_folder / "relabelled" / "scores.json") == scores
    assert again("inference.flip=false") == 4


def test_nothing_else_is_written_over(run_folder, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(DataError, match=r"mine holds files already.*choose another out="):
        list(relabel(run_folder, [], out=str(tmp_path / "mine"), device="cpu"))
    with pytest.raises(DataError, match="holds files already"):
        list(relabel(run_folder, [], out=str(tmp_path / "data"), device="cpu"))
    assert (tmp_path / "data" / "masks" / "0.png").is_file()


def test_a_run_without_tags_says_so(run_folder):
    with pytest.raises(DataError, match=r"no tags are known of the 5 images.*maskwright predict RUN IMAGES"):
        list(relabel(run_folder, ["tags=none"], device="cpu"))


def test_the_command_line(run_folder, photos, tmp_path):
    def run(*words):
        return CliRunner().invoke(app, [*map(str, words), "device=cpu"])

    images = [photos, f"tags={tmp_path / 'tags.csv'}", f"out={tmp_path / 'out'}"]
    done = run("predict", run_folder, *images)
    assert "2 images predicted among their tags; 1 with an empty list" in done.output
    assert set(np.unique(read_mask(tmp_path / "out" / "masks" / "a.png"))) <= {0, 2}
    Path(tmp_path / "tags.csv").write_text("image,tags\na.png,doge\n", encoding="utf-8")
    assert "Did you mean 'dog'" in str(run("predict", run_folder, *images).exception)
    assert f"written to {tmp_path / 'new'}" in run("relabel", run_folder, f"out={tmp_path / 'new'}").output
