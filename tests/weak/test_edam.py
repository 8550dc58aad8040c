from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from maskwright.data.scenes import scenes
from maskwright.engine.checkpoint import load_weights
from maskwright.errors import RecipeError
from maskwright.models import create_classifier
from maskwright.models.classifier import load_classifier
from maskwright.recipe.load import build_recipe
from maskwright.weak.networks import NETWORKS
from maskwright.weak.networks.edam import CollaborativeAttention, activation_masks, edam_maps, positions
from maskwright.weak.networks.edam_training import train_edam
from maskwright.weak.networks.recam_training import train_recam
from maskwright.weak.seeds.cam import merge_flip, normalise_maps

from .contract import picture, views_of

CPU = torch.device("cpu")


def build():
    torch.manual_seed(0)
    return create_classifier(backbone="resnet10t", num_tags=3, edam=True).eval()


@torch.no_grad()
def test_masks_share_out_every_position():
    network = build()
    features = torch.randn(2, 512, 3, 4)
    masks = activation_masks(network, features)
    assert masks.shape == (2, 4, 3, 4)
    assert (masks >= 0).all()
    torch.testing.assert_close((masks**2).sum(1), torch.ones(2, 3, 4))
    scores = network.edam(features)
    torch.testing.assert_close(masks, scores.abs() / scores.norm(dim=1, keepdim=True))
    assert torch.isfinite(activation_masks(network, torch.zeros(1, 512, 2, 2))).all()
    with pytest.raises(RecipeError, match=r"networks=\[edam\]"):
        activation_masks(create_classifier(backbone="resnet10t", num_tags=3), features)


def literal(attention, features, masks):
    """Class by class, with the masked features themselves."""
    logits = []
    for k in range(masks.shape[1] - 1):
        reduced = attention.reduce(features * masks[:, k : k + 1])
        tokens = reduced.permute(0, 2, 3, 1).flatten(0, 2)
        where = positions(len(features), tuple(features.shape[2:]), tokens.shape[1]).to(tokens)
        query, key, _ = ((tokens + where) @ attention.project[k]).chunk(3, 1)
        value = tokens @ attention.project[k].chunk(3, 1)[2]
        attended = []
        for q, k_, v in zip(*(part.chunk(attention.heads, 1) for part in (query, key, value)), strict=True):
            attended.append(((q @ k_.T) / q.shape[1] ** 0.5).softmax(1) @ v)
        means = (tokens + torch.cat(attended, 1)).view(len(features), -1, tokens.shape[1]).mean(1)
        logits.append(means @ attention.score[k, :, 0] + attention.bias[k])
    return torch.stack(logits, 1)


def example(size=(3, 4)):
    torch.manual_seed(0)
    attention = CollaborativeAttention(6, 2, width=8, heads=2).double()
    features = torch.randn(3, 6, *size, dtype=torch.float64, requires_grad=True)
    masks = torch.rand(3, 3, *size, dtype=torch.float64, requires_grad=True)
    return attention, features, masks


def test_attention_is_that_of_each_class_over_the_batch():
    attention, features, masks = example()
    found = attention(features, masks)
    torch.testing.assert_close(found, literal(attention, features, masks), rtol=1e-10, atol=1e-12)
    alone = torch.cat([attention(features[i : i + 1], masks[i : i + 1]) for i in range(3)])
    assert not torch.allclose(found, alone), "images see each other"
    gradients = torch.autograd.grad(found[0, 1], (features, masks))
    assert gradients[0][1].any(), "also in what is learned"
    assert not gradients[1][:, [0, 2]].any(), "a class is told by its own mask alone"


def test_a_grid_keeps_tokens_few_and_the_mean():
    attention, features, masks = example((8, 12))
    attention.grid = 4
    found = attention(features, masks)
    pooled = F.adaptive_avg_pool2d((features[:, None] * masks[:, :, None]).flatten(1, 2), 4).view(3, 3, 6, 4, 4)
    attention.grid = 16
    cells = torch.stack([literal(attention, pooled[:, k], torch.ones_like(masks[..., :4, :4])) for k in range(2)])
    torch.testing.assert_close(found, torch.stack([cells[0][:, 0], cells[1][:, 1]], 1), rtol=1e-10, atol=1e-12)


def test_positions_differ_within_an_image_and_between_images():
    found = positions(3, (4, 5), 8)
    assert found.shape == (60, 8)
    assert len({tuple(row) for row in found.tolist()}) == 60
    torch.testing.assert_close(found[:20, [0, 1, 4, 5]], found[20:40, [0, 1, 4, 5]])


def test_autocast():
    torch.manual_seed(0)
    attention = CollaborativeAttention(6, 2, width=8, heads=2)
    features, masks = torch.randn(2, 6, 4, 4), torch.rand(2, 3, 4, 4)
    expected = attention(features, masks)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attention(features, masks)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.05)


def test_maps_are_masks_summed_over_views():
    network = build()
    views = views_of([picture()], [(0, 2)])
    (found,) = edam_maps(network, views)
    with torch.no_grad():
        total = sum(
            F.interpolate(
                merge_flip(activation_masks(network, network.features(view)))[:, [0, 2]],
                (32, 48),
                mode="bilinear",
                align_corners=False,
            )
            for view in views.images
        )[0]
    torch.testing.assert_close(found.high_res, normalise_maps(total))


def recipe(networks, **blocks):
    train = {"steps": 2, "batch_size": 4, "workers": 0, "augment": {"long_side": None, "crop": [64, 64]}}
    made = {word: {"train": train, **blocks.get(word, {})} for word in networks}
    made["classifier"] = {"backbone": "resnet10t", "train": train}
    return build_recipe({"networks": networks, **made})


def test_chain_of_edam_and_recam_on_its_masks(tmp_path):
    data = scenes("train", count=4, size=(64, 64))
    settings = recipe(["edam", "recam"], recam={"masks": "edam"}, edam={"width": 16})
    assert NETWORKS["edam"].train is train_edam
    result = train_edam(settings, settings.edam, None, data, data, tmp_path / "edam", CPU)
    assert set(result["train"]) >= {"tags", "masked"}
    start = tmp_path / "edam" / "model.safetensors"
    network = load_classifier(start)
    assert network.parts == {"edam": True}
    before = load_weights(start)
    assert not [name for name in before if "project" in name], "the attention is for training alone"
    train_recam(settings, settings.recam, start, data, data, tmp_path / "recam", CPU)
    after = load_weights(tmp_path / "recam" / "model.safetensors")
    assert not torch.equal(before["edam.weight"], after["edam.weight"])
    train_recam(r := recipe(["edam", "recam"]), r.recam, start, data, data, tmp_path / "plain", CPU)
    after = load_weights(tmp_path / "plain" / "model.safetensors")
    assert torch.equal(before["edam.weight"], after["edam.weight"])


def test_the_plain_head_does_not_touch_the_trunk(tmp_path, monkeypatch):
    import maskwright.weak.networks.edam_training as module

    caught = {}
    monkeypatch.setattr(module, "fit_tags", lambda network, step, *_, **__: caught.update(network=network, step=step))
    data = scenes("train", count=2, size=(64, 64))
    train_edam(r := recipe(["edam"]), r.edam, None, data, data, tmp_path, CPU)
    network = caught["network"].eval()
    batch = {"image": torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8), "tags": torch.eye(10)[:2]}

    def gradients():
        network.zero_grad()
        caught["step"](network, batch)[0].backward()
        return {name: value.grad.clone() for name, value in network.named_parameters()}

    first = gradients()
    with torch.no_grad():
        network.classifier.weight.mul_(-3)
    second = gradients()
    changed = {name for name in first if not torch.allclose(first[name], second[name])}
    assert changed == {"classifier.weight"}


def test_settings_that_cannot_be(tmp_path):
    data = scenes("train", count=2, size=(64, 64))
    with pytest.raises(RecipeError, match=r"edam\.width=10 must be a multiple"):
        train_edam(r := recipe(["edam"], edam={"width": 10}), r.edam, None, data, data, tmp_path, CPU)
    assert build_recipe({"networks": ["edam"]}).edam.train.epochs == 8
