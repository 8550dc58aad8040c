"""DeepLabV3, FCN, PSPNet and UperNet."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F

from maskwright.models import create_model
from maskwright.models.deeplabv3plus import ImagePooling
from maskwright.models.pspnet import PyramidPooling

from .contract import BACKBONES, ModelContract, backbone  # noqa: F401


class TestDeepLabV3(ModelContract):
    name = "deeplabv3"
    options: ClassVar = {"channels": 16, "dropout": 0.1}


class TestFCN(ModelContract):
    name = "fcn"
    options: ClassVar = {"channels": 16, "fuse": 2}


class TestPSPNet(ModelContract):
    name = "pspnet"
    options: ClassVar = {"channels": 16, "auxiliary_options": {"channels": 16}}
    auxiliary = ("aux.-2",)


class TestUperNet(ModelContract):
    name = "upernet"
    options: ClassVar = {"channels": 16, "auxiliary_options": {"channels": 16}}
    auxiliary = ("aux.-2",)


def make(name, backbone="resnet18", **options):  # noqa: F811
    torch.manual_seed(0)
    return create_model(name, backbone=backbone, num_classes=3, **{**BACKBONES[backbone], **options}).eval()


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "options", "stride"),
    [
        ("deeplabv3", {}, 16),
        ("deeplabv3", {"output_stride": 8}, 8),
        ("fcn", {}, 16),
        ("fcn", {"fuse": 3}, 8),
        ("fcn", {"fuse": 4}, 4),
        ("pspnet", {"output_stride": 8}, 8),
        ("upernet", {"output_stride": 32}, 4),
    ],
)
def test_logits_have_the_heads_resolution(name, options, stride):
    model = make(name, channels=8, **options)
    assert model(torch.randn(1, 3, 64, 96), upsample=False).shape == (1, 3, 64 // stride, 96 // stride)


def test_deeplabv3_rates_follow_the_output_stride():
    for stride, rates in ((16, [6, 12, 18]), (8, [12, 24, 36])):
        model = make("deeplabv3", output_stride=stride, channels=8)
        found = {layer.dilation[0] for layer in model.aspp.modules() if isinstance(layer, torch.nn.Conv2d)}
        assert sorted(found - {1}) == rates


def test_own_auxiliary_head_sits_on_stride_16_and_can_be_left_out():
    model = make("upernet", "swin_tiny_patch4_window7_224", channels=8)
    outputs = model(torch.randn(1, 3, 64, 64), auxiliary=True)
    assert outputs["aux.-2"].shape == (1, 3, 4, 4)
    assert model.auxiliary_heads.heads["aux-2"][-1].in_channels == 256
    assert set(make("upernet", channels=8, auxiliary={})(torch.randn(1, 3, 64, 64), auxiliary=True)) == {"logits"}


@torch.no_grad()
def test_grid_pooling_is_the_mean_of_each_cell():
    torch.manual_seed(0)
    pooling = ImagePooling(2, 3, cells=2).eval()
    features = torch.randn(2, 2, 6, 8)
    means = features.reshape(2, 2, 2, 3, 2, 4).mean((3, 5))
    expected = F.interpolate(pooling.norm(pooling.conv(means)).relu(), size=(6, 8), mode="bilinear")
    torch.testing.assert_close(pooling(features), expected)


def test_pooling_a_map_smaller_than_its_grids():
    pooling = PyramidPooling(4, 2, 8)
    assert pooling(torch.randn(2, 4, 2, 3)).shape == (2, 8, 2, 3)
