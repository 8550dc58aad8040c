"""labelme's JSON: kinds of shapes, where files lie, flags, what is damaged; Hugging Face folders with masks."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from maskwright.data import open_dataset, reader_name
from maskwright.data.check import check
from maskwright.errors import DataError
from maskwright.settings import DataSettings

LEFT = {"label": "cup", "shape_type": "polygon", "points": [[0, 0], [16, 0], [16, 24], [0, 24]]}


def text(*shapes, image="a.jpg", **fields):
    record = {"version": "5.5.0", "flags": {}, "shapes": list(shapes), "imagePath": image, "imageData": None}
    return json.dumps({**record, "imageHeight": 24, "imageWidth": 32, **fields})


def opened(files, layout="labelme", **settings):
    settings = DataSettings(root=str(files.root), **settings)
    assert reader_name(settings) == layout
    return open_dataset(settings, "all")


def picture(inside):
    buffer = io.BytesIO()
    Image.fromarray(inside.astype(np.uint8) * 255).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture
def photos(files):
    for name in ("a", "b"):
        files.image(f"{name}.jpg")
    return files


def test_a_file_beside_an_image_is_its_mask(photos, contract, columns):
    photos.text("a.json", text(LEFT))
    photos.text("b.json", text(image="b.jpg"))
    photos.image("c.jpg")
    dataset = opened(photos)
    contract(dataset)
    assert list(dataset.names) == ["a", "b"]  # nobody has looked at c
    assert dataset.labels.names == ("background", "cup")
    assert columns(dataset.mask(0)) == [1, 0]
    assert columns(dataset.mask(1)) == [0]


def test_kinds_of_shapes(photos):
    inside = np.zeros((4, 3), bool)
    inside[1:, 0] = True
    mask = {"label": "m", "shape_type": "mask", "points": [[29, 20], [31, 23]], "mask": picture(inside)}
    photos.text(
        "a.json",
        text(
            {"label": "r", "shape_type": "rectangle", "points": [[10, 8], [2, 4]]},
            {"label": "c", "shape_type": "circle", "points": [[20, 12], [24, 12]]},
            mask,
            {"label": "l", "shape_type": "linestrip", "points": [[0, 20], [5, 20]]},
        ),
    )
    dataset = opened(photos)
    found = dataset.mask(0)
    value = {name: dataset.labels.value(name) for name in dataset.labels.names}
    assert np.array_equal(found == value["r"], np.pad(np.ones((4, 8), bool), ((4, 16), (2, 22))))
    assert 40 <= (found == value["c"]).sum() <= 60
    assert np.argwhere(found == value["m"]).tolist() == [[21, 29], [22, 29], [23, 29]]
    assert not (found == value["l"]).any()
    assert (opened(photos, options={"partial": True}).mask(0) == value["l"]).any()


def test_flags_are_tags_and_the_background_has_labelmes_name(photos):
    photos.text("labels.txt", "__ignore__\n_background_\nlid\ncup\n")
    unsure = {**LEFT, "label": "__ignore__"}
    photos.text("a.json", text(unsure, flags={"lid": True, "cup": False}))
    dataset = opened(photos)
    assert dataset.labels.names == ("background", "lid", "cup")
    assert dataset.tags(0) == (1,)
    assert np.unique(dataset.mask(0)).tolist() == [0, 255]


def test_files_in_a_folder_of_their_own(files, columns):
    for folder in ("x", "y"):
        files.image(f"images/{folder}/a.jpg")
    files.text("ann/one.json", text(LEFT, image="..\\images\\x\\a.jpg"))
    files.text("ann/two.json", text(image="../images/y/a.jpg"))
    dataset = opened(files)
    assert list(dataset.names) == ["x/a", "y/a"]
    assert columns(dataset.mask(0)) == [1, 0]


def test_with_a_table_of_tags_every_image_counts_and_the_annotations_are_masks_where_they_are_named(photos, columns):
    photos.text("a.json", text(LEFT))
    photos.text("tags.csv", "image,tags\na.jpg,cup\nb.jpg,cup\n")
    plain = DataSettings(root=str(photos.root), tags="tags.csv")
    assert reader_name(plain) == "folder"
    assert [open_dataset(plain, "all").has_mask(index) for index in range(2)] == [False, False]
    dataset = open_dataset(plain.model_copy(update={"masks": "."}), "all")
    assert [dataset.has_mask(index) for index in range(2)] == [True, False]
    assert columns(dataset.mask(0)) == [1, 0]
    assert dataset.tags(1) == (1,)


def test_a_file_that_changed_is_read_anew(photos, columns):
    photos.text("a.json", text(LEFT))
    assert columns(opened(photos, rename={"cup": "mug"}).mask(0)) == [1, 0]
    assert opened(photos, rename={"cup": "mug"}).labels.names == ("background", "mug")
    assert opened(photos).labels.names == ("background", "cup")
    photos.text("a.json", text({**LEFT, "label": "lid"}))
    assert opened(photos).labels.names == ("background", "lid")


def test_pictures_inside_the_file_do_not_count(photos):
    photos.text("a.json", text(LEFT, imageData="A" * 100_000))
    assert len(opened(photos)) == 1


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ({**LEFT, "points": [[0, 0], [1, 1, 1], [2, 2]]}, r"shape 1 \(cup\)"),
        ({**LEFT, "points": [[0, 0], [1, float("nan")], [2, 2]]}, "has a coordinate that is no number"),
        ({**LEFT, "points": [[0, 0], [1, 1]]}, "has 2 points, 3 are needed"),
        ({**LEFT, "points": [[0, 0], [1, 1], [900, 2]]}, r"has a point at \(900, 2\), far outside"),
        ({**LEFT, "shape_type": "cuboid"}, "is a cuboid, expected one of polygon"),
        ({"shape_type": "polygon", "points": [[0, 0]]}, "has no label"),
        ({**LEFT, "shape_type": "mask", "mask": "%%%"}, "has a mask that is no picture"),
        ({**LEFT, "shape_type": "mask", "points": [[30, 20], [40, 23]], "mask": picture(np.ones((4, 11)))}, "covers"),
        ({"label": "cup", "shape_type": "polygon"}, "has no points"),
    ],
)
def test_what_is_damaged_is_named_and_the_rest_goes_on(photos, shape, said):
    file = photos.text("a.json", text(shape))
    photos.text("b.json", text(LEFT, image="b.jpg"))
    with pytest.raises(DataError, match=said) as error:
        opened(photos)
    assert str(file) in str(error.value)
    errors = [one for one in check(DataSettings(root=str(photos.root)), ["all"]) if one.level == "error"]
    assert [one.count for one in errors] == [1]
    assert opened(photos, options={"tolerant": True}).mask(1)[0, 0] == 1


def test_a_file_that_is_cut_short_and_a_size_that_is_not_the_images(photos):
    photos.text("a.json", text(LEFT)[:-30])
    photos.text("b.json", text(LEFT, image="b.jpg"))
    for broken in (text(LEFT)[:-30], '{"shapes": ' + "[" * 100_000, '{"shapes": ' + "9" * 5000 + "}"):
        photos.text("a.json", broken)
        with pytest.raises(DataError, match=r"a\.json cannot be read"):
            opened(photos)
    photos.text("a.json", text(LEFT, imageHeight=32, imageWidth=24))
    with pytest.raises(DataError, match=r"a\.json: 24x32, .*a.jpg is 32x24"):
        opened(photos)


# Hugging Face.


def rows(*pairs):
    return "".join(json.dumps({"file_name": image, "mask_file_name": mask}) + "\n" for image, mask in pairs)


def test_rows_with_an_image_and_a_mask(files, contract, columns):
    for name in ("a", "b"):
        files.image(f"train/{name}.jpg")
    files.mask("train/masks/other.png", [0, 1])
    files.text("train/metadata.jsonl", rows(("a.jpg", "masks/other.png"), ("b.jpg", None)))
    files.text("id2label.json", '{"0": "background", "1": "cup"}')
    dataset = opened(files, "huggingface")
    contract(dataset)
    assert list(dataset.names) == ["train/a", "train/b"]
    assert dataset.labels.names == ("background", "cup")
    assert columns(dataset.mask(0)) == [0, 1]
    assert not dataset.has_mask(1)


def test_a_table_in_csv_and_splits(files):
    for split in ("train", "validation"):
        files.image(f"{split}/a.jpg")
        files.mask(f"{split}/a_mask.png", [0, 1])
        files.text(f"{split}/metadata.csv", "file_name,mask_file_name\na.jpg,a_mask.png\n")
    assert opened(files, "huggingface").has_mask(1)
    assert list(open_dataset(DataSettings(root=str(files.root)), "val").names) == ["val/a"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (("../a.jpg", "m.png"), "leads out of the folder"),
        (("/etc/passwd", "m.png"), "leads out of the folder"),
        (("C:\\a.jpg", "m.png"), "leads out of the folder"),
        (("b.jpg", "m.png"), "which is not there"),
        ((7, "m.png"), "has the file name 7"),
        (("a.jpg", "m.png"), "once more"),
    ],
)
def test_rows_that_cannot_be_used_are_named_and_the_rest_goes_on(files, row, said):
    files.image("a.jpg")
    files.mask("m.png", [0, 1])
    table = files.text("metadata.jsonl", rows(("a.jpg", "m.png"), row))
    with pytest.raises(DataError, match=said) as error:
        opened(files, "huggingface")
    assert f"{table}: row 2" in str(error.value)
    errors = [one for one in check(DataSettings(root=str(files.root)), ["all"]) if one.level == "error"]
    assert [one.count for one in errors] == [1]
