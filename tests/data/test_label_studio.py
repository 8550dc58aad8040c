"""Exports of Label Studio: brush codes bit by bit, regions in percent, choices as tags, which annotation counts."""

import csv
import io
import json
import unicodedata

import numpy as np
import pytest

from maskwright.data import open_dataset, reader_name
from maskwright.data.brush import decode_brush, encode_brush
from maskwright.data.check import check
from maskwright.data.readers import label_studio
from maskwright.data.tables import read_tags
from maskwright.data.tables.label_studio import image_names, is_tasks, read_tasks
from maskwright.errors import DataError
from maskwright.settings import DataSettings

SIZE = {"original_width": 32, "original_height": 24}


def opened(root, split="all", **settings):
    return open_dataset(DataSettings(root=str(root), **settings), split)


def region(kind, label, identity="r1", **value):
    key = f"{kind}labels"
    return {
        "id": identity, "type": key, "from_name": "label", "to_name": "image", "image_rotation": 0, **SIZE,
        "value": {**value, key: [label] if isinstance(label, str) else label},
    }  # fmt: skip


def polygon(label, *points, identity="r1"):
    return region("polygon", label, identity, points=[list(point) for point in points], closed=True)


LEFT = [(0, 0), (50, 0), (50, 100), (0, 100)]
BRUSH = encode_brush(np.arange(32) >= np.full((24, 1), 30))


def choice(*names, name="choice", **value):
    return {
        "id": "c",
        "type": "choices",
        "from_name": name,
        "to_name": "image",
        "value": {"choices": list(names), **value},
    }


def annotation(*results, created="2026-11-01", cancelled=False):
    return {"id": 7, "result": list(results), "was_cancelled": cancelled, "created_at": created, "completed_by": 1}


def task(number, image, *annotations, **more):
    return {"id": number, "annotations": list(annotations), "predictions": [], "data": {"image": image}, **more}


@pytest.fixture
def project(files):
    """A function that writes tasks as an export, beside four images."""
    for name in "abcd":
        files.image(f"images/{name}.jpg")

    def write(*tasks, name="project-1-at-2026-11-20-10-00-0a1b2c3d.json"):
        files.text(name, json.dumps(list(tasks)))
        return files.root

    return write


# A run-length code of one RGBA pixel written by hand: 4 values, 8 bits each, lengths of 3, 4, 8 and 16 bits; the pixel
# is given word by word (0, kind 00, length 4 - 1 as 011): 10, 20, 30, 255.
BY_HAND = "0" * 29 + "100" + "00111" + "0010" + "0011" + "0111" + "1111" + "0" + "00" + "011"
BY_HAND += "".join(f"{value:08b}" for value in (10, 20, 30, 255))


def bits(text):
    text += "0" * (-len(text) % 8)
    return [int(text[start : start + 8], 2) for start in range(0, len(text), 8)]


def test_a_code_written_by_hand():
    assert decode_brush(bits(BY_HAND), 1, 1).tolist() == [[True]]
    # The same pixel repeated (1, kind 01 of 4 bits, length 4 - 1): alpha 0 is outside, whatever the colour.
    outside = BY_HAND[:53] + "1" + "01" + "0011" + "00000000"
    assert decode_brush(bits(outside), 1, 1).tolist() == [[False]]
    assert encode_brush(np.array([[False]])) == bits(BY_HAND[:53] + "1" + "00" + "011" + "00000000")


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (64, 80), (200, 300)])
def test_codes_return_what_went_in(size):
    rng = np.random.default_rng(sum(size))
    for share in (0, 0.02, 0.5, 1):
        inside = rng.random(size) < share
        assert np.array_equal(decode_brush(encode_brush(inside), *size), inside)
    blocks = np.zeros(size, bool)
    blocks[size[0] // 3 :, : size[1] // 2 + 1] = True
    assert np.array_equal(decode_brush(encode_brush(blocks), *size), blocks)


def test_codes_with_runs_of_any_length_one_by_one_and_repeated():
    rng = np.random.default_rng(0)
    for _ in range(60):
        pixels = int(rng.integers(1, 40))
        values = rng.integers(0, 3, pixels * 4)
        lengths = rng.integers(1, 17, 4).tolist()
        text = f"{pixels * 4:032b}00111" + "".join(f"{length - 1:04b}" for length in lengths)
        done = 0
        while done < len(values):
            kind, repeated = int(rng.integers(0, 4)), int(rng.integers(0, 2))
            count = int(min(rng.integers(1, 2 ** lengths[kind] + 1), len(values) - done))
            values[done : done + count] = values[done] if repeated else values[done : done + count]
            text += f"{repeated}{kind:02b}{count - 1:0{lengths[kind]}b}"
            text += "".join(f"{value:08b}" for value in values[done : done + (1 if repeated else count)])
            done += count
        assert np.array_equal(decode_brush([*bits(text), 0], pixels, 1).ravel(), values[3::4] > 0)


def test_codes_equal_those_of_the_sdk():
    brush = pytest.importorskip("label_studio_sdk.converter.brush")
    rng = np.random.default_rng(0)
    for height, width in ((1, 1), (2, 4), (7, 9), (40, 60), (300, 400)):
        for share in (0, 0.1, 0.9, 1):
            inside = rng.random((height, width)) < share
            if height > 100:
                inside = np.repeat(np.repeat(inside[::50, ::50], 50, 0), 50, 1)
            theirs = brush.mask2rle(inside.astype(np.uint8) * 255)
            assert encode_brush(inside) == theirs
            assert np.array_equal(decode_brush(theirs, height, width), inside)
    # What the tool's own canvas writes: colours, word by word, with edges that are half transparent.
    pixels = rng.integers(0, 256, (30, 20, 4))
    code = brush.encode_rle(pixels.ravel())
    assert np.array_equal(decode_brush(code, 30, 20), pixels[..., 3] > 0)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (bits(BY_HAND)[:-1], "ends too early"),
        (bits(BY_HAND)[:6], "not a list of at least 8 bytes"),
        ([*bits(BY_HAND)[:-1], 256], "bytes 0 to 255"),
        ("abc", "not a list of"),
        (["a"] * 9, "not a list of bytes"),
        (bits("1" * 32 + BY_HAND[32:]), "4294967295 values, 4 are expected"),
        (bits(BY_HAND[:53] + "1" + "01" + "1111" + "00000000"), "add up to more than the 4 values"),
        (bits(BY_HAND[:32] + "01111" + BY_HAND[37:]), "values of 16 bits"),
    ],
)
def test_a_damaged_code(code, message):
    with pytest.raises(DataError, match=message):
        decode_brush(code, 1, 1)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("/data/upload/3/0a1b2c3d-red_cat.jpg", ["data/upload/3/0a1b2c3d-red_cat.jpg", "data/upload/3/red_cat.jpg"]),
        ("/data/local-files/?d=pets/red%20cat.jpg", ["pets/red cat.jpg"]),
        ("/data/local-files/?d=C%3A%5Cpets%5Ccat.jpg", ["C:/pets/cat.jpg"]),
        ("https://example.com/pets/cat%20one.png?token=1", ["pets/cat one.png"]),
        ("s3://bucket/pets/cat.jpg", ["pets/cat.jpg"]),
        ("pets\\cat.jpg", ["pets/cat.jpg"]),
        ("0a1b2c3d-.jpg", ["0a1b2c3d-.jpg", ".jpg"]),
    ],
)
def test_names_of_images(text, names):
    assert image_names(text) == names


def test_brush_polygons_and_boxes(project, contract, columns):
    inside = np.zeros((24, 32), bool)
    inside[2:9, 3:30:2] = True
    root = project(
        task(
            1,
            "/data/upload/1/0a1b2c3d-a.jpg",
            annotation(region("brush", "cat", format="rle", rle=encode_brush(inside))),
        ),
        task(2, "/data/local-files/?d=elsewhere/b.jpg", annotation(polygon("dog", *LEFT))),
        task(
            3,
            "https://example.com/c.jpg",
            annotation(region("rectangle", "cat", x=50, y=0, width=50, height=100, rotation=0)),
        ),
        task(4, "d.jpg"),
    )
    assert reader_name(DataSettings(root=str(root))) == "label_studio"
    dataset = opened(root)
    contract(dataset)
    assert dataset.labels.names == ("background", "cat", "dog")
    assert np.array_equal(dataset[0].mask, inside)
    assert columns(dataset[1].mask) == [2, 0]
    assert [dataset.has_mask(index) for index in range(4)] == [True, True, False, False]
    assert [dataset.tags(index) for index in range(4)] == [(1,), (2,), (1,), None]
    assert columns(opened(root, options={"boxes": True})[2].mask) == [0, 1]


def test_the_last_annotation_counts_that_is_not_cancelled(project, columns):
    first, second = polygon("cat", *LEFT), polygon("dog", *LEFT)
    root = project(
        task(1, "a.jpg", annotation(second, created="2026-11-02"), annotation(first, created="2026-11-01")),
        task(2, "b.jpg", annotation(first), annotation(second, created="2026-11-02", cancelled=True)),
        task(3, "c.jpg", annotation(first, cancelled=True)),
        task(4, "d.jpg", annotation(), predictions=[annotation(first)]),
    )
    dataset = opened(root)
    assert columns(dataset[0].mask) == [2, 0]
    assert columns(dataset[1].mask) == [1, 0]
    assert not dataset.has_mask(2)
    assert columns(dataset[3].mask) == [0]
    assert [dataset.tags(index) for index in range(4)] == [(2,), (1,), None, ()]


def test_labels_apart_from_the_shape_and_several_labels(project, columns):
    shape = {**polygon("", *LEFT, identity="x"), "type": "polygon"}
    shape["value"].pop("polygonlabels")
    labels = {"id": "x", "type": "labels", "from_name": "l", "value": {**shape["value"], "labels": ["dog"]}}
    root = project(
        task(1, "a.jpg", annotation(shape, labels)),
        task(
            2,
            "b.jpg",
            annotation({**polygon("cat", *LEFT), "value": {"points": LEFT, "polygonlabels": ["dog", "cat"]}}),
        ),
    )
    dataset = opened(root)
    assert [columns(dataset[index].mask) for index in range(2)] == [[2, 0]] * 2
    assert [dataset.tags(index) for index in range(2)] == [(2,), (1, 2)]
    assert any(finding.kind == "region-labels" for finding in check(DataSettings(root=str(root)), ["all"]))


def test_choices_are_tags(project):
    taxonomy = {"type": "taxonomy", "from_name": "t", "value": {"taxonomy": [["animal", "cat"], ["thing", "other"]]}}
    other = {"type": "taxonomy", "from_name": "t", "value": {"taxonomy": [["animal", "other"]]}}
    root = project(
        task(1, "a.jpg", annotation(choice("dog", "cow"))),
        task(2, "b.jpg", annotation(taxonomy, choice("blurred", x=1, y=2))),
        task(3, "c.jpg", annotation(other)),
        task(4, "d.jpg", annotation()),
    )
    dataset = opened(root)
    assert dataset.labels.names[0] == "background"
    tags = [[dataset.labels.names[value] for value in dataset.tags(index)] for index in range(4)]
    assert tags == [["cow", "dog"], ["cat", "thing / other"], ["animal / other"], []]
    assert not any(dataset.has_mask(index) for index in range(4))


def test_turned_rectangles_ellipses_and_points(project):
    # Turned by 90 degrees around its upper left corner, (16, 4) pixels: 8 wide and 16 high, to the left of it.
    turned = region("rectangle", "cat", x=50, y=100 / 6, width=50, height=100 / 3, rotation=90)
    ellipse = region("ellipse", "dog", x=50, y=50, radiusX=25, radiusY=25, rotation=0)
    point = region("keypoint", "cat", x=25, y=50, width=1)
    root = project(
        task(1, "a.jpg", annotation(turned)), task(2, "b.jpg", annotation(ellipse)), task(3, "c.jpg", annotation(point))
    )
    dataset = opened(root, options={"partial": True})
    expected = np.full((24, 32), 255)
    expected[4:20, 8:16] = 1
    assert np.array_equal(dataset[0].mask, expected)
    y, x = np.ogrid[:24, :32]
    assert ((dataset[1].mask == 2) != (((x + 0.5 - 16) / 8) ** 2 + ((y + 0.5 - 12) / 6) ** 2 <= 1)).sum() <= 8
    assert dataset[2].mask[12, 8] == 1


def test_json_min(project, columns):
    inside = np.zeros((24, 32), bool)
    inside[:, 16:] = True
    behind = {"annotator": 1, "annotation_id": 4, "created_at": "2026", "updated_at": "2026", "lead_time": 1.5}
    brush = {"format": "rle", "rle": encode_brush(inside), "brushlabels": ["cat"], **SIZE}
    root = project(
        {
            "image": "/data/upload/1/0a1b2c3d-a.jpg",
            "caption": "dog",
            "id": 1,
            "label": [brush],
            "choice": "dog",
            **behind,
        },
        {"image": "b.jpg", "id": 2, "choice": {"choices": ["dog", "cow"]}, **behind},
        {"image": "b.jpg", "id": 2, "choice": "cow", **behind},
        {"image": "c.jpg", "id": 3, "choice": "cat", **behind},
    )
    dataset = opened(root)
    assert columns(dataset[0].mask) == [0, dataset.labels.value("cat")]
    names = [[dataset.labels.names[value] for value in dataset.tags(index)] for index in range(2)]
    assert names == [["cat", "dog"], ["cow"]]


def test_a_table_gives_what_json_min_gives(project, files):
    brush = {"format": "rle", "rle": BRUSH, "brushlabels": ["dog"], **SIZE}
    left = {"points": LEFT, "closed": True, "polygonlabels": ["cat"], **SIZE}
    rows = [
        {"image": "a.jpg", "id": 1, "brush": [brush], "choice": {"choices": ["cat", "dog"]}, "label": [left]},
        {"image": "b.jpg", "id": 2, "choice": "dog"},
        {"image": "c.jpg", "id": 3},
    ]
    behind = {"annotation_id": 4, "lead_time": 1.5}
    root = project(*({**row, **behind} for row in rows))
    expected = opened(root)
    assert np.unique(expected[0].mask).tolist() == [0, 1, 2]
    next(root.glob("*.json")).unlink()
    table = io.StringIO()
    writer = csv.DictWriter(table, ["annotation_id", "brush", "choice", "id", "image", "label", "lead_time"])
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {
                key: json.dumps(cell) if key != "id" and not isinstance(cell, str) else cell
                for key, cell in {**row, **behind}.items()
            }
        )
    files.text("project-1.csv", table.getvalue())
    dataset = opened(root)
    assert (dataset.labels, list(dataset.names)) == (expected.labels, list(expected.names))
    assert [dataset.tags(index) for index in range(3)] == [expected.tags(index) for index in range(3)]
    for index in range(3):
        assert dataset.has_mask(index) == expected.has_mask(index)
        assert not dataset.has_mask(index) or np.array_equal(dataset[index].mask, expected[index].mask)


def test_json_min_as_the_sdk_writes_it(project, tmp_path):
    pytest.importorskip("label_studio_sdk.converter.brush")
    converter = pytest.importorskip("label_studio_sdk.converter.converter")
    config = (
        '<View><Image name="image" value="$image"/><Choices name="choice" toName="image" choice="multiple">'
        '<Choice value="cat"/><Choice value="dog"/></Choices><PolygonLabels name="label" toName="image">'
        '<Label value="cat"/></PolygonLabels></View>'
    )
    tasks = [
        task(1, "a.jpg", annotation(choice("dog"), polygon("cat", *LEFT))),
        task(2, "b.jpg", annotation(choice("cat", "dog"))),
    ]
    source = tmp_path / "elsewhere.txt"
    source.write_text(json.dumps(tasks))
    converter.Converter(config, str(tmp_path / "out")).convert_to_json_min(
        str(source), str(tmp_path / "out"), is_dir=False
    )
    project(*json.loads((tmp_path / "out/result.json").read_text()))
    dataset = opened(tmp_path, options={"images": "images"})
    names = [{dataset.labels.names[value] for value in dataset.tags(index)} for index in range(2)]
    assert names == [{"cat", "dog"}] * 2
    assert (dataset[0].mask == dataset.labels.value("cat"))[:, :16].all()


DAMAGED = {
    "points": (polygon("cat", (0, 0), (50, 0), (50,)), r"region r1 \(cat\): .*"),
    "two corners": (polygon("cat", (0, 0), (50, 0)), r"region r1 \(cat\) has 2 points, 3 are needed"),
    "nan": (
        polygon("cat", (0, 0), (float("nan"), 0), (50, 9)),
        r"region r1 \(cat\) has a coordinate that is no number",
    ),
    "far away": (polygon("cat", (0, 0), (1e9, 0), (50, 9)), r"region r1 \(cat\) has a point at \(3.2e\+08, 0\)"),
    "code": (
        region("brush", "cat", rle=encode_brush(np.ones((24, 31), bool))),
        r"region r1 \(cat\): the run-length code has 2976",
    ),
    "no size": (
        {**polygon("cat", *LEFT), "original_width": None},
        r"region r1 \(cat\): original size Nonex24 is no size",
    ),
    "bomb": (
        {**region("brush", "cat", rle=[0] * 20), "original_width": 1 << 30},
        r"region r1 \(cat\): original size 1073741824x24 is larger than any image",
    ),
    "no height": (
        {key: value for key, value in polygon("cat", *LEFT).items() if key != "original_height"},
        "has no original_height",
    ),
    "word": (region("rectangle", "cat", x="a", y=0, width=5, height=5), r"region r1 \(cat\): could not convert"),
    "turned": (
        {**polygon("cat", *LEFT), "image_rotation": 90},
        r"was drawn on the image turned by 90",
    ),
    "overflow": (polygon("cat", (0, 0), (10**400, 0), (50, 9)), r"region r1 \(cat\): .*too large"),
    "choice": ({"type": "choices", "value": {"choices": [1]}}, "'1' is no choice"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_region_is_named_and_the_rest_goes_on(project, name):
    result, message = DAMAGED[name]
    root = project(task(5, "a.jpg", annotation(result)), task(6, "b.jpg", annotation(polygon("cat", *LEFT))))
    with pytest.raises(DataError, match=f"0a1b2c3d.json: task 5,?:? ?.*{message}"):
        opened(root)
    (finding,) = (one for one in check(DataSettings(root=str(root)), ["all"]) if one.kind == "annotation-damaged")
    assert (finding.level, finding.count) == ("error", 1)
    dataset = opened(root, options={"tolerant": True})
    assert dataset.has_mask(0) == (name == "choice")
    assert (dataset[1].mask[:, :16] == 1).all()


def test_sizes_names_and_entries_that_do_not_fit(project, files):
    good = annotation(polygon("cat", *LEFT))
    turned = {**polygon("cat", *LEFT), "original_width": 24, "original_height": 32}
    root = project(task(1, "a.jpg", annotation(turned)), task(2, "b.jpg", good))
    with pytest.raises(DataError, match=r"task 1: 24x32, .*a.jpg is 32x24: 1 image of another size"):
        opened(root)
    project(task(1, "../../../a.jpg", good), task(2, "b.jpg", good))
    with pytest.raises(DataError, match=r"task 1: '../../../a.jpg': 1 image name with .."):
        opened(root)
    project(task(1, "/data/local-files/?d=../a.jpg", good), task(2, "b.jpg", good))
    with pytest.raises(DataError, match=r"task 1: '../a.jpg': 1 image name with .."):
        opened(root)
    project(task(1, "a.jpg", good), 5, {"id": 9}, {"id": 3, "data": {"text": "no image"}, "annotations": []})
    with pytest.raises(DataError, match=r"task 2 is '5'.*task 9 has neither data.*task 3 names no image .*: 3 of"):
        opened(root)
    with pytest.raises(DataError, match="is not a list of tasks"):
        read_tasks(files.text("other.json", "{}"))
    project(task(1, "a.jpg"), task(2, "b.jpg"))
    with pytest.raises(DataError, match="has no class and no annotation"):
        opened(root)


def test_other_names_of_classes(project, columns):
    root = project(
        task(1, "a.jpg", annotation(polygon("cwo", *LEFT))),
        task(2, "b.jpg", annotation(polygon("cow", *LEFT), choice("cwo", "blurred"))),
        task(3, "c.jpg", annotation(polygon("blurred", *LEFT))),
    )
    dataset = opened(root, rename={"cwo": "cow", "blurred": ""})
    assert dataset.labels.names == ("background", "cow")
    assert [columns(dataset[index].mask) for index in range(3)] == [[1, 0], [1, 0], [255, 0]]
    assert dataset.tags(1) == (1,)
    findings = check(DataSettings(root=str(root), rename={"horse": "cow"}), ["all"])
    (finding,) = (finding for finding in findings if finding.kind == "rename-unknown")
    assert finding.what.endswith("not have: horse")


def test_names_in_another_unicode_form(project, files):
    files.image(f"images/{unicodedata.normalize('NFD', 'Übung')}.jpg")
    root = project(
        task(1, "/data/upload/1/0a1b2c3d-%C3%9Cbung.jpg", annotation(polygon("Möwe", *LEFT))),
        task(2, "b.jpg", annotation(polygon(unicodedata.normalize("NFD", "Möwe"), *LEFT))),
    )
    dataset = opened(root)
    assert dataset.labels.names == ("background", "Möwe")
    assert [dataset.has_mask(index) for index in range(2)] == [True, True]


def test_an_export_as_the_table_of_tags_of_a_folder(project):
    root = project(
        task(1, "/data/upload/1/0a1b2c3d-a.jpg", annotation(choice("cat", "dog"))),
        task(2, "b.jpg", annotation(polygon("dog", *LEFT))),
        task(3, "c.jpg", annotation()),
        task(4, "d.jpg", annotation(choice("cat"), cancelled=True)),
    )
    (path,) = root.glob("*.json")
    dataset = opened(root / "images", tags=str(path))
    names = [None if dataset.tags(i) is None else [dataset.labels.names[t] for t in dataset.tags(i)] for i in range(4)]
    assert names == [["cat", "dog"], ["dog"], [], None]
    project(task(1, "a.jpg", annotation(choice("cat"))), 5)
    with pytest.raises(DataError, match=r"task 2 is '5', expected an object"):
        opened(root / "images", tags=str(path))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([{"data": {"image": "a.jpg"}}], True),
        ([{"id": 1, "annotations": [annotation(polygon("cat", *LEFT))], "data": {}}], True),
        ([{"image": "a.jpg", "id": 1, "choice": "cat", "annotator": 1, "annotation_id": 4}], True),
        ([{"image": "a.jpg", "annotations": [{"label": "cat", "coordinates": {"x": 1}}]}], False),  # CreateML
        ([{"image": "a.jpg", "tags": ["cat"]}], False),
        ({"images": [], "annotations": [], "categories": []}, False),
        ({"version": "5.0", "flags": {}, "shapes": [], "imagePath": "a.jpg"}, False),
    ],
)
def test_what_looks_like_an_export(content, expected, files):
    assert is_tasks(files.text("some.json", json.dumps(content))) == expected


def test_regions_that_share_an_identity_are_all_painted(project, columns):
    right = [(50, 0), (100, 0), (100, 100), (50, 100)]
    root = project(task(1, "a.jpg", annotation(polygon("cat", *LEFT), polygon("dog", *right))))
    assert columns(opened(root)[0].mask) == [1, 2]


def test_regions_of_a_kind_that_is_not_read_are_said(project):
    other = {"id": "v", "type": "vectorlabels", **SIZE, "value": {"vertices": [], "vectorlabels": ["cat"]}}
    root = project(task(1, "a.jpg", annotation(other, polygon("cat", *LEFT))))
    (finding,) = (one for one in check(DataSettings(root=str(root)), ["all"]) if one.kind == "shape-kind")
    assert (finding.level, finding.what) == ("warning", "regions left out: 1 vectorlabels")


def test_two_exports_of_one_project(project):
    good = task(1, "a.jpg", annotation(polygon("cat", *LEFT)))
    root = project(good)
    project(good, name="project-1-at-2026-11-25-10-00-0a1b2c3d.json")
    with pytest.raises(DataError, match=r"describes 1 image more than once.*keep one of these entries, or one of the"):
        opened(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"data": {"image": ' + "[" * 100000, "is not valid JSON"),
        ('[{"data": {"image": "a.jpg"}, "id": ' + "1" * 5000 + "}]", "is not valid JSON"),
        ('[{"data": {"image": "a.jpg"}', "is not valid JSON"),
    ],
    ids=["deep", "digits", "cut"],
)
def test_a_hostile_or_cut_file(project, files, text, message):
    root = project()
    files.text("project-1-at-2026-11-20-10-00-0a1b2c3d.json", text)
    with pytest.raises(DataError, match=message):
        opened(root)


def test_tags_of_the_project_and_masks_that_came_back(project, tmp_path):
    root = project(task(1, "a.jpg", annotation(choice("cat", "dog"))), task(2, "b.jpg", annotation(choice("cat"))))
    back = [task(7, "/data/local-files/?d=images/a.jpg", annotation(polygon("cat", *LEFT)))]
    (tmp_path / "back").mkdir()
    (tmp_path / "back/project-2-at-2026-11-27-10-00-0a1b2c3d.json").write_text(json.dumps(back), encoding="utf-8")
    dataset = opened(root, masks="back")
    assert dataset.labels.names == ("background", "cat", "dog")
    rows = [dataset.names.index(name) for name in "ab"]
    assert [dataset.tags(row) for row in rows] == [(1, 2), (1,)]
    assert [dataset.has_mask(row) for row in rows] == [True, False]
    assert (dataset[rows[0]].mask[:, :16] == 1).all()


@pytest.mark.parametrize(
    ("name", "message"),
    [("task.zip", r"is a file\. .* Fix: unpack it, and give the folder"), ("x.json", "Fix: give the folder it is in")],
)
def test_a_file_in_the_place_of_a_folder(name, message, files):
    files.text(name, "[]")
    with pytest.raises(DataError, match=message):
        opened(files.root / name)


def test_choices_that_are_about_something_else_are_no_classes(project, files):
    sure, kinds = choice("high", name="confidence"), choice("cat", "cow", name="animals")
    root = project(
        task(1, "a.jpg", annotation(polygon("cat", *LEFT), sure, kinds)),
        task(2, "b.jpg", annotation(choice("low", name="confidence"), choice("cow", name="animals"))),
    )
    config = '<View><Label value="cat"/><Choice value="low"/><Choice value="cow"/><Choice value="horse"/></View>'
    files.text("config.xml", config)
    dataset = opened(root)
    assert dataset.labels.names == ("background", "cat", "cow")
    assert [dataset.tags(index) for index in range(2)] == [(1, 2), (2,)]
    assert [dataset.has_mask(index) for index in range(2)] == [True, False]  # a cow that nobody drew is no background
    (finding,) = (one for one in check(DataSettings(root=str(root)), ["all"]) if one.kind == "choices-left-out")
    assert finding.what.endswith("none of them is drawn: confidence (high, low)")
    dataset = opened(root, classes=["cat", "cow", "low", "high"])
    assert dataset.tags(1) == (2, 3)
    (path,) = root.glob("*.json")
    table = read_tags(path, ["a", "b"])
    assert table.rows == {"a": ("cat", "cow"), "b": ("cow",)}
    assert table.said[-1] == "but not those of confidence (high, low)"


def test_a_brush_that_was_erased_again(project):
    root = project(
        task(1, "a.jpg", annotation(region("brush", "cat", format="rle", rle=[]))),
        task(2, "b.jpg", annotation(polygon("cat", *LEFT))),
    )
    dataset = opened(root)
    assert not dataset[0].mask.any()
    assert dataset.tags(0) == ()


def test_a_folder_with_masks_stays_a_plain_folder(project, files, columns):
    root = project(task(1, "a.jpg", annotation(polygon("cat", *LEFT))))
    files.text("classes.txt", "background\nfox\n")
    for name in "abcd":
        files.mask(f"masks/{name}.png", [0, 1])
    dataset = opened(root)
    assert dataset.labels.names == ("background", "fox")
    assert columns(dataset[0].mask) == [0, 1]


def test_read_once_and_anew_when_replaced(project, monkeypatch, columns):
    root = project(task(1, "a.jpg", annotation(polygon("cwo", *LEFT), region("brush", "dog", "r2", rle=BRUSH))))
    assert opened(root, rename={"cwo": "cow"}).labels.names == ("background", "cow", "dog")
    with monkeypatch.context() as patch:
        patch.setattr(label_studio, "read_tasks", lambda path: pytest.fail("read again"))
        dataset = opened(root)  # as it was, whatever names an earlier reading gave
        assert dataset.labels.names == ("background", "cwo", "dog")
        assert columns(dataset[0].mask[:, :16]) == [1]
        assert (dataset[0].mask[:, 30:] == 2).all()
    project(task(1, "a.jpg", annotation(polygon("horse", *LEFT))))
    assert opened(root).labels.names == ("background", "horse")
