"""Sets as other tools' own writers write them are read as what was put in, with names and splits."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from maskwright.data import open_dataset
from maskwright.data.check import check
from maskwright.settings import DataSettings

SIZE = (40, 48)
LEFT = np.zeros(SIZE, bool)
LEFT[:, :24] = True
CORNERS = [30, 5, 40, 5, 40, 20, 30, 20]
NAMES = ("my cup.v1", "x/ä b", "c")  # the last one is of the split val


def wanted(*values):
    """The mask of what is drawn in every image: the left half, and a rectangle of another class."""
    mask = np.zeros(SIZE, np.uint8)
    mask[LEFT] = values[0]
    mask[5:20, 30:40] = values[1]
    return mask


def photograph(seed):
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)


def read(root, split, errors=()):
    settings = DataSettings(root=str(root))
    assert [finding.text() for finding in check(settings, [split]) if finding.level == "error"] == list(errors)
    dataset = open_dataset(settings, split)
    return dataset, {name.rpartition("/")[2]: dataset.mask(index) for index, name in enumerate(dataset.names)}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("written_as", ["coco", "coco_instances", "voc_segmentation", "cvat", "label_me"])
def test_datumaro(written_as, tmp_path):
    pytest.importorskip("datumaro")
    from datumaro.components import annotation as drawn
    from datumaro.components.dataset import Dataset
    from datumaro.components.dataset_base import DatasetItem
    from datumaro.components.media import Image as Photograph

    labels = drawn.LabelCategories.from_iterable(["background", "cup", "Tür zu"])
    colours = drawn.MaskCategories({0: (0, 0, 0), 1: (250, 50, 83), 2: (10, 200, 30)})
    mask = LEFT.copy()
    items = []
    for number, name in enumerate(NAMES):
        shapes = [drawn.Mask(image=mask, label=1, id=1, group=1, z_order=0)]
        if written_as == "voc_segmentation":  # which leaves out polygons
            shapes.append(drawn.Mask(image=wanted(0, 1) > 0, label=2, id=2, group=2, z_order=1))
        else:
            shapes.append(drawn.Polygon(CORNERS, label=2, id=2, group=2, z_order=1))
        media = Photograph.from_numpy(data=photograph(number))
        items.append(DatasetItem(name, subset="val" if number == 2 else "train", media=media, annotations=shapes))
    categories = {drawn.AnnotationType.label: labels, drawn.AnnotationType.mask: colours}
    Dataset.from_iterable(items, categories=categories).export(str(tmp_path / "set"), written_as, save_media=True)
    for split, expected in (("train", {"my cup.v1", "ä b"}), ("val", {"c"})):
        dataset, masks = read(tmp_path / "set", split)
        names = ("cup", "Tür zu") if written_as != "label_me" else ("Tür zu", "cup")  # which has no list of classes
        assert dataset.labels.names == ("background", *names)
        assert set(masks) == expected
        values = [dataset.labels.value(name) for name in ("cup", "Tür zu")]
        assert all(np.array_equal(found, wanted(*values)) for found in masks.values())


def test_boxes_of_datumaro(tmp_path):
    pytest.importorskip("datumaro")
    from datumaro.components import annotation as drawn
    from datumaro.components.dataset import Dataset
    from datumaro.components.dataset_base import DatasetItem
    from datumaro.components.media import Image as Photograph

    labels = drawn.LabelCategories.from_iterable(["background", "cup", "Tür zu"])
    items = [
        DatasetItem(
            name,
            subset="train",
            media=Photograph.from_numpy(data=photograph(number)),
            annotations=[drawn.Bbox(4, 2, 10, 8, label=label, id=label, attributes={"difficult": label == 2})
                         for label in (1, 2)[: number]],
        )
        for number, name in enumerate("abc")
    ]  # fmt: skip
    categories = {drawn.AnnotationType.label: labels}
    Dataset.from_iterable(items, categories=categories).export(str(tmp_path), "voc_detection", save_media=True)
    dataset, masks = read(tmp_path, "train")
    assert dataset.labels.names == ("background", "Tür zu", "cup")
    assert list(dataset.names) == ["b", "c"]  # it writes no file for an image without boxes
    assert [dataset.tags(index) for index in range(2)] == [(2,), (1, 2)]
    assert set(masks.values()) == {None}
    boxes = open_dataset(DataSettings(root=str(tmp_path), options={"boxes": True}), "train")
    expected = np.zeros(SIZE, np.uint8)
    expected[1:10, 3:14] = 2  # as VOC counts, from 1; datumaro counts from 0, so that a box is a pixel larger
    assert np.array_equal(boxes.mask(0), expected)


@pytest.mark.parametrize("written_as", ["JSON", "JSON_MIN", "CSV", "TSV", "COCO", "YOLO"])
def test_label_studio_converter(written_as, tmp_path, monkeypatch):
    converter = pytest.importorskip("label_studio_sdk.converter")
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, name in enumerate("ab"):
        Image.fromarray(photograph(number)).save(photos / f"{name}.jpg")
    monkeypatch.setenv("LOCAL_FILES_DOCUMENT_ROOT", str(photos))
    config = (
        '<View><Image name="image" value="$image"/><PolygonLabels name="label" toName="image"><Label value="cup"/>'
        '<Label value="Tür zu"/></PolygonLabels></View>'
    )
    corners = [[100 * x / 48, 100 * y / 40] for x, y in np.array(CORNERS).reshape(-1, 2).tolist()]
    regions = [
        {
            "id": f"r{number}", "type": "polygonlabels", "from_name": "label", "to_name": "image", "image_rotation": 0,
            "original_width": 48, "original_height": 40,
            "value": {"points": points, "closed": True, "polygonlabels": [name]},
        }
        for number, (name, points) in enumerate(
            (("cup", [[0, 0], [50, 0], [50, 100], [0, 100]]), ("Tür zu", corners))
        )
    ]  # fmt: skip
    moment = "2026-01-01T00:00:00.000000Z"
    tasks = [
        {
            "id": number, "data": {"image": f"/data/local-files/?d={name}.jpg"}, "predictions": [],
            "annotations": [
                {
                    "id": number, "completed_by": {"id": 1}, "was_cancelled": False, "created_at": moment,
                    "updated_at": moment, "lead_time": 1.0, "result": regions if name == "a" else [],
                }
            ],
        }
        for number, name in enumerate("ab", start=1)
    ]  # fmt: skip
    (tmp_path / "tasks.json").write_text(json.dumps(tasks), encoding="utf-8")
    out = tmp_path / "out"
    converter.Converter(config, str(photos), upload_dir=str(photos), download_resources=False).convert(
        str(tmp_path / "tasks.json"), str(out), written_as, is_dir=False
    )
    shutil.rmtree(out / "images", ignore_errors=True)
    shutil.copytree(photos, out / "images")
    dataset, masks = read(out, "all")
    cup, door = dataset.labels.names.index("cup"), dataset.labels.names.index("Tür zu")
    assert np.array_equal(masks["a"], wanted(cup, door))
    assert not masks["b"].any()
