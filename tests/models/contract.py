"""What every segmenter must keep; a new model is tested by a subclass that names it."""

from __future__ import annotations

import copy
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from maskwright.data.sample import LabelSpace
from maskwright.engine.checkpoint import save_model
from maskwright.inference.load import load
from maskwright.models import create_model, multiply_adds

torch.set_num_threads(1)

# One of each kind, small: convolutions with dilation, one stride only, channels last, parallel branches.
BACKBONES = {
    "resnet18": {"output_stride": 16},
    "vit_tiny_patch16_224": {"backbone_options": {"depth": 4, "embed_dim": 32, "num_heads": 2}},
    "swin_tiny_patch4_window7_224": {
        "backbone_options": {"depths": (1, 1, 1, 1), "embed_dim": 16, "num_heads": (1, 2, 4, 8)}
    },
    "hrnet_w18_small": {},
}
CLASSES = 5


@pytest.fixture(params=BACKBONES)
def backbone(request) -> str:
    return request.param


class ModelContract:
    """Subclass as `TestX`, set `name`, and `options` that make it small; `skipped` backbones it cannot work on."""

    name: str
    options: ClassVar[dict] = {}
    skipped: tuple[str, ...] = ()
    auxiliary: tuple[str, ...] = ()  # names of the outputs beside "logits"
    one_image_size = (64, 64)  # height and width at which a batch of one is trained on

    def make(self, backbone: str, **changes):
        if backbone in self.skipped:
            pytest.skip(f"{self.name} does not take {backbone}")
        torch.manual_seed(0)
        arguments = {**BACKBONES[backbone], **self.options, **changes}
        return create_model(self.name, backbone=backbone, num_classes=CLASSES, **arguments)

    def images(self, batch=2, height=64, width=64, **options):
        return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1)).to(**options)

    @torch.no_grad()
    def test_shapes(self, backbone):
        model = self.make(backbone).eval()
        images = self.images()
        assert model(images).shape == (2, CLASSES, 64, 64)
        assert model.predict(images).shape == (2, 64, 64)
        outputs = model(images, auxiliary=True)
        assert set(outputs) == {"logits", *self.auxiliary}
        assert torch.equal(outputs["logits"], model(images))
        assert len(model.mean) == len(model.std) == 3

    @torch.no_grad()
    def test_odd_sizes(self, backbone):
        model = self.make(backbone).eval()
        for height, width in ((65, 97), (33, 32)):
            images = self.images(1, height, width)
            assert model(images).shape == (1, CLASSES, height, width)
            for feature, channels, stride in zip(
                model.backbone(images), model.backbone.channels, model.backbone.strides, strict=True
            ):
                assert feature.shape == (1, channels, -(-height // stride), -(-width // stride))

    @torch.no_grad()
    def test_operations_are_those_of_a_forward_pass(self, backbone):
        model = self.make(backbone).eval()
        # The CPU's own attention is not counted.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(self.images(1, 64, 96))
        assert multiply_adds(model, (64, 96)) == counter.get_total_flops() // 2 > 0
        assert next(model.parameters()).device.type == "cpu"

    def test_backward_reaches_every_parameter(self, backbone):
        model = self.make(backbone).train()
        outputs = model(self.images(), auxiliary=True)
        sum(value.square().sum() for value in outputs.values()).backward()
        trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
        assert [name for name, value in trained.items() if value.grad is None] == []
        assert all(torch.isfinite(value.grad).all() for value in trained.values())
        frozen = [name for name, value in model.named_parameters() if not value.requires_grad]
        assert all("fuse_layers" in name for name in frozen), "only what serves maps that are not read"

    @torch.no_grad()
    def test_state_dict_is_strict_and_complete(self, backbone):
        model = self.make(backbone).eval()
        other = self.make(backbone).eval()
        for value in other.parameters():
            value.add_(0.1)
        images = self.images()
        assert not torch.allclose(model(images), other(images))
        other.load_state_dict(model.state_dict(), strict=True)
        assert torch.equal(model(images), other(images))
        state = model.state_dict()
        state.pop(next(reversed(state)))
        with pytest.raises(RuntimeError, match="Missing key"):
            other.load_state_dict(state)

    @torch.no_grad()
    def test_a_saved_model_comes_back_from_its_file_alone(self, backbone, tmp_path):
        model = self.make(backbone).eval()
        arguments = {**BACKBONES[backbone], **self.options}
        described = {"name": self.name, "backbone": backbone, "output_stride": arguments.pop("output_stride", None)}
        metadata = {
            "kind": "segmenter",
            "model": {**described, "num_classes": CLASSES, "options": arguments},
            "labels": LabelSpace(tuple("abcde")).to_dict(),
            "preprocessing": {"mean": list(model.mean), "std": list(model.std)},
            "recipe": {},
            "maskwright": "0.0",
        }
        save_model(tmp_path / "model.safetensors", model, metadata)
        loaded = load(tmp_path, device="cpu").model
        expected, found = (network(self.images(), auxiliary=True) for network in (model, loaded))
        assert set(found) == set(expected)
        assert all(torch.equal(found[name], expected[name]) for name in found)

    def test_autocast(self, backbone):
        model = self.make(backbone).train()
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(self.images()).float(), torch.zeros(2, 64, 64, dtype=torch.long))
        loss.backward()
        assert all(value.grad is None or torch.isfinite(value.grad).all() for value in model.parameters())
        assert all(value.dtype == torch.float32 for value in model.parameters())

    @torch.no_grad()
    def test_double_precision(self, backbone):
        model = self.make(backbone).eval()
        single = model(self.images())
        double = model.double()(self.images(dtype=torch.float64))
        assert double.dtype == torch.float64
        torch.testing.assert_close(single, double.float(), rtol=1e-3, atol=1e-5)

    @torch.no_grad()
    def test_batch_equals_one_by_one(self, backbone):
        model = self.make(backbone).eval().double()
        images = self.images(3, dtype=torch.float64)
        one_by_one = torch.cat([model(image[None]) for image in images])
        torch.testing.assert_close(model(images), one_by_one, rtol=1e-9, atol=1e-12)

    @torch.no_grad()
    def test_without_upsampling(self, backbone):
        model = self.make(backbone).eval()
        images = self.images(2, 65, 97)
        small = model(images, upsample=False)
        assert small.shape[-1] <= 97
        large = F.interpolate(small, size=(65, 97), mode="bilinear", align_corners=False)
        torch.testing.assert_close(large, model(images), rtol=1e-5, atol=1e-6)

    @torch.no_grad()
    def test_predict_is_the_argmax(self, backbone):
        model = self.make(backbone).eval()
        images = self.images(2, 65, 97)
        labels = model.predict(images)
        assert labels.dtype == torch.int64
        assert torch.equal(labels, model(images).argmax(1))

    def test_one_image_can_be_trained_on(self, backbone):
        model = self.make(backbone).train()
        model(self.images(1, *self.one_image_size)).sum().backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        assert gradients
        assert all(gradient.isfinite().all() for gradient in gradients)

    @torch.no_grad()
    def test_starts_undecided(self, backbone):
        """Logits of a new model are small against log(classes), so that the first loss is that of guessing."""
        loss = F.cross_entropy(self.make(backbone).train()(self.images()), torch.zeros(2, 64, 64, dtype=torch.long))
        assert abs(loss.item() - torch.log(torch.tensor(float(CLASSES))).item()) < 0.5

    def test_learns_one_batch(self):
        model = self.make("resnet18").train()
        labels = torch.zeros(4, 64, 64, dtype=torch.long)
        for number in range(4):
            labels[number, 8 * number : 8 * number + 32, 16:48] = number + 1
        images = self.images(4) + labels[:, None] - 2
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
        losses = []
        for _ in range(15):
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.6 * losses[0]

    @torch.no_grad()
    def test_copy_is_equal(self, backbone):
        model = self.make(backbone).eval()
        assert torch.equal(copy.deepcopy(model)(self.images()), model(self.images()))

    @pytest.mark.slow
    def test_compiles(self, backbone):
        """One graph, forward and backward, at an odd size; what inductor makes of it is tested by `test_inductor`."""
        torch.compiler.reset()  # models share `forward`, and no function is compiled more than a few times
        model = self.make(backbone).eval()  # dropout would differ
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        images = self.images(2, 65, 64)
        outputs, expected = (network(images, auxiliary=True) for network in (compiled, model))
        assert set(outputs) == set(expected)
        for name, value in expected.items():
            torch.testing.assert_close(outputs[name], value, rtol=1e-3, atol=1e-4)
        weights = [value for value in model.parameters() if value.requires_grad]
        found, gradients = (
            torch.autograd.grad(sum(value.square().mean() for value in given.values()), weights)
            for given in (outputs, expected)
        )
        for one, other in zip(found, gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()) + 1e-7)

    @pytest.mark.slow
    @torch.no_grad()
    def test_inductor(self):
        """For one backbone: its C++ takes a minute to compile on a CPU, and layers come from the same few files."""
        torch.compiler.reset()
        model = self.make("resnet18").eval()
        compiled = torch.compile(model, fullgraph=True)
        torch.testing.assert_close(compiled(self.images()), model(self.images()), rtol=1e-3, atol=1e-4)
