"""Out to another tool, corrected there, and back: what people drew is trained on, and never lost."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from maskwright.cli import app
from maskwright.data import open_dataset, reader_name, with_masks
from maskwright.data.masks import write_mask
from maskwright.data.sample import LabelSpace
from maskwright.engine.checkpoint import save_model
from maskwright.errors import DataError
from maskwright.files import read_json, write_json
from maskwright.inference.load import load
from maskwright.models import create_model
from maskwright.pipeline.export import doubt_of, export_run, most_uncertain
from maskwright.recipe.load import load_recipe
from maskwright.runs.context import RunContext
from maskwright.settings import DataSettings

LABELS = LabelSpace(("background", "cat", "dog"))
NAMES = [f"p{number}" for number in range(6)]
SIZE = (16, 20)


@pytest.fixture
def run(tmp_path):
    """A run's folder with pseudo-masks of six photographs, the later ones the surer, and the photographs."""
    photos = tmp_path / "photos"
    photos.mkdir()
    with open(photos / "tags.csv", "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("image", "tags"), *((f"{name}.jpg", "cat;dog") for name in NAMES)])
    out = tmp_path / "run"
    for number, name in enumerate(NAMES):
        Image.fromarray(np.full((*SIZE, 3), 40 * number, np.uint8)).save(photos / f"{name}.jpg")
        mask = np.zeros(SIZE, np.uint8)
        mask[2:8, 3:9], mask[10:14, 12 : 14 + number] = 1, 2
        write_mask(out / "pseudo_masks/SegmentationClass" / f"{name}.png", mask, LABELS)
        (out / "pseudo_masks/Confidence").mkdir(exist_ok=True)
        confidence = Image.fromarray(np.full(SIZE, 100 + 20 * number, np.uint8))
        confidence.save(out / "pseudo_masks/Confidence" / f"{name}.png")
    words = [f"data={photos}", f"tags={photos / 'tags.csv'}", "data.train=all", "data.val=all", f"out={out}"]
    recipe = load_recipe("cam-scratch", words)
    (out / "recipe.yaml").write_text(json.dumps(recipe.model_dump(mode="json")), encoding="utf-8")
    return out, photos, words


def exported(run, name, out, *words):
    result = CliRunner().invoke(app, ["export", str(run[0]), f"format={name}", f"out={out}", *words])
    assert result.exit_code == 0, result.exception
    return result.output


def mixed(run, masks):
    recipe = load_recipe("cam-scratch", [*run[2], "supervision=mixed", f"masks={masks}"])
    return RunContext(recipe, run[0], lambda line: None)


def test_the_least_sure_are_written(run, tmp_path):
    said = exported(run, "labelme", tmp_path / "out", "select=uncertain", "n=2")
    assert "2 images of split all with pseudo-masks" in said
    assert sorted(path.stem for path in (tmp_path / "out").glob("*.jpg")) == ["p0", "p1"]


def test_a_lost_tag_comes_before_all_doubt():
    sure = np.full(SIZE, 255, np.uint8)
    mask = np.zeros(SIZE, np.uint8)
    assert doubt_of(mask, sure, (1,)) > doubt_of(mask + 1, np.ones(SIZE, np.uint8), (1,)) > 0.9
    assert doubt_of(mask + 1, sure, (1,)) == doubt_of(mask + 1, None, None) == 0


def test_nothing_to_choose_from_is_said(run):
    with pytest.raises(DataError, match="which all of them are"):
        most_uncertain(open_dataset(DataSettings(root=str(run[1]), tags="tags.csv"), "all"), [], lambda index: None, 3)


@pytest.mark.parametrize("name", ["labelme", "yolo", "yolo-semantic", "huggingface", "coco", "label-studio"])
def test_corrected_in_place_one_mask_is_trained_on_and_the_others_stay_what_the_run_makes(name, run, tmp_path):
    out = tmp_path / "out"
    exported(run, name, out, "select=uncertain", "n=3")
    wanted, masks = correct(name, out)
    context = mixed(run, masks)
    assert "p1" in context.real
    one_each = name not in ("coco", "label-studio")  # one file for all: that it was changed says nothing of a mask
    assert context.real == (["p1"] if one_each else ["p0", "p1", "p2"])
    dataset = with_masks(context.train, run[0] / "pseudo_masks/SegmentationClass", context.real)
    index = list(dataset.names).index("p1")
    assert dataset.labels.names == ("background", "cat", "dog")
    assert np.array_equal(dataset.mask(index), wanted)
    assert dataset.has_mask(list(dataset.names).index("p5"))  # by its pseudo-mask
    with pytest.raises(DataError, match="corrections are not lost"):
        export_run(run[0], [], name, str(out))
    with pytest.raises(DataError, match="corrections are not lost"):
        export_run(run[0], [], "coco", str(out))


def correct(name, out):
    """Give the second photograph one cat in the upper left corner; the mask, and what `masks=` is."""
    wanted = np.zeros(SIZE, np.uint8)
    wanted[:4, :5] = 1
    square = [[0, 0], [5, 0], [5, 4], [0, 4]]
    if name == "labelme":
        record = read_json(out / "p1.json")
        record["shapes"] = [{**record["shapes"][0], "label": "cat", "points": square}]
        write_json(out / "p1.json", record)
    elif name == "yolo":
        (out / "labels/all/p1.txt").write_text("0 0 0 0.25 0 0.25 0.25 0 0.25\n", encoding="utf-8")
    elif name in ("yolo-semantic", "huggingface"):
        place = out / ("masks/all" if name == "yolo-semantic" else "all/masks")
        write_mask(place / "p1.png", wanted, LABELS)
    elif name == "coco":
        file = out / "annotations/instances_all.json"
        record = read_json(file)
        image = next(row["id"] for row in record["images"] if row["file_name"] == "p1.jpg")
        rest = [one for one in record["annotations"] if one["image_id"] != image]
        polygon = [[side for point in square for side in point]]
        cat = {"id": 999, "image_id": image, "category_id": 1, "segmentation": polygon, "iscrowd": 0}
        record["annotations"] = [*rest, cat]
        write_json(file, record)
    else:
        record = read_json(out / "tasks.json")
        task = next(one for one in record if json.dumps(one).find("p1.jpg") >= 0)
        answers = task.get("annotations") or task["predictions"]
        region = next(one for one in answers[0]["result"] if "value" in one)
        value = {"points": [[100 * x / 20, 100 * y / 16] for x, y in square], "polygonlabels": ["cat"]}
        polygon = {**region, "id": "new", "type": "polygonlabels", "value": value}
        task["annotations"] = [{"result": [polygon]}]
        for other in record:
            if "annotations" not in other:
                other["annotations"] = other["predictions"]
        write_json(out / "tasks.json", record)
    return wanted, out


def test_images_in_the_layout_of_voc_get_them_too(run, tmp_path):
    exported(run, "labelme", tmp_path / "out")
    wanted, masks = correct("labelme", tmp_path / "out")
    (run[1] / "JPEGImages").mkdir()
    for photo in run[1].glob("*.jpg"):
        photo.rename(run[1] / "JPEGImages" / photo.name)
    write_mask(run[1] / "SegmentationClass/p0.png", wanted, LABELS)
    settings = DataSettings(root=str(run[1]), tags="tags.csv", masks=str(masks))
    assert reader_name(settings) == "voc"
    dataset = open_dataset(settings, "all")
    assert [dataset.has_mask(index) for index in range(6)] == [name == "p1" for name in dataset.names]
    assert np.array_equal(dataset.mask(1), wanted)


def test_masks_of_a_class_that_nobody_tagged_are_refused(run, tmp_path):
    exported(run, "labelme", tmp_path / "out")
    record = read_json(tmp_path / "out/p1.json")
    record["shapes"][0]["label"] = "horse"
    write_json(tmp_path / "out/p1.json", record)
    with pytest.raises(DataError, match="do not have: horse"):
        mixed(run, tmp_path / "out").train  # noqa: B018


def test_a_mixed_run_is_not_asked_again_for_what_was_corrected(run, tmp_path):
    exported(run, "labelme", tmp_path / "out", "select=uncertain", "n=1")
    record = read_json(tmp_path / "out/p0.json")
    record["shapes"] = record["shapes"][:1]
    write_json(tmp_path / "out/p0.json", record)
    recipe = load_recipe("cam-scratch", [*run[2], "supervision=mixed", f"masks={tmp_path / 'out'}"])
    (run[0] / "recipe.yaml").write_text(json.dumps(recipe.model_dump(mode="json")), encoding="utf-8")
    exported(run, "labelme", tmp_path / "next", "select=uncertain", "n=1")
    assert [path.stem for path in (tmp_path / "next").glob("*.jpg")] == ["p1"]


def test_predictions_of_a_model_with_their_doubt(run, tmp_path):
    torch.manual_seed(0)
    built = {"name": "light", "backbone": "resnet10t", "num_classes": 3, "output_stride": 16, "options": {}}
    model = create_model("light", backbone="resnet10t", num_classes=3, output_stride=16).eval()
    for parameter in model.parameters():
        if parameter.ndim == 4:  # weights that tell images apart
            torch.nn.init.kaiming_normal_(parameter, nonlinearity="relu")
    described = {
        "kind": "segmenter", "model": built, "labels": LABELS.to_dict(), "maskwright": "0.0",
        "recipe": json.loads((run[0] / "recipe.yaml").read_text(encoding="utf-8")),
        "preprocessing": {"mean": list(model.mean), "std": list(model.std)},
    }  # fmt: skip
    save_model(run[0] / "segmenter/model.safetensors", model, described)
    said = exported(run, "fiftyone", tmp_path / "out", "which=predictions", "device=cpu", "select=uncertain", "n=2")
    assert "2 images of split all with predictions" in said
    assert read_json(tmp_path / "out/provenance.json")["format"] == "maskwright predictions 1"
    predict = load(run[0], device="cpu")
    doubts = {}
    for name in NAMES:
        found = predict(run[1] / f"{name}.jpg", probabilities=True)
        entropy = -(found.probabilities * np.log(np.maximum(found.probabilities, 1e-12))).sum(0) / np.log(3)
        doubts[name] = entropy.mean() + sum(value not in found.mask for value in (1, 2))
        file = tmp_path / "out/fields/segmentation" / f"{name}.png"
        if file.is_file():
            with Image.open(file) as mask, Image.open(tmp_path / "out/fields/uncertainty" / f"{name}.png") as doubt:
                assert np.array_equal(np.array(mask), found.mask)
                assert np.abs(np.array(doubt) / 255 - entropy).max() < 0.003
    chosen = {path.stem for path in (tmp_path / "out/data").iterdir()}
    assert chosen == set(sorted(doubts, key=lambda name: (-doubts[name], name))[:2])
