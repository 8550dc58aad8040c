from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from maskwright.data.scenes import scenes
from maskwright.data.views import View
from maskwright.engine.checkpoint import load_weights
from maskwright.errors import DataError, RecipeError
from maskwright.models import create_classifier
from maskwright.models.classifier import load_classifier
from maskwright.recipe.load import build_recipe
from maskwright.weak.networks import NETWORKS
from maskwright.weak.networks.classifier import batch_saliency, train_classifier
from maskwright.weak.networks.eps import eps_class_maps, eps_loss, eps_maps, saliency_estimates
from maskwright.weak.networks.eps_training import train_eps
from maskwright.weak.networks.recam_training import train_recam
from maskwright.weak.seeds.cam import merge_flip, normalise_maps

from .contract import picture, views_of

CPU = torch.device("cpu")


def shares_of(*channels):
    return torch.tensor(channels, dtype=torch.float64)[None, :, None, :]


def test_a_class_beside_what_is_salient_is_background():
    # An object, what it stands on, a class without a tag, the background.
    shares = shares_of([0.8, 0.7, 0.1, 0.1], [0.1, 0.1, 0.7, 0.2], [0.05, 0.1, 0.1, 0.1], [0.05, 0.1, 0.1, 0.6])
    saliency, tags = torch.tensor([1.0, 1, 0, 0]).view(1, 1, 1, 4), torch.tensor([[1.0, 1, 0]])
    foreground, rest = saliency_estimates(shares, saliency, tags)
    torch.testing.assert_close(foreground.flatten(), shares[0, 0].flatten())
    torch.testing.assert_close(rest.flatten(), 1 - shares[0, 3].flatten() - shares[0, 1].flatten())
    foreground, rest = saliency_estimates(shares, 1 - saliency, tags)
    torch.testing.assert_close(foreground.flatten(), shares[0, 1].flatten())
    foreground, rest = saliency_estimates(shares, saliency, tags, threshold=1.0)
    assert not foreground.any(), "nothing overlaps more than wholly"
    foreground, rest = saliency_estimates(shares, saliency, torch.zeros(1, 3))
    assert not foreground.any()
    torch.testing.assert_close(rest.flatten(), 1 - shares[0, 3].flatten())


def test_gradient_is_that_of_finite_differences():
    torch.manual_seed(0)
    maps = torch.randn(2, 4, 3, 5, dtype=torch.float64, requires_grad=True)
    saliency, tags = torch.rand(2, 1, 6, 10, dtype=torch.float64), torch.tensor([[1.0, 0, 1], [0, 0, 0]])
    assert torch.autograd.gradcheck(lambda maps: eps_loss(maps, saliency, tags, blend=0.3), maps)


def test_autocast():
    maps, saliency, tags = torch.randn(2, 4, 8, 8), torch.rand(2, 1, 16, 16), torch.ones(2, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = eps_loss(maps.bfloat16(), saliency, tags)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, eps_loss(maps, saliency, tags), rtol=0.03, atol=0.01)


def test_maps_are_shares_summed_over_views():
    torch.manual_seed(0)
    network = create_classifier(backbone="resnet10t", num_tags=3, background=True, recam_head=True).eval()
    views = views_of([picture()], [(0, 2)])
    (found,) = eps_maps(network, views)
    with torch.no_grad():
        total = 0
        for view in views.images:
            features = network.features(view)
            scores = torch.cat([network.classifier(features), network.background(features)], 1)
            merged = merge_flip(scores.softmax(1))[:, [0, 2]]
            total = total + F.interpolate(merged, (32, 48), mode="bilinear", align_corners=False)[0]
        shares = eps_class_maps(network, view, features, torch.tensor([[2, 0], [1, -1]]))
        torch.testing.assert_close(shares[0], scores.softmax(1)[0, [2, 0]])
    torch.testing.assert_close(found.high_res, normalise_maps(total), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found.high_res, eps_maps(network, views, weight="product")[0].high_res)
    with pytest.raises(RecipeError, match=r"networks=\[eps\]"):
        eps_maps(create_classifier(backbone="resnet10t", num_tags=3), views)


class Salient(View):
    """Scenes whose saliency is their things."""

    def get(self, index, with_mask=True):
        sample = self.dataset.get(index)
        saliency = np.where(sample.mask > 0, 255, 0).astype(np.uint8)
        return replace(sample, mask=sample.mask if with_mask else None, saliency=saliency)


def recipe(networks, **recam):
    train = {"steps": 2, "batch_size": 2, "workers": 0, "augment": {"long_side": None, "crop": [64, 64]}}
    blocks = {word: {"train": train} for word in networks}
    blocks["classifier"] = {"backbone": "resnet10t", "train": train}
    if recam:
        blocks["recam"] |= recam
    return build_recipe({"networks": networks, **blocks})


def test_rows_e_of_recams_table(tmp_path):
    data = Salient(scenes("train", count=4, size=(64, 64)))
    settings = recipe(["eps", "recam"], eps=1.0, masks="eps")
    assert NETWORKS["eps"].train is train_eps
    result = train_eps(settings, settings.eps, None, data, data, tmp_path / "eps", CPU)
    assert set(result["train"]) >= {"tags", "saliency"}
    start = tmp_path / "eps" / "model.safetensors"
    assert load_classifier(start).parts == {"background": True}
    result = train_recam(settings, settings.recam, start, data, data, tmp_path / "recam", CPU)
    assert set(result["train"]) >= {"tags", "saliency", "sce"}
    before, after = load_weights(start), load_weights(tmp_path / "recam" / "model.safetensors")
    assert not torch.equal(before["background.weight"], after["background.weight"])
    plain = recipe(["eps", "recam"])
    result = train_recam(plain, plain.recam, start, data, data, tmp_path / "plain", CPU)
    assert "saliency" not in result["train"]
    after = load_weights(tmp_path / "plain" / "model.safetensors")
    assert torch.equal(before["background.weight"], after["background.weight"]), "ReCAM alone does not train it"


def test_what_is_missing_is_said_before_training(tmp_path):
    bare = scenes("train", count=4, size=(64, 64))
    with pytest.raises(RecipeError, match=r"networks=\[eps\] needs saliency maps, but train_00000 has none"):
        train_eps(r := recipe(["eps"]), r.eps, None, bare, bare, tmp_path, CPU)
    settings = recipe(["eps", "recam"], eps=1.0)
    train_classifier(settings, settings.classifier, None, bare, bare, tmp_path / "c", CPU)
    with pytest.raises(RecipeError, match=r"without its background layer; write networks=\[eps, recam\]"):
        train_recam(settings, settings.recam, tmp_path / "c" / "model.safetensors", bare, bare, tmp_path / "r", CPU)
    with pytest.raises(RecipeError, match=r"needs a network with background.* write networks=\[l2g, recam\] or netw"):
        recipe(["classifier", "recam"], eps=1.0)
    with pytest.raises(RecipeError, match="Did you mean 'gradcam'"):
        recipe(["classifier", "recam"], masks="gradcm")
    assert not (tmp_path / "r" / "log.jsonl").exists()
    with pytest.raises(DataError, match="give a map of every image"):
        batch_saliency({"image": torch.zeros(1)})


def test_the_papers_settings_are_the_default():
    settings = build_recipe({"networks": ["eps"]}).eps
    train = settings.train
    assert (settings.threshold, settings.blend, settings.weight) == (0.5, 0.5, 1)
    assert (train.steps, train.epochs, train.batch_size) == (10000, None, 8)
    assert train.augment.long_side == (256, 512)
    train = build_recipe({"networks": ["eps"], "eps": {"train": {"epochs": 3}}}).eps.train
    assert (train.steps, train.epochs) == (None, 3)
