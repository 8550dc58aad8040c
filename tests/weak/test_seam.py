from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from maskwright.data.scenes import scenes
from maskwright.engine.checkpoint import load_weights
from maskwright.errors import RecipeError
from maskwright.models import create_classifier
from maskwright.models.classifier import load_classifier
from maskwright.models.pcm import resize_aligned
from maskwright.recipe.load import build_recipe
from maskwright.weak.networks import NETWORKS
from maskwright.weak.networks.classifier import train_classifier
from maskwright.weak.networks.recam_training import train_recam
from maskwright.weak.networks.seam import cross_loss, enlarged_mean, max_norm, minimum_loss, seam_loss, seam_maps
from maskwright.weak.networks.seam_training import train_seam
from maskwright.weak.seeds.cam import merge_flip

from .contract import picture, views_of

TAGS = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]], dtype=torch.float64)
SIZES = [(24, 32), (8, 9)]


def branches(seed=0):
    """Maps at a third of the image's size, as a network gives them."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda channels, size: torch.randn(3, channels, *size, generator=generator, dtype=torch.float64)  # noqa: E731
    return [(draw(4, size).requires_grad_(), draw(5, size).abs().requires_grad_()) for size in ((8, 11), (3, 3))]


def literal(pairs, sizes, tags):
    """All classes at image size, as the released code has it."""
    every = F.pad(tags, (0, 1), value=1)[:, :, None, None]
    tag_loss, minimum, unit = 0, 0, []
    for (maps, refined), size in zip(pairs, sizes, strict=True):
        maps, refined = resize_aligned(maps, size), resize_aligned(refined, size)
        tag_loss = tag_loss + F.binary_cross_entropy_with_logits(maps.mean((2, 3)), tags) / 2
        best = (refined * every)[:, :-1].amax(1).flatten(1).sort(1)[0]
        minimum = minimum + best[:, : best.shape[1] // 4].mean() / 2
        unit.append([resize_aligned(max_norm(m), sizes[1]) * e for m, e in ((maps, every[:, :-1]), (refined, every))])
    (first, first_refined), (second, second_refined) = unit
    total = tag_loss + minimum + (first - second).abs().mean()
    for target, refined in ((second, first_refined), (first, second_refined)):
        target = target.detach()
        best = target.amax(1, keepdim=True)
        wanted = torch.cat([torch.where(target == best, target, 0), 1 - best], 1)
        largest = (wanted - refined).abs().flatten(1).sort(1, descending=True)[0]
        total = total + largest[:, : int(largest.shape[1] * 0.2)].mean()
    return total


@pytest.mark.parametrize("tags", [TAGS, torch.zeros_like(TAGS), torch.ones_like(TAGS)], ids=["some", "none", "all"])
def test_only_tagged_classes_are_enlarged_and_nothing_changes(tags):
    pairs = branches()
    found, parts = seam_loss(pairs, SIZES, tags)
    expected = literal(pairs, SIZES, tags)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(sum(parts.values()), found.detach())
    inputs = [value for pair in pairs for value in pair]
    for one, other in zip(torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-12)


def test_max_norm():
    maps = torch.tensor([[[-1.0, 0.0], [2.0, 4.0]], [[1.0, 2.0], [3.0, 5.0]], [[-1.0, -2.0], [-3.0, -4.0]]])
    expected = torch.tensor([[[0, 0], [0.5, 1]], [[0, 0.25], [0.5, 1]], [[0, 0], [0, 0]]])
    torch.testing.assert_close(max_norm(maps), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(8, 11), (64, 88), (5, 7)])
def test_enlarged_mean(size):
    maps = torch.randn(2, 3, 8, 11, dtype=torch.float64)
    torch.testing.assert_close(
        enlarged_mean(maps, size), resize_aligned(maps, size).mean((2, 3)), rtol=1e-10, atol=1e-12
    )


def test_minimum_is_over_the_emptiest_quarter():
    refined = torch.tensor([0.1, 0.2, 0.9, 0.8, 0.5, 0.6, 0.7, 1.0]).view(1, 1, 2, 4)
    assert minimum_loss(torch.cat([refined, torch.zeros_like(refined)], 1)).item() == pytest.approx(0.15)


def test_target_of_the_cross_loss_is_a_constant():
    target = torch.rand(1, 2, 4, 4, requires_grad=True)
    refined = torch.rand(1, 3, 4, 4, requires_grad=True)
    cross_loss(target, refined, 2).backward()
    assert target.grad is None
    assert refined.grad.abs().sum() > 0


def test_autocast():
    pairs = [tuple(value.detach().float() for value in pair) for pair in branches()]
    expected, _ = seam_loss(pairs, SIZES, TAGS.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = seam_loss([tuple(value.bfloat16() for value in pair) for pair in pairs], SIZES, TAGS.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.03, atol=0.03)


def test_maps_are_refined_summed_and_stretched():
    torch.manual_seed(0)
    network = create_classifier(backbone="resnet10t", num_tags=3, pcm="cam", recam_head=True).eval()
    views = views_of([picture()], [(0, 2)])
    (found,) = seam_maps(network, views)
    with torch.no_grad():
        total = sum(
            F.interpolate(
                merge_flip(network.refined_maps(view)[1])[:, [0, 2]], (32, 48), mode="bilinear", align_corners=False
            )
            for view in views.images
        )[0]
    torch.testing.assert_close(found.high_res, max_norm(total))
    assert not torch.allclose(found.high_res, seam_maps(network, views, weight="product")[0].high_res)
    plain = create_classifier(backbone="resnet10t", num_tags=3)
    with pytest.raises(RecipeError, match=r"networks=\[seam\]"):
        seam_maps(plain, views)


def recipe(networks, **options):
    train = {"steps": 2, "batch_size": 2, "workers": 0, "augment": {"long_side": None, "crop": [64, 64]}}
    fields = {"classifier": {"backbone": "resnet10t", "train": train, "options": options}, "networks": networks}
    return build_recipe({**fields, **{word: {"train": train} for word in networks if word != "classifier"}})


CPU = torch.device("cpu")


def test_chain_of_seam_and_recam(tmp_path):
    data = scenes("train", count=4, size=(64, 64))
    settings = recipe(["seam", "recam"])
    assert NETWORKS["seam"].train is train_seam
    result = train_seam(settings, settings.seam, None, data, data, tmp_path / "seam", CPU)
    assert set(result["train"]) >= {"tags", "minimum", "equivariance", "cross"}
    start = tmp_path / "seam" / "model.safetensors"
    assert load_classifier(start).parts == {"pcm": "cam"}
    train_recam(settings, settings.recam, start, data, data, tmp_path / "recam", CPU)
    network = load_classifier(tmp_path / "recam" / "model.safetensors")
    assert network.parts == {"pcm": "cam", "recam_head": True}
    before, after = load_weights(start), load_weights(tmp_path / "recam" / "model.safetensors")
    assert torch.equal(before["pcm.embed.weight"], after["pcm.embed.weight"]), "PCM is not in ReCAM's loss"
    assert not torch.equal(before["classifier.weight"], after["classifier.weight"])
    (maps,) = seam_maps(network, views_of([picture()], [(0, 2)]), weight="product")
    assert maps.high_res.shape == (2, 32, 48)


def test_every_part_is_trained(tmp_path):
    data = scenes("train", count=4, size=(64, 64))
    settings = recipe(["classifier", "seam"])
    train_classifier(settings, settings.classifier, None, data, data, tmp_path / "classifier", CPU)
    start = tmp_path / "classifier" / "model.safetensors"
    train_seam(settings, settings.seam, start, data, data, tmp_path / "seam", CPU)
    before, after = load_weights(start), load_weights(tmp_path / "seam" / "model.safetensors")
    weights = {name for name, value in before.items() if value.ndim > 1}
    assert not [name for name in weights if torch.equal(before[name], after[name])]
    assert all(torch.equal(before[name], after[name]) for name in before if "running" in name)
    assert {name.rpartition(".")[0] for name in after.keys() - before.keys()} == {"pcm.low.0", "pcm.low.1", "pcm.embed"}


def test_features_that_are_refined_already_are_refused(tmp_path):
    data = scenes("train", count=4, size=(64, 64))
    with pytest.raises(RecipeError, match=r"needs pcm=cam, but the one before it, or classifier.options, has pcm=feat"):
        train_seam(r := recipe(["seam"], pcm="features"), r.seam, None, data, data, tmp_path, CPU)


def test_the_papers_settings_are_the_default():
    settings = build_recipe({"networks": ["seam"], "seam": {"train": {"augment": {"flip": 0}}}}).seam
    train = settings.train
    assert (settings.scale, train.epochs, train.batch_size) == (0.3, 8, 8)
    assert (train.lr * train.backbone_lr, train.bias_lr, train.weight_decay) == (pytest.approx(0.01), 2, 5e-4)
    assert (train.augment.flip, train.augment.crop, train.augment.long_side) == (0, (448, 448), (448, 768))
    with pytest.raises(RecipeError, match="class_uniform"):
        build_recipe({"networks": ["seam"], "seam": {"train": {"augment": {"class_uniform": 0.5}}}})
