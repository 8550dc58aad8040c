from typing import ClassVar

import pytest
import torch

from maskwright.data.sample import LabelSpace
from maskwright.losses import create_loss
from maskwright.models import create_model
from maskwright.models.ocr import ObjectAttention, OCRHead, gather_regions, region_attention
from maskwright.settings import LossSettings

from .contract import ModelContract, backbone  # noqa: F401


class TestOCRNet(ModelContract):
    name = "ocrnet"
    options: ClassVar = {"channels": 16, "key_channels": 8}
    auxiliary = ("aux",)


def test_hrnet_w48_branches_are_720_channels_at_stride_4():
    with torch.device("meta"):
        head = OCRHead(720, 19)
    assert head.regions[0][0].weight.shape == (720, 720, 1, 1)
    assert head.pixels[0].weight.shape == (512, 720, 3, 3)
    assert head.attention.pixel[0][0].weight.shape == (256, 512, 1, 1)
    model = create_model("ocrnet", backbone="hrnet_w48", num_classes=19).eval()
    assert model.ocr.pixels[0].weight.shape[1] == 48 + 96 + 192 + 384
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 64, 96), upsample=False).shape == (1, 19, 16, 24)


@pytest.mark.parametrize(("fuse", "width", "size"), [(None, 512, 4), (1, 512, 4), (3, 128 + 256 + 512, 8)])
def test_maps_that_are_read(fuse, width, size):
    model = create_model("ocrnet", num_classes=3, output_stride=16, fuse=fuse, channels=8, key_channels=8).eval()
    assert model.ocr.pixels[0].weight.shape[1] == width
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 64, 64), upsample=False).shape == (1, 3, size, size)


def test_regions_are_weighted_means():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 6, 4, 5, generator=generator)
    labels = torch.randint(0, 3, (2, 4, 5), generator=generator)
    certain = 1000.0 * torch.nn.functional.one_hot(labels, 3).permute(0, 3, 1, 2)
    regions = gather_regions(features, certain)
    for image in range(2):
        for value in range(3):
            expected = features[image][:, labels[image] == value].mean(1)
            torch.testing.assert_close(regions[image, :, value], expected)


def test_attention_is_a_distribution_over_regions():
    attention = region_attention(torch.randn(2, 8, 3, 4), torch.randn(2, 8, 5))
    assert attention.shape == (2, 12, 5)
    torch.testing.assert_close(attention.sum(2), torch.ones(2, 12))


def test_order_of_classes_does_not_matter():
    attention = ObjectAttention(6, 4).eval()
    features, region_logits = torch.randn(2, 6, 4, 5), torch.randn(2, 3, 4, 5)
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        one = attention(features, gather_regions(features, region_logits))
        other = attention(features, gather_regions(features, region_logits[:, order]))
    torch.testing.assert_close(one, other)


def test_region_logits_get_a_gradient_from_the_final_output():
    model = create_model("ocrnet", num_classes=3, output_stride=16, channels=8, key_channels=8)
    model(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert model.ocr.regions[-1].weight.grad.abs().sum() > 0


def test_recipe_weighs_the_regions():
    model = create_model("ocrnet", num_classes=3, output_stride=16, channels=8, key_channels=8)
    criterion = create_loss(LossSettings(auxiliary={"aux": 0.4}), LabelSpace(tuple("abc"), background=None))
    loss, parts = criterion(model(torch.randn(2, 3, 64, 64), auxiliary=True), torch.randint(0, 3, (2, 64, 64)))
    torch.testing.assert_close(loss, parts["main"] + 0.4 * parts["aux"])
