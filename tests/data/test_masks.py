"""Masks on disk: what is read is what is in the file, and what means nothing is refused with the reason."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maskwright.data.masks import overlay, read_mask, write_mask
from maskwright.data.sample import LabelSpace
from maskwright.errors import DataError

LABELS = LabelSpace(("background", "cat", "dog"), palette=((0, 0, 0), (250, 10, 20), (30, 240, 50)))
MASK = np.array([[0, 1, 2], [255, 1, 0]], np.uint8)


def save(path, array, mode=None):
    picture = Image.fromarray(array) if mode is None else Image.fromarray(array).convert(mode)
    picture.save(path)
    return path


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_what_is_written_is_read(tmp_path_factory, data):
    height, width = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    values = data.draw(st.lists(st.sampled_from([0, 1, 2, 255]), min_size=height * width, max_size=height * width))
    mask = np.array(values, np.uint8).reshape(height, width)
    path = tmp_path_factory.mktemp("masks") / "deep" / "mask.png"
    write_mask(path, mask, LABELS)
    assert np.array_equal(read_mask(path), mask)


def test_written_masks_show_their_class_colours(tmp_path):
    write_mask(tmp_path / "a.png", MASK, LABELS)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == "P"
        colours = np.array(picture.convert("RGB"))
    assert colours[0].tolist() == [[0, 0, 0], [250, 10, 20], [30, 240, 50]]
    assert colours[1, 0].tolist() == [224, 224, 224]


@pytest.mark.parametrize(
    ("mask", "name", "part"),
    [
        (np.full((2, 2), 3, np.uint8), "a.png", "3 (4 pixels)"),
        (np.zeros((2, 2), np.int64), "a.png", "int64"),
        (np.zeros((1, 2, 2), np.uint8), "a.png", "(1, 2, 2)"),
        (np.zeros((2, 2), np.uint8), "a.jpg", ".png"),
    ],
)
def test_wrong_masks_are_not_written(tmp_path, mask, name, part):
    (tmp_path / name).write_bytes(b"old")
    with pytest.raises(DataError) as error:
        write_mask(tmp_path / name, mask, LABELS)
    assert part in str(error.value)
    assert (tmp_path / name).read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_grey_palette_one_bit_and_sixteen_bit_files_give_their_values(tmp_path):
    assert np.array_equal(read_mask(save(tmp_path / "l.png", MASK)), MASK)
    assert np.array_equal(read_mask(save(tmp_path / "l.bmp", MASK)), MASK)
    assert np.array_equal(read_mask(save(tmp_path / "l.tif", MASK)), MASK)
    assert np.array_equal(read_mask(save(tmp_path / "i.png", MASK.astype(np.uint16))), MASK)
    assert np.array_equal(read_mask(save(tmp_path / "la.png", MASK, "LA")), MASK)
    assert np.array_equal(read_mask(save(tmp_path / "one.png", (MASK == 1) * np.uint8(255), "1")), MASK == 1)


def test_label_map_is_applied_and_must_list_every_value(tmp_path):
    path = save(tmp_path / "a.png", np.array([[0, 255], [255, 0]], np.uint8))
    assert read_mask(path, {0: 0, 255: 1}).tolist() == [[0, 1], [1, 0]]
    with pytest.raises(DataError, match=r"a\.png: mask has values 255 \(2 pixels\) that label_map does not list"):
        read_mask(path, {0: 0})
    wide = save(tmp_path / "wide.png", np.array([[0, 1000], [7, 1000]], np.uint16))
    assert read_mask(wide, {0: 255, 7: 0, 1000: 3}).tolist() == [[255, 3], [0, 3]]
    with pytest.raises(DataError, match=r"values 1000 \(2 pixels\)"):
        read_mask(wide, {0: 255, 7: 0, 1001: 3})
    with pytest.raises(DataError, match="0 to 255"):
        read_mask(path, {0: 0, 255: 256})


def test_values_above_255_are_refused(tmp_path):
    path = save(tmp_path / "wide.png", np.array([[0, 1000]], np.uint16))
    with pytest.raises(DataError, match=r"wide\.png: mask has values .*1000 \(1 pixels\).*label_map"):
        read_mask(path)


def test_colours_are_refused_and_named_or_mapped(tmp_path):
    colours = np.zeros((2, 3, 3), np.uint8)
    colours[0, 0] = 128, 0, 0
    path = save(tmp_path / "rgb.png", colours)
    with pytest.raises(DataError, match=r"rgb\.png: mask has colours.*0x000000 \(5 pixels\), 0x800000 \(1 pixels\)"):
        read_mask(path)
    assert read_mask(path, {0x000000: 0, 0x800000: 2}).tolist() == [[2, 0, 0], [0, 0, 0]]
    with pytest.raises(DataError, match=r"0x800000 \(1 pixels\).*label_map"):
        read_mask(path, {0: 0})
    assert read_mask(save(tmp_path / "rgba.png", colours, "RGBA"), {0: 0, 0x800000: 2})[0, 0] == 2


def test_lossy_missing_and_broken_masks_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"a\.jpg: mask is a JPEG"):
        read_mask(save(tmp_path / "a.jpg", MASK))
    with pytest.raises(DataError, match=r"none\.png: mask does not exist"):
        read_mask(tmp_path / "none.png")
    rng = np.random.default_rng(0)
    whole = save(tmp_path / "whole.png", rng.integers(0, 3, (64, 64), np.uint8)).read_bytes()
    for length in (0, 20, len(whole) // 2):
        (tmp_path / "cut.png").write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"cut\.png: mask cannot be read"):
            read_mask(tmp_path / "cut.png")
    with pytest.raises(DataError, match="kind 'F'"):
        read_mask(save(tmp_path / "f.tif", MASK.astype(np.float32)))


def test_errors_survive_the_way_out_of_a_worker(tmp_path):
    with pytest.raises(DataError) as error:
        read_mask(tmp_path / "none.png")
    again = pickle.loads(pickle.dumps(error.value))
    assert str(again) == str(error.value)
    assert type(error.value)(str(error.value)).finding is None


def test_overlay_colours_objects_only():
    image = np.full((2, 3, 3), 100, np.uint8)
    shown = overlay(image, MASK, LABELS, 0.5)
    assert shown[0, 1].tolist() == [175, 55, 60]
    assert shown[0, 0].tolist() == shown[1, 0].tolist() == [100, 100, 100]
    assert shown.dtype == np.uint8
    assert overlay(image, MASK, LABELS, 1.0)[0, 2].tolist() == [30, 240, 50]
