"""COCO's JSON of anybody's images: where it lies, what it draws, what is damaged in it."""

import json

import numpy as np
import pytest

from maskwright.data import open_dataset, reader_name
from maskwright.data.check import check
from maskwright.errors import DataError
from maskwright.settings import DataSettings

CATEGORIES = [{"id": 3, "name": "lid", "supercategory": "parts"}, {"id": 1, "name": "cup", "supercategory": "parts"}]
LEFT = [0, 0, 16, 0, 16, 24, 0, 24]
RIGHT = [16, 0, 32, 0, 32, 24, 16, 24]


def annotation(identity, segmentation, image=1, category=1, **fields):
    return {"id": identity, "image_id": image, "category_id": category, "segmentation": segmentation, **fields}


def text(annotations, names=("a.jpg", "b.jpg"), categories=CATEGORIES, **fields):
    images = [
        {"id": number, "file_name": name, "height": 24, "width": 32, **fields}
        for number, name in enumerate(names, start=1)
    ]
    return json.dumps({"annotations": annotations, "images": images, "categories": categories})


def opened(files, split="all", **settings):
    settings = DataSettings(root=str(files.root), **settings)
    assert reader_name(settings) == "coco_json"
    return open_dataset(settings, split)


@pytest.fixture
def photos(files):
    for name in ("a", "b"):
        files.image(f"images/{name}.jpg")
    return files


@pytest.mark.parametrize(
    "place", ["coco.json", "annotations/instances_default.json", "result.json", "annotations/anything.json"]
)
def test_any_file_with_polygons_and_runs(photos, place, contract, columns):
    runs = {"size": [24, 32], "counts": [24 * 16, 24 * 16]}
    photos.text(place, text([annotation(1, [LEFT]), annotation(2, runs, category=3)]))
    dataset = opened(photos)
    contract(dataset)
    assert dataset.labels.names == ("background", "cup", "lid")
    assert columns(dataset.mask(0)) == [1, 2]
    assert columns(dataset.mask(1)) == [0]
    assert [dataset.tags(0), dataset.tags(1)] == [(1, 2), ()]


def test_compressed_runs_and_flat_lists(photos, columns):
    mask_tools = pytest.importorskip("pycocotools.mask")
    mask = np.zeros((24, 32), np.uint8, order="F")
    mask[:, 16:] = 1
    runs = mask_tools.encode(mask)
    runs["counts"] = runs["counts"].decode()
    photos.text("coco.json", text([annotation(1, runs, category=3), annotation(2, LEFT)]))
    assert columns(opened(photos).mask(0)) == [1, 2]


def test_crowds_are_their_class_below_all_else(photos, columns):
    crowd = {"size": [24, 32], "counts": [0, 24 * 32]}
    photos.text("coco.json", text([annotation(1, [LEFT]), annotation(2, crowd, category=3, iscrowd=1)]))
    dataset = opened(photos)
    assert columns(dataset.mask(0)) == [1, 2]
    assert dataset.tags(0) == (1, 2)


def test_a_box_without_outline_is_ignored_inside(photos, columns):
    photos.text("coco.json", text([annotation(1, [LEFT]), annotation(2, [], bbox=[8, 0, 16, 24])]))
    assert columns(opened(photos).mask(0)) == [1, 255, 0]


def test_what_nothing_covers_may_have_no_label(photos, columns):
    photos.text("coco.json", text([annotation(1, [LEFT])]))
    assert columns(opened(photos, options={"partial": True}).mask(0)) == [1, 255]
    assert columns(opened(photos, background=None).mask(0)) == [0, 255]


def test_roboflow_has_a_file_in_the_folder_of_each_split(files, columns):
    above = [{"id": 0, "name": "parts", "supercategory": "none"}, *CATEGORIES]
    for split, shape in (("train", LEFT), ("valid", RIGHT)):
        files.image(f"{split}/a_jpg.rf.0123.jpg")
        files.text(
            f"{split}/_annotations.coco.json", text([annotation(0, [shape])], ["a_jpg.rf.0123.jpg"], categories=above)
        )
    train, val = opened(files, "train"), opened(files, "val")
    assert train.labels.names == val.labels.names == ("background", "cup", "lid")
    assert list(train.names) == ["train/a_jpg.rf.0123"]
    assert columns(train.mask(0)) == [1, 0]
    assert columns(val.mask(0)) == [0, 1]


def test_same_names_in_the_folders_of_two_splits(files, columns):
    for split, shape in (("train2017", LEFT), ("val2017", RIGHT)):
        files.image(f"images/{split}/a.jpg")
        files.text(f"annotations/instances_{split}.json", text([annotation(1, [shape])], ["a.jpg"]))
    assert columns(opened(files, "train").mask(0)) == [1, 0]
    assert columns(opened(files, "val").mask(0)) == [0, 1]


def test_a_folder_with_masks_stays_one(photos):
    photos.mask("masks/a.png", [0, 1])
    photos.text("coco.json", text([annotation(1, [LEFT])]))
    assert reader_name(DataSettings(root=str(photos.root))) == "folder"


@pytest.mark.parametrize(
    ("damaged", "said"),
    [
        (annotation(7, [[1, 1, 2, 2, 3]]), "annotation 7 has a polygon of 5 numbers, expected pairs"),
        (annotation(7, [[1, 1, 2, float("nan"), 3, 3]]), "annotation 7 has a polygon with a coordinate"),
        (annotation(7, [[1, 1, 2, "x", 3, 3]]), "annotation 7 has a polygon that is no list of numbers"),
        (annotation(7, [[1, 1, 2, 900, 3, 3]]), r"annotation 7 has a point at \(2, 900\), far outside"),
        (annotation(7, {"size": [24, 32], "counts": [5, 5]}), "annotation 7 has runs of 10 pixels together, 32x24"),
        (annotation(7, {"size": [32, 24], "counts": [0, 768]}), r"annotation 7 has runs of the size \[32, 24\]"),
        (annotation(7, {"size": [12, 16], "counts": [0, 192]}), r"annotation 7 has runs of the size \[12, 16\]"),
        (annotation(7, {"size": [24, 32], "counts": "~~"}), "annotation 7 has runs that cannot be read"),
        (annotation(7, [LEFT], category=9), "annotation 7 has the category_id 9"),
        (annotation(7, [LEFT], image=9), "annotation 7 has the image_id 9"),
        (annotation(7, []), "annotation 7 has neither an outline nor a box"),
        ({"id": 7, "segmentation": [LEFT]}, "annotation 7 has no image_id"),
    ],
)
def test_what_is_damaged_is_named_and_the_rest_goes_on(photos, damaged, said):
    file = photos.text("coco.json", text([damaged, annotation(8, [RIGHT], image=2)]))
    with pytest.raises(DataError, match=said) as error:
        opened(photos)
    assert str(file) in str(error.value)
    errors = [one for one in check(DataSettings(root=str(photos.root)), ["all"]) if one.level == "error"]
    assert [one.count for one in errors] == [1]
    dataset = opened(photos, options={"tolerant": True})
    assert dataset.mask(list(dataset.names).index("b"))[0, -1] == 1


@pytest.mark.parametrize(
    ("name", "said"), [("../../secret.jpg", "leads out of the folder"), ("/etc/passwd", "do not exist")]
)
def test_a_name_that_leads_elsewhere_is_refused(photos, name, said):
    photos.text("coco.json", text([annotation(1, [LEFT])], ["a.jpg", name]))
    errors = [one for one in check(DataSettings(root=str(photos.root)), ["all"]) if one.level == "error"]
    assert len(errors) == 1
    assert said in errors[0].what


def test_a_size_that_is_not_the_images(photos):
    photos.text("coco.json", text([annotation(1, [LEFT])], height=32, width=24))
    with pytest.raises(DataError, match=r"image 1: 24x32, .*a.jpg is 32x24"):
        opened(photos)
    photos.text("coco.json", text([annotation(1, [LEFT])], height=10**9, width=10**9))
    with pytest.raises(DataError, match="height 1000000000"):
        opened(photos)


@pytest.mark.parametrize(
    "broken",
    ['{"images": [], "annotations": ' + "[" * 200_000, '{"categories": [], "images": [' + "9" * 5000 + "]}"],
)
def test_a_file_that_is_nested_or_numbered_without_end(photos, broken):
    photos.text("coco.json", broken)
    with pytest.raises(DataError, match=r"coco\.json is not COCO's JSON"):
        opened(photos)


def test_a_category_that_is_no_number(photos):
    photos.text("coco.json", text([annotation(7, [LEFT], category=[1])]))
    with pytest.raises(DataError, match=r"annotation 7 has the category_id \[1\]"):
        opened(photos)


def test_a_byte_order_mark_does_no_harm(photos):
    photos.text("coco.json", "\ufeff" + text([annotation(1, [LEFT])]))
    assert len(opened(photos)) == 2
    (photos.root / "coco.json").write_bytes(text([annotation(1, [LEFT])]).encode().replace(b"lid", b"l\xe9d"))
    with pytest.raises(DataError, match="is not UTF-8 text"):
        opened(photos)


def test_datumaro_writes_what_is_read(tmp_path, columns):
    datumaro = pytest.importorskip("datumaro", exc_type=ImportError)
    mask = np.zeros((24, 32), bool)
    mask[:, 16:] = True
    media = datumaro.Image.from_numpy(data=np.zeros((24, 32, 3), np.uint8))
    drawn = [datumaro.Polygon(LEFT, label=0, id=1, group=1), datumaro.Mask(mask, label=1, id=2, group=2)]
    item = datumaro.DatasetItem("a", subset="train", media=media, annotations=drawn)
    datumaro.Dataset.from_iterable([item], categories=["cup", "lid"]).export(
        str(tmp_path / "out"), "coco_instances", save_media=True
    )
    dataset = open_dataset(DataSettings(root=str(tmp_path / "out")), "train")
    assert dataset.labels.names == ("background", "cup", "lid")
    assert columns(dataset.mask(0)) == [1, 2]
