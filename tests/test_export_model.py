"""Models in other forms: they give what the model gives, whatever the size of the image, or are not written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from maskwright.cli import app
from maskwright.data.decode import Reading
from maskwright.data.masks import read_mask
from maskwright.data.sample import LabelSpace
from maskwright.data.sizes import nearest, scaled_size, seen_size
from maskwright.engine.checkpoint import save_model
from maskwright.errors import DataError, RecipeError
from maskwright.formats import MODEL_FORMATS
from maskwright.inference import export
from maskwright.inference.export import described, export_model, three_sizes
from maskwright.inference.finished import load
from maskwright.inference.graph import _export, _pad_same
from maskwright.inference.predict import Predictor
from maskwright.models import BACKBONES, create_model, list_models
from maskwright.models.backbone import Backbone
from maskwright.models.backbones import import_timm
from maskwright.models.layers import _shares, grid_means
from maskwright.settings import InferenceSettings

pytestmark = [
    pytest.mark.versions,
    pytest.mark.skipif(torch.__version__ < export.FORMATS["onnx"].torch, reason="this torch exports in no such form"),
]

torch.set_num_threads(1)

NAMES = LabelSpace(("background", "car", "tree"), palette=((0, 0, 0), (200, 10, 10), (10, 200, 10)))
SMALL = {
    "deeplabv2": {"scales": [1, 0.75]},
    "deeplabv3": {"channels": 8},
    "deeplabv3plus": {"decoder_channels": 8, "low_level_channels": 4},
    "dupsampling": {"dim": 16, "decoder_channels": 8, "low_level_channels": 4},
    "fcn": {"channels": 8, "fuse": 2},
    "hmsa": {"channels": 8, "key_channels": 4, "attention_channels": 4},
    "light": {"channels": 8, "fine_channels": 4},
    "linear": {},
    "ocrnet": {"channels": 8, "key_channels": 4},
    "pspnet": {"channels": 8},
    "seethrough": {"channels": 8, "key_channels": 4, "attention_channels": 4},
    "upernet": {"channels": 8},
}


class Steps(Backbone):
    """Four maps, each by one convolution: as few operations as a backbone can have."""

    def __init__(self, name, *, pretrained=False, output_stride=None, in_channels=3):
        super().__init__(name, (4, 6, 8, 8), (4, 8, 16, 32), in_channels=in_channels)
        widths = (in_channels, 4, 6, 8, 8)
        self.steps = nn.ModuleList(
            nn.Conv2d(before, after, 5 if i == 0 else 3, stride=4 if i == 0 else 2, padding=2 if i == 0 else 1)
            for i, (before, after) in enumerate(pairwise(widths))
        )

    def forward(self, images):
        maps = [images]
        for step in self.steps:
            maps.append(step(maps[-1]).relu())
        return maps[1:]


@pytest.fixture(autouse=True)
def steps(monkeypatch):
    monkeypatch.setitem(BACKBONES, "steps", Steps)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Coloured areas and a little noise, as a photograph has them."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize((width, height))
    return np.clip(np.array(coarse, np.int64) + rng.integers(-9, 10, (height, width, 3)), 0, 255).astype(np.uint8)


PICTURES = [picture(131, 203), picture(197, 101, 1), picture(160, 97, 2)]


def built(name="light", **settings) -> Predictor:
    """A segmenter with random weights that tell its classes apart."""
    for seed in range(50):
        torch.manual_seed(seed)
        model = create_model(name, backbone="steps", num_classes=3, auxiliary={}, **SMALL[name]).eval()
        for parameter in model.parameters():
            if parameter.ndim == 4:
                nn.init.kaiming_normal_(parameter, nonlinearity="relu")
        if np.sort(np.bincount(Predictor(model, NAMES)(PICTURES[0]).mask.ravel(), minlength=3))[1] > 2000:
            break
    metadata = {
        "kind": "segmenter",
        "model": {
            "name": name, "backbone": "steps", "output_stride": None, "num_classes": 3,
            "options": {"auxiliary": {}, **SMALL[name]},
        },
        "labels": NAMES.to_dict(),
        "preprocessing": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.25]},
        "recipe": {"name": "test"},
    }  # fmt: skip
    return Predictor(model, NAMES, InferenceSettings(**settings), "cpu", metadata)


def onnx_of(predictor: Predictor, path: Path, images=PICTURES):
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name)
    export_model(predictor, "onnx", path, images)
    return load(path, device="cpu")


@pytest.mark.parametrize(("form", "size"), [("onnx", 96), ("torch-export", None), ("safetensors", None)])
def test_a_range_is_inside(tmp_path, form, size):
    """Numbers of 12 bits go in as files hold them, and give what the run makes of the file."""
    predictor = built("light", size=size)
    predictor.reading = Reading(range=(0, 4095))
    predictor.metadata["preprocessing"]["range"] = [0, 4095]
    file = tmp_path / f"model{MODEL_FORMATS[form]}"
    if form == "onnx":
        onnx_of(predictor, file)
    else:
        export_model(predictor, form, file, PICTURES)
    deep = (picture(77, 110, 4).astype(np.uint16) * 4095 // 255).astype(np.uint16)
    expected = predictor(deep).mask
    assert len(np.unique(expected)) > 1
    if form == "torch-export":
        labels, _ = torch.export.load(str(file)).module()(torch.from_numpy(deep[None].astype(np.float32)))
        found = labels[0].numpy()
    elif form == "onnx":
        session = pytest.importorskip("onnxruntime").InferenceSession(str(file))
        assert json.loads(session.get_modelmeta().custom_metadata_map["range"]) == [0, 4095]
        found = session.run(None, {"image": deep[None].astype(np.float32)})[0][0]
        assert (load(file, device="cpu")(deep).mask == found).all()
    else:
        found = load(file, device="cpu")(deep).mask
    assert (found != expected).mean() < (2e-3 if size else 1e-4)


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1)])
def test_padding_as_timm_pads(kernel, stride, dilation):
    layer = import_timm().layers.Conv2dSame(3, 4, kernel, stride=stride, dilation=dilation).eval()
    for height, width in ((9, 12), (10, 11), (12, 13), (11, 8)):
        images = torch.randn(2, 3, height, width)
        padded = _pad_same(images, layer.kernel_size, layer.stride, layer.dilation)
        found = nn.functional.conv2d(padded, layer.weight, layer.bias, layer.stride, 0, layer.dilation)
        assert torch.allclose(found, layer(images), atol=1e-6)


def test_relu6_is_a_clamp_while_it_is_followed():
    layers = nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU6(inplace=True)).eval()
    program = _export(layers, torch.rand(2, 3, 12, 14), free=(0,))
    called = {str(node.target) for node in program.graph.nodes}
    assert "aten.clamp.default" in called
    assert not any("hardtanh" in name for name in called)
    images = 9 * torch.randn(1, 3, 12, 14)
    assert torch.equal(program.module()(images), layers(images))
    assert "hardtanh" in nn.functional.hardtanh.__name__


def test_sides_stay_short_from_stage_to_stage_where_padding_depends_on_them():
    """Otherwise what is written of a side doubles with each stage, and following EfficientNet takes minutes."""
    stages = nn.Sequential(*(import_timm().layers.Conv2dSame(3, 3, 3, stride=2) for _ in range(4))).eval()
    program = _export(stages, torch.rand(2, 3, 65, 83), free=(0, 2, 3))
    sides = [str(side) for node in program.graph.nodes for side in getattr(node.meta.get("val"), "shape", ())]
    assert max(map(len, sides)) < 120
    images = torch.rand(1, 3, 90, 61)
    assert torch.allclose(program.module()(images), stages(images), atol=1e-6)


def test_every_model_is_tried():
    assert sorted(SMALL) == list_models()


@pytest.mark.parametrize("name", SMALL)
def test_exported_models_are_equal_at_sizes_that_no_stride_divides(name, tmp_path):
    predictor = built(name)
    exported = onnx_of(predictor, tmp_path / "model.onnx")
    for height, width in ((61, 75), (203, 149), (97, 235), (20, 33)):
        image = picture(height, width, height)
        expected, found = predictor(image, probabilities=True), exported(image, probabilities=True)
        assert len(np.unique(expected.mask)) > 1 or height < 40
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)
        assert np.mean(found.mask != expected.mask) < 1e-4


@pytest.mark.parametrize(
    "settings",
    [
        {"size": (90, 120)},
        {"size": 120, "flip": True, "scales": (1.0, 1.33)},
        {"scales": (1.365,)},
    ],
)
def test_what_a_recipe_does_before_and_after_the_network_is_inside(settings, tmp_path):
    predictor = built(**settings)
    exported = onnx_of(predictor, tmp_path / "model.onnx")
    for image in (picture(61, 75), picture(203, 149)):
        expected, found = predictor(image, probabilities=True), exported(image, probabilities=True)
        tolerance = 2e-2 if "size" in settings else 1e-5  # one in ten thousand resized values differs by one
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=tolerance)
        clear = np.ptp(np.sort(expected.probabilities, axis=0)[-2:], axis=0) > 2 * tolerance
        assert clear.mean() > 0.1
        assert np.mean((found.mask != predictor(image).mask) & clear) < 1e-3


def test_a_batch_is_predicted_at_once_and_metadata_say_what_it_is(tmp_path):
    predictor = built(flip=True)
    exported = onnx_of(predictor, tmp_path / "model.onnx")
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in predictor.model.modules())
    operations = {node.op_type for node in pytest.importorskip("onnx").load(tmp_path / "model.onnx").graph.node}
    assert "Conv" in operations
    assert "BatchNormalization" not in operations  # it is part of the weights
    images = np.stack([picture(75, 101, seed) for seed in range(3)])
    labels, probabilities = exported.run(images)
    assert labels.shape == (3, 75, 101)
    assert probabilities.shape == (3, 3, 75, 101)
    for image, mask in zip(images, labels):
        np.testing.assert_array_equal(mask, predictor(image).mask)
    among = exported(images[0], tags=["tree"], probabilities=True)
    np.testing.assert_array_equal(among.mask, predictor(images[0], tags=["tree"]).mask)
    np.testing.assert_allclose(among.probabilities, predictor.probabilities(images[0], tags=["tree"]), atol=1e-5)
    kept = exported._session.get_modelmeta().custom_metadata_map
    assert json.loads(kept["id2label"]) == {"0": "background", "1": "car", "2": "tree"}
    assert json.loads(kept["palette"]) == [list(colour) for colour in NAMES.palette]
    assert json.loads(kept["ignore_index"]) == 255
    assert json.loads(kept["image_mean"]) == [0.5, 0.4, 0.3]
    assert json.loads(kept["flip"]) is True
    assert exported.labels == NAMES
    assert [entry.name for entry in exported._session.get_inputs()] == ["image"]
    assert [entry.name for entry in exported._session.get_outputs()] == ["labels", "probabilities"]
    assert exported._session.get_inputs()[0].shape == ["batch", "height", "width", 3]


def test_torch_export_and_safetensors_give_what_the_model_gives(tmp_path):
    predictor = built("upernet", size=(75, 100))
    lines = export_model(predictor, "torch-export", tmp_path / "model.pt2", PICTURES)
    assert [line.partition(":")[0] for line in lines] == ["131x203", "119x61", "77x129"]
    kept = {"maskwright.json": ""}
    program = torch.export.load(str(tmp_path / "model.pt2"), extra_files=kept).module()
    for image in (picture(83, 51), picture(96, 128)):
        labels = program(torch.from_numpy(image[None]))[0][0].numpy()
        assert np.mean(labels != predictor(image).mask) < 5e-3  # where two classes are as likely
    assert json.loads(kept["maskwright.json"])["label2id"] == {"background": 0, "car": 1, "tree": 2}

    export_model(predictor, "safetensors", tmp_path / "model.safetensors", PICTURES)
    again = load(tmp_path / "model.safetensors", device="cpu")
    assert again.settings.size == (75, 100)
    np.testing.assert_array_equal(again(image).mask, predictor(image).mask)


def test_a_file_that_gives_something_else_is_not_left(tmp_path, monkeypatch):
    predictor = built()
    right = export.FORMATS["safetensors"]

    def wrong(path):
        applied = right.read(path)
        return lambda images: (applied(images)[0][:, ::-1], applied(images)[1])

    monkeypatch.setitem(export.FORMATS, "safetensors", right._replace(read=wrong))
    with pytest.raises(DataError, match=r"it gives something else than the model\. 131x203: labels equal at"):
        export_model(predictor, "safetensors", tmp_path / "model.safetensors", PICTURES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"window": (64, 64)}, "inference.window=none"),
        ({"crf": "deeplab"}, "inference.crf=none"),
        ({"size": 480}, "as in inference.size=360,480, or take format=onnx"),
        ({"scales": (1.0, 1.33)}, "as in inference.size=360,480, or take format=onnx"),
    ],
)
def test_what_no_graph_can_hold_is_refused_with_the_way_out(settings, words, tmp_path):
    with pytest.raises(RecipeError, match=words):
        export_model(built(**settings), "torch-export", tmp_path / "model.pt2", PICTURES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("forward", "error", "words"),
    [
        (lambda x: x[:, :3] * (2 if x.shape[2] == 7 else 1), DataError, r"model\.pt2 was not written"),
        (lambda x: x[:, :3] * (2 if x.sum() > 0 else 1), RecipeError, "Linear on steps cannot be exported for images"),
    ],
)
def test_a_network_that_asks_about_its_image_is_refused(forward, error, words, tmp_path):
    predictor = built("linear")
    predictor.model.classifier.forward = forward
    with pytest.raises(error, match=words):
        export_model(predictor, "torch-export", tmp_path / "model.pt2", PICTURES)
    assert list(tmp_path.iterdir()) == []


def test_formats_and_suffixes(tmp_path):
    with pytest.raises(RecipeError, match="Did you mean 'onnx'"):
        export_model(built(), "onx", tmp_path / "model.onnx", PICTURES)
    with pytest.raises(RecipeError, match=r"ends in \.onnx"):
        export_model(built(), "onnx", tmp_path / "model.pt", PICTURES)


@pytest.mark.parametrize("cells", [2, 3, 6])
@pytest.mark.parametrize("size", [(4, 5), (7, 3), (12, 6), (1, 2)])
def test_means_over_a_grid_are_those_of_adaptive_pooling(size, cells):
    features = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    by_matrices = _shares(size[0], cells, features) @ features @ _shares(size[1], cells, features).T
    torch.testing.assert_close(by_matrices, grid_means(features, cells))
    torch.testing.assert_close(by_matrices, nn.functional.adaptive_avg_pool2d(features, cells))


def test_sizes_round_in_whole_numbers_as_python_does():
    for numerator in range(60):
        for denominator in (1, 2, 3, 4, 7, 10):
            assert nearest(numerator, denominator) == round(numerator / denominator)
    assert scaled_size((101, 35), 0.5) == (50, 18)
    assert scaled_size((1, 100), 0.33) == (1, 33)
    assert seen_size(480, (333, 500)) == (320, 480)


def test_three_sizes_are_three_shapes():
    assert [image.shape[:2] for image in three_sizes([picture(960, 1280)])] == [(480, 640), (289, 385), (513, 385)]


def test_described_has_the_settings_that_the_file_is_applied_with():
    assert described(built(size=321))["recipe"] == {
        "name": "test", "inference": InferenceSettings(size=321).model_dump(mode="json")
    }  # fmt: skip


BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "timm"):
            raise ModuleNotFoundError(f"No module named {name}", name=name)

sys.meta_path.insert(0, Blocked())
from maskwright.__main__ import main
main()
"""


def test_an_exported_model_predicts_without_torch_what_the_run_predicts(tmp_path):
    """The command line in a process in which torch cannot be imported."""
    predictor = built("pspnet", size=100)
    onnx_of(predictor, tmp_path / "model.onnx")
    save_model(tmp_path / "run" / "segmenter" / "model.safetensors", predictor.model, described(predictor))
    for number, image in enumerate(PICTURES):
        path = tmp_path / "photos" / f"trip {number}" / "a.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(image).save(path)
    words = ["predict", "model.onnx", "photos", "out=exported", "probabilities=true"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path[1:]))}
    ended = subprocess.run(
        [sys.executable, "-c", BLOCKED, *words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert "3 predicted, 0 failed" in ended.stdout
    words = ["predict", tmp_path / "run", tmp_path / "photos", f"out={tmp_path / 'own'}", "device=cpu"]
    assert CliRunner().invoke(app, [*map(str, words), "probabilities=true"]).exit_code == 0
    files = [
        sorted(path.relative_to(tmp_path / out).as_posix() for path in (tmp_path / out).rglob("*") if path.is_file())
        for out in ("own", "exported")
    ]
    assert files[0] == files[1]
    for name in ("trip 0/a.png", "trip 1/a.png", "trip 2/a.png"):
        own, exported = (read_mask(tmp_path / out / "masks" / name) for out in ("own", "exported"))
        assert np.mean(own != exported) < 1e-2
    record = json.loads((tmp_path / "exported" / "masks" / "provenance.json").read_text())
    assert record["model"] == str((tmp_path / "model.onnx").resolve())


def test_what_an_exported_model_cannot_do_is_said(tmp_path):
    onnx_of(built("linear"), tmp_path / "model.onnx")
    run = CliRunner().invoke
    setting = run(app, ["predict", str(tmp_path / "model.onnx"), "x.jpg", "inference.flip=true"]).exception
    assert "is applied as it was exported" in str(setting.error if hasattr(setting, "error") else setting)
    with pytest.raises(RecipeError, match="is applied as it was exported"):
        load(tmp_path / "model.onnx", settings=InferenceSettings())
    with pytest.raises(RecipeError, match="onnxruntime computes on cpu"):
        load(tmp_path / "model.onnx", device="cuda")
    (tmp_path / "other.onnx").write_bytes(b"no model")
    with pytest.raises(DataError, match="is not an ONNX model that onnxruntime can run"):
        load(tmp_path / "other.onnx")
    with pytest.raises(DataError, match="does not exist"):
        load(tmp_path / "none.onnx")
