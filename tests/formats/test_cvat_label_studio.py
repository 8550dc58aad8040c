"""Masks for CVAT and Label Studio: opened by their own libraries, read back exactly, and the traps of both imports."""

import json
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from maskwright.data import open_dataset, reader_name
from maskwright.data.brush import decode_brush, encode_brush
from maskwright.data.sample import LabelSpace
from maskwright.errors import DataError
from maskwright.formats import write
from maskwright.formats.cvat import MOST_OBJECTS, object_numbers
from maskwright.formats.export import Example, Export
from maskwright.settings import DataSettings

LAYOUTS = {"cvat": "cvat_masks", "label-studio": "label_studio"}


def opened(root, **settings):
    return open_dataset(DataSettings(root=str(root), **settings), "all")


def one_mask(mask, labels, what="ground truth"):
    pixels = np.zeros((*mask.shape, 3), np.uint8)
    return Export(labels, "train", what, lambda: iter([Example("a", None, lambda: pixels, mask)]), 1)


@pytest.mark.parametrize("name", LAYOUTS)
def test_read_back_exactly(name, hard, tmp_path):
    write(hard.export, name, tmp_path / "out")
    assert reader_name(DataSettings(root=str(tmp_path / "out"))) == LAYOUTS[name]
    dataset = opened(tmp_path / "out")
    assert dataset.labels.names == hard.export.labels.names
    assert dataset.labels.palette == hard.export.labels.palette
    assert sorted(dataset.names) == sorted(hard.masks)
    for index, image in enumerate(dataset.names):
        assert np.array_equal(dataset[index].mask, hard.masks[image])
        with Image.open(hard.files[image]) as before, Image.open(dataset.images[index]) as after:
            assert np.array_equal(np.asarray(before), np.asarray(after))


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize(
    "labels",
    [
        LabelSpace(("ground", "cat", "dog", "cow")),
        LabelSpace(("cat", "cow", "dog"), None),
        LabelSpace(("cat", "background", "dog"), 1),
    ],
    ids=["another name", "none", "not the first"],
)
def test_names_and_background_come_back(name, labels, tmp_path):
    mask = np.tile(np.arange(len(labels.names), dtype=np.uint8), (20, 10))
    write(one_mask(mask, labels), name, tmp_path / "out")
    background = "none" if labels.background is None else labels.names[labels.background]
    dataset = opened(tmp_path / "out", background=background)
    found = np.array([labels.names.index(value) for value in dataset.labels.names], np.uint8)
    assert sorted(dataset.labels.names) == sorted(labels.names)
    assert np.array_equal(found[dataset[0].mask], mask)


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_a_run_made_is_no_ground_truth_until_it_was_corrected(name, hard, tmp_path):
    export = Export(hard.export.labels, "train", "pseudo-masks", hard.examples, 4)
    write(export, name, tmp_path / "out")
    with pytest.raises(DataError, match="maskwright"):
        opened(tmp_path / "out")


def test_tasks_that_came_back_are_read_beside_those_that_went_out(hard, tmp_path):
    out = tmp_path / "out"
    write(Export(hard.export.labels, "train", "pseudo-masks", hard.examples, 4), "label-studio", out)
    tasks = json.loads((out / "tasks.json").read_text(encoding="utf-8"))
    corrected = np.zeros((23, 31), bool)
    corrected[3:9, 2:7] = True
    result = tasks[1]["predictions"][0]["result"][0]
    result["value"] |= {"rle": encode_brush(corrected), "brushlabels": ["Übung"]}
    back = [{"id": 5, **tasks[1], "annotations": [{"result": [result], "was_cancelled": False}]}]
    (out / "project-1-at-2026-11-27-10-00-0a1b2c3d.json").write_text(json.dumps(back), encoding="utf-8")
    dataset = opened(out)
    assert dataset.names == ["a/same"]
    assert dataset.labels.names == hard.export.labels.names
    assert np.array_equal(dataset[0].mask == 2, corrected)
    assert dataset.tags(0) == (2,)


# CVAT.


def test_cvat_makes_no_annotation_of_background_and_ignored_pixels(hard, tmp_path):
    said = write(hard.export, "cvat", tmp_path / "out")
    assert "labels cat, Übung, a b" in said[0]
    assert "3 images: CVAT gives them back as background" in said[1]
    for name, mask in hard.masks.items():
        objects = np.asarray(Image.open(tmp_path / "out/SegmentationObject" / f"{name}.png"))
        assert np.array_equal(objects.any(-1), (mask > 0) & (mask < 255))
    lines = (tmp_path / "out/labelmap.txt").read_text(encoding="utf-8").splitlines()
    assert lines == [
        "# label:color_rgb:parts:actions", "background:0,0,0::", "cat:200,0,0::", "Übung:0,99,0::", "a b:0,0,77::",
        "__ignore__:224,224,192::",
    ]  # fmt: skip


def test_parts_are_objects_of_their_own_and_too_many_are_one_for_each_class():
    mask = np.zeros((12, 12), np.uint8)
    mask[1:4, 1:4] = 1
    mask[2, 2] = 2
    mask[4, 4] = 1
    numbers, apart = object_numbers(mask, (1, 2))
    assert apart
    assert len(np.unique(numbers)) == 4
    assert numbers[1, 1] not in (numbers[2, 2], numbers[4, 4])
    many = np.zeros((40, 40), np.uint8)
    many[::2, ::2] = 2
    many[1::2, 1::2] = 5
    numbers, apart = object_numbers(many, (2, 5))
    assert (many > 0).sum() > MOST_OBJECTS
    assert not apart
    assert np.array_equal(numbers, np.array([0, 0, 1, 0, 0, 2])[many])


@pytest.mark.parametrize("name", ["a:b", "#a", " a", "__ignore__"])
def test_a_name_that_a_label_map_cannot_hold(name, tmp_path):
    mask = np.ones((4, 4), np.uint8)
    with pytest.raises(DataError, match=r"labelmap.txt cannot hold"):
        write(one_mask(mask, LabelSpace(("background", name))), "cvat", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("palette", [((9, 9, 9), (9, 9, 9), (0, 0, 0)), ((5, 5, 5), (0, 0, 0), (224, 224, 192))])
def test_colours_that_would_be_one_are_told_apart(palette, tmp_path):
    mask = np.tile(np.array([0, 1, 2, 255], np.uint8), (20, 10))
    write(one_mask(mask, LabelSpace(("background", "cat", "dog"), palette=palette)), "cvat", tmp_path / "out")
    assert np.array_equal(opened(tmp_path / "out")[0].mask, mask)


@pytest.fixture
def datumaro():
    return pytest.importorskip("datumaro.components.dataset")


def test_cvats_library_opens_it(hard, tmp_path, datumaro):
    out = tmp_path / "out"
    write(hard.export, "cvat", out)
    dataset = datumaro.Dataset.import_from(str(out), "voc_segmentation")
    names = [label.name for label in next(iter(dataset.categories().values())).items]
    assert names == ["background", "cat", "Übung", "a b", "__ignore__"]
    seen = {}
    for item in dataset:
        seen[item.id] = np.zeros((23, 31), np.uint8)
        for annotation in item.annotations:
            assert names[annotation.label] not in ("background", "__ignore__")
            part = np.asarray(annotation.image).astype(bool)
            assert not seen[item.id][part].any()
            seen[item.id][part] = annotation.label
        assert item.media.data.shape == (23, 31, 3)
    assert {name: len(item.annotations) for item in dataset for name in [item.id]}["b/same"] == 0
    assert max(len(item.annotations) for item in dataset) > 6
    for name, mask in hard.masks.items():
        assert np.array_equal(seen[name], np.where(mask == 255, 0, mask))


def items(folder, masks):
    """Items of CVAT's library with a mask for each class, a polygon above them, and a tag."""
    from datumaro.components.annotation import Label, Mask, Polygon
    from datumaro.components.dataset_base import DatasetItem
    from datumaro.components.media import Image as Media

    found = []
    for number, (name, mask) in enumerate(masks.items()):
        path = folder / f"{name}.png"
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (*mask.shape, 3), dtype=np.uint8)).save(path)
        shapes = [Mask(mask == value, label=value, id=value, group=value) for value in (1, 2)]
        shapes += [Polygon([20, 2, 30, 2, 30, 12, 20, 12], label=2, z_order=1), Label(1)]
        media, frame = Media.from_file(path=str(path)), {"frame": number}
        found.append(DatasetItem(id=name, subset="train", media=media, annotations=shapes, attributes=frame))
    return found


def test_what_cvats_library_writes_is_read(tmp_path, datumaro):
    masks = {}
    for number, name in enumerate(("one", "two")):
        masks[name] = np.zeros((24, 32), np.uint8)
        masks[name][3 : 9 + number, 4:11] = 1
        masks[name][15:, 12:14] = 2
    expected = {name: mask.copy() for name, mask in masks.items()}
    for mask in expected.values():
        mask[2:12, 20:30] = 2
    labels = ["background", "cat", "dog"]
    source = datumaro.Dataset.from_iterable(items(tmp_path, masks), categories=labels)
    source.export(str(tmp_path / "shapes"), "cvat", save_media=True)
    (tmp_path / "shapes/train.xml").rename(tmp_path / "shapes/annotations.xml")
    dataset = opened(tmp_path / "shapes")
    assert dataset.labels.names == ("background", "cat", "dog")
    for index, name in enumerate(dataset.names):
        assert np.array_equal(dataset[index].mask, expected[name.rpartition("/")[2]])
        assert dataset.tags(index) == (1, 2)
    source.transform("polygons_to_masks")
    source.transform("merge_instance_segments")
    source.export(str(tmp_path / "masks"), "voc_segmentation", save_media=True, apply_colormap=True)
    dataset = opened(tmp_path / "masks")
    assert dataset.labels.names == ("background", "cat", "dog")
    for index, name in enumerate(dataset.names):
        assert np.array_equal(dataset[index].mask, expected[name])


# Label Studio.


def tasks_of(folder):
    return json.loads((folder / "tasks.json").read_text(encoding="utf-8"))


def test_brushes_belong_to_the_configuration_and_have_all_that_label_studio_needs(hard, tmp_path):
    said = write(hard.export, "label-studio", tmp_path / "out")
    assert "regions called __ignore__" in said[1]
    config = ElementTree.parse(tmp_path / "out/label_config.xml").getroot()
    brush, image = config.find("BrushLabels"), config.find("Image")
    labels = [label.get("value") for label in brush.findall("Label")]
    assert labels == ["cat", "Übung", "a b", "__ignore__"]
    assert brush.findall("Label")[0].get("background") == "#c80000"
    assert brush.get("toName") == image.get("name")
    for task, mask in zip(tasks_of(tmp_path / "out"), hard.masks.values(), strict=True):
        assert set(task["data"]) == {image.get("value").removeprefix("$")}
        (annotation,) = task["annotations"]
        values = {value: decode_brush(encode_brush(mask == value), *mask.shape) for value in (1, 2, 3, 255)}
        assert len(annotation["result"]) == len(set(np.unique(mask)) - {0})
        for region in annotation["result"]:
            assert (region["from_name"], region["to_name"]) == (brush.get("name"), image.get("name"))
            assert (region["original_width"], region["original_height"]) == (31, 23)
            assert (region["type"], region["value"]["format"]) == ("brushlabels", "rle")
            code = region["value"]["rle"]
            # Red, green, blue and alpha of every pixel; a code of one value for each shows nothing.
            assert int.from_bytes(bytes(code[:4]), "big") == 31 * 23 * 4
            value = {"cat": 1, "Übung": 2, "a b": 3, "__ignore__": 255}[region["value"]["brushlabels"][0]]
            assert np.array_equal(decode_brush(code, 23, 31), values[value])
        assert len({region["id"] for region in annotation["result"]}) == len(annotation["result"])
    urls = [task["data"]["image"] for task in tasks_of(tmp_path / "out")]
    assert urls[0] == "/data/local-files/?d=images/one.jpg"
    assert urls[3] == "/data/local-files/?d=images/gr%C3%B6%C3%9Fe/%E6%97%A5%E6%9C%AC.png"


def test_what_a_model_made_is_a_prediction_to_accept_or_correct(hard, tmp_path):
    export = Export(hard.export.labels, "train", "predictions", hard.examples, 4)
    write(export, "label-studio", tmp_path / "out")
    for task in tasks_of(tmp_path / "out"):
        assert "annotations" not in task
        assert task["predictions"][0]["model_version"] == "maskwright predictions"


def test_label_studios_sdk_finds_the_same_masks_and_accepts_the_tasks(hard, tmp_path):
    brush = pytest.importorskip("label_studio_sdk.converter.brush")
    interface = pytest.importorskip("label_studio_sdk.label_interface")
    out = tmp_path / "out"
    write(Export(hard.export.labels, "train", "predictions", hard.examples, 4), "label-studio", out)
    config = interface.LabelInterface((out / "label_config.xml").read_text(encoding="utf-8"))
    for task, mask in zip(tasks_of(out), hard.masks.values(), strict=True):
        (prediction,) = task["predictions"]
        assert config.validate_prediction(prediction)
        painted = np.zeros_like(mask)
        regions = [{**region, **region["value"]} for region in prediction["result"]]
        for name, alpha in brush.decode_from_annotation("label", regions).items():
            value = {"cat": 1, "Übung": 2, "a b": 3, "__ignore__": 255}[name.split("-")[1]]
            painted[alpha > 0] = value
        assert np.array_equal(painted, mask)


def test_names_with_quotes_and_brackets(tmp_path):
    labels = LabelSpace(("background", 'a "b" & <c>', "it's"))
    mask = np.tile(np.array([0, 1, 2], np.uint8), (20, 12))
    write(one_mask(mask, labels), "label-studio", tmp_path / "out")
    dataset = opened(tmp_path / "out")
    assert dataset.labels.names == labels.names
    assert np.array_equal(dataset[0].mask, mask)


def test_an_export_that_was_moved_is_still_read(hard, tmp_path):
    write(hard.export, "label-studio", tmp_path / "out")
    shutil.move(tmp_path / "out", tmp_path / "there")
    assert len(opened(tmp_path / "there")) == 4
