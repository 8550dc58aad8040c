"""Outlines say exactly the pixels that they were made from, by two painters."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskwright.data.readers.polygons import paint_polygon, to_grid
from maskwright.data.runs import counts_of, runs_of, text_of
from maskwright.formats.outlines import outlines


def region(rows):
    return np.array([[letter == "#" for letter in row] for row in rows.split()])


def painted(outline, shape):
    mask = np.zeros(shape, np.uint8)
    paint_polygon(mask, to_grid(outline.astype(float)), 1)
    return mask.astype(bool)


@st.composite
def regions(draw):
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    bits = draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    return np.array(bits).reshape(height, width)


@settings(max_examples=150, deadline=None)
@given(regions())
def test_every_pixel_is_in_the_outline_of_its_part_alone(inside):
    times = sum((painted(outline, inside.shape).astype(int) for outline in outlines(inside)), np.zeros(inside.shape))
    assert np.array_equal(times, inside)


@settings(max_examples=100, deadline=None)
@given(regions())
def test_runs_come_back_from_their_text(inside):
    counts = runs_of(inside)
    assert counts.sum() == inside.size
    assert np.array_equal(counts_of(text_of(counts)), counts)


def test_parts_that_touch_at_a_corner_are_two_and_a_hole_is_cut_open():
    assert len(outlines(region("#.. .#. ..#"))) == 3
    (ring,) = outlines(region("#### #..# #.## ####"))
    assert np.array_equal(painted(ring, (4, 4)), region("#### #..# #.## ####"))
    assert len(outlines(np.zeros((3, 3), bool))) == 0


def test_corners_are_those_where_the_outline_turns():
    (square,) = outlines(region(".... .##. .##. ...."))
    assert square.tolist() == [[1, 1], [3, 1], [3, 3], [1, 3]]


@pytest.mark.parametrize("seed", range(20))
def test_the_official_tools_see_the_same_pixels(seed):
    official = pytest.importorskip("pycocotools.mask")
    noise = np.random.default_rng(seed)
    inside = noise.random(tuple(noise.integers(2, 40, 2))) < noise.random()
    inside[0, 0] = True
    height, width = inside.shape
    polygons = [outline.ravel().astype(float).tolist() for outline in outlines(inside)]
    merged = official.merge(official.frPyObjects(polygons, height, width))
    assert np.array_equal(official.decode(merged), inside)
    assert official.encode(np.asfortranarray(inside, np.uint8))["counts"].decode() == text_of(runs_of(inside))


@pytest.mark.parametrize("text", ["0é", "p", " ", "1Z"])
def test_text_that_is_no_run_length_code_is_refused(text):
    with pytest.raises(ValueError, match="run-length code"):
        counts_of(text)
