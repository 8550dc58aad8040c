"""Weights made in the test: local files in every form, and downloads that fail early."""

import time

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from maskwright.errors import RecipeError
from maskwright.models import create_backbone, create_classifier, pretrained
from maskwright.models.backbones import import_timm

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
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    loaded = create_backbone("convnext_atto", pretrained=str(tmp_path / "model.safetensors")).state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in model.backbone.state_dict().items())
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
