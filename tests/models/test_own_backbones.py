"""ResNet-38 and the dilated VGG16: layer by layer, their weights from local files, what is frozen, wrong settings."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from maskwright.errors import RecipeError
from maskwright.models import create_backbone, create_classifier, create_model, layers, vgg16
from maskwright.models.backbones import import_timm

torch.set_num_threads(1)
SMALL = {"width": 1 / 16}
IMAGES = torch.randn(2, 3, 37, 50, generator=torch.Generator().manual_seed(0))


def lively(name, **options):
    """A small backbone with weights and running statistics that are not those of a new one."""
    torch.manual_seed(1)
    backbone = create_backbone(name, **{**SMALL, **options}).eval()
    for key, value in backbone.state_dict().items():
        if "bn" in key and value.is_floating_point():
            value.uniform_(0.5, 1.5)
        elif key.endswith("bias"):
            value.uniform_(-0.5, 0.5)
    return backbone


def norm(state, key, x):
    names = ("running_mean", "running_var", "weight", "bias")
    return F.batch_norm(x, *(state[f"{key}.{name}"] for name in names)).relu()


def plain_resnet38(state, x):
    """The network as its papers and their code have it, from a file's tensors alone."""

    def conv(key, x, dilation=1, stride=1):
        weight = state[f"{key}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=dilation * (weight.shape[2] // 2), dilation=dilation)

    def block(key, x, stride=1, first=1, second=1):
        inside = norm(state, f"{key}.bn_branch2a", x)
        shortcut = conv(f"{key}.conv_branch1", inside, stride=stride) if f"{key}.conv_branch1.weight" in state else x
        y = conv(f"{key}.conv_branch2a", inside, first, stride)
        y = conv(f"{key}.conv_branch2b1", norm(state, f"{key}.bn_branch2b1", y), second)
        if f"{key}.bn_branch2b2.weight" in state:
            y = conv(f"{key}.conv_branch2b2", norm(state, f"{key}.bn_branch2b2", y))
        return y + shortcut, inside

    x = conv("conv1a", x)
    for stage, repeats in ((2, 2), (3, 2), (4, 5)):
        x, _ = block(f"b{stage}", x, stride=2)
        for index in range(1, repeats + 1):
            x, _ = block(f"b{stage}_{index}", x)
    x, conv4 = block("b5", x, first=1, second=2)
    x, _ = block("b5_1", x, first=2, second=2)
    x, _ = block("b5_2", x, first=2, second=2)
    x, conv5 = block("b6", x, second=4)
    x, _ = block("b7", x, second=4)
    return [conv4, conv5, norm(state, "bn7", x)]


@torch.no_grad()
def test_resnet38_is_the_papers():
    backbone = lively("resnet38")
    assert backbone.channels == [32, 64, 256]
    for found, expected in zip(backbone(IMAGES), plain_resnet38(backbone.state_dict(), IMAGES), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_resnet38_at_full_width():
    with torch.device("meta"):
        backbone = create_backbone("resnet38")
        maps = backbone(torch.zeros(1, 3, 65, 97))
    assert [tuple(value.shape) for value in maps] == [(1, 512, 9, 13), (1, 1024, 9, 13), (1, 4096, 9, 13)]
    names = {key for key, value in backbone.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert {"conv1a.weight", "b2.bn_branch2a.running_var", "b4_5.conv_branch2b1.weight", "bn7.bias"} <= names
    assert backbone.state_dict()["b7.conv_branch2b2.weight"].shape == (4096, 2048, 1, 1)
    assert [module.p for module in backbone.modules() if isinstance(module, torch.nn.Dropout2d)] == [0.3, 0.3, 0.5, 0.5]


@torch.no_grad()
@pytest.mark.parametrize(("stride", "dilation"), [(8, 2), (16, 1)])
def test_vgg16_is_deeplabs(stride, dilation):
    backbone = lively("vgg16", output_stride=stride, large_fov=True)
    state, x, maps = backbone.state_dict(), IMAGES, []
    for stage, numbers in enumerate([(0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)]):
        if stage:
            x = F.max_pool2d(x, 3, 1 if stage == 4 and stride == 8 else 2, padding=1)
        step = dilation if stage == 4 else 1
        for number in numbers:
            weight, bias = state[f"features.{number}.weight"], state[f"features.{number}.bias"]
            x = F.conv2d(x, weight, bias, padding=step, dilation=step).relu()
        maps.append(x)
    plain = create_backbone("vgg16", **SMALL, output_stride=stride).eval()
    plain.load_state_dict({key: value for key, value in state.items() if key.startswith("features.")})
    for found, expected in zip(plain(IMAGES), maps, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    x = F.avg_pool2d(F.max_pool2d(x, 3, 1, padding=1), 3, 1, padding=1)
    reach = 6 * dilation
    x = F.conv2d(x, state["fc6.weight"], state["fc6.bias"], padding=reach, dilation=reach).relu()
    maps[-1] = F.conv2d(x, state["fc7.weight"], state["fc7.bias"]).relu()
    for found, expected in zip(backbone(IMAGES), maps, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def public(backbone, head):
    """What a public file holds: no counters, and a head."""
    state = {key: value.clone() for key, value in backbone.state_dict().items() if "num_batches" not in key}
    return {**state, head: torch.zeros(3, 4)}


HEADS = {"resnet38": "fc8.weight", "vgg16": "pre_logits.fc1.weight"}


@pytest.mark.parametrize("form", ["bare", "module.", "safetensors"])
@pytest.mark.parametrize("name", HEADS)
def test_public_weights(tmp_path, name, form):
    given = lively(name)
    state = public(given, HEADS[name])
    path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pth")
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save(state if form == "bare" else {"state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    loaded = create_backbone(name, **SMALL, pretrained=str(path)).eval()
    assert all(torch.equal(value, given.state_dict()[key]) for key, value in loaded.state_dict().items())
    grey = create_backbone(name, **SMALL, pretrained=str(path), in_channels=1).eval()
    assert len(grey.mean) == len(grey.std) == 1
    with torch.no_grad():
        ones = IMAGES[:, :1]
        torch.testing.assert_close(grey(ones)[-1], loaded(ones.expand(-1, 3, -1, -1))[-1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", HEADS)
def test_backbone_of_a_model_that_maskwright_saved(tmp_path, name):
    model = create_classifier(backbone=name, num_tags=3, output_stride=8, **SMALL)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    loaded = create_backbone(name, **SMALL, pretrained=str(tmp_path / "model.safetensors")).state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in model.backbone.state_dict().items())


def test_vgg16s_new_layers_may_be_missing_in_a_file(tmp_path):
    given = lively("vgg16")
    torch.save(public(given, "classifier.0.weight"), tmp_path / "weights.pth")
    loaded = create_backbone("vgg16", **SMALL, pretrained=str(tmp_path / "weights.pth"), large_fov=True).state_dict()
    assert torch.equal(loaded["features.28.bias"], given.state_dict()["features.28.bias"])
    assert loaded["fc6.weight"].any()


def test_vgg16_takes_timms_weights_where_they_can_be_had(monkeypatch):
    given = lively("vgg16")
    timm = import_timm()

    class Full(torch.nn.Module):
        def state_dict(self):
            return public(given, "head.fc.weight")

    asked, finished = [], []

    def find(timm, *arguments):
        asked.append(arguments)
        return {"a": 1}, {"name": "timm's"}, finished.append

    monkeypatch.setattr(inspect.getmodule(vgg16), "find_weights", find)
    monkeypatch.setattr(timm, "create_model", lambda name, **options: asked.append((name, options)) or Full())
    backbone = create_backbone("vgg16", **SMALL, pretrained=True)
    loaded = backbone.state_dict()
    assert isinstance(finished[0], Full)
    assert backbone.pretrained_weights == {"name": "timm's"}
    assert asked == [("vgg16", "", True), ("vgg16", {"a": 1})]
    assert all(torch.equal(value, given.state_dict()[key]) for key, value in loaded.items())


@pytest.mark.parametrize("name", HEADS)
def test_wrong_files_are_refused(tmp_path, name):
    path = tmp_path / "weights.pth"
    state = public(lively(name), HEADS[name])
    torch.save({f"encoder.{key}": value for key, value in state.items()}, path)
    with pytest.raises(RecipeError, match=r"weights for only 0 of the \d+ .*the file holds for example encoder\."):
        create_backbone(name, **SMALL, pretrained=str(path))
    torch.save({key: value[:1] for key, value in state.items()}, path)
    with pytest.raises(RecipeError, match=rf"weights\.pth do not fit {name}: .* is \(1,"):
        create_backbone(name, **SMALL, pretrained=str(path))
    with pytest.raises(RecipeError, match=r"missing\.pth does not exist"):
        create_backbone(name, **SMALL, pretrained=str(tmp_path / "missing.pth"))


def test_resnet38_has_nothing_to_download():
    with pytest.raises(RecipeError, match=r"no weights of resnet38 to download.*pretrained=FILE"):
        create_backbone("resnet38", **SMALL, pretrained=True)


def frozen(module):
    return {name.split(".")[0] for name, value in module.named_parameters() if not value.requires_grad}


def test_stems_can_be_frozen(tmp_path):
    model = create_classifier(backbone="resnet38", num_tags=2, output_stride=8, freeze_stem=True, **SMALL)
    assert frozen(model.backbone) == {"conv1a", "b2", "b2_1", "b2_2"}
    model = create_classifier(backbone="vgg16", num_tags=2, output_stride=8, freeze_stem=True, **SMALL)
    weights = {name for name, value in model.backbone.named_parameters() if not value.requires_grad}
    assert weights == {f"features.{number}.{part}" for number in (0, 2) for part in ("weight", "bias")}
    torch.save(public(lively("resnet38"), "fc8.weight"), tmp_path / "weights.pth")
    model = create_classifier(
        backbone="resnet38", num_tags=2, output_stride=8, pretrained=str(tmp_path / "weights.pth"), **SMALL
    )
    assert "conv1a" in frozen(model.backbone)


def test_stages_up_to_stride_8_can_be_frozen():
    backbone = create_backbone("resnet38", **SMALL)
    layers.freeze_stages(backbone, stride=8)
    trained = {name for name, _ in backbone.named_children()} - frozen(backbone)
    assert trained == {"b5", "b5_1", "b5_2", "b6", "b7", "bn7"}
    backbone = create_backbone("vgg16", **SMALL, large_fov=True)
    layers.freeze_stages(backbone, stride=4)
    weights = [name for name, value in backbone.named_parameters() if not value.requires_grad]
    assert weights[-1] == "features.14.bias"


def test_resnet38s_norms_can_be_frozen():
    backbone = create_backbone("resnet38", **SMALL, freeze_norm=True)
    for name, value in backbone.named_parameters():
        assert value.requires_grad == (".bn_" not in name and not name.startswith("bn7"))


def test_dropout_is_for_training():
    for name, options in {"resnet38": {}, "vgg16": {"large_fov": True}}.items():
        backbone = lively(name, **options)
        with torch.no_grad():
            assert torch.equal(backbone(IMAGES)[-1], backbone(IMAGES)[-1])
            layers.freeze_batchnorm(backbone.train())
            assert not torch.equal(backbone(IMAGES)[-1], backbone(IMAGES)[-1])


@pytest.mark.parametrize("name", HEADS)
def test_gradients_reach_every_weight_of_a_classifier_and_a_segmenter(name):
    torch.manual_seed(0)
    for model in (
        create_classifier(backbone=name, num_tags=2, output_stride=8, **SMALL),
        create_model("deeplabv2", backbone=name, num_classes=3, backbone_options=SMALL),
    ):
        model(IMAGES).square().sum().backward()
        for key, value in model.named_parameters():
            assert value.grad is not None, key
            assert torch.isfinite(value.grad).all()
            assert value.grad.any(), key


def test_wrong_settings_say_so():
    with pytest.raises(RecipeError, match=r"resnet38 has output stride 8 only, found output_stride=16"):
        create_classifier(backbone="resnet38", num_tags=2)
    with pytest.raises(RecipeError, match=r"vgg16 has output stride 8 or 16, found output_stride=32"):
        create_backbone("vgg16", output_stride=32)
    with pytest.raises(RecipeError, match=r"option of backbone vgg16.*large_fov"):
        create_backbone("vgg16", large_fow=True)
