"""Images of other than three channels, and of other than eight bits, from their files to a trained model and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from maskwright.data import open_dataset
from maskwright.data.augment import Augment, jitter_colors, normalise, resize_image, resize_window
from maskwright.data.augment import _window as window
from maskwright.data.check import check
from maskwright.data.sample import LabelSpace, Sample
from maskwright.errors import DataError, RecipeError
from maskwright.inference.files import predict_files
from maskwright.inference.load import load
from maskwright.inference.views import predict_probabilities
from maskwright.models import create_model
from maskwright.pipeline import run as pipeline
from maskwright.plan.plan import plan
from maskwright.recipe.load import load_recipe
from maskwright.settings import AugmentSettings, DataSettings, InferenceSettings

from .data.test_decode import plain_tiff

RANGE = "data.options={range: [0, 4095]}"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Ten images of four channels and 12 bits; the fourth alone shows the object."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("field")
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    rng = np.random.default_rng(0)
    for number in range(10):
        mask = np.zeros((40, 48), np.uint8)
        top, left = rng.integers(0, 20, 2)
        mask[top : top + 18, left : left + 24] = 1
        values = rng.integers(500, 3500, (40, 48, 4))
        values[..., 3] = np.where(mask, 3800, 200)
        plain_tiff(folder / "images" / f"{number}.tif", values.astype(np.uint16))
        Image.fromarray(mask).save(folder / "masks" / f"{number}.png")
    (folder / "classes.txt").write_text("soil\nbeet\n")
    return folder


def settings(root, *more: str) -> list[str]:
    return [
        f"data={root}", RANGE, "device=cpu", "backbone=resnet10t", "model.pretrained=false", "train.epochs=none",
        "train.steps=3", "train.batch_size=4", "train.augment={crop: [32, 32], color_jitter: 0.3, scale: [0.5, 1.5]}",
        "train.workers=0", *more,
    ]  # fmt: skip


def test_a_model_of_the_channels_that_the_data_have(root, tmp_path):
    out = tmp_path / "run"
    pipeline.run(load_recipe("deeplabv3plus-scratch", settings(root, f"out={out}")), say=lambda line: None)
    predictor = load(out, device="cpu")
    assert predictor.model.backbone.in_channels == len(predictor.mean) == 4
    assert predictor.reading.range == (0, 4095)
    path = root / "images" / "3.tif"
    found = predictor(path)
    assert found.image.shape == (40, 48, 4)
    assert (found.image[..., 3] > 200).sum() == 18 * 24  # scaled by the range, not by 65535
    data = open_dataset(DataSettings(root=str(root), options={"range": [0, 4095]}), "all")
    np.testing.assert_array_equal(data[3].image, found.image)
    assert found.overlay().size == (48, 40)
    done, failures = predict_files(predictor, [root / "images"], tmp_path / "made")
    assert (len(done), failures) == (10, [])
    Image.new("RGB", (48, 40)).save(tmp_path / "photo.png")
    with pytest.raises(DataError, match=r"photo\.png: expected an image of the 4 channels.*found 3"):
        predictor(tmp_path / "photo.png")
    tensor = torch.from_numpy(np.stack([found.image[..., place] for place in range(4)]).astype(np.int64) * 4095 // 255)
    assert predictor(tensor).mask.shape == (40, 48)
    assert (out / "report.html").is_file()


def test_a_plan_knows_of_them(root, tmp_path):
    rows = plan(load_recipe("deeplabv3plus-scratch", settings(root, f"out={tmp_path / 'run'}")))
    assert {row.name: row.memory for row in rows}["segmenter"] > 0


def test_masks_from_tags_take_three_of_them(root, tmp_path):
    (tmp_path / "tags.csv").write_text("image,tags\n" + "".join(f"{number}.tif,beet\n" for number in range(10)))
    given = [f"data={root}", f"tags={tmp_path / 'tags.csv'}", "device=cpu", f"out={tmp_path / 'run'}"]
    with pytest.raises(DataError, match=r"images of 4 channels.*data\.options='\{channels: \[0, 1, 2\]\}'"):
        pipeline.run(load_recipe("cam-scratch", [*given, RANGE]), say=lambda line: None)
    three = DataSettings(root=str(root), options={"range": [0, 4095], "channels": [3, 1, 0]})
    image = open_dataset(three, "all")[0].image
    assert image.shape == (40, 48, 3)
    assert (image[..., 0] > 200).sum() == 18 * 24
    more = settings(root, "model.options={in_channels: 5}", f"out={tmp_path / 'other'}")
    with pytest.raises(RecipeError, match=r"in_channels=5, but the images have 4 channels"):
        pipeline.run(load_recipe("deeplabv3plus-scratch", more), say=lambda line: None)


def test_splits_of_different_channels_are_refused(root, tmp_path):
    for name in ("a", "b"):
        for place, split in (("images", "train"), ("images", "val")):
            (tmp_path / place / split).mkdir(parents=True, exist_ok=True)
        plain_tiff(tmp_path / "images" / "train" / f"{name}.tif", np.zeros((9, 9, 4), np.uint8))
        Image.new("RGB", (9, 9)).save(tmp_path / "images" / "val" / f"{name}.png")
    kinds = {finding.kind for finding in check(DataSettings(root=str(tmp_path), classes=["x", "y"]))}
    assert "split-channels" in kinds
    mixed = tmp_path / "images" / "train" / "c.png"
    Image.new("RGB", (9, 9)).save(mixed)
    findings = check(DataSettings(root=str(tmp_path), classes=["x", "y"]))
    (finding,) = [finding for finding in findings if finding.kind == "image-channels"]
    assert finding.files == [str(mixed)]
    with pytest.raises(DataError, match="image has 3 channels, the first of the set has 4"):
        _ = open_dataset(DataSettings(root=str(tmp_path), classes=["x", "y"]), "train")[2]


def test_a_set_that_is_drawn_has_no_range():
    with pytest.raises(DataError, match="is drawn, and has no files"):
        open_dataset(DataSettings(root="scenes", options={"range": [0, 9]}), "train")


@pytest.mark.parametrize(("channels", "seen"), [(3, [0, 1, 2]), (5, [0, 1, 2]), (2, [0, 0, 0])])
def test_the_crf_compares_three_of_them(channels, seen, monkeypatch):
    given = []

    def crf(pixels, unary, **kernels):
        given.append(pixels)
        return unary

    monkeypatch.setattr("maskwright.crf.dense_crf.dense_crf", crf)
    model = create_model("fcn", backbone="resnet10t", num_classes=2, in_channels=channels)
    images = torch.randint(0, 256, (1, 8, 9, channels), dtype=torch.uint8)
    predict_probabilities(
        model, normalise(images.permute(0, 3, 1, 2), model.mean, model.std), InferenceSettings(crf="irn")
    )
    assert torch.equal(given[0], images[..., seen])


@pytest.mark.parametrize("channels", [2, 4, 7])
def test_every_channel_is_augmented_as_a_grey_image_is(channels):
    """Geometry is the same in all channels, so the first three are as those of a photograph."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (37, 41, channels), np.uint8)
    for place in range(channels):
        grey = np.repeat(pixels[..., place : place + 1], 3, axis=2)
        expected = resize_image(grey, (20, 55))[..., 0]
        np.testing.assert_array_equal(resize_image(pixels, (20, 55))[..., place], expected)
        rows, columns = window(20, 16, 0.3), window(55, 30, 0.6)
        part = resize_window(grey, (20, 55), rows, columns, Image.Resampling.BICUBIC)[..., 0]
        found = resize_window(pixels, (20, 55), rows, columns, Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(found[..., place], part)
    augment = Augment(
        AugmentSettings(crop=(50, 50), color_jitter=0.4, hue=0.1), LabelSpace(("a", "b"), None), mean=(0.5,) * channels
    )
    example = augment(Sample("x", pixels, np.zeros((37, 41), np.uint8)), np.random.default_rng(0))
    assert example["image"].shape == (channels, 50, 50)


def test_jitter_of_numbers_that_are_no_colours():
    pixels = np.random.default_rng(2).integers(60, 200, (9, 9, 5), np.uint8)
    np.testing.assert_array_equal(jitter_colors(pixels, 1, 1, 1, 0.3), pixels)
    brighter = jitter_colors(pixels, 1.2, 1, 1).astype(float)
    assert np.abs(brighter - 1.2 * pixels).max() <= 0.5
    flat = jitter_colors(pixels, 1, 0, 1)
    assert np.ptp(flat) == 0
    assert abs(flat.mean() - pixels.mean()) <= 0.5
    assert (np.ptp(jitter_colors(pixels, 1, 1, 0), axis=2) == 0).all()
