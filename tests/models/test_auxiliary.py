"""Auxiliary heads on feature maps of any model."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from maskwright.data.sample import LabelSpace
from maskwright.engine.checkpoint import save_model
from maskwright.errors import RecipeError
from maskwright.inference.load import load
from maskwright.losses import create_loss
from maskwright.models import create_model, list_models
from maskwright.settings import LossSettings

from .contract import BACKBONES, CLASSES, ModelContract, backbone  # noqa: F401

LABELS = LabelSpace(("a", "b", "c", "d", "e"))


@pytest.mark.slow  # what is special about the heads is tested below; this is all the rest
class TestWithAuxiliary(ModelContract):
    name = "deeplabv3plus"
    options: ClassVar = {"decoder_channels": 16, "low_level_channels": 8, "auxiliary": {"aux": [-2], "cpp": [-1, -2]}}
    auxiliary = ("aux.-2", "cpp.-1", "cpp.-2")


def make(auxiliary, backbone="resnet18", **options):  # noqa: F811
    torch.manual_seed(0)
    return create_model(
        "deeplabv3plus",
        num_classes=CLASSES,
        decoder_channels=16,
        backbone=backbone,
        auxiliary=auxiliary,
        **{**BACKBONES[backbone], **options},
    )


def test_every_kind_of_backbone_takes_them(backbone):  # noqa: F811
    model = make({"aux": [-2], "cpp": [-1, -2]}, backbone).train()
    outputs = model(torch.randn(2, 3, 64, 64), auxiliary=True)
    sum(value.square().sum() for value in outputs.values()).backward()
    assert [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None] == []
    assert {"aux.-2", "cpp.-1", "cpp.-2"} < set(outputs)


@torch.no_grad()
def test_sizes_and_channels_are_those_of_the_map():
    model = make({"aux": [16], "cpp": [8, 16, -1], "nearest": [8]}).eval()
    outputs = model(torch.randn(1, 3, 65, 97), auxiliary=True)
    assert {name: tuple(value.shape[1:]) for name, value in outputs.items()} == {
        "logits": (5, 65, 97),
        "aux.16": (5, 5, 7),
        "cpp.8": (6, 9, 13),
        "cpp.16": (6, 5, 7),
        "cpp.-1": (6, 5, 7),
        "nearest.8": (5, 9, 13),
    }
    model = make({"cpp": [8]}, auxiliary_options={"cpp_ignore": "renormalise"}).eval()
    assert model(torch.randn(1, 3, 64, 64), auxiliary=True)["cpp.8"].shape[1] == 5


@torch.no_grad()
def test_inference_does_not_compute_them():
    model = make({"aux": [16], "cpp": [8]}).eval()
    calls = []
    for head in model.auxiliary_heads.heads.values():
        head.register_forward_hook(lambda *_: calls.append(1))
    images = torch.randn(1, 3, 64, 64)
    plain = make({}).eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("auxiliary_heads.")})
    assert torch.equal(model(images), plain(images))
    assert torch.equal(model.predict(images), plain.predict(images))
    assert calls == []
    model(images, auxiliary=True)
    assert len(calls) == 2


def test_losses_find_them_and_reach_the_map():
    model = make({"aux": [16], "cpp": [4, 8]}).train()
    criterion = create_loss(LossSettings(auxiliary={"aux": 0.4, "cpp": 1.0}), LABELS)
    labels = torch.randint(0, CLASSES, (2, 64, 64))
    labels[0, :20] = 255
    loss, parts = criterion(model(torch.randn(2, 3, 64, 64), auxiliary=True), labels)
    assert set(parts) == {"main", "aux", "cpp"}
    torch.testing.assert_close(loss, parts["main"] + 0.4 * parts["aux"] + parts["cpp"], check_dtype=False)
    model.zero_grad()
    parts_only = create_loss(LossSettings(auxiliary={"cpp": 1.0}), LABELS)
    loss, _ = parts_only(model(torch.randn(2, 3, 64, 64), auxiliary=True), labels)
    loss.backward()
    assert all(value.grad is not None for name, value in model.named_parameters() if ".cpp" in name)


def test_renormalised_heads_get_the_loss_that_fits():
    """The head's channels say how ignored pixels are meant, so the loss needs no setting of its own."""
    labels = torch.full((1, 64, 64), 255)
    labels[:, :32] = 1
    for mode, zero in (("renormalise", True), ("channel", False)):
        model = make({"cpp": [8]}, auxiliary_options={"cpp_ignore": mode}).train()
        outputs = model(torch.randn(1, 3, 64, 64), auxiliary=True)
        outputs["cpp.8"].retain_grad()
        loss, _ = create_loss(LossSettings(auxiliary={"cpp": 1.0}), LABELS)(outputs, labels)
        loss.backward()
        ignored = outputs["cpp.8"].grad[:, :, 4:]
        assert bool((ignored == 0).all()) is zero


def test_hrnet_branch_that_only_an_auxiliary_head_reads_is_trained():
    model = make({}, "hrnet_w18_small")
    frozen = [name for name, value in model.named_parameters() if not value.requires_grad]
    assert frozen
    model.add_auxiliary({"cpp": [8, 16]})
    frozen = [name for name, value in model.named_parameters() if not value.requires_grad]
    assert frozen == []


@pytest.mark.parametrize(
    ("auxiliary", "options", "message"),
    [
        ({"cp": [8]}, {}, "cpp"),
        ({"cpp": [5]}, {}, r"feature map 5: .*strides \[2, 4, 8, 16, 16\]"),
        ({"aux": [-6]}, {}, "-1 .*to -5"),
        ({"cpp": [8]}, {"cpp_ignore": "both"}, "channel or renormalise, found 'both'"),
        ({"cpp": [8]}, {"width": 3}, "auxiliary_options=.*width"),
    ],
)
def test_wrong_names_are_explained(auxiliary, options, message):
    with pytest.raises(RecipeError, match=message):
        make(auxiliary, auxiliary_options=options)


@torch.no_grad()
def test_a_saved_model_comes_back_with_them(tmp_path):
    options = {"decoder_channels": 16, "auxiliary": {"aux": [16], "cpp": [8, -1]}}
    torch.manual_seed(0)
    model = create_model("deeplabv3plus", backbone="resnet10t", num_classes=CLASSES, output_stride=16, **options).eval()
    described = {"name": "deeplabv3plus", "backbone": "resnet10t", "output_stride": 16, "options": options}
    metadata = {
        "kind": "segmenter",
        "model": {**described, "num_classes": CLASSES},
        "labels": LABELS.to_dict(),
        "preprocessing": {"mean": list(model.mean), "std": list(model.std)},
        "recipe": {},
        "maskwright": "0.0",
    }
    save_model(tmp_path / "model.safetensors", model, metadata)
    loaded = load(tmp_path, device="cpu").model
    images = torch.randn(1, 3, 64, 64)
    expected, found = (network(images, auxiliary=True) for network in (model, loaded))
    assert set(found) == {"logits", "aux.16", "cpp.8", "cpp.-1"}
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("name", list_models())
def test_every_model_takes_them(name):
    """The paper did it on seven segmenters."""
    torch.manual_seed(0)
    trunk = {"backbone": "resnet10t", "output_stride": 16}
    own = name == "seethrough"  # has such heads as a part of itself
    model = create_model(name, num_classes=CLASSES, auxiliary={} if own else {"cpp": [8, 16]}, **trunk).train()
    outputs = model(torch.randn(2, 3, 64, 64), auxiliary=True)
    assert {"cpp.8", "cpp.16"} < set(outputs)
    assert {outputs["cpp.8"].shape, outputs["cpp.16"].shape} == {(2, 6, 8, 8), (2, 6, 4, 4)}
    labels = torch.randint(0, CLASSES, (2, 64, 64))
    loss, _ = create_loss(LossSettings(auxiliary={"cpp": 1.0}), LABELS)(outputs, labels)
    loss.backward()
    assert all(value.grad is not None for part, value in model.named_parameters() if ".cpp" in part)
