from typing import ClassVar

import pytest
import torch

from maskwright.data.sample import LabelSpace
from maskwright.errors import RecipeError
from maskwright.losses import create_loss
from maskwright.losses.cpp import CPPLoss
from maskwright.losses.rmi import rmi_loss
from maskwright.models import create_model
from maskwright.models.layers import resize
from maskwright.models.seethrough import aggregate
from maskwright.settings import LossSettings

from .contract import ModelContract, backbone  # noqa: F401

SMALL = {"channels": 16, "key_channels": 8, "attention_channels": 8, "branch_channels": 16}


class TestSeeThroughNet(ModelContract):
    name = "seethrough"
    options: ClassVar = {**SMALL, "output_stride": None}
    auxiliary = ("aux", "cpp.8", "cpp.16", "cpp.32", "scale.0.5", "scale.1", "attention.0.5")
    # At scale 0.5 the coarsest map of 64 pixels would be a single value, which has no batch statistics.
    one_image_size = (128, 128)


def small(**options):
    torch.manual_seed(0)
    return create_model("seethrough", num_classes=3, **{**SMALL, **options})


def test_aggregation_is_convex_and_goes_from_coarse_to_fine():
    generator = torch.Generator().manual_seed(0)
    class_maps = [torch.randn(2, 3, 16 >> s, 8 >> s, generator=generator) for s in range(4)]
    masks = [torch.rand(2, 1, 16 >> s, 8 >> s, generator=generator) for s in range(1, 4)]
    found = aggregate(class_maps, masks)
    assert found.shape == class_maps[0].shape
    assert found.max() <= max(x.max() for x in class_maps)
    assert found.min() >= min(x.min() for x in class_maps)
    ones, zeros = [torch.ones_like(mask) for mask in masks], [torch.zeros_like(mask) for mask in masks]
    assert torch.equal(aggregate(class_maps, zeros), class_maps[0])
    up = class_maps[3]
    for s in (2, 1, 0):
        up = resize(up, class_maps[s].shape[-2:])
    torch.testing.assert_close(aggregate(class_maps, ones), up)


@pytest.mark.parametrize(("ignore", "more"), [("channel", 1), ("renormalise", 0)])
def test_coarse_maps_on_hrnet(ignore, more):
    model = small(backbone="hrnet_w18_small", branch_channels=None, cpp_ignore=ignore).eval()
    assert [head[0][0].weight.shape[0] for head in model.coarse] == [64, 64, 64, 128]  # the branch's width, at least 64
    assert [head[-1].out_channels for head in model.coarse] == [3, 3 + more, 3 + more, 3 + more]
    assert model.ocr.pixels[0].weight.shape[1] == 16 + 32 + 64 + 128
    with torch.no_grad():
        outputs = model(torch.randn(1, 3, 64, 96), auxiliary=True, upsample=False)
    assert outputs["logits"].shape == outputs["aux"].shape == (1, 3, 16, 24)
    for stride in (8, 16, 32):
        assert outputs[f"cpp.{stride}"].shape == (1, 3 + more, 64 // stride, 96 // stride)


def test_wide_branches_are_reduced():
    model = small(backbone="resnet18", branch_channels=None)
    assert model.ocr.pixels[0].weight.shape[1] == 64 + 128 + 256 + 256
    model = small(backbone="resnet18", branch_channels=512)
    assert model.ocr.pixels[0].weight.shape[1] == 64 + 128 + 256 + 512


def test_one_branch_per_stride():
    """At output stride 16 a ResNet has two maps of stride 16; the deeper is used."""
    model = small(backbone="resnet18", output_stride=16)
    assert model.strides == [4, 8, 16]
    assert model.levels == [1, 2, 4]
    outputs = model(torch.randn(2, 3, 64, 64), auxiliary=True)
    assert {name for name in outputs if name.startswith("cpp")} == {"cpp.8", "cpp.16"}


def test_pyramid_of_a_plain_transformer():
    options = {"depth": 4, "embed_dim": 32, "num_heads": 2}
    model = small(backbone="vit_tiny_patch16_224", backbone_options=options).eval()
    images = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        branches = model.branches(model.backbone(images), (65, 97))
    assert model.strides == [4, 8, 16, 32]
    assert [tuple(x.shape[-2:]) for x in branches] == [(17, 25), (9, 13), (5, 7), (3, 4)]


def test_the_full_objective():
    """Cross-entropy and RMI on the joint map, CPP terms of the coarser maps; every weight is trained by it."""
    model = small(backbone="resnet18")
    images, labels = torch.randn(2, 3, 64, 64), torch.randint(0, 3, (2, 64, 64))
    labels[:, :9] = 255
    settings = LossSettings(name="rmi", options={"ce": "softmax"}, auxiliary={"cpp": 0.4, "scale": 0.05})
    criterion = create_loss(settings, LabelSpace(tuple("abc"), background=None))
    outputs = model(images, auxiliary=True)
    loss, parts = criterion(outputs, labels)
    loss.backward()
    torch.testing.assert_close(parts["main"], rmi_loss(outputs["logits"], labels, ce="softmax"))
    cpp = sum(CPPLoss(num_classes=3)(outputs[f"cpp.{stride}"], labels) for stride in (8, 16, 32))
    torch.testing.assert_close(parts["cpp"], cpp.detach())
    torch.testing.assert_close(loss, parts["main"] + 0.4 * parts["cpp"] + 0.05 * parts["scale"])
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_relative_attention_is_learned_from_the_branches():
    """Heads begin undecided, with gradients near the rounding of none at all; so they are decided here."""
    model = small(backbone="resnet18", train_scales=(1.0,))
    for last in [head[2] for head in model.relative] + [head[-1] for head in model.coarse]:
        torch.nn.init.normal_(last.weight, std=1.0)
    labels = torch.randint(0, 3, (2, 16, 16))
    outputs = model(torch.randn(2, 3, 64, 64), auxiliary=True)
    torch.nn.functional.cross_entropy(outputs["aux"], labels).backward()
    for head in model.relative:
        norms = [float(parameter.grad.norm()) for parameter in head.parameters()]
        assert min(norms) > 1e-3, norms


def first_gradients(auxiliary):
    """Norms of the gradients of the class maps' heads and of the relative masks', fine to coarse."""
    model = small(backbone="resnet18", train_scales=(1.0,))
    images, labels = torch.randn(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.int64)
    labels[:, 20:, 10:40], labels[:, :30, 40:] = 1, 2
    images += labels[:, None]
    criterion = create_loss(LossSettings(auxiliary=auxiliary), LabelSpace(tuple("abc"), background=None))
    criterion(model(images, auxiliary=True), labels)[0].backward()
    return [
        torch.stack([torch.stack([p.grad.norm() for p in head.parameters()]).norm() for head in heads])
        for heads in (model.coarse, model.relative)
    ]


def test_a_loss_on_the_aggregate_reaches_the_finest_map_and_the_relative_masks():
    (alone, alone_masks), (maps, masks) = first_gradients({"cpp": 0.4}), first_gradients({"cpp": 0.4, "aux": 0.4})
    assert maps[0] > maps[1:].max() / 5
    assert maps[0] > 3 * alone[0]
    assert (masks > 1.5 * alone_masks).all()


def test_the_ignore_channel_takes_no_part_in_the_regions():
    model = small(backbone="resnet18", train_scales=(1.0,)).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = model(images, auxiliary=True)
        for head in model.coarse[1:]:
            head[-1].bias[-1] += 5
        after = model(images, auxiliary=True)
    assert torch.equal(before["logits"], after["logits"])
    assert torch.equal(before["aux"], after["aux"])
    assert not torch.equal(before["cpp.8"], after["cpp.8"])


def test_cpp_heads_are_its_own():
    with pytest.raises(RecipeError, match=r"its own heads cpp\.8, cpp\.16, cpp\.32"):
        small(backbone="resnet18", auxiliary={"cpp": [8]})
    assert "aux.16" in small(backbone="resnet18", auxiliary={"aux": [16]})(torch.randn(2, 3, 64, 64), auxiliary=True)


def test_unknown_mode_is_refused():
    with pytest.raises(RecipeError, match="cpp_ignore must be channel or renormalise, found 'none'"):
        small(backbone="resnet18", cpp_ignore="none")
