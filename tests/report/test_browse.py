"""The gallery of all images: every image, exactly as the run's files have it, in a page that stays small."""

from __future__ import annotations

import base64
import json
import re
import shutil
import zlib

import numpy as np
import pytest
from PIL import Image
from tests.report.conftest import make_run
from tests.report.test_report import build

from maskwright.report import browse, build_report
from maskwright.report.gallery import image_scores

pytestmark = pytest.mark.versions


def index_of(text):
    return json.loads(re.findall(r'<script type="application/json" id="images-index">(.*?)</script>', text, re.S)[0])


def pictures_of(text):
    parts = re.findall(r'<script type="application/json" id="pictures-\d+">(.*?)</script>', text, re.S)
    return [pictures for part in parts for pictures in json.loads(part)]


def unpacked(record, packed):
    """Masks, maps and confidence of one image as a browser unpacks them."""
    (width, height), (map_width, map_height) = record["size"], record["mapSize"]
    data = np.frombuffer(zlib.decompress(base64.b64decode(packed)), np.uint8)
    sizes = [width * height] * len(record["masks"])
    soft = sum(map(len, record["maps"].values())) + record["sure"]
    sizes += [map_width * map_height] * soft
    assert data.size == sum(sizes)
    pieces = np.split(data, np.cumsum(sizes)[:-1])
    masks = {name: piece.reshape(height, width) for name, piece in zip(record["masks"], pieces)}
    maps = [np.cumsum(piece, dtype=np.uint8).reshape(map_height, map_width) for piece in pieces[len(masks) :]]
    return masks, maps


def stored(path):
    with Image.open(path) as image:
        return np.array(image)


def test_every_image_is_there_with_the_values_of_its_files(fake_run):
    _, text = build(fake_run, images=1)
    index, pictures = index_of(text), pictures_of(text)
    assert [record["name"] for record in index["images"]] == [*fake_run.train.names, *fake_run.val.names]
    assert len(pictures) == 8
    for place, (record, (photo, packed)) in enumerate(zip(index["images"], pictures)):
        masks, maps = unpacked(record, packed)
        assert photo.startswith("data:image/jpeg;base64,")
        training = place < 4
        drawn = fake_run.train if training else fake_run.val
        truth = drawn.mask(place % 4)
        made = "pseudo_masks/SegmentationClass" if training else "evaluation/predictions"
        mask = stored(fake_run.folder / made / f"{record['name']}.png")
        assert np.array_equal(masks["pseudo-mask" if training else "prediction"], mask)
        assert np.array_equal(masks["ground truth"], truth)
        assert record["tags"] == list(drawn.tags(place % 4))
        assert record["splits"] == ["train" if training else "val"]
        assert len(maps) == (len(record["tags"]) + 1 if training else 0)
    assert index["threshold"] == 0.2
    assert index["classes"][2][0] == "cat & <dog>"


def test_scores_and_disagreement_are_those_of_the_files(fake_run):
    # A class that is not tagged, in half of an image, and one that the mask lost.
    path = fake_run.folder / "pseudo_masks/SegmentationClass" / f"{fake_run.train.names[2]}.png"
    mask = np.zeros_like(stored(path))
    mask[:48] = 4
    Image.fromarray(mask).save(path)
    _, text = build(fake_run)
    index = index_of(text)
    record = index["images"][2]
    assert record["shown"] == [4]
    assert record["tags"] == [1, 2, 3]
    miou, wrong = image_scores(mask, fake_run.train.mask(2), fake_run.train.labels)
    assert (record["miou"], record["wrong"]) == pytest.approx((miou, wrong), abs=1e-4)
    grey = stored(fake_run.folder / "pseudo_masks/Confidence" / f"{fake_run.train.names[2]}.png")
    assert record["confidence"] == pytest.approx(grey.mean() / 255, abs=1e-4)
    said = {line["name"]: line for line in json.loads((fake_run.folder / "evaluation/images.json").read_text())}
    for record in index["images"][4:]:
        assert record["miou"] == pytest.approx(said[record["name"]]["miou"])
        assert record["wrong"] == pytest.approx(0.2)
        assert record["confidence"] is None


def test_maps_and_confidence_come_back_in_per_cent(fake_run):
    _, text = build(fake_run)
    record, (_, packed) = index_of(text)["images"][2], pictures_of(text)[2]
    _, maps = unpacked(record, packed)
    with np.load(fake_run.folder / "seeds/maps" / f"{record['name']}.npz") as arrays:
        keys, soft = arrays["keys"], arrays["high_res"].astype(np.float32)
    assert record["maps"] == {"seed": [fake_run.train.labels.foreground[key] for key in keys]}
    for small, full in zip(maps, soft):
        shrunk = np.asarray(Image.fromarray(full).resize(small.shape[::-1], Image.Resampling.BILINEAR))
        assert np.abs(small / 100 - shrunk).max() <= 0.0051
    grey = stored(fake_run.folder / "pseudo_masks/Confidence" / f"{record['name']}.png") / 255
    assert maps[-1].mean() / 100 == pytest.approx(grey.mean(), abs=0.01)


def test_an_image_of_both_splits_is_shown_once(fake_run):
    fake_run.val.names, fake_run.val.seed = fake_run.train.names, fake_run.train.seed
    shutil.rmtree(fake_run.folder / "evaluation/predictions")
    shutil.copytree(fake_run.folder / "pseudo_masks/SegmentationClass", fake_run.folder / "evaluation/predictions")
    _, text = build(fake_run)
    images = index_of(text)["images"]
    assert [record["name"] for record in images] == fake_run.train.names
    assert all(record["splits"] == ["train", "val"] for record in images)
    assert images[0]["masks"] == ["pseudo-mask", "prediction", "ground truth"]


def test_too_many_pictures_lie_beside_the_page(fake_run, monkeypatch):
    monkeypatch.setattr(browse, "INSIDE_BYTES", 1000)
    monkeypatch.setattr(browse, "PER_PART", 3)
    page, text = build(fake_run)
    assert pictures_of(text) == []
    folder = fake_run.folder / "report_files"
    assert sorted(path.name for path in folder.iterdir()) == [f"pictures-{number}.js" for number in range(3)]
    assert index_of(text)["beside"] == "report_files"
    assert "pictures of all images are in report_files beside it" in page.text
    call = re.fullmatch(r"maskwrightPart\(2,(.*)\);\n", (folder / "pictures-2.js").read_text(encoding="utf-8"))
    assert len(json.loads(call[1])) == 2
    monkeypatch.undo()
    page, text = build(fake_run)
    assert len(pictures_of(text)) == 8
    assert not folder.exists()
    assert "This file is complete in itself" in page.text


def test_pictures_are_smaller_where_there_are_more():
    sides = [browse.picture_side(count) for count in (0, 24, 600, 5000)]
    assert sides == sorted(sides, reverse=True)
    assert sides[0] == browse.SIDES[1]
    assert sides[-1] == browse.SIDES[0]
    assert 600 * browse.BYTES_OF_SQUARE * sides[2] ** 2 <= browse.INSIDE_BYTES


def test_every_image_is_read_once_and_the_examples_once_more(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", count=9)
    read = []
    draw = type(run.train).__getitem__
    monkeypatch.setattr(type(run.train), "__getitem__", lambda self, index: read.append(index) or draw(self, index))
    build_report(run.folder, dataset_train=run.train, dataset_val=run.val, images=2)
    assert len(read) == 18 + 2


def test_of_a_large_split_a_part_is_spread_evenly(fake_run, monkeypatch):
    monkeypatch.setattr(browse, "MOST_IMAGES", 2)
    _, text = build(fake_run)
    assert [record["name"] for record in index_of(text)["images"]] == [
        *(fake_run.train.names[place] for place in (0, 3)), *(fake_run.val.names[place] for place in (0, 3)),
    ]  # fmt: skip


def test_without_datasets_masks_alone_are_browsed(fake_run):
    _, text = build(fake_run, dataset_train=None, dataset_val=None)
    index = index_of(text)
    assert all(photo == "" for photo, _ in pictures_of(text))
    assert all(record["tags"] is None and record["true"] is None for record in index["images"])
    assert index["masks"] == ["pseudo-mask", "prediction", "fully supervised"]


def test_no_name_ends_the_script_that_holds_it(fake_run):
    fake_run.train.names[0] = "harbour/<script> & <!-- "
    for folder, suffix in (
        ("pseudo_masks/SegmentationClass", "png"),
        ("pseudo_masks/Confidence", "png"),
        ("seeds/maps", "npz"),
    ):
        path = fake_run.folder / folder / "harbour"
        (path / f"photo & <0>.{suffix}").rename(path / f"<script> & <!-- .{suffix}")
    page, text = build(fake_run)
    assert index_of(text)["images"][0]["name"] == fake_run.train.names[0]
    assert page.all("dialog") == []


def test_a_page_without_pictures_has_no_gallery(fake_run):
    page, text = build(fake_run, images=0)
    assert "images-index" not in text
    assert "#images" not in {attrs["href"] for attrs in page.all("a")}


def test_what_the_gallery_needs_is_named_in_its_scripts(fake_run):
    """Every key that the scripts read of the run and of an image is in the data, and no other."""
    _, text = build(fake_run)
    index = index_of(text)
    scripts = "".join(text.split("<script>")[2:])
    assert set(re.findall(r"\brun\.(\w+)", scripts)) <= set(index)
    keys = set(re.findall(r"\bimage\.(\w+)", scripts)) - {"place", "map", "forEach"}
    assert keys <= set(index["images"][0])
