"""Tags from files and folders, matched to images and to classes."""

import json

import pytest

from maskwright.data.finding import Finding
from maskwright.data.sample import LabelSpace
from maskwright.data.tags import match_tags, read_tags, tag_values
from maskwright.errors import DataError

LABELS = LabelSpace(("background", "cat", "dog", "potted plant"))


def table(tmp_path, text, name="tags.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return read_tags(path)


def test_csv_with_tags_between_semicolons(tmp_path):
    text = "\ufeffImage, tags\na.jpg, dog ; cat\n./sub\\b.JPEG,potted plant\nc,\n\nv1.2,cat;;cat\n"
    assert table(tmp_path, text).rows == {"a": ("cat", "dog"), "sub/b": ("potted plant",), "c": (), "v1.2": ("cat",)}


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
        ("image,tags\na.jpg,cat,dog\n", r"tags\.csv line 2: 3 columns 'a\.jpg,cat,dog'.*Expected 2.*';'"),
        ("a.jpg,cat\nb.jpg,dog\n", r"begins with 'a\.jpg,cat'.*Expected a header"),
        ("image;tags\na.jpg;cat\n", r"begins with 'image;tags'"),
        ("image,cat,dog\na.jpg,1,yes\n", r"line 2: column 'dog' holds 'yes'.*1.*or 0"),
        ("image,cat,cat\na.jpg,1,1\n", "Expected a header"),
        ("image,tags\nb.jpg,cat\n,cat\n", r"line 3: no image is named"),
        ("", "is empty"),
    ],
)
def test_lines_that_are_not_as_described_are_named(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        table(tmp_path, text)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"tags\.xlsx.*Expected \.csv"):
        table(tmp_path, "", "tags.xlsx")
    with pytest.raises(DataError, match="does not exist"):
        read_tags(tmp_path / "none.csv")
    with pytest.raises(DataError, match="not valid JSON"):
        table(tmp_path, "{", "tags.json")
    with pytest.raises(DataError, match=r"expected \{"):
        table(tmp_path, '["a"]', "tags.json")
    with pytest.raises(DataError, match=r"key 'a'.*list of tag names"):
        table(tmp_path, '{"a": "cat"}', "tags.json")
    (tmp_path / "latin.csv").write_bytes("image,tags\na,caf\u00e9\n".encode("latin-1"))
    with pytest.raises(DataError, match="UTF-8"):
        read_tags(tmp_path / "latin.csv")


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
