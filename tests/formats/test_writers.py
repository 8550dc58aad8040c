"""YOLO, labelme, FiftyOne and Hugging Face: what is written is what the other side reads."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from maskwright.data.readers.polygons import paint_polygon, to_grid
from maskwright.formats import write
from maskwright.formats.yolo import beside_image

pytestmark = pytest.mark.versions

CLASSES = {"cat": 1, "Übung": 2, "a b": 3, "__ignore__": 255}


def painted(shape, polygons):
    mask = np.zeros(shape, np.uint8)
    for value, points in polygons:
        paint_polygon(mask, to_grid(np.asarray(points, float)), value)
    return mask


def test_yolo_polygons_are_rows_beside_their_images(hard_whole, tmp_path):
    write(hard_whole.export, "yolo", tmp_path / "out")
    data = yaml.safe_load((tmp_path / "out/data.yaml").read_text(encoding="utf-8"))
    assert data["names"] == {0: "cat", 1: "Übung", 2: "a b"}
    assert data["train"] == data["val"] == "images/train"
    for name, mask in hard_whole.masks.items():
        (image,) = (tmp_path / "out/images/train").glob(f"{name}.*")
        place = image.relative_to(tmp_path / "out").as_posix()
        text = (tmp_path / "out" / beside_image(place, "labels", ".txt")).read_text(encoding="utf-8")
        polygons = []
        for row in text.splitlines():
            number, *parts = row.split()
            points = np.array(parts, float).reshape(-1, 2)
            assert len(points) >= 3
            assert points.min() >= 0
            assert points.max() <= 1
            polygons.append((int(number) + 1, points * mask.shape[::-1]))
        assert np.array_equal(painted(mask.shape, polygons), mask)
    assert (tmp_path / "out/labels/train/b/same.txt").read_text(encoding="utf-8") == ""


def test_yolo_says_that_polygons_lose_pixels_without_a_label(hard, tmp_path):
    assert any("3 images with pixels without a label" in line for line in write(hard.export, "yolo", tmp_path / "out"))


def test_the_last_folder_called_images_gives_way_as_in_their_loader():
    assert beside_image("images/train/site/images/x.y.jpg", "labels", ".txt") == "images/train/site/labels/x.y.txt"


def test_yolo_semantic_masks_are_grey_with_255_ignored(hard, tmp_path):
    write(hard.export, "yolo-semantic", tmp_path / "out")
    data = yaml.safe_load((tmp_path / "out/data.yaml").read_text(encoding="utf-8"))
    assert (data["masks_dir"], list(data["names"].values())) == ("masks", ["background", "cat", "Übung", "a b"])
    for name, mask in hard.masks.items():
        with Image.open(tmp_path / f"out/masks/train/{name}.png") as picture:
            assert picture.mode == "L"
            assert np.array_equal(np.array(picture), mask)


def test_labelme_has_a_file_beside_every_image(hard, tmp_path):
    write(hard.export, "labelme", tmp_path / "out")
    lines = (tmp_path / "out/labels.txt").read_text(encoding="utf-8").splitlines()
    assert lines == ["__ignore__", "_background_", "cat", "Übung", "a b"]
    for name, mask in hard.masks.items():
        file = tmp_path / f"out/{name}.json"
        record = json.loads(file.read_text(encoding="utf-8"))
        assert (file.parent / record["imagePath"]).is_file()
        assert (record["imageHeight"], record["imageWidth"]) == mask.shape
        assert record["imageData"] is None
        polygons = [(CLASSES[shape["label"]], shape["points"]) for shape in record["shapes"]]
        assert np.array_equal(painted(mask.shape, polygons), mask)


def test_labelme_opens_it(hard, tmp_path):
    labelme = pytest.importorskip("labelme._label_file", exc_type=ImportError)
    write(hard.export, "labelme", tmp_path / "out")
    for name in hard.masks:
        found = labelme.read_label_file(str(tmp_path / f"out/{name}.json"))
        assert all(shape["label"] in CLASSES for shape in found.shapes)


def test_fiftyone_finds_every_path_and_the_names_of_the_values(hard, tmp_path):
    write(hard.export, "fiftyone", tmp_path / "out")
    samples = json.loads((tmp_path / "out/samples.json").read_text(encoding="utf-8"))["samples"]
    metadata = json.loads((tmp_path / "out/metadata.json").read_text(encoding="utf-8"))
    assert metadata["default_mask_targets"] == {"0": "background", "1": "cat", "2": "Übung", "3": "a b"}
    assert {field["name"] for field in metadata["sample_fields"]} >= {"filepath", "segmentation", "uncertainty"}
    assert len({sample["_id"]["$oid"] for sample in samples}) == len(hard.masks)
    for sample, (name, mask) in zip(samples, hard.masks.items(), strict=True):
        assert Path(sample["filepath"]).with_suffix("").as_posix() == f"data/{name}"
        assert (tmp_path / "out" / sample["filepath"]).is_file()
        assert sample["segmentation"]["_cls"] == "Segmentation"
        with Image.open(tmp_path / "out" / sample["segmentation"]["mask_path"]) as picture:
            assert np.array_equal(np.array(picture), mask)
        assert sample["uncertainty"]["_cls"] == "Heatmap"
        with Image.open(tmp_path / "out" / sample["uncertainty"]["map_path"]) as picture:
            assert set(np.unique(np.array(picture))) == {55}  # 255 less the certainty


def test_datasets_opens_a_hugging_face_folder(hard, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    datasets = pytest.importorskip("datasets")
    write(hard.export, "huggingface", tmp_path / "out")
    found = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert set(found.column_names) == {"image", "mask", "tags"}
    masks = [np.array(row["mask"]) for row in found]
    assert len(masks) == len(hard.masks)
    assert all(any(np.array_equal(mask, wanted) for wanted in hard.masks.values()) for mask in masks)
    assert all(row["image"].size == row["mask"].size for row in found)
    assert found[0]["tags"] == ["cat"]


def test_hugging_face_rows_name_files_that_are_there(hard, tmp_path):
    write(hard.export, "huggingface", tmp_path / "out")
    rows = (tmp_path / "out/train/metadata.jsonl").read_text(encoding="utf-8").splitlines()
    for row, (name, mask) in zip(map(json.loads, rows), hard.masks.items(), strict=True):
        assert row["file_name"].startswith(f"images/{name}.")
        assert (tmp_path / "out/train" / row["file_name"]).is_file()
        with Image.open(tmp_path / "out/train" / row["mask_file_name"]) as picture:
            assert np.array_equal(np.array(picture), mask)
    assert "| 2 | Übung |" in (tmp_path / "out/README.md").read_text(encoding="utf-8")


@pytest.fixture
def ultralytics(monkeypatch, tmp_path):
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    return pytest.importorskip("ultralytics.data.dataset", exc_type=ImportError)


def test_ultralytics_loads_semantic_masks_pixel_for_pixel(ultralytics, hard, tmp_path):
    from ultralytics.data.utils import check_det_dataset

    write(hard.export, "yolo-semantic", tmp_path / "out")
    data = check_det_dataset(str(tmp_path / "out/data.yaml"))
    found = ultralytics.SemanticDataset(img_path=data["train"], data=data, imgsz=32, augment=False, task="semantic")
    names = [Path(one["im_file"]).relative_to(data["train"]).with_suffix("").as_posix() for one in found.labels]
    assert sorted(names) == sorted(hard.masks)
    for index, name in enumerate(names):
        assert np.array_equal(found.load_mask(index), hard.masks[name])


def test_ultralytics_loads_every_polygon(ultralytics, hard_whole, tmp_path):
    from ultralytics.data.utils import check_det_dataset

    write(hard_whole.export, "yolo", tmp_path / "out")
    data = check_det_dataset(str(tmp_path / "out/data.yaml"))
    found = ultralytics.YOLODataset(img_path=data["train"], data=data, imgsz=32, augment=False, task="segment")
    parts = {}
    for one in found.labels:
        name = Path(one["im_file"]).relative_to(data["train"]).with_suffix("").as_posix()
        side = np.array(one["shape"][::-1])
        polygons = [(int(number) + 1, points * side) for number, points in zip(one["cls"].ravel(), one["segments"])]
        assert np.array_equal(painted(one["shape"], polygons), hard_whole.masks[name])
        parts[name] = len(polygons)
    assert parts == {"one": 8, "a/same": 8, "b/same": 0, "größe/日本": 8}
