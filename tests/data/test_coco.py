"""COCO: masks painted from the annotations as the official tools do, tags without painting, messages."""

import json
import zlib

import numpy as np
import pytest

from maskwright.data import open_dataset
from maskwright.data.check import check
from maskwright.data.readers import coco, coco_annotations
from maskwright.data.readers.polygons import paint_polygon, to_grid
from maskwright.errors import DataError
from maskwright.settings import DataSettings

CATEGORIES = [(1, "person"), (3, "car"), (90, "toothbrush")]
NAMES = [f"COCO_train2014_{number:012d}" for number in (9, 25, 30)]


def opened(root, split="train", **settings):
    return open_dataset(DataSettings(root=str(root), layout="coco", **settings), split)


def box(left, top, right, bottom):
    return [[left, top, right, top, right, bottom, left, bottom]]


def instance(identity, image, category, segmentation, crowd=0):
    return {
        "id": identity, "image_id": image, "category_id": category, "segmentation": segmentation, "iscrowd": crowd,
        "area": 1.5, "bbox": [0, 0, 1, 1],
    }  # fmt: skip


INSTANCES = [
    instance(1, 25, 90, box(0, 0, 16, 12)),
    instance(2, 9, 1, box(4, 0, 20, 24)),
    instance(3, 9, 90, [*box(0, 0, 8, 24), *box(28, 0, 32, 24)]),
    instance(4, 9, 3, {"size": [24, 32], "counts": [0, 24 * 32]}, crowd=1),
    instance(5, 25, 3, {"size": [24, 32], "counts": [24 * 30, 24 * 2]}),
    instance(6, 25, 1, box(0, 0, 16, 12)),
]


def annotations(instances=INSTANCES, names=NAMES, indent=None):
    return json.dumps(
        {
            "info": {"year": 2014, "list": [1, {"annotations": []}]},
            "images": [
                {"id": int(name[-12:]), "file_name": f"{name}.jpg", "height": 24, "width": 32}
                for name in reversed(names)
            ],
            "licenses": [],
            "annotations": instances,
            "categories": [{"id": identity, "name": name} for identity, name in reversed(CATEGORIES)],
        },
        indent=indent,
    )


@pytest.fixture
def root(files):
    for name in NAMES:
        files.image(f"train2014/{name}.jpg")
    files.text("annotations/instances_train2014.json", annotations())
    return files.root


def test_painted_in_file_order_later_over_earlier(root, contract, columns):
    dataset = opened(root)
    contract(dataset)
    assert dataset.names == NAMES
    assert dataset.labels.names == ("background", "person", "car", "toothbrush")
    assert dataset.labels.background == 0
    assert columns(dataset[0].mask) == [3, 1, 0, 3]
    assert (dataset[0].mask[:, 8:20] == 1).all()
    second = dataset[1].mask
    assert (second[:12, :16] == 1).all()
    assert (second[:, 30:] == 2).all()
    assert (second > 0).sum() == 12 * 16 + 24 * 2
    assert dataset.source["published_count"] == 82783


def test_tags_need_no_painting(root, monkeypatch):
    dataset = opened(root)
    monkeypatch.setattr(coco_annotations.Annotations, "paint", lambda *_: pytest.fail("painted"))
    assert [dataset.tags(index) for index in range(3)] == [(1, 3), (1, 2, 3), ()]
    assert all(dataset.has_mask(index) for index in range(3))
    monkeypatch.undo()
    assert [opened(root, tags="masks").tags(index) for index in range(3)] == [(1, 3), (1, 2), ()]
    assert not opened(root)[2].mask.any()


def test_images_in_their_own_folder(root):
    (root / "images").mkdir()
    (root / "train2014").rename(root / "images/train2014")
    assert opened(root, "train2014").names == NAMES


def test_2017_has_the_same_form(root, files):
    files.image("val2017/000000000009.jpg")
    files.text("annotations/instances_val2017.json", annotations(INSTANCES[1:3], ["000000000009"]))
    assert opened(root, "val", options={"year": 2017}).names == ["000000000009"]
    assert opened(root, "val2017", options={"year": 2017}).tags(0) == (1, 3)


@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 22])
@pytest.mark.parametrize("indent", [None, 2])
def test_the_file_is_read_in_pieces(root, files, monkeypatch, chunk, indent):
    monkeypatch.setattr(coco_annotations, "CHUNK", chunk)
    path = files.text("annotations/other.json", annotations(indent=indent))
    found = coco_annotations.read_annotations(str(path), chunk, 0)
    assert found.classes == ("person", "car", "toothbrush")
    assert [found.tags(row) for row in range(3)] == [(), (1, 2, 3), (1, 3)]
    assert np.array_equal(found.paint(2), opened(root)[0].mask)


def test_read_once_and_anew_when_replaced(root, files):
    first = opened(root).annotations
    assert opened(root).annotations is first
    files.text("annotations/instances_train2014.json", annotations(INSTANCES[:1]))
    assert opened(root).annotations is not first
    assert opened(root).tags(0) == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (annotations()[:-40], "is not valid JSON"),
        (annotations()[:900], "is not valid JSON"),
        ("[]", r"found '\['. Expected one of {"),
        ("{}", "is not valid JSON"),
        ('{"images": [], "annotations": []}', "has no images"),
        (annotations([{"image_id": 9, "category_id": 1}]), "KeyError: 'segmentation'"),
        (annotations([instance(1, 9, 2, box(0, 0, 2, 2))]), "annotation 1 has the category_id 2"),
        (annotations([instance(1, 8, 1, box(0, 0, 2, 2))]), "annotation 1 has the image_id 8"),
        (
            annotations([instance(7, 9, 1, {"size": [24, 32], "counts": [24, 24]})]),
            "annotation 7 has runs of 48 pixels together, 32x24 are 768: 1 damaged annotation",
        ),
        (
            annotations([instance(7, 9, 1, {"size": [32, 24], "counts": [0, 24 * 32]})]),
            r"annotation 7 has runs of the size \[32, 24\], its image COCO_train2014_0+9.jpg is \[24, 32\]",
        ),
        (annotations([instance(7, 9, 1, {"size": [24, 32], "counts": "é"})]), "annotation 7 has runs that cannot be"),
        (annotations([instance(7, 9, 1, {"size": [24], "counts": [3]})]), r"annotation 7 has runs of the size \[24\]"),
        (
            annotations([instance(7, 9, 1, {"size": [24, 32], "counts": [-1, 769]})]),
            "annotation 7 has runs that are no",
        ),
        (annotations([instance(7, 9, 1, [[1, 1, 2, 2, 3]])]), "annotation 7 has a polygon of 5 numbers"),
        (annotations([instance(7, 9, 1, [[1, 1, 2, 2]])]), "annotation 7 has a polygon of 2 corners"),
        (annotations([instance(7, 9, 1, [[1, 1, 2, float("nan"), 3, 3]])]), "annotation 7 has a polygon with a coord"),
        (annotations([instance(7, 9, 1, [[1, 1, 2, 1e30, 3, 3]])]), "annotation 7 has a polygon with a coordinate"),
        (annotations([instance(7, 9, 1, [[1, 1, 2, 900, 3, 3]])]), "annotation 7 has a corner far outside"),
    ],
)
def test_an_annotation_file_that_is_not_as_described(root, files, text, message):
    files.text("annotations/instances_train2014.json", text)
    with pytest.raises(DataError, match=message):
        opened(root)


def test_compressed_runs_are_those_of_the_official_tools(root, files):
    runs = {"size": [24, 32], "counts": "l32Rd0"}  # by pycocotools 2.0.11
    mask = np.zeros((24, 32), np.uint8)
    mask[4:6, 5] = 1
    files.text("annotations/instances_train2014.json", annotations([instance(7, 9, 3, runs)]))
    assert np.array_equal(opened(root)[0].mask, 2 * mask)


def test_what_is_damaged_is_named_and_the_rest_goes_on(root, files):
    damaged = [instance(8, 9, 1, [[1, 2, 3]]), instance(9, 9, 90, {"size": [24, 32], "counts": [5]})]
    files.text("annotations/instances_train2014.json", annotations([*INSTANCES, *damaged]))
    (finding,) = [one for one in check(DataSettings(root=str(root), val="train")) if one.level == "error"]
    assert finding.count == 2
    assert [file.partition(": ")[2] for file in finding.files] == [
        "annotation 8 has a polygon of 3 numbers, expected pairs",
        "annotation 9 has runs of 5 pixels together, 32x24 are 768",
    ]
    found = []
    dataset = coco.open_coco(DataSettings(root=str(root), layout="coco"), "train", found.append)
    assert found
    assert dataset.tags(0) == (1, 3)


def test_what_is_missing(root, files):
    with pytest.raises(DataError, match=r"val2014 \(from val2014.zip\), annotations/instances_val2014.json"):
        opened(root, "val")
    found = [finding for finding in check(DataSettings(root=str(root), val="train2014")) if finding.level == "warning"]
    assert any("train2014 of COCO has 3 of its 82783 images" in finding.what for finding in found)
    (root / f"train2014/{NAMES[1]}.jpg").unlink()
    with pytest.raises(DataError, match=rf"{NAMES[1]}: 1 of 3 images listed are not in train2014 \(2 images there\)"):
        opened(root)
    with pytest.raises(DataError, match="unknown split of coco 'trian'"):
        opened(root, "trian")
    with pytest.raises(DataError, match="year must be 2014 or 2017"):
        opened(root, options={"year": 2015})
    with pytest.raises(DataError, match="paints its own masks"):
        opened(root, label_map={0: 0})


# Corners; pixels that pycocotools 2.0.11 gives on 11 x 15, and their checksum.
POLYGONS = {
    "triangle": ([[2.0, 1.0], [12.5, 3.3], [4.2, 9.8]], 43, 3018139152),
    "self-crossing": ([[1, 1], [12, 9], [12, 1], [1, 9]], 46, 468143187),
    "partly outside": ([[-5, -5], [6.4, -2], [7.7, 30], [-3, 20]], 77, 2173247466),
    "a line": ([[2, 2], [9, 2], [2, 2]], 0, 2427394090),
    "repeated corner": ([[2, 2], [2, 2], [9, 2], [9, 8], [9, 8], [2, 8]], 42, 837064963),
}


@pytest.mark.parametrize("name", POLYGONS)
def test_polygons_have_the_official_pixels(name):
    points, area, checksum = POLYGONS[name]
    mask = np.zeros((11, 15), np.uint8)
    paint_polygon(mask, to_grid(np.array(points, float)), 5)
    assert (mask == 5).sum() == area
    assert zlib.crc32((mask == 5).astype(np.uint8).tobytes()) == checksum
    assert set(np.unique(mask)) <= {0, 5}


def test_polygons_equal_pycocotools():
    tools = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for trial in range(200):
        height, width = (int(side) for side in rng.integers(5, 120, 2))
        points = rng.uniform(-4, 1.1 * max(height, width), (rng.integers(3, 20), 2)).round(trial % 3)
        mask = np.zeros((height, width), np.uint8)
        paint_polygon(mask, to_grid(points), 1)
        codes = tools.frPyObjects([points.ravel().tolist()], height, width)
        assert np.array_equal(mask, tools.decode(codes)[..., 0])
