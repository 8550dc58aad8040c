"""Models in folders of the form that repositories of Hugging Face have: pushed, pulled, loaded."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

from maskwright.cli import app
from maskwright.data.sample import LabelSpace
from maskwright.engine.checkpoint import load_metadata, save_model
from maskwright.engine.weights import weights_record
from maskwright.errors import DataError, RecipeError
from maskwright.files import write_json
from maskwright.inference import hub
from maskwright.inference.finished import load
from maskwright.inference.hub import FILES, pull, pulled, without_places
from maskwright.models import create_model
from maskwright.pipeline.export_model import push_run
from maskwright.runs.folder import RunFolder

pytestmark = pytest.mark.versions

torch.set_num_threads(1)

NAMES = LabelSpace(("background", "café"), palette=((0, 0, 0), (200, 10, 10)))
RECIPE = {
    "name": "mine",
    "supervision": "masks",
    "data": {"root": "/home/me/secret/photos", "train": "train", "val": "val"},
    "model": {"name": "linear", "backbone": "resnet10t", "pretrained": "/home/me/secret/weights.pth"},
    "inference": {"size": [40, 56], "flip": True},
}


@pytest.fixture
def run(tmp_path):
    """A run folder with a model, its recipe and its scores."""
    folder = RunFolder(tmp_path / "run")
    torch.manual_seed(1)
    model = create_model("linear", backbone="resnet10t", num_classes=2).eval()
    record = weights_record("file", "/home/me/secret/weights.pth", trained_on="ImageNet-1k", license="apache-2.0")
    metadata = {
        "kind": "segmenter",
        "model": {
            "name": "linear", "backbone": "resnet10t", "output_stride": None, "num_classes": 2, "options": {}
        },
        "labels": NAMES.to_dict(),
        "preprocessing": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.25]},
        "pretrained_weights": record,
        "recipe": RECIPE,
        "maskwright": "0.0",
    }  # fmt: skip
    save_model(folder.model("segmenter"), model, metadata)
    write_json(folder.model("segmenter").with_name("stage.json"), {"seconds": 1.0})
    folder.recipe.write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    rates = {"iou": 0.5, "f1": 0.6, "precision": 0.7, "recall": 0.8, "pixels": 9}
    scores = {"miou": 0.625, "per_class": {"background": {**rates, "iou": 0.75}, "café": rates}}
    write_json(folder.metrics, {"segmenter": {"scores": scores, "split": "val", "images": 7}})
    return folder.path


def test_a_folder_is_pushed_pulled_and_predicts_what_the_run_predicts(run, tmp_path):
    result = CliRunner().invoke(app, ["push", str(run), str(tmp_path / "hub" / "mine")])
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "hub" / "mine").iterdir()) == sorted(FILES)
    result = CliRunner().invoke(app, ["pull", str(tmp_path / "hub" / "mine"), f"out={tmp_path / 'got'}"])
    assert result.exit_code == 0, result.output

    image = np.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "photo.png")
    words = ["predict", str(tmp_path / "got"), str(tmp_path / "photo.png"), f"out={tmp_path / 'out'}", "device=cpu"]
    assert CliRunner().invoke(app, words).exit_code == 0
    own, got = load(run, device="cpu"), load(tmp_path / "got", device="cpu")
    assert got.settings == own.settings
    np.testing.assert_array_equal(got.probabilities(image), own.probabilities(image))
    with Image.open(tmp_path / "out" / "masks" / "photo.png") as mask:
        np.testing.assert_array_equal(np.array(mask), own(image).mask)


def test_config_card_and_recipe_say_what_a_stranger_needs_and_no_place_of_this_machine(run, tmp_path):
    push_run(run, ["inference.flip=false"], str(tmp_path / "mine"))
    config = json.loads((tmp_path / "mine" / "config.json").read_text(encoding="utf-8"))
    assert config["id2label"] == {"0": "background", "1": "café"}
    assert config["label2id"] == {"background": 0, "café": 1}
    assert config["image_mean"] == [0.5, 0.4, 0.3]
    assert (config["architecture"], config["backbone"], config["flip"]) == ("linear", "resnet10t", False)
    card = (tmp_path / "mine" / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "maskwright"
    assert front["pipeline_tag"] == "image-segmentation"
    for text in (
        "# mine\n", "background, café", "Supervision: pixel masks", "Trained on: photos", "mIoU on val, 7 images",
        "| Model from masks | 62.5 % |", "| café | 50.0 % |", "trained on ImageNet-1k, licence apache-2.0",
        "add `license:` at the top", "## What it is for", 'maskwright.load("hf:user/mine")',
    ):  # fmt: skip
        assert text in card
    assert yaml.safe_load((tmp_path / "mine" / "recipe.yaml").read_text())["data"]["root"] == "photos"
    assert load_metadata(tmp_path / "mine" / "model.safetensors")["recipe"]["inference"]["flip"] is False
    for name in FILES:
        assert b"secret" not in (tmp_path / "mine" / name).read_bytes()


def test_a_repository_is_loaded_by_its_name(run, tmp_path, monkeypatch):
    push_run(run, [], str(tmp_path / "mine"))
    asked = []

    def snapshot_download(name, allow_patterns):
        asked.append((name, sorted(allow_patterns)))
        return str(tmp_path / "mine")

    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert load("hf:me/mine", device="cpu").labels == NAMES
    assert pull("hf:me/mine", tmp_path / "got") == tmp_path / "got"
    assert asked == [("me/mine", sorted(FILES))] * 2
    with pytest.raises(RecipeError, match="hf:mine: a repository is hf:user/name"):
        load("hf:mine")


def test_a_repository_is_written_to_in_one_commit(run, monkeypatch):
    calls = []

    class Api:
        def create_repo(self, name, exist_ok):
            calls.append((name, exist_ok))

        def upload_folder(self, repo_id, folder_path, commit_message):
            calls.append((repo_id, sorted(path.name for path in hub.Path(folder_path).iterdir())))

    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert push_run(run, [], "hf:me/mine") == "https://huggingface.co/me/mine"
    assert calls == [("me/mine", True), ("me/mine", sorted(FILES))]


def test_without_a_network_it_is_one_line(monkeypatch):
    def offline(name, allow_patterns):
        raise OSError("no network\nmore lines")

    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(DataError, match=r"^hf:me/mine cannot be fetched: no network$"):
        pulled("me/mine")


def test_what_is_no_whole_model_is_refused(run, tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="holds files already, and no model that maskwright pushed"):
        push_run(run, [], str(full))
    push_run(run, [], str(tmp_path / "mine"))
    push_run(run, [], str(tmp_path / "mine"))  # once more is fine
    with pytest.raises(DataError, match="holds files already, and no model that was pulled"):
        pull(str(tmp_path / "mine"), full)
    with pytest.raises(DataError, match=r"holds no model\.safetensors"):
        pull(str(full), tmp_path / "got")
    with pytest.raises(DataError, match="is no folder; write hf:user/name"):
        pull(str(tmp_path / "none"), tmp_path / "got")
    config = tmp_path / "mine" / "config.json"
    write_json(config, {**json.loads(config.read_text(encoding="utf-8")), "id2label": {"0": "background", "1": "bar"}})
    with pytest.raises(DataError, match="One of them was changed"):
        pull(str(tmp_path / "mine"), tmp_path / "got")
    assert not (tmp_path / "got").exists()
    with pytest.raises(DataError, match="is no run folder"):
        push_run(tmp_path / "mine", [], str(tmp_path / "again"))


def test_a_run_that_was_not_scored_says_so(run, tmp_path):
    shutil.rmtree(run / "evaluation", ignore_errors=True)
    (run / "metrics.json").unlink()
    push_run(run, [], str(tmp_path / "mine"))
    assert "It was not scored: there was no ground truth." in (tmp_path / "mine" / "README.md").read_text()


def test_places_lose_all_but_their_last_name():
    given = {"root": "/a/b/photos/", "list": ["~/x.pth", "camvid", 3], "size": None}
    assert without_places(given) == {"root": "photos", "list": ["x.pth", "camvid", 3], "size": None}
