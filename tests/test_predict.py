from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from maskwright.data.masks import overlay as lay_over
from maskwright.data.masks import read_mask
from maskwright.data.sample import LabelSpace
from maskwright.engine.checkpoint import save_model
from maskwright.errors import DataError
from maskwright.inference import files as files_module
from maskwright.inference import predict as predict_module
from maskwright.inference.files import find_images, predict_files
from maskwright.inference.inputs import as_array
from maskwright.inference.load import load, model_file
from maskwright.inference.predict import Predictor
from maskwright.inference.views import predict_labels, predict_probabilities
from maskwright.models import create_model
from maskwright.settings import InferenceSettings

torch.set_num_threads(1)

NAMES = LabelSpace(("background", "car", "tree"), palette=((0, 0, 0), (200, 10, 10), (10, 200, 10)))
BUILT = {
    "name": "deeplabv3plus",
    "backbone": "resnet10t",
    "output_stride": 16,
    "options": {"decoder_channels": 16},
    "num_classes": 3,
}


def build():
    arguments = {key: value for key, value in BUILT.items() if key not in ("name", "options")}
    return create_model(BUILT["name"], **arguments, **BUILT["options"])


def metadata(**changes):
    return {
        "kind": "segmenter",
        "model": BUILT,
        "labels": NAMES.to_dict(),
        "preprocessing": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.25]},
        "recipe": {"name": "test", "inference": {"size": [40, 56], "flip": True}},
        "maskwright": "0.0",
        **changes,
    }


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run folder whose segmenter has random weights that tell its classes apart."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(3)
    model = build().eval()
    for parameter in model.parameters():
        if parameter.ndim == 4:
            torch.nn.init.kaiming_normal_(parameter, nonlinearity="relu")
    save_model(folder / "segmenter" / "model.safetensors", model, metadata())
    return folder


@pytest.fixture(scope="module")
def predictor(run_folder):
    return load(run_folder, device="cpu", settings=InferenceSettings())


def picture(height=48, width=64, seed=0):
    """Smooth random colours."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3)).astype(np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def write(path: Path, pixels: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize("given", ["", "segmenter", "segmenter/model.safetensors"])
def test_load_finds_the_model(run_folder, given):
    found = load(run_folder / given, device="cpu")
    assert found.labels == NAMES
    assert found.labels.palette == NAMES.palette
    assert found.settings == InferenceSettings(size=(40, 56), flip=True)
    assert found.metadata["recipe"]["name"] == "test"
    assert not any(module.training for module in found.model.modules())


def test_loaded_model_predicts_as_the_saved_one(run_folder):
    torch.manual_seed(11)
    model = build().eval()
    file = run_folder / "again.safetensors"
    save_model(file, model, metadata())
    found = load(file, device="cpu", settings=InferenceSettings())
    pixels = picture()
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.25])
    image = ((torch.from_numpy(pixels.copy()) / 255 - mean) / std).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = model(image)[0]
    np.testing.assert_allclose(found(pixels).probabilities, expected.softmax(0).numpy(), atol=1e-5)
    assert (found(pixels).mask == expected.argmax(0).numpy()).mean() > 0.999


def test_recipe_without_inference_settings_means_defaults(run_folder):
    file = run_folder / "bare.safetensors"
    save_model(file, build(), metadata(recipe={}))
    assert load(file, device="cpu").settings == InferenceSettings()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nothing", r"nothing does not exist; expected a run folder or a model\.safetensors"),
        (".", r"holds no trained segmenter: neither .*segmenter/model\.safetensors nor .*run the same command again"),
        ("notes.txt", r"notes\.txt is not a maskwright model"),
        ("classifier.safetensors", r"classifier\.safetensors holds a classifier, expected a segmenter"),
    ],
)
def test_what_is_no_segmenter_says_why(tmp_path, given, message):
    (tmp_path / "notes.txt").write_text("hello")
    save_model(tmp_path / "classifier.safetensors", torch.nn.Linear(1, 1), metadata(kind="classifier"))
    with pytest.raises(DataError, match=message):
        load(tmp_path / given)


def test_weights_of_another_model_are_named(tmp_path):
    save_model(tmp_path / "model.safetensors", torch.nn.Linear(1, 1), metadata())
    with pytest.raises(DataError, match="made with another model"):
        load(tmp_path)


def test_oracle_folder_is_a_folder_with_a_model(run_folder, tmp_path):
    (tmp_path / "oracle").mkdir()
    os.link(run_folder / "segmenter" / "model.safetensors", tmp_path / "oracle" / "model.safetensors")
    assert model_file(tmp_path / "oracle") == tmp_path / "oracle" / "model.safetensors"


@pytest.mark.parametrize("size", [(48, 64), (1, 1), (33, 50)])
def test_mask_has_the_size_of_the_image(predictor, size):
    prediction = predictor(picture(*size))
    assert prediction.mask.shape == size
    assert size == (1, 1) or len(np.unique(prediction.mask)) > 1
    assert prediction.mask.dtype == np.uint8
    assert prediction.mask.max() < 3
    assert prediction.probabilities.shape == (3, *size)
    np.testing.assert_allclose(prediction.probabilities.sum(0), 1, atol=1e-5)


def test_settings_of_the_recipe_are_applied(run_folder):
    found = load(run_folder, device="cpu")
    pixels = picture()
    seen = found._prepared(pixels)
    assert seen.shape == (1, 3, 40, 56)
    prediction = found(pixels)
    assert prediction.mask.shape == (48, 64)
    expected = predict_probabilities(found.model, seen, InferenceSettings(flip=True))
    expected = torch.nn.functional.interpolate(expected, size=(48, 64), mode="bilinear", align_corners=False)
    np.testing.assert_array_equal(prediction.mask, expected[0].argmax(0).numpy())
    np.testing.assert_allclose(prediction.probabilities, expected[0].numpy(), atol=1e-6)


def test_path_picture_and_array_give_the_same(predictor, tmp_path):
    pixels = picture()
    path = write(tmp_path / "street.png", pixels)
    expected = predictor(pixels).mask
    for image in (path, str(path), Image.open(path), Image.fromarray(pixels).convert("RGBA")):
        np.testing.assert_array_equal(predictor(image).mask, expected)


def test_orientation_is_respected(predictor, tmp_path):
    pixels = picture()
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned; shown rotated by 90 degrees
    path = write(tmp_path / "turned.png", pixels, exif=exif)
    shown = np.rot90(pixels, -1)
    for image in (path, Image.open(path)):
        np.testing.assert_array_equal(as_array(image), shown)
    assert predictor(path).mask.shape == (64, 48)


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.zeros((3, 4, 7), np.uint8), r"found \(3, 4, 7\); its channels seem to lie elsewhere: transpose\(1, 2, 0\)"),
        (np.zeros((4, 4, 5), np.uint8), r"of 1 or 3 or 4 channels, found \(4, 4, 5\)"),
        (torch.zeros(40, 5, 3), r"found \(40, 5, 3\); .*permute\(2, 0, 1\)"),
        (torch.zeros(2, 3, 4, 5, 6), r"\(2, 3, 4, 5, 6\) of float32"),
        (np.full((4, 4, 3), 255.0), "values from 255 to 255; divide by the highest value"),
        (torch.full((3, 4, 4), -1.8), "do not normalise: the predictor does"),
        (np.full((4, 4), np.nan), "not finite"),
        (np.full((4, 4), 256), "found int64 from 256 to 256"),
        (np.full((4, 4, 3), -1, np.int16), "found int16 from -1 to -1"),
        (np.zeros((4, 4, 3), complex), "complex128"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
        (3, "int"),
        (Image.new("F", (4, 4), 700.0), "values from 700 to 700"),
        (b"bytes", "found bytes"),
    ],
)
def test_what_is_no_image_is_refused(image, found):
    with pytest.raises(DataError, match=found):
        as_array(image)


def test_arrays_and_tensors_of_every_type_give_the_same(predictor):
    pixels = picture()
    first = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
    alpha = np.concatenate([pixels, np.full((*pixels.shape[:2], 1), 7, np.uint8)], axis=2)
    expected = predictor(pixels).mask
    for image in (
        pixels / 255,
        pixels.astype(np.float32) / 255,
        pixels.astype(np.int64),
        pixels.astype(np.uint16) * 257,
        pixels[::-1][::-1],
        alpha,
        first,
        first.long(),
        first / 255,
        (first / 255).requires_grad_(),
        (first.double() / 255).to(memory_format=torch.preserve_format),
        torch.from_numpy(alpha.transpose(2, 0, 1).copy()),
    ):
        np.testing.assert_array_equal(as_array(image), pixels)
        np.testing.assert_array_equal(predictor(image).mask, expected)


def test_grey_is_repeated(predictor, tmp_path):
    grey = picture()[..., 0]
    expected = np.repeat(grey[..., None], 3, axis=2)
    path = write(tmp_path / "grey.png", grey)
    tensor = torch.from_numpy(grey.copy())
    for image in (grey, grey[..., None], tensor, tensor[None], tensor / 255, Image.fromarray(grey), path):
        np.testing.assert_array_equal(as_array(image), expected)
    np.testing.assert_array_equal(as_array(Image.fromarray(grey.astype(np.uint16) * 257)), expected)
    bits = grey > 99
    np.testing.assert_array_equal(as_array(bits), as_array(Image.fromarray(bits)))
    assert set(np.unique(as_array(bits))) == {0, 255}


def test_several_images_at_once(predictor, tmp_path):
    pixels = [picture(), picture()[::-1].copy()]
    expected = [predictor(one).mask for one in pixels]
    batch = np.stack(pixels)
    mixed = [write(tmp_path / "one.png", pixels[0]), Image.fromarray(pixels[1])]
    for images in (pixels, tuple(pixels), batch, torch.from_numpy(batch.transpose(0, 3, 1, 2).copy()), mixed):
        found = predictor(images)
        assert len(found) == 2
        for one, mask in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one.mask, mask)
    assert predictor([]) == []
    (with_probabilities,) = predictor([pixels[0]], probabilities=True)
    np.testing.assert_array_equal(with_probabilities.probabilities, predictor.probabilities(pixels[0]))
    with pytest.raises(DataError, match="list of numbers; make an array"):
        predictor([[0, 1], [1, 0]])


def test_numbers_are_read_as_in_training(predictor):
    """A model that was trained on 12 bits takes 12 bits, and what it gives is not scaled twice."""
    preprocessing = {**predictor.metadata["preprocessing"], "range": [0, 4095]}
    deep = Predictor(predictor.model, predictor.labels, predictor.settings, metadata={"preprocessing": preprocessing})
    pixels = picture()
    twelve = np.rint(pixels.astype(float) * 4095 / 255).astype(np.uint16)
    found = deep(twelve)
    assert np.abs(found.image.astype(int) - pixels).max() <= 1
    np.testing.assert_array_equal(found.probabilities, deep.probabilities(twelve))
    np.testing.assert_array_equal(found.probabilities, predictor(found.image).probabilities)
    np.testing.assert_array_equal(deep(twelve.astype(np.int32)).mask, found.mask)
    np.testing.assert_array_equal(deep(twelve.astype(np.float32)).mask, found.mask)


def test_probabilities_are_computed_only_when_asked_for(predictor, monkeypatch):
    calls = []
    original = predict_probabilities

    def counting(*arguments):
        calls.append(1)
        return original(*arguments)

    monkeypatch.setattr(predict_module, "predict_probabilities", counting)
    prediction = predictor(picture())
    assert not calls
    first = prediction.probabilities
    assert prediction.probabilities is first
    assert len(calls) == 1
    at_once = predictor(picture(), probabilities=True)
    np.testing.assert_allclose(at_once.probabilities, first)
    assert len(calls) == 2
    np.testing.assert_array_equal(at_once.mask, prediction.mask)


def test_overlay_save_and_shares(predictor, tmp_path):
    prediction = predictor(picture())
    expected = lay_over(prediction.image, prediction.mask, NAMES, 0.5)
    np.testing.assert_array_equal(np.asarray(prediction.overlay()), expected)
    prediction.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), prediction.mask)
    with Image.open(tmp_path / "mask.png") as saved:
        assert saved.getpalette()[:9] == NAMES.flat_palette()[:9]
    shares = prediction.classes
    assert sum(shares.values()) == pytest.approx(1)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert all(share == pytest.approx((prediction.mask == NAMES.value(name)).mean()) for name, share in shares.items())


@pytest.fixture
def photos(tmp_path):
    """A folder of images, one of them broken and two of one name."""
    folder = tmp_path / "photos"
    write(folder / "a.png", picture(seed=1))
    write(folder / "b.png", picture(30, 40, seed=2))
    write(folder / "b.bmp", picture(30, 40, seed=9))
    write(folder / "trip" / "a.jpg", picture(seed=3), quality=95)
    write(folder / "trip" / "day 2" / "c.png", picture(seed=4))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    (folder / "notes.txt").write_text("hello")
    return folder


def test_folder_is_predicted_and_what_fails_is_reported(predictor, photos, tmp_path):
    out = tmp_path / "out"
    done, failures = predict_files(predictor, [photos], out, probabilities=True)
    names = ["a", "b", "trip/a", "trip/day 2/c"]
    masks = {str(path.relative_to(out / "masks").with_suffix("")): path for path in (out / "masks").rglob("*.png")}
    assert sorted(masks) == names
    assert sorted(done) == sorted(str(photos / f) for f in ("a.png", "b.bmp", "trip/a.jpg", "trip/day 2/c.png"))
    for path in done:
        name = str(Path(path).relative_to(photos).with_suffix(""))
        expected = predictor(path, probabilities=True)
        np.testing.assert_array_equal(read_mask(masks[name]), expected.mask)
        with np.load(out / "probabilities" / f"{name}.npz") as stored:
            assert stored["probabilities"].dtype == np.float16
            np.testing.assert_allclose(stored["probabilities"], expected.probabilities, atol=1e-3)
            assert stored["classes"].tolist() == list(NAMES.names)
        with Image.open(out / "overlays" / f"{name}.jpg") as laid:
            assert laid.size == expected.mask.shape[::-1]
    assert len(failures) == 2
    assert any("broken.jpg" in text and "cannot be read" in text for text in failures)
    assert any("b.bmp" in text and "rename" in text for text in failures)


def test_a_huge_image_is_refused_and_the_rest_goes_on(predictor, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("maskwright.inference.files.LARGEST", 300 * 300)
    inside = tmp_path / "in"
    inside.mkdir()
    for name, side in (("a", 301), ("b", 40)):
        Image.new("RGB", (side, side)).save(inside / f"{name}.png")
    done, failures = predict_files(predictor, inside, tmp_path / "out")
    assert [Path(path).stem for path in done] == ["b"]
    assert len(failures) == 1
    assert "a.png: 301x301 pixels are too many" in failures[0]
    assert "inference.window=[1024,1024]" in failures[0]


def test_memory_that_is_not_there_for_one_image_does_not_stop_the_rest(predictor, photos, tmp_path, monkeypatch):
    found, predict = [], type(predictor).predict

    def once(self, pixels, **options):
        found.append(pixels)
        if len(found) == 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 49 bytes")
        return predict(self, pixels, **options)

    monkeypatch.setattr(type(predictor), "predict", once)
    inside = tmp_path / "in"
    inside.mkdir()
    for name in "ab":
        Image.new("RGB", (40, 40)).save(inside / f"{name}.png")
    done, failures = predict_files(predictor, inside, tmp_path / "out")
    assert [Path(path).stem for path in done] == ["b"]
    assert "out of memory; set inference.window" in failures[0]


def test_only_masks_where_no_more_is_wanted(predictor, photos, tmp_path):
    predict_files(predictor, photos / "trip", tmp_path / "out", overlay=False)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["masks"]


def test_results_are_never_taken_for_images(predictor, photos):
    first, _ = predict_files(predictor, [photos], photos / "out")
    again, _ = predict_files(predictor, [photos], photos / "out")
    globbed, _ = predict_files(predictor, [f"{photos}/**/*.png"], photos / "out")
    assert sorted(first) == sorted(again)
    assert sorted(globbed) == sorted(str(photos / f) for f in ("a.png", "b.png", "trip/day 2/c.png"))


def test_names_of_globs_and_single_files(photos, tmp_path):
    found, failures = find_images([f"{photos}/*/*.jpg"], tmp_path / "out")
    assert found == {"trip/a": str(photos / "trip" / "a.jpg")}
    assert not failures
    single = [photos / "a.png", photos / "trip" / "a.jpg"]
    found, failures = find_images(single, tmp_path / "out")
    assert found == {"a": str(single[0]), "trip/a": str(single[1])}
    assert not failures
    assert find_images([photos / "trip" / "a.jpg"], tmp_path / "out")[0] == {"a": str(single[1])}


def test_relative_paths(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(photos)
    assert find_images(["trip"], Path("out"))[0] == {"a": "trip/a.jpg", "day 2/c": "trip/day 2/c.png"}
    assert find_images(["*.png"], Path("out"))[0] == {"a": "a.png", "b": "b.png"}
    assert find_images(["trip/a.jpg"], Path("out"))[0] == {"a": "trip/a.jpg"}


def test_two_folders_with_the_same_name_do_not_overwrite_silently(photos, tmp_path):
    other = write(tmp_path / "other" / "a.png", picture())
    found, failures = find_images([photos / "trip", other.parent], tmp_path / "out")
    assert found["a"] == str(photos / "trip" / "a.jpg")
    assert failures == [
        f"{other}: its result would have the name 'a', which that of {found['a']} has; rename one or predict them into "
        "different folders"
    ]


def test_same_file_given_twice_is_predicted_once(photos, tmp_path):
    found, failures = find_images([photos / "trip", f"{photos}/trip/*.jpg"], tmp_path / "out")
    assert len(found) == 2
    assert not failures


def test_nothing_there_is_a_failure(predictor, tmp_path):
    (tmp_path / "empty").mkdir()
    given = [tmp_path / "gone.jpg", f"{tmp_path}/*.jpg", tmp_path / "empty"]
    done, failures = predict_files(predictor, given, tmp_path / "out")
    assert not done
    assert [text.split(": ")[1] for text in failures] == [
        "does not exist",
        "matches no image",
        "no image in this folder",
    ]


def test_pipes_are_not_read_and_results_stay_inside(tmp_path):
    inside = tmp_path / "in"
    write(inside / "a.png", picture(seed=0))
    os.mkfifo(inside / "pipe.png")
    found, failures = find_images([inside], tmp_path / "out")
    assert failures == [
        f"{inside}: 1 pipe/device file is left out: it is no regular file, and reading it could wait for ever"
    ]
    assert list(found) == ["a"]
    found, failures = find_images([inside / "pipe.png", f"{inside}/p*.png"], tmp_path / "out")
    assert not found
    assert len(failures) == 2
    write(tmp_path / "up.png", picture(seed=0))
    (inside / "sub").mkdir()
    found, failures = find_images([f"{inside}/s*/../../*.png"], tmp_path / "out")
    assert not found
    assert "would lie outside of" in failures[0]


def test_half_precision_of_files_and_of_the_command(run_folder, photos, tmp_path, monkeypatch):
    """A command's `inference.autocast=bfloat16` reaches the network, beside what the recipe says."""
    from maskwright.cli import app

    seen = []

    def watched(predictor, *arguments, **options):
        def note(module, inputs, output):
            seen.append(output.dtype)

        next(m for m in predictor.model.modules() if isinstance(m, torch.nn.Conv2d)).register_forward_hook(note)
        assert predictor.settings.size == (40, 56)
        return predict_files(predictor, *arguments, **options)

    monkeypatch.setattr(files_module, "predict_files", watched)
    images = [str(write(tmp_path / "in" / f"{seed}.png", picture(seed=seed))) for seed in range(3)]
    for name in ("none", "bfloat16"):
        seen.clear()
        words = [str(run_folder), *images, f"out={tmp_path / name}", f"inference.autocast={name}", "overlay=false"]
        assert CliRunner().invoke(app, ["predict", *words]).exit_code == 0
        assert seen[-1] == (torch.float32 if name == "none" else torch.bfloat16)
    masks = [[read_mask(tmp_path / name / "masks" / f"{i}.png") for i in range(3)] for name in ("none", "bfloat16")]
    assert np.mean(np.array(masks[0]) == np.array(masks[1])) > 0.97
    refused = CliRunner().invoke(app, ["predict", str(run_folder), *images, "inference.autocats=bfloat16"])
    assert "Did you mean 'inference.autocast'" in str(refused.exception)


def test_labels_of_predictor_are_those_of_inference(predictor):
    pixels = picture()
    found = predict_labels(predictor.model, predictor._prepared(pixels), InferenceSettings())[0]
    np.testing.assert_array_equal(predictor(pixels).mask, found.numpy())
