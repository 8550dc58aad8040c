"""Tags from files and folders, matched to images and to classes."""

import json
import sys

import pytest
import yaml

from maskwright.data.finding import Finding
from maskwright.data.sample import LabelSpace
from maskwright.data.spelling import joined, rename_words, slips
from maskwright.data.tables import read_tags
from maskwright.data.tags import match_tags, tag_values
from maskwright.errors import DataError

LABELS = LabelSpace(("background", "cat", "dog", "potted plant"))


def table(tmp_path, text, name="tags.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return read_tags(path)


def test_csv_with_tags_between_semicolons(tmp_path):
    text = "\ufeffImage, tags\na.jpg, dog ; cat\n./sub\\b.JPEG,potted plant\nc,\n\nv1.2,cat;;cat\n"
    assert table(tmp_path, text).rows == {"a": ("cat", "dog"), "sub/b": ("potted plant",), "c": (), "v1.2": ("cat",)}


def test_tags_that_are_alike_are_held_once(tmp_path):
    rows = table(tmp_path, "image,tags\na.jpg,dog;cat\nb.jpg,cat;dog\nc.jpg,dog\n").rows
    assert rows["a"] is rows["b"]
    assert rows["a"][1] is rows["c"][0]


def test_csv_with_one_column_per_tag(tmp_path):
    text = 'image,dog,cat,"potted, plant"\na.jpg,0,1,1\nb.jpg,0,0,0\n'
    assert table(tmp_path, text).rows == {"a": ("cat", "potted, plant"), "b": ()}


def test_a_single_one_hot_column_is_not_a_list(tmp_path):
    assert table(tmp_path, "image,cat\na.jpg,1\nb.jpg,0\n").rows == {"a": ("cat",), "b": ()}


def test_json_both_ways(tmp_path):
    expected = {"a": ("cat", "dog"), "b": ()}
    assert table(tmp_path, json.dumps({"a.jpg": ["dog", "cat"], "b": []}), "t.json").rows == expected
    rows = [{"image": "a.jpg", "tags": ["dog", "cat"]}, {"image": "b", "tags": []}]
    assert table(tmp_path, json.dumps(rows), "t.json").rows == expected


def test_one_folder_per_tag(tmp_path):
    for file in ("cat/a.jpg", "dog/a.png", "dog/sub/b.jpg", "dog/note.txt"):
        (tmp_path / "tags" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tags" / file).touch()
    assert read_tags(tmp_path / "tags").rows == {"a": ("cat", "dog"), "sub/b": ("dog",)}
    with pytest.raises(DataError, match="one folder per tag"):
        read_tags(tmp_path / "tags" / "cat")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "image,tags,weather\na.jpg,cat,sun,dog\n",
            r"tags\.csv line 2: 4 columns 'a\.jpg,cat,sun,dog'.*Expected 3.*';'",
        ),
        ("image,tags\na.jpg\n", r"line 2: 1 columns.*Expected 2"),
        ("what,else\none,two\n", r"begins with 'what,else', and no column names images.*Expected a header"),
        ("image,what,else\na.jpg,one,two\n", r"more than one column may hold the tags.*call the column of tags 'tags'"),
        ("image,cat,dog\na.jpg,1,1\nb.jpg,0,maybe\n", r"line 3: column 'dog' holds 'maybe'.*1.*or 0"),
        ("image,cat,dog\na.jpg,1,-1\nb.jpg,0,0\n", "0 and -1, of which one means that nobody knows"),
        ("image,cat,cat\na.jpg,1,1\n", "two columns are called 'cat'.*Expected a header"),
        ("image,mask\na.jpg,a.png\n", "'mask' names files, not tags.*masks=FOLDER"),
        ("image,tags\nb.jpg,cat\n,cat\n", r"line 3: no image is named"),
        ("", "is empty"),
    ],
)
def test_lines_that_are_not_as_described_are_named(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        table(tmp_path, text)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"tags\.ods end in '\.ods'.*Expected \.csv"):
        table(tmp_path, "", "tags.ods")
    with pytest.raises(DataError, match="does not exist"):
        read_tags(tmp_path / "none.csv")
    with pytest.raises(DataError, match="not valid JSON"):
        table(tmp_path, "{", "tags.json")
    with pytest.raises(DataError, match=r"expected \{"):
        table(tmp_path, '["a"]', "tags.json")
    with pytest.raises(DataError, match=r"key 'a'.*list of tag names"):
        table(tmp_path, '{"a": [["cat"]]}', "tags.json")
    (tmp_path / "other.csv").write_bytes(b"image,tags\na,caf\x81\n")
    with pytest.raises(DataError, match="neither UTF-8 nor Windows-1252"):
        read_tags(tmp_path / "other.csv")
    (tmp_path / "picture.csv").write_bytes(b"\x89PNG\0\0\0\0")
    with pytest.raises(DataError, match="is not text"):
        read_tags(tmp_path / "picture.csv")
    (tmp_path / "excel.csv").write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match=r"Excel file by its content.*excel\.xlsx"):
        read_tags(tmp_path / "excel.csv")


def test_rows_find_their_images_by_name_path_or_file(tmp_path):
    tags = table(tmp_path, "image,tags\na.jpg,cat\n/data/photos/sub/b.jpg,dog\nc.jpg,cat\n")
    assert match_tags(tags, ["a", "sub/b", "deep/c"]) == {"a": "a", "sub/b": "/data/photos/sub/b", "deep/c": "c"}


def test_rows_without_an_image_and_repeated_rows_are_reported(tmp_path):
    tags = table(tmp_path, "image,tags\na.jpg,cat\nz.jpg,dog\na.png,dog\n")
    found: list[Finding] = []
    assert match_tags(tags, ["a", "b"], found.append) == {"a": "a"}
    assert tags.rows["a"] == ("cat", "dog")
    assert [(finding.level, finding.files) for finding in found] == [
        ("warning", ["z (line 3)"]),
        ("warning", ["a (line 2)"]),
    ]
    assert match_tags(table(tmp_path, "image,tags\nz.jpg,cat\na.jpg,cat\n"), ["a"]) == {"a": "a"}


def test_two_spellings_of_one_image_add_up(tmp_path):
    tags = table(tmp_path, "image,tags\nphotos/a.jpg,cat\na.jpg,dog\n")
    found: list[Finding] = []
    matched = match_tags(tags, ["a"], found.append)
    assert tags.rows[matched["a"]] == ("cat", "dog")
    assert "more than one row" in found[0].what


def test_a_file_in_several_folders_needs_its_folder(tmp_path):
    with pytest.raises(DataError, match=r"a \(line 2\).*several folders"):
        match_tags(table(tmp_path, "image,tags\na.jpg,cat\n"), ["x/a", "y/a"])


def test_no_row_fits(tmp_path):
    with pytest.raises(DataError, match=r"no row of .* names an image that exists.*names such as photo1"):
        match_tags(table(tmp_path, "image,tags\na.jpg,cat\n"), ["photo1"])


def test_values_follow_the_classes_and_background_is_no_tag(tmp_path):
    tags = table(tmp_path, "image,tags\na,dog;cat;background\nb,background\nc,\n")
    assert tag_values(tags, LABELS) == {"a": (1, 2), "b": (), "c": ()}


def test_unknown_tags_name_file_line_and_the_nearest(tmp_path):
    tags = table(tmp_path, "image,tags\na,cat\nb,dgo\nc,dgo;Cat\n")
    with pytest.raises(DataError, match=r"tags\.csv line 4 \(c\): unknown tag 'Cat'.*'cat'"):
        tag_values(table(tmp_path, "image,tags\na,cat\n\nc,Cat\n"), LABELS)
    found: list[Finding] = []
    assert tag_values(tags, LABELS, found.append)["c"] == ()
    assert {finding.count for finding in found} == {1, 2}
    assert any("'dgo'. Did you mean 'dog'" in finding.what for finding in found)


def test_an_excel_file(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.title = "empty"
    sheet = book.create_sheet("labels")
    for row in (
        ["Image", "cat", "dog", "weight"],
        ["a.jpg", True, 0, 2.5],
        ["b.jpg", 0, 1.0, None],
        [None],
        [3, 1, 1, 4],
    ):
        sheet.append(row)
    book.create_sheet("notes").append(["x"])
    book.save(tmp_path / "tags.xlsx")
    tags = read_tags(tmp_path / "tags.xlsx")
    assert tags.rows == {"a": ("cat",), "b": ("dog",), "3": ("cat", "dog")}
    assert tags.said == ["the sheet 'labels'; not read: notes", "left out: weight"]
    (tmp_path / "broken.xlsx").write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match=r"broken\.xlsx cannot be read as an Excel file"):
        read_tags(tmp_path / "broken.xlsx")


def test_an_excel_file_without_openpyxl_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    (tmp_path / "tags.xlsx").touch()
    with pytest.raises(DataError, match=r"pip install 'maskwright\[excel\]', or save the table as CSV"):
        read_tags(tmp_path / "tags.xlsx")


def test_flags_of_json_files_beside_images_are_tags(tmp_path):
    for name, flags in (("a", {"cat": True, "dog": False}), ("b", {"cat": True, "dog": True}), ("c", {})):
        content = {"version": "5", "flags": flags, "shapes": [], "imagePath": f"{name}.jpg"}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    tags = read_tags(tmp_path)
    assert tags.rows == {"a": ("cat",), "b": ("cat", "dog"), "c": ()}
    assert tags.said == ["flags of the JSON files as tags"]


def test_categories_of_coco_are_tags(tmp_path):
    content = {
        "images": [{"id": 1, "file_name": "x/a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
        "categories": [{"id": 7, "name": "cat"}],
        "annotations": [{"image_id": 1, "category_id": 7}, {"image_id": 1, "category_id": 7}],
    }
    assert table(tmp_path, json.dumps(content), "t.json").rows == {"x/a": ("cat",), "b": ()}
    content["annotations"][0]["category_id"] = 8
    with pytest.raises(DataError, match=r"COCO annotations are: 8 is missing"):
        table(tmp_path, json.dumps(content), "t.json")


def test_folders_of_tags_below_splits(tmp_path):
    for file in ("train/cat/a.jpg", "val/dog/b.jpg", "test/dog/c.jpg"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert read_tags(tmp_path).rows == {"a": ("cat",), "b": ("dog",), "c": ("dog",)}


def test_numbers_that_lost_their_zeros_and_other_capitals_find_their_images(tmp_path):
    tags = table(tmp_path, "image,tags\n7,cat\nB.PNG,dog\n")
    assert match_tags(tags, ["007", "b", "c"]) == {"007": "7", "b": "B"}
    with pytest.raises(DataError, match="several folders"):
        match_tags(table(tmp_path, "image,tags\n7,cat\n"), ["07", "007"])


@pytest.mark.parametrize(
    ("names", "counts", "alike", "near"),
    [
        (["cow", "cwo", "Cow"], [9, 2, 1], {"Cow": "cow"}, {"cwo": "cow"}),
        (["Cow", "cow"], [4, 4], {"Cow": "cow"}, {}),
        (["cat", "car"], [9, 8], {}, {}),
        (["cat", "car"], [9, 2], {}, {"car": "cat"}),
        (["cup", "cups", "lid"], [2, 2, 9], {}, {"cups": "cup"}),
        (["potted plant", "potted-plant", "pottedplants"], [5, 3, 1], {"potted-plant": "potted plant"}, {}),
        (["horse", "hores", "house", "hourse"], [20, 1, 19, 3], {}, {"hores": "horse", "hourse": "horse"}),
        (["a", "b"], [9, 1], {}, {}),
    ],
)
def test_slips(names, counts, alike, near):
    assert slips(names, counts) == (alike, near)


def test_joins_of_other_tags():
    names = {"cup", "lid", "hot dog", "dog", "cup & lid", "cup and lid"}
    assert joined("cup & lid", names) == joined("cup and lid", names) == joined("cup/ lid", names) == ["cup", "lid"]
    assert joined("hot dog", names) == []


def test_a_name_to_type_is_quoted_where_yaml_would_read_something_else():
    typed = rename_words({"cup, lid": "cup;lid", "no": "0", "hot dog": "dog"})
    assert typed == """data.rename='{"cup, lid": cup;lid, "no": "0", hot dog: dog}'"""
    fields = yaml.safe_load(typed.partition("'")[2][:-1])
    assert fields == {"cup, lid": "cup;lid", "no": "0", "hot dog": "dog"}
