from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from maskwright.data.scenes import scenes
from maskwright.engine.checkpoint import load_weights
from maskwright.errors import RecipeError
from maskwright.models import create_classifier
from maskwright.models.classifier import load_classifier
from maskwright.models.pcm import pcm, seam_input
from maskwright.recipe.load import build_recipe
from maskwright.weak.networks.classifier import train_classifier
from maskwright.weak.networks.recam_training import train_recam

torch.set_num_threads(1)


def example(dtype=torch.float64, size=(3, 5), batch=2):
    generator = torch.Generator().manual_seed(0)
    draw = lambda channels: torch.randn(batch, channels, *size, generator=generator, dtype=dtype)  # noqa: E731
    return draw(4).requires_grad_(), draw(6).requires_grad_()


def literal(maps, embedding):
    """With the whole matrix, as the paper writes it."""
    unit = embedding.flatten(2) / (embedding.flatten(2).norm(dim=1, keepdim=True) + 1e-5)
    affinity = (unit.mT @ unit).relu()
    return (maps.flatten(2) @ (affinity / (affinity.sum(1, keepdim=True) + 1e-5))).view(maps.shape)


@pytest.mark.parametrize("chunk", [None, 1, 4, 15, 99])
def test_values_and_gradients_are_those_of_the_whole_matrix(chunk):
    inputs = example()
    found, expected = pcm(*inputs, chunk), literal(*inputs)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(found)
    for one, other in zip(
        torch.autograd.grad((found * weight).sum(), inputs),
        torch.autograd.grad((expected * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


class Largest(TorchDispatchMode):
    """Notes the largest result of any operation."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, torch.Tensor):
                self.elements = max(self.elements, value.numel())
        return result


@pytest.mark.parametrize("chunk", [32, 1])
def test_never_more_affinities_than_the_chunk_has(chunk):
    inputs = example(torch.float32, (16, 16))
    with Largest() as seen:
        pcm(*inputs, chunk).sum().backward()
    assert seen.elements == max(2 * 256 * chunk, inputs[1].numel())


def test_what_chunks_keep_for_the_gradient_is_made_again():
    maps, embedding = example(torch.float32, (16, 16))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda value: kept.append(value.numel()) or value, lambda v: v):
        pcm(maps, embedding, 32)
    assert max(kept) < 2 * 256 * 32


def test_constant_maps_stay_and_empty_embeddings_give_nothing():
    _, embedding = example()
    torch.testing.assert_close(
        pcm(torch.full((2, 1, 3, 5), 7.0, dtype=torch.float64), embedding.detach()),
        torch.full((2, 1, 3, 5), 7.0, dtype=torch.float64),
        rtol=1e-4,
        atol=0,
    )
    maps, nothing = torch.rand(1, 2, 3, 3), torch.zeros(1, 4, 3, 3, requires_grad=True)
    found = pcm(maps, nothing)
    found.sum().backward()
    assert (found == 0).all()
    assert torch.isfinite(nothing.grad).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_neither_overflows_nor_vanishes(dtype):
    maps, embedding = (value.detach().float() for value in example(size=(40, 40), batch=1))
    maps = 30 + maps
    expected = pcm(maps, embedding)
    with torch.autocast("cpu", dtype=dtype):
        found = pcm(maps, embedding)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0)


def test_seam_input():
    maps = torch.tensor([[[2.0, 1.0, -1.0, -3.0]], [[-1.0, 4.0, 0.0, -2.0]]])[None]
    assert seam_input(maps)[0].tolist() == [
        [[pytest.approx(1, abs=1e-4), 0, 0, 0]],
        [[0, pytest.approx(1, abs=1e-4), 0, 0]],
        [[pytest.approx(0, abs=1e-4), pytest.approx(0, abs=1e-4), 1, 1]],
    ]
    assert torch.equal(seam_input(-torch.ones(1, 2, 2, 2))[0, :2], torch.zeros(2, 2, 2)), "no class: all background"


def build(**options):
    torch.manual_seed(0)
    return create_classifier(backbone="resnet10t", num_tags=3, **options).eval()


@torch.no_grad()
def test_features_are_those_of_the_trunk_plus_refined_ones():
    plain, network = build(background=True), build(background=True, pcm="features")
    network.load_state_dict(plain.state_dict(), strict=False)
    images = torch.randn(2, 3, 64, 96)
    found = plain.backbone(images)
    refined = network.pcm(found[-1], images, found[-3:-1])
    torch.testing.assert_close(network.features(images), found[-1] + refined)
    expected = torch.cat([plain.class_maps(found[-1] + refined), plain.background(found[-1] + refined)], 1)
    torch.testing.assert_close(network(images, maps=True), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(network(images), expected[:, :3].mean((2, 3)), rtol=1e-4, atol=1e-5)
    assert network.class_maps(network.features(images)).shape == (2, 3, 4, 6)


def test_maps_are_refined_beside_features_that_stay():
    plain, network = build(), build(pcm="cam")
    network.load_state_dict(plain.state_dict(), strict=False)
    images = torch.randn(2, 3, 64, 96)
    assert torch.equal(network.features(images), plain.features(images))
    maps, refined = network(images, refined=True)
    assert torch.equal(maps, plain.maps(images))
    assert refined.shape == (2, 4, 4, 6)
    refined.sum().backward()
    assert {name.split(".")[0] for name, value in network.named_parameters() if value.grad is not None} == {"pcm"}
    doubled = network.refined_maps(images, 2 * network.classifier.weight)
    torch.testing.assert_close(doubled[0], 2 * maps)
    with pytest.raises(RecipeError, match=r"networks=\[seam\]"):
        plain(images, refined=True)


def test_the_low_level_maps_are_the_two_before_the_last():
    network = build(pcm="features")
    assert [layer.in_channels for layer in network.pcm.low] == network.backbone.channels[-3:-1] == [128, 256]
    paper = create_classifier(backbone="resnet38", num_tags=2, output_stride=8, width=0.125, pcm="features")
    assert [layer.in_channels for layer in paper.pcm.low] == [512 // 8, 1024 // 8], "conv4 and conv5"
    assert network.pcm.embed.weight.shape[:2] == (192, 195)
    with pytest.raises(RecipeError, match="needs 2 feature maps below the last, found 1"):
        build(pcm="features", out_indices=(3, 4))
    with pytest.raises(RecipeError, match="Did you mean 'cam'"):
        build(pcm="cams")


@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        ("resnet10t", {}),
        ("convnext_atto", {}),
        ("hrnet_w18_small", {}),
        ("vit_tiny_patch16_224", {"depth": 4}),
        ("resnet38", {"width": 0.05}),
    ],
)
def test_any_backbone_and_no_weight_without_a_gradient(backbone, options):
    network = create_classifier(backbone=backbone, num_tags=2, output_stride=None, pcm="features", **options)
    network(torch.randn(2, 3, 64, 96)).sum().backward()
    assert [name for name, value in network.named_parameters() if value.requires_grad and value.grad is None] == []


def test_gradient_does_not_reach_the_trunk_through_the_embedding():
    network = build(pcm="features")
    images = torch.randn(1, 3, 64, 64)
    found = network.backbone(images)
    refined = network.pcm(torch.rand_like(found[-1]), images, found[-3:-1])
    refined.sum().backward()
    assert all(value.grad is None for value in network.backbone.parameters())


def recipe(networks, **classifier):
    train = {"steps": 1, "batch_size": 2, "lr": 0.01, "workers": 0, "augment": {"crop": [64, 64]}}
    fields = {"classifier": {"backbone": "resnet10t", "train": train, **classifier}, "networks": networks}
    return build_recipe({**fields, **({"recam": {"train": train}} if "recam" in networks else {})})


def test_pcm_under_recam(tmp_path):
    """Trained with the classifier, kept and trained by ReCAM, and found again in the file."""
    data, device = scenes("train", count=4, size=(64, 64)), torch.device("cpu")
    settings = recipe(["classifier", "recam"], options={"pcm": "features"})
    train_classifier(settings, settings.classifier, None, data, data, tmp_path / "classifier", device)
    start = tmp_path / "classifier" / "model.safetensors"
    assert load_classifier(start).parts == {"pcm": "features"}
    train_recam(settings, settings.recam, start, data, data, tmp_path / "recam", device)
    network = load_classifier(tmp_path / "recam" / "model.safetensors")
    assert network.parts == {"pcm": "features", "recam_head": True}
    before, after = load_weights(start), load_weights(tmp_path / "recam" / "model.safetensors")
    assert not torch.equal(before["pcm.embed.weight"], after["pcm.embed.weight"])
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        plain = F.conv2d(network.backbone(images)[-1], network.classifier.weight).mean((2, 3))
        assert not torch.allclose(network(images), plain)
