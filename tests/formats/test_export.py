"""`maskwright export`: what is refused, what is written over, and a run's masks in a format."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from maskwright.cli import app
from maskwright.errors import DataError, RecipeError
from maskwright.files import read_json
from maskwright.formats import FORMATS, write
from maskwright.formats.export import Example, Export

SCENES = ["scenes", "data.options={count: 4, size: [48, 64]}", "split=train"]


def export(*words):
    return CliRunner().invoke(app, ["export", *map(str, words)])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["format=cocco", "out=x"], "unknown format 'cocco'. Did you mean 'coco'"),
        (["out=x"], "format= is missing"),
        (["format=coco"], "out= is missing"),
        (["format=coco", "out=x", "select=uncertain"], "select= is about what a run made"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_read(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = export("scenes", *words)
    assert isinstance(result.exception, RecipeError | DataError)
    assert said in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_a_data_set_is_written_and_written_again(tmp_path):
    out = tmp_path / "out"
    for _ in range(2):
        result = export(*SCENES, "format=coco", f"out={out}")
        assert result.exit_code == 0, result.exception
        assert "4 images of split train with ground truth" in result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert len(list((out / "images").rglob("*.png"))) == 4


def test_nothing_is_written_over_that_was_changed_or_is_not_ours(hard, tmp_path):
    out = tmp_path / "out"
    write(hard.export, "coco", out)
    annotations = out / "annotations" / "instances_train.json"
    annotations.write_text(annotations.read_text(encoding="utf-8") + " ", encoding="utf-8")
    with pytest.raises(DataError, match=r"changed or added since: annotations/instances_train.json"):
        write(hard.export, "coco", out)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(DataError, match="nothing is written over"):
        write(hard.export, "coco", tmp_path / "other")
    assert (tmp_path / "other" / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_an_export_that_fails_leaves_the_one_before(hard, tmp_path):
    out = tmp_path / "out"
    write(hard.export, "coco", out)
    before = sorted(out.rglob("*"))

    def broken():
        yield next(hard.examples())
        raise DataError("no mask")

    with pytest.raises(DataError, match="no mask"):
        write(Export(hard.export.labels, "train", "ground truth", broken, 2), "coco", out)
    assert sorted(out.rglob("*")) == before
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", FORMATS)
def test_a_photograph_that_lies_on_its_side_is_written_as_it_is_displayed(name, tmp_path):
    turned = Image.new("RGB", (12, 8), (9, 9, 200))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    mask = np.zeros((12, 8), np.uint8)
    mask[:5, :3] = 1
    from maskwright.data.images import read_image
    from maskwright.data.sample import LabelSpace

    path = tmp_path / "turned.jpg"

    def examples():
        yield Example("turned", path, lambda: read_image(path), mask)

    write(Export(LabelSpace(("background", "x")), "train", "ground truth", examples, 1), name, tmp_path / "out")
    (image,) = [
        file for file in (tmp_path / "out").rglob("*turned*") if "images" in file.parts or file.suffix == ".png"
    ][:1]
    with Image.open(image) as picture:
        assert picture.size == (8, 12)
        assert picture.getexif().get(0x0112, 1) == 1


def test_what_a_run_made_is_marked_and_what_people_drew_is_not(hard, tmp_path):
    write(hard.export, "coco", tmp_path / "truth")
    assert not read_json(tmp_path / "truth" / "provenance.json")["format"].startswith("maskwright")
    made = Export(hard.export.labels, "train", "pseudo-masks", hard.examples, 4, {"run": "r"})
    write(made, "coco", tmp_path / "made")
    record = read_json(tmp_path / "made" / "provenance.json")
    assert (record["format"], record["run"]) == ("maskwright pseudo-masks 1", "r")
    assert "annotations/instances_train.json" in record["files"]


# COCO.


def instances(folder):
    return json.loads((folder / "annotations" / "instances_train.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["coco", "coco-polygons"])
def test_coco_by_the_official_tools(name, hard, tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    said = write(hard.export, name, tmp_path / "out")
    assert "__ignore__" in said[0]
    api = coco.COCO(str(tmp_path / "out" / "annotations" / "instances_train.json"))
    classes = {1: 1, 2: 2, 3: 3, 4: 255}
    assert [api.cats[key]["name"] for key in sorted(api.cats)] == ["cat", "Übung", "a b", "__ignore__"]
    for number, (wanted, mask) in enumerate(hard.masks.items(), start=1):
        image = api.imgs[number]
        assert image["file_name"].rpartition(".")[0] == wanted
        assert (tmp_path / "out" / "images" / image["file_name"]).is_file()
        painted = np.zeros_like(mask)
        for annotation in api.imgToAnns[number]:
            where = api.annToMask(annotation).astype(bool)
            assert annotation["area"] == where.sum()
            rows, columns = np.nonzero(where)
            left, top, width, height = annotation["bbox"]
            assert (left, top) == (columns.min(), rows.min())
            assert (left + width, top + height) == (columns.max() + 1, rows.max() + 1)
            assert annotation["iscrowd"] == (annotation["category_id"] == 4)
            painted[where] = classes[annotation["category_id"]]
        assert np.array_equal(painted, mask)


def test_disconnected_parts_are_annotations_of_one_polygon_each(hard, tmp_path):
    write(hard.export, "coco-polygons", tmp_path / "out")
    found = [one for one in instances(tmp_path / "out")["annotations"] if not one["iscrowd"]]
    assert len(found) > 20
    for annotation in found:
        (polygon,) = annotation["segmentation"]
        assert len(polygon) >= 8
        assert len(polygon) % 2 == 0
    assert min(one["id"] for one in found) == 1  # 0 counts as none in the official tools


def test_without_ignored_pixels_there_is_no_category_for_them(hard_whole, tmp_path):
    assert write(hard_whole.export, "coco", tmp_path / "out") == []
    found = instances(tmp_path / "out")
    assert [one["name"] for one in found["categories"]] == ["cat", "Übung", "a b"]
    assert all(not one["iscrowd"] for one in found["annotations"])
