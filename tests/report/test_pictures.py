"""Overlays, heat maps, contact sheets and charts."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from maskwright.data.sample import LabelSpace
from maskwright.report import heatmap, overlay, strip, write_picture
from maskwright.report.charts import number, smooth, thin, ticks
from maskwright.report.pictures import heat_uri, mask_uri, photo_uri, spread

LABELS = LabelSpace(("background", "red"), palette=((0, 0, 0), (255, 0, 0)))


def decode(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1])))


def test_overlay_mixes_by_its_weight():
    image = np.full((4, 6, 3), 100, np.uint8)
    mask = np.zeros((4, 6), np.uint8)
    mask[0], mask[1] = 1, 255
    painted = overlay(image, mask, LABELS, alpha=0.5)
    assert painted[0, 0].tolist() == [178, 50, 50]
    assert painted[1, 0].tolist() == [162, 162, 162]
    # The background is darkened less than objects are coloured.
    assert painted[2, 0].tolist() == [70, 70, 70]
    assert (overlay(image, mask, LABELS, alpha=0) == image).all()


def test_heatmap_is_brighter_where_the_score_is_higher():
    image = np.full((8, 32, 3), 90, np.uint8)
    heated = heatmap(image, np.linspace(0, 1, 8, dtype=np.float32)[None].repeat(2, 0))
    assert heated.shape == image.shape
    brightness = heated.astype(float).mean((0, 2))
    assert brightness[0] < brightness[16] < brightness[-1]
    assert (heatmap(image, np.full((2, 2), np.nan)) == heatmap(image, np.zeros((2, 2)))).all()


def test_strip_places_pictures_text_and_gaps():
    red, blue = np.zeros((20, 40, 3), np.uint8), np.zeros((40, 20, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    sheet = strip([[red, [("boat", (0, 255, 0))], blue], [blue, None, red]], ["image", "tags", "truth"], height=60)
    pixels = np.asarray(sheet)
    assert sheet.mode == "RGB"
    # The wide picture fills its width, the high one its height; neither is stretched.
    assert (pixels == (255, 0, 0)).all(-1).sum() == 2 * 90 * 45
    assert (pixels == (0, 0, 255)).all(-1).sum() == 2 * 30 * 60
    assert (pixels == (0, 255, 0)).all(-1).any()
    assert (pixels[:30] < 100).any()
    untitled = strip([[red]], height=60)
    assert untitled.size == (10 + 90 + 10, 10 + 60 + 10)
    assert strip([]).size[1] > 0


def test_picture_of_a_run(fake_run):
    path = write_picture(fake_run.folder, fake_run.train, rows=3)
    without = Image.open(path).size
    assert path == fake_run.folder / "picture.png"
    # A prediction adds a column.
    path = write_picture(
        fake_run.folder,
        fake_run.train,
        predict=lambda image: np.zeros(image.shape[:2], np.uint8),
        rows=3,
        path=fake_run.folder / "other.png",
    )
    assert Image.open(path).size[0] > without[0]
    assert Image.open(path).size[1] == without[1]


def test_small_images_keep_what_they_show():
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 2, (30, 50)).astype(np.uint8)
    mask[0] = 255
    picture = decode(mask_uri(mask, LABELS, 50))
    assert picture.mode == "P"
    seen = np.asarray(picture.convert("RGBA"))
    assert (seen[mask == 1] == (255, 0, 0, 255)).all()
    assert (seen[mask == 0][:, 3] == 153).all()
    assert (seen[mask == 255] == (224, 224, 224, 255)).all()
    assert (np.asarray(decode(mask_uri(mask, LABELS, 50, opaque=True)).convert("RGBA"))[..., 3] == 255).all()
    assert max(decode(mask_uri(mask, LABELS, 25)).size) == 25
    assert decode(photo_uri(np.zeros((100, 300, 3), np.uint8), 150)).size == (150, 50)
    heat = decode(heat_uri(np.eye(4, dtype=np.float32), (80, 40), 40)).convert("RGBA")
    assert heat.size == (40, 20)
    assert np.asarray(heat)[0, 0].sum() > np.asarray(heat)[0, -1].sum()


def test_spread_holds_both_ends():
    assert spread(10, 4) == [0, 3, 6, 9]
    assert spread(3, 8) == [0, 1, 2]
    assert spread(5, 1) == [0]
    assert spread(0, 3) == spread(3, 0) == []


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.05, 0.6), (0, 1e-4), (0, 73250), (2, 2), (-3, 8)])
def test_ticks_cover_the_range_in_round_steps(low, high):
    found = ticks(low, high, 5)
    assert found[0] <= low
    assert found[-1] >= high
    assert 2 <= len(found) <= 9
    assert np.allclose(np.diff(found), found[1] - found[0])


def test_numbers_are_short():
    assert [number(v) for v in (0.15, 20.0, 0.0, 12345.0, 3.2e-05, 2e6, 1500.0)] == [
        "0.15", "20", "0", "12.3k", "3.2e-05", "2M", "1500",
    ]  # fmt: skip


def test_long_logs_are_thinned_and_smoothed_without_bias():
    points = [(float(x), 2.0) for x in range(1000)]
    assert len(thin(points)) <= 240
    assert {y for _, y in thin(points)} == {2.0}
    assert all(y == pytest.approx(2.0) for _, y in smooth(points))
    noisy = [(x, x % 2) for x, _ in points]
    assert np.std([y for _, y in smooth(noisy)][100:]) < 0.05
