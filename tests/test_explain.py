"""Grad-CAM of segmenters: definition, layers, regions, and the command."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from typer.testing import CliRunner

from maskwright.cli import app
from maskwright.data.pictures import heatmap
from maskwright.data.sample import LabelSpace
from maskwright.engine.checkpoint import save_model
from maskwright.errors import DataError, RecipeError
from maskwright.inference.explain import evidence_maps, explain, explain_files
from maskwright.inference.predict import Predictor
from maskwright.models import create_model
from maskwright.report.pictures import strip
from maskwright.report.side_by_side import HEIGHT, explain_side_by_side
from maskwright.settings import InferenceSettings

torch.set_num_threads(1)

LABELS = LabelSpace(("background", "car", "tree"), palette=((0, 0, 0), (200, 10, 10), (10, 200, 10)))
BUILT = {"name": "deeplabv3", "backbone": "resnet10t", "output_stride": 16, "options": {"channels": 8, "rates": [1]}}
SWIN = {"depths": (1, 1, 1, 1), "embed_dim": 8, "num_heads": (1, 1, 1, 1)}


def build(name="deeplabv3", backbone="resnet10t", **options):
    torch.manual_seed(1)
    model = create_model(name, backbone=backbone, num_classes=3, **options).eval()
    for parameter in model.parameters():
        if parameter.ndim == 4:
            torch.nn.init.kaiming_normal_(parameter, nonlinearity="relu")
    return model


@pytest.fixture(scope="module")
def model():
    return build(output_stride=16, channels=8, rates=[1])


def images(batch=2, height=40, width=56):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(2))


def reference(model, images, value, mask):
    """Written out for DeepLabV3's last layer, in float64, one image at a time."""
    maps = []
    for image, pixels in zip(images, mask):
        with torch.no_grad():
            features = model.aspp(model.backbone(image[None])[-1])
        features.requires_grad_()
        logits = F.interpolate(model.classifier(features), size=image.shape[1:], mode="bilinear")
        (logits[0, value] * pixels).sum().backward()
        cam = (features.grad.mean((2, 3), keepdim=True) * features.detach()).sum(1, keepdim=True).relu()
        cam = cam / cam.max() if cam.max() > 0 else cam
        maps.append(F.interpolate(cam, size=image.shape[1:], mode="bilinear")[0, 0])
    return torch.stack(maps)


def test_is_its_definition(model):
    batch = images()
    labels = model.predict(batch)
    region = torch.zeros(2, 40, 56)
    region[0, 5:20, 10:30] = 1
    region[1, 20:, :9] = 1
    ones = torch.ones(2, 40, 56)
    for value in range(3):
        for given, mask in (("all", ones), ("predicted", (labels == value).float()), (region, region)):
            found = explain(model, batch, value, region=given)
            torch.testing.assert_close(found, reference(model, batch, value, mask), rtol=1e-4, atol=1e-5)
    together = explain(model, batch, [2, 0], region="predicted")
    assert together.shape == (2, 2, 40, 56)
    torch.testing.assert_close(together[:, 1], explain(model, batch, 0, region="predicted"))


def test_a_mask_of_one_image_counts_for_all(model):
    mask = torch.zeros(40, 56, dtype=torch.bool)
    mask[:9] = True
    torch.testing.assert_close(
        explain(model, images(), 1, region=mask), explain(model, images(), 1, region=mask.expand(2, -1, -1))
    )


def test_an_empty_region_gives_no_evidence(model):
    assert explain(model, images(), 1, region=torch.zeros(40, 56)).abs().sum() == 0


def test_any_named_layer(model):
    default = explain(model, images(), range(3))
    for layer in ("backbone.network.layer1", "backbone", "aspp.project.0"):
        found = explain(model, images(), range(3), layer=layer)
        assert found.shape == default.shape
        assert 0.5 < found.amax() <= 1
        assert not torch.allclose(found, default)
    torch.testing.assert_close(explain(model, images(), range(3), layer="aspp"), default)


def test_a_layer_before_one_that_works_in_place(model):
    """The map is that of the named layer, although the ReLU behind it overwrites its output."""
    seen = []
    layer = "aspp.project.1"  # batch normalisation; the ReLU that follows works in place
    handle = dict(model.named_modules())[layer].register_forward_hook(lambda m, i, o: seen.append(o.detach().clone()))
    explain(model, images(), 1, layer=layer)
    handle.remove()
    before = seen[0]
    assert (before < 0).any()
    features = before.requires_grad_()
    logits = F.interpolate(model.classifier(features.relu()), size=(40, 56), mode="bilinear")
    logits[:, 1].sum().backward()
    cam = (features.grad.mean((2, 3), keepdim=True) * features.detach()).sum(1, keepdim=True).relu()
    expected = F.interpolate(cam, size=(40, 56), mode="bilinear")[:, 0]
    torch.testing.assert_close(explain(model, images(), 1, layer=layer, normalised=False), expected)


@pytest.mark.parametrize(
    ("name", "backbone", "layer", "options"),
    [
        ("deeplabv2", "resnet10t", None, {}),
        ("upernet", "resnet10t", "laterals.0", {"channels": 8}),
        ("upernet", "swin_tiny_patch4_window7_224", "backbone.network.layers_1", {"backbone_options": SWIN}),
        ("ocrnet", "resnet10t", None, {}),
        ("seethrough", "resnet10t", None, {}),
        ("fcn", "swin_tiny_patch4_window7_224", None, {"channels": 8, "backbone_options": SWIN}),
    ],
)
def test_every_kind_of_model(name, backbone, layer, options):
    found = explain(build(name, backbone, **options), images(), [0, 1, 2], layer=layer)
    assert found.shape == (2, 3, 40, 56)
    assert torch.isfinite(found).all()
    assert 0.5 < found.amax() <= 1
    assert found.amin() >= 0


def test_default_layer_is_what_the_classifier_reads():
    model = build("ocrnet")
    widths = []
    handle = model.ocr.classifier.register_forward_pre_hook(lambda module, inputs: widths.append(inputs[0]))
    default = explain(model, images(), 1, normalised=False)
    handle.remove()
    weights = model.ocr.classifier.weight[1, :, 0, 0]
    expected = torch.einsum("c,bchw->bhw", weights, widths[0]).relu()
    expected = expected / expected.amax((1, 2), keepdim=True)
    expected = F.interpolate(expected[:, None], size=(40, 56), mode="bilinear")[:, 0]
    scaled = default / default.amax((1, 2), keepdim=True) * expected.amax((1, 2), keepdim=True)
    torch.testing.assert_close(scaled, expected, rtol=1e-3, atol=1e-4)


def test_leaves_the_model_as_it_was():
    model = build(output_stride=16, channels=8, rates=[1]).train()
    frozen = model.classifier.bias
    frozen.requires_grad_(False)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        explain(model, images(), 1)
    assert model.training
    assert [value.requires_grad for value in model.parameters()].count(False) == 1
    assert all(value.grad is None for value in model.parameters())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"layer": "aspp.projcet"}, RecipeError, "Did you mean 'aspp.project'"),
        ({"region": "predictd"}, RecipeError, "Did you mean 'predicted'"),
        ({"target_class": 3}, RecipeError, r"classes 0\.\.2, found \[3\]"),
        ({"region": torch.zeros(3, 4)}, DataError, r"must be \(40, 56\).*found \(3, 4\)"),
        ({"layer": "auxiliary_heads.heads.aux16"}, RecipeError, "does not run"),
    ],
)
def test_mistakes(arguments, error, message):
    model = build(output_stride=16, channels=8, rates=[1], auxiliary={"aux": [16]})
    with pytest.raises(error, match=message):
        explain(model, images(), **{"target_class": 1, **arguments})


def test_a_layer_of_tokens_is_refused():
    small = {"depth": 4, "embed_dim": 32, "num_heads": 2}
    model = build("fcn", "vit_tiny_patch16_224", channels=8, backbone_options=small)
    with pytest.raises(RecipeError, match=r"expected a feature map .*take 'backbone'"):
        explain(model, images(1, 32, 32), 1, layer="backbone.network.model.norm_pre")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"p{number}.png")
    return folder


def test_files(model, photos, tmp_path):
    predictor = Predictor(model, LABELS, InferenceSettings(size=(40, 56)))
    region = np.zeros((48, 64), np.uint8)
    region[10:30] = 1
    Image.fromarray(region).save(tmp_path / "region.png")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    done, failures = explain_files(
        predictor, [photos, broken], tmp_path / "out", classes="car, tree", region=str(tmp_path / "region.png")
    )
    assert len(done) == 4
    assert len(failures) == 1
    assert "broken.jpg" in failures[0]
    assert Image.open(tmp_path / "out/overlays/p0.car.jpg").size == (64, 48)
    maps = np.load(tmp_path / "out/maps/p1.npz")
    assert maps["keys"].tolist() == [1, 2]
    assert maps["cam"].shape == (2, 48, 64)
    records = json.loads((tmp_path / "out/explanations.json").read_text())
    assert [record["name"] for record in records] == ["p0", "p1"]
    assert records[0]["classes"] == ["car", "tree"]
    with pytest.raises(RecipeError, match=r"unknown class 'cart'\. Did you mean 'car'"):
        explain_files(predictor, [photos], tmp_path / "out", classes="cart")
    Image.fromarray(region[:9]).save(tmp_path / "small.png")
    _, failures = explain_files(
        predictor, [photos], tmp_path / "out", classes="car", region=str(tmp_path / "small.png")
    )
    assert len(failures) == 2
    assert r"(48, 64) as the image, found (9, 64)" in failures[0]


def test_command(model, photos, tmp_path):
    folder = tmp_path / "run"
    metadata = {
        "kind": "segmenter",
        "model": {**BUILT, "num_classes": 3},
        "labels": LABELS.to_dict(),
        "preprocessing": {"mean": list(model.mean), "std": list(model.std)},
        "recipe": {"name": "test"},
        "maskwright": "0.0",
    }
    save_model(folder / "segmenter" / "model.safetensors", model, metadata)
    command = ["explain", str(folder), str(photos / "p0.png"), "class=tree", "region=predicted", "layer=aspp"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert (folder / "explanations/overlays/p0.tree.jpg").is_file()
    record = json.loads((folder / "explanations/explanations.json").read_text())[0]
    assert (record["region"], record["layer"]) == ("predicted", "aspp")
    save_model(tmp_path / "model.safetensors", model, metadata)
    against = f"against={tmp_path / 'model.safetensors'}"
    result = CliRunner().invoke(app, ["explain", str(folder), str(photos / "p0.png"), "class=tree", against])
    assert result.exit_code == 0, result.output
    share = f"{100 * (Predictor(model, LABELS, InferenceSettings())(photos / 'p0.png').mask == 2).mean():.1f} %"
    assert f"p0: tree is predicted for {share} of the pixels in run, {share} of the pixels in" in result.output
    assert "1 picture in" in result.output
    assert (folder / "explanations/side_by_side/p0.jpg").is_file()
    result = CliRunner().invoke(app, ["explain", str(folder), str(photos), f"against={folder}"])
    assert "is named twice; give against= another run" in str(result.exception)
    result = CliRunner().invoke(app, ["explain", str(folder), str(photos), f"out={tmp_path / 'other'}"])
    assert result.exit_code == 0, result.output
    predicted = np.unique(Predictor(model, LABELS, InferenceSettings())(photos / "p1.png").mask)
    found = {path.name.split(".")[1] for path in (tmp_path / "other/overlays").glob("p1.*")}
    assert found == {LABELS.names[value] for value in predicted if value != 0}


def other_model():
    """Another network, whose labels have the classes in another order."""
    return build(output_stride=8, channels=16, rates=[2]), LabelSpace(("background", "tree", "car"))


def test_models_side_by_side(model, photos, tmp_path):
    second, labels = other_model()
    settings = InferenceSettings(size=(40, 56))
    predictors = {"first": Predictor(model, LABELS, settings), "second": Predictor(second, labels, settings)}
    done, said, failures = explain_side_by_side(predictors, [photos], tmp_path, classes="tree, car")
    assert failures == []
    assert done == [str(tmp_path / "side_by_side" / f"p{number}.jpg") for number in range(2)]
    pixels = np.asarray(Image.open(photos / "p0.png"))
    sheet = np.asarray(Image.open(done[0]), np.float32)
    rows, found = [], []
    masks = [predictor(pixels).mask for predictor in predictors.values()]
    for name in ("tree", "car"):
        values = [predictor.labels.value(name) for predictor in predictors.values()]
        maps = [
            evidence_maps(predictor, pixels, [value], "all", None)[0]
            for predictor, value in zip(predictors.values(), values, strict=True)
        ]
        found.append(np.abs(maps[0] - maps[1]).max())
        rows.append([None, pixels, *(heatmap(pixels, one) for one in maps)])
        where = [mask == value for mask, value in zip(masks, values, strict=True)]
        union = (where[0] | where[1]).sum()
        share = ", ".join(f"{100 * one.mean():.1f} % of the pixels in {title}" for title, one in zip(predictors, where))
        overlap = f", IoU {(where[0] & where[1]).sum() / union:.2f}" if union else ""
        assert f"p0: {name} is predicted for {share}{overlap}" in said
    assert max(found) > 0.1
    expected = np.asarray(strip(rows, ["", "image", *predictors], height=HEIGHT), np.float32)
    assert sheet.shape == expected.shape
    assert np.abs(sheet - expected)[:, 150:].mean() < 6  # a JPEG of noise
    with pytest.raises(RecipeError, match="unknown class 'house'"):
        explain_side_by_side(predictors, [photos], tmp_path, classes="house")


def test_a_class_that_one_model_lacks_is_not_compared(model, photos, tmp_path):
    second = other_model()[0]
    predictors = {
        "first": Predictor(model, LABELS, InferenceSettings()),
        "second": Predictor(second, LabelSpace(("background", "car", "house")), InferenceSettings()),
    }
    with pytest.raises(RecipeError, match="unknown class 'tree'"):
        explain_side_by_side(predictors, [photos], tmp_path, classes="tree")
    _, said, _ = explain_side_by_side(predictors, [photos], tmp_path)
    shown = {line.split()[1] for line in said}
    assert shown <= {"car"}
