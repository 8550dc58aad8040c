"""DeepLabV2: three sizes, the maximum of them, and the optimiser's groups of the paper."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from maskwright.errors import RecipeError
from maskwright.models import create_model
from maskwright.models.base import parameter_groups
from maskwright.settings import TrainSettings

from .contract import ModelContract, backbone  # noqa: F401


class TestDeepLabV2(ModelContract):
    name = "deeplabv2"
    skipped = ("hrnet_w18_small",)  # stride 32: at half size these images are a single position
    auxiliary = ("scale.1", "scale.0.75", "scale.0.5")


def make(**options):
    torch.manual_seed(0)
    return create_model("deeplabv2", backbone="resnet18", num_classes=3, output_stride=8, **options)


@torch.no_grad()
def test_logits_are_the_maximum_over_the_sizes():
    model = make().eval()
    images = torch.randn(1, 3, 65, 96)
    outputs = model(images, auxiliary=True, upsample=False)
    assert [tuple(outputs[f"scale.{s}"].shape[2:]) for s in ("1", "0.75", "0.5")] == [(9, 12), (6, 9), (4, 6)]
    single = make(scales=[1]).eval()
    torch.testing.assert_close(single(images, upsample=False), outputs["scale.1"])
    half = F.interpolate(images, scale_factor=0.5, mode="bilinear")
    torch.testing.assert_close(single(half, upsample=False), outputs["scale.0.5"])
    upsampled = [F.interpolate(outputs[f"scale.{s}"], size=(9, 12), mode="bilinear") for s in ("1", "0.75", "0.5")]
    torch.testing.assert_close(outputs["logits"], torch.stack(upsampled).amax(0))


def test_auxiliary_heads_see_the_own_size():
    model = make(auxiliary={"cpp": [8]}).train()
    outputs = model(torch.randn(1, 3, 64, 64), auxiliary=True)
    assert outputs["cpp.8"].shape == (1, 4, 8, 8)


def test_groups_of_the_paper():
    """lr x1 trunk, x10 pyramid, x20 its biases without decay; batch normalisation is not trained."""
    model = make(freeze_norm=True)
    settings = TrainSettings(
        lr=2.5e-3, backbone_lr=0.1, bias_lr=2.0, weight_decay=5e-4, decay_norm_and_bias=False, freeze_batchnorm=True
    )
    groups = {group["name"]: group for group in parameter_groups(model, settings)}
    found = {
        name: (round(group["lr"] / 2.5e-4, 6), group["weight_decay"], len(group["params"]))
        for name, group in groups.items()
    }
    convolutions = sum(isinstance(layer, torch.nn.Conv2d) for layer in model.backbone.modules())
    assert found == {
        "backbone": (1.0, 5e-4, convolutions),
        "head": (10.0, 5e-4, 4),
        "head bias no decay": (20.0, 0.0, 4),
    }


@pytest.mark.parametrize("scales", [[0.5, 0.75], [1, 0], [1, -0.5]])
def test_scales_must_hold_one(scales):
    with pytest.raises(RecipeError, match="must be above 0 and hold 1, found"):
        make(scales=scales)
