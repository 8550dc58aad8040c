from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from maskwright.inference.views import CPU_PIXELS, predict_labels
from maskwright.models import create_classifier, create_model
from maskwright.models.folding import inference_copy
from maskwright.settings import InferenceSettings

torch.set_num_threads(1)
NETWORKS = [
    ("deeplabv3plus", "resnet10t"),
    ("pspnet", "resnet10t"),
    ("dupsampling", "resnet10t"),
    ("ocrnet", "hrnet_w18_small"),
    ("fcn", "mobilenetv3_small_050"),
    ("fcn", "convnext_atto"),
]


def trained_looking(network):
    """Normalisations with statistics and weights of their own."""
    generator = torch.Generator().manual_seed(0)
    for norm in (module for module in network.modules() if isinstance(module, _BatchNorm)):
        norm.running_mean.normal_(0, 0.1, generator=generator)
        norm.running_var.uniform_(0.5, 1.5, generator=generator)
        nn.init.uniform_(norm.weight, 0.5, 1.5, generator=generator)
        nn.init.normal_(norm.bias, 0, 0.1, generator=generator)
    return network


def folded_of(network):
    return [norm for norm in network.modules() if isinstance(norm, _BatchNorm) and "forward" in vars(norm)]


@pytest.mark.parametrize(("name", "backbone"), NETWORKS)
def test_copy_gives_the_same_and_leaves_the_model_alone(name, backbone):
    model = trained_looking(create_model(name, backbone=backbone, num_classes=4)).train()
    before = copy.deepcopy(model.state_dict())
    fast = inference_copy(model)
    assert fast is not model
    assert folded_of(fast)
    assert not folded_of(model)
    assert model.training
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    images = torch.randn(2, 3, 65, 97, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = model.eval()(images), fast(images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3 * expected.abs().max().item())


def test_every_normalisation_of_a_resnet_goes():
    network = trained_looking(create_classifier(backbone="resnet10t", num_tags=3))
    norms = [norm for norm in network.modules() if isinstance(norm, _BatchNorm)]
    assert len(folded_of(inference_copy(network))) == len(norms)


SMALL_SWIN = {"depths": (1, 1, 1, 1), "embed_dim": 16, "num_heads": (1, 2, 4, 8)}
IN_HALF = [
    *((name, backbone, {}) for name, backbone in NETWORKS),
    ("hmsa", "resnet10t", {}),
    ("seethrough", "resnet10t", {}),
    ("upernet", "swin_tiny_patch4_window7_224", {"output_stride": None, "backbone_options": SMALL_SWIN}),
    ("fcn", "vit_tiny_patch16_224", {"output_stride": None, "backbone_options": {"depth": 3}}),
]


@pytest.mark.parametrize(
    ("name", "backbone", "options"), IN_HALF, ids=lambda value: value if str(value) == value else ""
)
def test_half_precision_gives_the_labels_of_float32(name, backbone, options):
    """Every convolution and linear layer computes in half precision; norms, tables and the model keep float32."""
    torch.manual_seed(0)
    model = trained_looking(create_model(name, backbone=backbone, num_classes=4, **options)).eval()
    fast = inference_copy(model, torch.bfloat16)
    layers = [module for module in fast.modules() if type(module) in (nn.Conv2d, nn.Linear)]
    held = {id(value) for layer in layers for value in layer.parameters()}
    assert all((value.dtype == torch.bfloat16) == (id(value) in held) for value in fast.parameters())
    assert all(value.dtype == torch.float32 for value in model.parameters())
    given = set()
    for layer in layers:
        layer.register_forward_hook(lambda module, inputs, output: given.add(output.dtype))
    side = 128 if "_224" in backbone else 97
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            found, labels = fast(images).float(), fast.predict(images)
    assert given == {torch.bfloat16}
    assert 0 < (found - expected).abs().max() < 0.05 * expected.abs().max()
    first, second = expected.topk(2, 1).values.unbind(1)
    clear = first - second > 0.05 * (expected.amax() - expected.amin())
    assert clear.float().mean() > 0.3
    assert (labels == expected.argmax(1))[clear].float().mean() >= 0.99


def test_half_precision_also_where_nothing_can_be_folded():
    network = trained_looking(TwoNorms())
    fast = inference_copy(network, torch.float16)
    assert fast.conv.weight.dtype == torch.float16
    assert fast.one.weight.dtype == network.conv.weight.dtype == torch.float32


class TwoNorms(nn.Module):
    """One convolution before two normalisations."""

    def __init__(self):
        super().__init__()
        self.conv, self.one, self.two = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, images):
        return self.one(self.conv(images)) + self.two(self.conv(images))


class AlsoRead(TwoNorms):
    """What the convolution gives is read besides."""

    def forward(self, images):
        found = self.conv(images)
        return self.one(found) + found


@pytest.mark.parametrize("kind", [TwoNorms, AlsoRead])
def test_what_cannot_be_folded_stays(kind):
    network = trained_looking(kind())
    assert inference_copy(network) is network


def test_half_precision_stays():
    network = create_classifier(backbone="resnet10t", num_tags=3).bfloat16()
    assert inference_copy(network) is network


def test_labels_of_a_batch_are_those_of_its_images():
    model = trained_looking(create_model("fcn", backbone="resnet10t", num_classes=4))
    settings = InferenceSettings.model_validate({})
    images = torch.randn(3, 3, 300, 300, generator=torch.Generator().manual_seed(1))
    assert len(images) * 300 * 300 > CPU_PIXELS
    together = predict_labels(model, images, settings)
    alone = torch.cat([predict_labels(model, image[None], settings) for image in images])
    assert torch.equal(together, alone)
