import pytest
import torch
from torch import nn

from maskwright.errors import RecipeError
from maskwright.models import create_classifier, create_model, list_models
from maskwright.models.base import SegmentationModel, parameter_groups, resize_argmax
from maskwright.models.layers import freeze_batchnorm, resize
from maskwright.settings import TrainSettings


@pytest.mark.parametrize("classes", [1, 3, 21, 300])
@pytest.mark.parametrize("size", [(65, 97), (9, 12), (5, 7)])
def test_resize_argmax_is_the_plain_form(classes, size):
    logits = torch.randn(2, classes, 9, 12, generator=torch.Generator().manual_seed(classes))
    for layout in (torch.contiguous_format, torch.channels_last):
        labels = resize_argmax(logits.contiguous(memory_format=layout), size)
        assert torch.equal(labels, resize(logits, size).argmax(1))


def test_resize_argmax_gives_ties_to_the_first_class():
    assert resize_argmax(torch.zeros(1, 9, 3, 3), (7, 7)).max() == 0


def test_head_must_be_implemented():
    with pytest.raises(NotImplementedError, match="SegmentationModel must implement head"):
        SegmentationModel(create_classifier(backbone="resnet18", num_tags=1).backbone, 2)(torch.zeros(1, 3, 32, 32))


def test_unknown_names():
    assert "deeplabv3plus" in list_models()
    with pytest.raises(RecipeError, match="Did you mean 'deeplabv3plus'"):
        create_model("deeplabv3pls", num_classes=2)
    with pytest.raises(RecipeError, match=r"unknown option of deeplabv3plus.*'decoder_channels'"):
        create_model("deeplabv3plus", num_classes=2, decoder_chanels=3)
    with pytest.raises(RecipeError, match="unknown option"):
        create_model("deeplabv3plus", num_classes=2, dilate=False)


def groups_of(model, **settings):
    found = parameter_groups(model, TrainSettings(lr=0.1, weight_decay=0.01, **settings))
    return {group["name"]: group for group in found}


def test_parameter_groups_hold_every_trained_parameter_once():
    model = create_model("deeplabv3plus", num_classes=2, decoder_channels=8)
    model.reduce.requires_grad_(False)
    groups = groups_of(model, backbone_lr=0.1, bias_lr=2.0, decay_norm_and_bias=False)
    held = [id(parameter) for group in groups.values() for parameter in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert groups["backbone"]["lr"] == pytest.approx(0.01)
    assert groups["backbone"]["weight_decay"] == pytest.approx(0.01)
    assert groups["backbone bias no decay"]["lr"] == pytest.approx(0.02)
    assert groups["head"]["lr"] == pytest.approx(0.1)
    assert groups["head bias no decay"]["lr"] == pytest.approx(0.2)
    assert groups["head no decay"]["weight_decay"] == 0
    assert all(parameter.ndim > 1 for parameter in groups["head"]["params"])
    torch.optim.SGD(list(groups.values()))


def test_a_backbone_that_does_not_learn_gets_no_gradient():
    model = create_classifier(backbone="resnet18", num_tags=3)
    assert set(groups_of(model, backbone_lr=0)) == {"head"}
    model(torch.rand(1, 3, 32, 32)).sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {"classifier.weight"}


def test_parameter_groups_decay_everything_when_asked():
    groups = groups_of(create_classifier(backbone="resnet18", num_tags=3), backbone_lr=0.1)
    assert set(groups) == {"backbone", "backbone bias", "head"}
    assert {group["weight_decay"] for group in groups.values()} == {0.01}


def test_position_tables_are_not_decayed():
    options = {"depths": (1, 1, 1, 1), "embed_dim": 16, "num_heads": (1, 2, 4, 8)}
    model = create_classifier(backbone="swin_tiny_patch4_window7_224", num_tags=2, output_stride=32, **options)
    names = {id(value): name for name, value in model.named_parameters()}
    undecayed = {names[id(p)] for p in groups_of(model, decay_norm_and_bias=False)["backbone no decay"]["params"]}
    assert any("relative_position_bias_table" in name for name in undecayed)


def test_freeze_batchnorm_keeps_statistics_and_trains_weights():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    freeze_batchnorm(model)
    model(torch.randn(2, 3, 5, 5)).square().sum().backward()
    assert torch.equal(model[1].running_mean, torch.zeros(4))
    assert model[1].weight.grad.abs().sum() > 0
    assert model.training
