from typing import ClassVar

import pytest
import torch

from maskwright.models import create_model
from maskwright.models.deeplabv3plus import ASPP, aspp_rates

from .contract import ModelContract, backbone  # noqa: F401


class TestDeepLabV3Plus(ModelContract):
    name = "deeplabv3plus"
    options: ClassVar = {"decoder_channels": 16, "low_level_channels": 8}


def test_rates_look_equally_far_at_every_stride():
    assert aspp_rates(16) == (6, 12, 18)
    assert aspp_rates(8) == (12, 24, 36)
    assert aspp_rates(32) == (3, 6, 9)


@pytest.mark.parametrize("separable", [True, False])
def test_structure(separable):
    """What the paper says: branches of 256, 48 low-level channels at stride 4, logits at stride 4."""
    model = create_model("deeplabv3plus", num_classes=3, output_stride=16, separable=separable).eval()
    assert model.reduce[0].weight.shape == (48, 64, 1, 1)
    dilations = {
        layer.dilation[0]
        for branch in model.aspp.branches
        for layer in branch.modules()
        if isinstance(layer, torch.nn.Conv2d)
    }
    assert dilations == {1, 6, 12, 18}
    assert model.aspp.project[0].weight.shape == (256, 5 * 256, 1, 1)
    depthwise = [layer for layer in model.decoder.modules() if getattr(layer, "groups", 1) > 1]
    assert len(depthwise) == (2 if separable else 0)
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 64, 96), upsample=False).shape == (1, 3, 16, 24)


def test_aspp_image_branch_is_the_mean_everywhere():
    aspp = ASPP(4, 8, (1, 2)).eval()
    features = torch.randn(2, 4, 5, 7)
    with torch.no_grad():
        spread = aspp.branches[-1](features)
    assert spread.shape == (2, 8, 5, 7)
    expected = aspp.branches[-1].norm(aspp.branches[-1].conv(features.mean((2, 3), keepdim=True))).relu()
    torch.testing.assert_close(spread, expected.expand_as(spread))


def test_one_image_leaves_the_image_branch_statistics_alone():
    aspp = ASPP(4, 8, (1, 2)).train()
    before = aspp.branches[-1].norm.running_mean.clone()
    aspp(torch.randn(1, 4, 5, 7)).sum().backward()
    assert torch.equal(aspp.branches[-1].norm.running_mean, before)
    aspp(torch.randn(2, 4, 5, 7))
    assert not torch.equal(aspp.branches[-1].norm.running_mean, before)
