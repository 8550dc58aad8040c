"""Weights made in the test: local files in every form, and downloads that fail early."""

import os
import sys
import time

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from maskwright import load
from maskwright.engine.checkpoint import save_model
from maskwright.errors import DataError, RecipeError
from maskwright.models import create_backbone, create_classifier, create_model, pretrained
from maskwright.models.backbones import import_timm
from maskwright.models.classifier import load_classifier
from maskwright.models.irnet import load_irnet

torch.set_num_threads(1)
CONV = "network.layer4.1.conv2.weight"


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(3)
    network = import_timm().create_model("resnet18", num_classes=7)
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.01)
    return {key: value.clone() for key, value in network.state_dict().items()}


@pytest.mark.parametrize("form", ["bare", "state_dict", "model", "module.", "safetensors"])
def test_local_file(tmp_path, state, form):
    path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pth")
    if form == "safetensors":
        save_file(state, path)
    elif form == "bare":
        torch.save(state, path)
    elif form == "module.":
        torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}, path)
    else:
        torch.save({form: state}, path)
    loaded = create_backbone("resnet18", pretrained=str(path), output_stride=16).state_dict()
    for key, value in loaded.items():
        assert torch.equal(value, state[key.removeprefix("network.")]), key


def test_stem_is_adapted_to_other_channels(tmp_path, state):
    torch.save(state, tmp_path / "weights.pth")
    loaded = create_backbone("resnet18", pretrained=str(tmp_path / "weights.pth"), in_channels=1).state_dict()
    torch.testing.assert_close(loaded["network.conv1.weight"], state["conv1.weight"].sum(1, keepdim=True))


def test_backbone_of_a_model_that_maskwright_saved(tmp_path):
    model = create_classifier(backbone="convnext_atto", num_tags=3, output_stride=None)
    own = model.backbone.state_dict()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    loaded = create_backbone("convnext_atto", pretrained=str(tmp_path / "model.safetensors")).state_dict()
    same = {key.replace(".stem.", ".stem_").replace(".stages.", ".stages_"): key for key in own}
    assert same.keys() == loaded.keys()
    assert all(torch.equal(own[other], loaded[key]) for key, other in same.items())
    with pytest.raises(RecipeError, match=r"the backbone saved in .*model\.safetensors is another one"):
        create_backbone("resnet18", pretrained=str(tmp_path / "model.safetensors"))


def test_renamed_layers_are_found(tmp_path):
    """A flattened timm network has other names than the file; it is compared by content."""
    network = import_timm().create_model("convnext_atto")
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    loaded = create_backbone("convnext_atto", pretrained=str(tmp_path / "weights.pth")).state_dict()
    assert torch.equal(loaded["network.stages_0.blocks.0.conv_dw.weight"], network.stages[0].blocks[0].conv_dw.weight)


def test_wrong_files_are_refused(tmp_path, state):
    torch.save({f"encoder.{key}": value for key, value in state.items()}, tmp_path / "names.pth")
    with pytest.raises(RecipeError, match=r"weights for only 0 of the 20 layers.*encoder\.conv1\.weight"):
        create_backbone("resnet18", pretrained=str(tmp_path / "names.pth"))
    torch.save({key: value[:2] if value.ndim else value for key, value in state.items()}, tmp_path / "shapes.pth")
    with pytest.raises(RecipeError, match="the weights do not fit resnet18"):
        create_backbone("resnet18", pretrained=str(tmp_path / "shapes.pth"))
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(RecipeError, match=r"text\.pth cannot be read as weights"):
        create_backbone("resnet18", pretrained=str(tmp_path / "text.pth"))
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(RecipeError, match=r"text\.safetensors cannot be read as weights"):
        create_backbone("resnet18", pretrained=str(tmp_path / "text.safetensors"))
    with pytest.raises(RecipeError, match=r"missing\.pth does not exist"):
        create_backbone("resnet18", pretrained=str(tmp_path / "missing.pth"))


class Payload:
    """What runs code where a file is taken for a pickle."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def code_file(path, target, oldest_format=False):
    torch.save(
        {"state_dict": {"conv1.weight": torch.zeros(1)}, "extra": Payload(target)},
        path,
        _use_new_zipfile_serialization=not oldest_format,
    )
    return str(path)


@pytest.fixture
def careless_timm(monkeypatch):
    """The releases of timm before 1.0.26: whoever does not ask for weights alone gets whatever the file holds."""
    timm = import_timm()
    ours = timm.models.load_state_dict

    def load_state_dict(path, *arguments, weights_only=False, **others):
        return ours(path, *arguments, weights_only=weights_only, **others)

    monkeypatch.setattr(timm.models, "load_state_dict", load_state_dict)


@pytest.mark.parametrize("oldest_format", [False, True])
@pytest.mark.parametrize("backbone", ["resnet18", "vgg16"])
def test_a_file_that_would_run_code_is_refused_in_our_words(tmp_path, careless_timm, backbone, oldest_format):
    path = code_file(tmp_path / "code.pth", tmp_path / "ran", oldest_format)
    with pytest.raises(RecipeError, match=r"code\.pth cannot be read as weights: .*could run code") as caught:
        create_backbone(backbone, pretrained=path)
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_code_in_a_hub_repository_is_refused_in_our_words(tmp_path, monkeypatch):
    path = code_file(tmp_path / "pytorch_model.bin", tmp_path / "ran")
    monkeypatch.setattr(pretrained, "_why_not", lambda *_: "")
    hub = sys.modules["timm.models._hub"]
    monkeypatch.setattr(hub, "hf_hub_download", lambda *_, **__: path)
    monkeypatch.setattr(hub, "_get_safe_alternatives", lambda *_: [])
    with pytest.raises(RecipeError, match="could run code") as caught:
        create_backbone("resnet18", pretrained="hf-hub:owner/repository")
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


SOURCES = ("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")


@pytest.mark.parametrize("option", SOURCES)
@pytest.mark.parametrize("backbone", ["resnet18", "vgg16"])
def test_options_cannot_say_where_weights_come_from(backbone, option):
    with pytest.raises(RecipeError, match=rf"{option} is no option of a backbone: only pretrained= says"):
        create_model("fcn", backbone=backbone, num_classes=2, backbone_options={option: "file.pth"})
    if option != "pretrained":
        with pytest.raises(RecipeError, match=f"{option} is no option of a backbone"):
            create_backbone(backbone, **{option: "file.pth"})


@pytest.mark.parametrize("option", SOURCES)
@pytest.mark.parametrize(
    ("kind", "opened"), [("segmenter", load), ("classifier", load_classifier), ("irnet", load_irnet)]
)
def test_a_model_file_cannot_have_another_file_opened(tmp_path, kind, opened, option):
    made = {"name": "fcn", "backbone": "resnet10t", "num_classes": 2, "num_tags": 1, "output_stride": None}
    options = {option: str(tmp_path / "other.pth")}
    made["options"] = {"backbone_options": options} if kind == "segmenter" else options
    path = tmp_path / "model.safetensors"
    save_model(
        path, torch.nn.Linear(1, 1), {"kind": kind, "model": made, "labels": {}, "preprocessing": {}, "recipe": {}}
    )
    with pytest.raises(DataError, match=rf"model\.safetensors: its header sets {option}"):
        opened(path)


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("weights", [True, "a1_in1k", "hf-hub:owner/repository"])
def test_no_network_fails_fast(empty_cache, weights):
    start = time.perf_counter()
    with pytest.raises(RecipeError, match=r"resnet18 cannot be downloaded: .*127\.0\.0\.1.*pretrained=FILE"):
        create_backbone("resnet18", pretrained=weights)
    assert time.perf_counter() - start < 15


def test_forbidden_downloads_fail_at_once(empty_cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(RecipeError, match="HF_HUB_OFFLINE forbids downloads"):
        create_backbone("resnet18.a1_in1k", pretrained=True)


def test_silent_server_is_not_waited_for(monkeypatch):
    def silent(*_, **__):
        time.sleep(1)
        raise TimeoutError

    monkeypatch.setattr(pretrained.urllib.request, "urlopen", silent)
    start = time.perf_counter()
    assert pretrained._why_unreachable("http://127.0.0.1:9", seconds=0.2) == "no answer in 0.2 s"
    assert time.perf_counter() - start < 0.9


def test_architecture_without_weights():
    with pytest.raises(RecipeError, match="unknown backbone"):
        create_backbone("resnet50_clip_gap_nothing", pretrained=True)
    with pytest.raises(RecipeError, match="timm has no weights for efficientnet_b6"):
        create_backbone("efficientnet_b6", pretrained=True)
