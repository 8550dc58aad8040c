"""Ultralytics' folders: polygons and masks, Roboflow's paths, what is damaged."""

import numpy as np
import pytest

from maskwright.data import open_dataset, reader_name
from maskwright.data.check import check
from maskwright.errors import DataError
from maskwright.settings import DataSettings

YAML = "train: images/train\nval: images/val\nnames: [cup, lid]\n"
LEFT = "0 0 0 0.5 0 0.5 1 0 1"


def opened(files, split="train", **settings):
    settings = DataSettings(root=str(files.root), **settings)
    assert reader_name(settings) == "yolo"
    return open_dataset(settings, split)


@pytest.fixture
def photos(files):
    for name in ("train/a", "train/b", "val/c"):
        files.image(f"images/{name}.jpg")
    files.text("data.yaml", YAML)
    return files


def test_polygons_with_smaller_ones_over_larger_ones(photos, contract, columns):
    photos.text("labels/train/a.txt", f"1 0 0 0.25 0 0.25 1 0 1\n{LEFT}\n")
    photos.text("labels/val/c.txt", "")
    dataset = opened(photos)
    contract(dataset)
    assert list(dataset.names) == ["train/a", "train/b"]
    assert dataset.labels.names == ("background", "cup", "lid")
    assert columns(dataset.mask(0)) == [2, 1, 0]
    assert columns(dataset.mask(1)) == [0]  # no file: nothing is there
    assert columns(opened(photos, "val").mask(0)) == [0]


def test_roboflow_says_one_folder_up_and_puts_images_into_each_split(files, columns):
    files.text("data.yaml", "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: {0: cup, 1: lid}\n")
    for split in ("train", "valid"):
        files.image(f"{split}/images/a.jpg")
        files.text(f"{split}/labels/a.txt", LEFT)
    assert list(opened(files).names) == ["train/images/a"]
    assert list(opened(files, "val").names) == ["valid/images/a"]
    assert columns(opened(files, "val").mask(0)) == [1, 0]


def test_boxes_are_ignored_inside(photos, columns):
    photos.text("labels/train/a.txt", f"1 0.5 0.5 0.5 1\n{LEFT}\n")
    assert columns(opened(photos).mask(0)) == [1, 255, 0]


@pytest.mark.parametrize("given", ["masks_dir: masks\n", ""])
def test_semantic_masks_are_their_values(photos, given, columns):
    photos.text("data.yaml", YAML + given)
    for name in ("train/a", "train/b", "val/c"):
        photos.mask(f"masks/{name}.png", [0, 1, 255])
    dataset = opened(photos)
    assert dataset.labels.names == ("cup", "lid")
    assert columns(dataset.mask(0)) == [0, 1, 255]
    assert list(opened(photos, "val").names) == ["val/c"]


def test_label_mapping_is_applied(photos, columns):
    photos.text("data.yaml", YAML + "masks_dir: masks\nlabel_mapping: {7: 0, 8: 1, 0: ignore_label}\n")
    for name in ("train/a", "train/b", "val/c"):
        photos.mask(f"masks/{name}.png", [0, 7, 8])
    assert columns(opened(photos).mask(0)) == [255, 0, 1]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("0 0 0 0.5 0 0.5", "line 2 has 5 numbers behind the class, expected pairs"),
        ("0 0 0 0.5 x 0.5 1", "line 2 has something that is no number"),
        ("0 0 0 nan 0 0.5 1", "line 2 has a coordinate that is no number"),
        ("5 0 0 0.5 0 0.5 1", "line 2 has the class 5, expected 0 to 1"),
        ("0.5 0 0 0.5 0 0.5 1", "line 2 has the class 0.5"),
        ("0 0 0 900 0 0.5 1", r"line 2 has a point at \(28800, 0\), far outside"),
    ],
)
def test_what_is_damaged_is_named_and_the_rest_goes_on(photos, row, said):
    file = photos.text("labels/train/a.txt", f"{LEFT}\n{row}\n")
    photos.text("labels/train/b.txt", LEFT)
    with pytest.raises(DataError, match=said) as error:
        opened(photos)
    assert str(file) in str(error.value)
    errors = [one for one in check(DataSettings(root=str(photos.root)), ["train"]) if one.level == "error"]
    assert [one.count for one in errors] == [1]
    assert opened(photos, options={"tolerant": True}).mask(1)[0, 0] == 1


def test_a_folder_that_leads_out_of_the_root_is_no_split(photos, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.jpg").write_bytes((photos.root / "images/val/c.jpg").read_bytes())
    photos.text("data.yaml", f"train: images/train\nval: {outside}\nnames: [cup, lid]\n")
    photos.text("labels/train/a.txt", LEFT)
    assert list(opened(photos, "val").names) == ["val/c"]
    assert len(opened(photos, "all")) == 3


@pytest.mark.parametrize("names", ["{0: cup, 2: lid}", "[]", "7"])
def test_names_that_are_no_list(photos, names):
    photos.text("data.yaml", f"train: images/train\nval: images/val\nnames: {names}\n")
    with pytest.raises(DataError, match="Expected a list, or a name for each number"):
        opened(photos)


def test_what_ultralytics_makes_of_masks_is_read_within_a_pixel(photos, monkeypatch, tmp_path):
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path / "settings"))
    converter = pytest.importorskip("ultralytics.data.converter", exc_type=ImportError)
    mask = np.zeros((24, 32), np.uint8)
    mask[3:12, 4:20], mask[14:22, 8:15] = 1, 2
    for name in ("a", "b"):
        photos._save(f"drawn/{name}.png", mask)
    (photos.root / "labels/train").mkdir(parents=True)
    converter.convert_segment_masks_to_yolo_seg(str(photos.root / "drawn"), str(photos.root / "labels/train"), 3)
    found = opened(photos).mask(0)
    padded = np.pad(mask, 1, mode="edge")
    near = [padded[1 + y : 25 + y, 1 + x : 33 + x] for y in (-1, 0, 1) for x in (-1, 0, 1)]
    assert set(np.unique(found)) == {0, 1, 2}
    assert np.any([found == shifted for shifted in near], axis=0).all()
