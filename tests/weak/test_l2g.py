"""L2G: views, targets and predictions in both forms, the losses' gradients, the training, and its seed method."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from maskwright.data.scenes import scenes
from maskwright.data.views import View
from maskwright.engine.checkpoint import load_metadata, load_weights
from maskwright.errors import DataError, RecipeError
from maskwright.models.classifier import load_classifier
from maskwright.recipe.load import build_recipe
from maskwright.runs.context import RunContext
from maskwright.runs.stages import effective, run_stages
from maskwright.weak.networks import NETWORKS
from maskwright.weak.networks.classifier import train_classifier
from maskwright.weak.networks.l2g import (
    cut_views,
    draw_corners,
    global_prediction,
    l2g_loss,
    l2g_maps,
    local_attention,
    scaled_saliency,
    shape_target,
    view_maps,
    view_saliency,
)
from maskwright.weak.networks.l2g_training import PAPER_FORM, L2GSettings, build_l2g, train_l2g
from maskwright.weak.stages import network_stages

from .contract import picture, trained_like, views_of

WHOLE, VIEW, STRIDE = (56, 48), (32, 24), 8
TRUNK = "mobilenetv3_small_050"
CPU = torch.device("cpu")


# Views.


def test_random_views_lie_anywhere_and_differ():
    corners = draw_corners(50, 4, WHOLE, VIEW, "random")
    assert corners.shape == (50, 4, 2)
    assert corners.amin((0, 1)).tolist() == [0, 0]
    assert corners.amax((0, 1)).tolist() == [23, 23]
    assert len({tuple(row) for row in corners.reshape(-1, 2).tolist()}) > 100
    again = [draw_corners(2, 3, WHOLE, VIEW, "random", torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(*again)


def test_corners_come_first_and_the_rest_is_random():
    four = [[0, 0], [0, 24], [24, 0], [24, 24]]
    assert draw_corners(2, 4, WHOLE, VIEW, "corners").tolist() == [four, four]
    six = draw_corners(30, 6, WHOLE, VIEW)
    assert six[:, :4].tolist() == [four] * 30
    assert len({tuple(row) for row in six[:, 4:].reshape(-1, 2).tolist()}) > 30


def test_uniform_views_are_the_papers_for_its_sizes():
    steps = [0, 64, 128]
    found = draw_corners(1, 9, (448, 448), (320, 320), "uniform")
    assert found.tolist() == [[[row, column] for row in steps for column in steps]]
    assert draw_corners(1, 1, (448, 448), (320, 320), "uniform").tolist() == [[[64, 64]]]


def test_a_view_may_be_the_whole():
    assert (draw_corners(2, 6, VIEW, VIEW) == 0).all()


@pytest.mark.parametrize(
    ("sampling", "views", "message"),
    [
        ("corners", 6, "takes 4 views, found l2g.views=6"),
        ("corners_random", 3, "at least 4"),
        ("uniform", 8, "a square number"),
        ("random", 0, "at least 1"),
        ("corner", 4, "Did you mean 'corners'"),
    ],
)
def test_numbers_of_views_that_cannot_be(sampling, views, message):
    with pytest.raises(RecipeError, match=message):
        draw_corners(1, views, WHOLE, VIEW, sampling)


def test_views_that_do_not_fit():
    with pytest.raises(RecipeError, match="64x24 pixels do not fit into images of 56x48"):
        draw_corners(1, 4, WHOLE, (64, 24))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_views_are_the_same_pixels_in_the_same_layout(layout):
    images = torch.randint(0, 256, (2, 3, *WHOLE), dtype=torch.uint8).contiguous(memory_format=layout)
    corners = draw_corners(2, 5, WHOLE, VIEW)
    views = cut_views(images, corners, VIEW)
    assert views.is_contiguous(memory_format=layout)
    for index, (top, left) in enumerate(corners.reshape(-1, 2).tolist()):
        assert torch.equal(views[index], images[index // 5, :, top : top + 32, left : left + 24])


# Targets.


def example(classes=3, images=2, views=2, size=(4, 3), seed=0):
    """Local maps with a background, and tags; the second image shows nothing."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(images * views, classes + 1, *size, generator=generator)
    tags = torch.zeros(images, classes)
    tags[0, [0, 2]] = 1
    return maps, tags


def test_attention_is_that_of_tagged_classes_and_of_the_background():
    maps, tags = example()
    attention = local_attention(maps, tags, winner_takes_all=False)
    expected = maps.relu() / (maps.relu().amax((2, 3), keepdim=True) + 1e-8)
    expected[:2, 1] = 0
    expected[2:, :3] = 0
    torch.testing.assert_close(attention, expected)
    assert torch.equal(local_attention(maps[:, :3], tags, winner_takes_all=False), attention[:, :3])


def test_winner_takes_all():
    maps, tags = example()
    every = local_attention(maps, tags, winner_takes_all=False)
    won = local_attention(maps, tags)
    assert (won.count_nonzero(1) <= 1).all()
    assert torch.equal(won.amax(1), every.amax(1))
    assert torch.equal(won, won.where(won == 0, every))
    ties = local_attention(torch.ones(1, 4, 2, 2), torch.ones(1, 3))
    assert torch.equal(ties[:, 0], torch.ones(1, 2, 2))
    assert not ties[:, 1:].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_attention_keeps_no_graph_and_at_least_float32(dtype):
    maps, tags = example()
    attention = local_attention(maps.to(dtype).requires_grad_(), tags)
    assert not attention.requires_grad
    assert attention.dtype == torch.promote_types(dtype, torch.float32)


def test_saliency_of_views_is_the_nearest_pixel_of_the_crop():
    saliency = torch.rand(2, 1, *WHOLE)
    corners = draw_corners(2, 6, WHOLE, VIEW)
    for size in ((4, 3), (5, 7), VIEW):
        expected = F.interpolate(cut_views(saliency, corners, VIEW), size, mode="nearest")
        assert torch.equal(view_saliency(saliency, corners, VIEW, size), expected)


def test_saliency_is_scaled_or_cut():
    saliency = torch.tensor([[0.1, 0.4], [0.0, 0.0], [0.6, 0.5]]).reshape(3, 1, 1, 2)
    torch.testing.assert_close(
        scaled_saliency(saliency), torch.tensor([[0.25, 1.0], [0.0, 0.0], [1.0, 0.5 / 0.6]]).reshape(3, 1, 1, 2)
    )
    assert scaled_saliency(saliency, binary=True).flatten().tolist() == [0, 0, 0, 0, 1, 0]


def test_shape_target_of_each_background():
    attention = torch.tensor([0.0, 0.05, 0.3, 0.9]).reshape(1, 1, 2, 2).expand(1, 3, 2, 2)
    saliency = torch.tensor([1.0, 1.0, 0.5, 0.25]).reshape(1, 1, 2, 2)
    at = {"threshold": 0.1}
    binary = shape_target(attention, saliency, **at)
    assert binary[0, 0].flatten().tolist() == [0, 0, 0.5, 0.25]
    assert binary[0, 2].flatten().tolist() == [0, 0, 0.5, 0.75]
    continuous = shape_target(attention, saliency, background="continuous", **at)
    torch.testing.assert_close(continuous[0, 2], attention[0, 2] * (1 - saliency[0, 0]))
    assert torch.equal(continuous[:, :2], binary[:, :2])
    none = shape_target(attention, saliency, background="none", **at)
    assert torch.equal(none, binary[:, :1].expand(1, 3, 2, 2))
    low = shape_target(attention, saliency)
    assert low[0, 0].flatten().tolist() == [0, 1, 0.5, 0.25]


@pytest.mark.parametrize("background", ["binary", "continuous", "none"])
def test_views_without_saliency(background):
    attention = local_attention(*example()) + 0.1
    saliency = torch.ones(4, 1, 4, 3)
    saliency[1] = 0
    options = {"background": background, "threshold": 0.001}
    code = shape_target(attention, saliency, **options)
    assert not code[1, :3].any()
    assert code[1, 3].any() == (background != "none")
    paper = shape_target(attention, saliency, attention_where_empty=True, **options)
    assert torch.equal(paper[1], attention[1])
    assert torch.equal(paper[[0, 2, 3]], code[[0, 2, 3]])


# Predictions.


def literal_roi_align(maps, corners, size, shift):
    """Bilinear samples one by one, at positions held within the map."""
    result = torch.zeros(corners.shape[0] * corners.shape[1], maps.shape[1], *size)
    for view, (top, left) in enumerate(corners.reshape(-1, 2).tolist()):
        image = maps[view // corners.shape[1]]
        for i, j in np.ndindex(*size):
            y = min(max(top / STRIDE + i + 0.5 - shift, 0), image.shape[1] - 1)
            x = min(max(left / STRIDE + j + 0.5 - shift, 0), image.shape[2] - 1)
            for row, column in ((r, c) for r in (int(y), int(y) + 1) for c in (int(x), int(x) + 1)):
                share = (1 - abs(y - row)) * (1 - abs(x - column))
                if share:
                    result[view, :, i, j] += share * image[:, row, column]
    return result


@pytest.mark.parametrize("half_pixel", [False, True])
def test_view_maps_are_roi_align_with_one_sample(half_pixel):
    maps = torch.randn(2, 3, 7, 6)
    corners = draw_corners(2, 6, WHOLE, VIEW)
    found = view_maps(maps, corners, VIEW, (4, 3), STRIDE, half_pixel=half_pixel)
    torch.testing.assert_close(found, literal_roi_align(maps, corners, (4, 3), 0.5 * half_pixel))


def test_crop_is_exact_on_the_grid_and_softmax_comes_first():
    maps = torch.randn(2, 5, 7, 6)
    corners = 8 * torch.randint(0, 4, (2, 3, 2))
    found = global_prediction(maps, corners, VIEW, (4, 3), STRIDE, alignment="crop")
    torch.testing.assert_close(found, cut_views(maps.softmax(1), corners // 8, (4, 3)), rtol=1e-6, atol=1e-7)
    corners += 3
    between = global_prediction(maps, corners, VIEW, (4, 3), STRIDE, alignment="crop")
    torch.testing.assert_close(between, view_maps(maps.softmax(1), corners, VIEW, (4, 3), STRIDE, half_pixel=True))
    torch.testing.assert_close(between.sum(1), torch.ones(6, 4, 3))


def test_roi_is_the_mean_of_four_neighbours_and_softmax_comes_last():
    maps = torch.randn(1, 5, 7, 6)
    found = global_prediction(maps, torch.zeros(1, 1, 2, dtype=torch.int64), VIEW, (4, 3), STRIDE)
    torch.testing.assert_close(found, F.avg_pool2d(maps, 2, 1)[:, :, :4, :3].softmax(1))


def test_predictions_are_float32_under_autocast():
    maps = torch.randn(2, 4, 7, 6)
    corners = draw_corners(2, 6, WHOLE, VIEW)
    for alignment in ("roi", "crop"):
        plain = global_prediction(maps, corners, VIEW, (4, 3), STRIDE, alignment=alignment)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = global_prediction(maps, corners, VIEW, (4, 3), STRIDE, alignment=alignment)
        assert torch.equal(found, plain)


# The loss.


def inputs(dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    whole = torch.randn(2, 4, 7, 6, generator=generator, dtype=dtype, requires_grad=True)
    local = torch.randn(12, 4, 4, 3, generator=generator, dtype=dtype, requires_grad=True)
    tags = torch.tensor([[1.0, 0, 1], [0, 1, 0]], dtype=dtype)
    saliency = torch.rand(2, 1, *WHOLE, generator=generator, dtype=dtype)
    return whole, local, tags, draw_corners(2, 6, WHOLE, VIEW, generator=generator), saliency


def literal(whole, local, tags, corners, saliency, form):
    """View by view, in the words of the paper or of its code."""
    told = transfer = 0.0
    for view in range(len(local)):
        image = view // 6
        told += F.binary_cross_entropy_with_logits(local[view, :3].mean((1, 2)), tags[image]) / len(local)
        channels = 3 if form == "paper" else 4
        attention = local[view, :channels].detach().relu()
        attention = attention / (attention.amax((1, 2), keepdim=True) + 1e-8)
        for k in range(3):
            attention[k] *= tags[image, k]
        if form == "code":
            attention = attention * (attention == attention.amax(0))
        (top, left), threshold = corners[image, view % 6].tolist(), 0.1 if form == "paper" else 0.001
        target = attention
        if saliency is not None:
            map_ = saliency[image, 0]
            map_ = (map_ > 0.5).double() if form == "paper" else map_ / (map_.max() + 1e-10)
            seen = map_[top : top + 32 : 8, left : left + 24 : 8]
            if form == "code":
                target = (attention > threshold) * torch.stack([seen, seen, seen, 1 - seen])
            elif seen.any():
                target = (attention > threshold) * seen
        one = corners[image : image + 1, view % 6 : view % 6 + 1]
        if form == "code":
            prediction = view_maps(whole[image : image + 1], one, VIEW, (4, 3), STRIDE).softmax(1)
        else:
            shares = whole[image : image + 1].softmax(1)
            prediction = view_maps(shares, one, VIEW, (4, 3), STRIDE, half_pixel=True)[:, :3]
        transfer += (prediction[0] - target).square().mean() / len(local)
    return told + 10 * transfer


@pytest.mark.parametrize("shape", [False, True])
@pytest.mark.parametrize("form", ["code", "paper"])
def test_loss_and_gradients_are_those_of_the_definition(form, shape):
    whole, local, tags, corners, saliency = inputs()
    if shape:
        saliency[1] = 0
    settings = L2GSettings(form=form)
    options = {name: getattr(settings, name) for name in PAPER_FORM if name not in ("views", "sampling")}
    given = saliency if shape else None
    value, parts = l2g_loss(whole, local, tags, corners, VIEW, STRIDE, saliency=given, **options)
    expected = literal(whole, local, tags, corners, given, form)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(parts["tags"] + 10 * parts["transfer"], value.detach())
    found, other = (torch.autograd.grad(loss, (whole, local)) for loss in (value, expected))
    torch.testing.assert_close(found, other, rtol=1e-10, atol=1e-12)


def test_each_network_has_its_own_terms():
    whole, local, tags, corners, saliency = inputs()
    _, parts = l2g_loss(whole, local, tags, corners, VIEW, STRIDE, saliency=saliency)
    value, _ = l2g_loss(whole, local, tags, corners, VIEW, STRIDE, saliency=saliency, global_classification=2)
    told = F.binary_cross_entropy_with_logits(local[:, :3].mean((2, 3)), tags.repeat_interleave(6, 0))
    (expected,) = torch.autograd.grad(told, local)
    (found,) = torch.autograd.grad(value, local, retain_graph=True)
    assert not found[:, 3].any()  # no gradient through the target, so none for the local background
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(value.detach(), parts["tags"] + 10 * parts["transfer"] + 2 * parts["global_tags"])
    (whole_gradient,) = torch.autograd.grad(value, whole)
    plain, _ = l2g_loss(whole, local, tags, corners, VIEW, STRIDE, saliency=saliency)
    classified = F.binary_cross_entropy_with_logits(whole[:, :3].mean((2, 3)), tags)
    expected = torch.autograd.grad(plain + 2 * classified, whole)[0]
    torch.testing.assert_close(whole_gradient, expected)


def test_loss_under_autocast_and_without_any_tag():
    whole, local, tags, corners, saliency = inputs(torch.float32)
    plain, _ = l2g_loss(whole, local, tags, corners, VIEW, STRIDE, saliency=saliency)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, _ = l2g_loss(whole, local, tags, corners, VIEW, STRIDE, saliency=saliency)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, plain)
    value, _ = l2g_loss(whole, local, torch.zeros_like(tags), corners, VIEW, STRIDE)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(value, (whole, local)))


# The training.


class Salient(View):
    """Scenes with a saliency map each, of their objects but for those on the left; `missing` has none."""

    def __init__(self, data, missing=()):
        super().__init__(data)
        self.missing = missing

    def get(self, index, with_mask=True):
        sample = self.dataset.get(index)
        slope = np.linspace(-100, 200, sample.mask.shape[1]).clip(0)
        saliency = None if index in self.missing else ((sample.mask > 0) * slope).astype(np.uint8)
        return replace(sample, mask=sample.mask if with_mask else None, saliency=saliency)


@pytest.fixture(scope="module")
def data():
    return scenes("train", count=4, size=(64, 64))


def recipe(networks=("l2g",), random_seed=0, **l2g):
    train = {"steps": 2, "batch_size": 2, "lr": 0.01, "workers": 0, "log_every": 1}
    train["augment"] = {"short_side": [64, 64], "crop": [64, 64]}
    fields = {"view_size": [32, 32], **l2g, "train": {**train, **l2g.pop("train", {})}}
    chosen = {"l2g": fields} if "l2g" in networks else {}
    return build_recipe(
        {
            "classifier": {"backbone": TRUNK, "train": {**train, "augment": {"crop": [64, 64]}}},
            "networks": list(networks),
            "random_seed": random_seed,
            **chosen,
        }
    )


def content(folder):
    timed = ("images_per_second", "memory_mb")
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in timed} for line in lines]


@pytest.mark.parametrize(
    "options",
    [{"form": "code", "pcm": True}, {}, {"transfer": "shape", "pcm": True}, {"form": "paper", "transfer": "shape"}],
    ids=["code", "paper", "code-shape", "paper-shape"],
)
def test_training_leaves_the_global_network_alone(data, tmp_path, options):
    result = train_l2g(r := recipe(**options), r.l2g, None, Salient(data), data, tmp_path, CPU)
    assert result["steps"] == 2
    assert set(result["train"]) >= {"loss", "tags", "transfer", "global_tags"}
    assert 0 <= result["validate"]["tag_map"] <= 1
    path = tmp_path / "model.safetensors"
    network = load_classifier(path)
    assert network.background is not None
    assert (network.pcm is not None) == options.get("pcm", False)
    assert load_metadata(path)["model"]["background"] is True
    before, _ = build_l2g(r := recipe(**options), r.l2g, None, len(data.labels.foreground))
    assert load_weights(path).keys() == before.state_dict().keys()
    moved = [name for name, p in before.named_parameters() if not torch.equal(p, load_weights(path)[name])]
    assert {"classifier.weight", "background.weight", "backbone.network.conv_stem.weight"} <= set(moved)
    assert NETWORKS["l2g"].train is train_l2g


@pytest.mark.bit_equal
@pytest.mark.parametrize("shared", [False, True])
def test_the_local_network_can_be_kept_of_the_same_training(data, tmp_path, monkeypatch, shared):
    import maskwright.weak.networks.l2g_training as module

    built, real = [], build_l2g
    monkeypatch.setattr(module, "build_l2g", lambda *given: built.append(real(*given)) or built[-1])
    for keep in ("global", "local"):
        chosen = recipe(keep=keep, pcm=True, shared_trunk=shared, train={"checkpoint_seconds": 0})
        train_l2g(chosen, chosen.l2g, None, data, data, tmp_path / keep, CPU)
    # Both trainings end with the same two networks, and each keeps its own.
    for one, same in zip(*built, strict=True):
        assert all(torch.equal(value, same.state_dict()[name]) for name, value in one.state_dict().items())
    kept = [load_weights(tmp_path / keep / "model.safetensors") for keep in ("global", "local")]
    for weights, network in zip(kept, built[0], strict=True):
        assert all(torch.equal(weights[name], value) for name, value in network.state_dict().items())
    assert not torch.equal(kept[0]["classifier.weight"], kept[1]["classifier.weight"])
    losses = [[line for line in content(tmp_path / keep) if "loss" in line] for keep in ("global", "local")]
    assert losses[0] == losses[1]
    trained = {id(p) for _, p in built[1][1].named_parameters() if p.requires_grad}
    assert id(built[1][1].background.weight) not in trained
    assert load_classifier(tmp_path / "local" / "model.safetensors").parts["background"] is True


@pytest.mark.bit_equal
def test_a_stopped_training_of_the_local_network_goes_on(data, tmp_path, monkeypatch):
    import maskwright.weak.networks.l2g_training as module

    chosen = recipe(keep="local", train={"checkpoint_seconds": 0})
    train_l2g(chosen, chosen.l2g, None, data, data, tmp_path / "whole", CPU)
    calls = iter(range(100))
    monkeypatch.setattr(
        module, "l2g_loss", lambda *given, **options: 1 / (1 - next(calls)) and l2g_loss(*given, **options)
    )
    with pytest.raises(ZeroDivisionError):
        train_l2g(chosen, chosen.l2g, None, data, data, tmp_path / "stopped", CPU)
    train_l2g(chosen, chosen.l2g, None, data, data, tmp_path / "stopped", CPU)
    weights = [load_weights(tmp_path / name / "model.safetensors") for name in ("whole", "stopped")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


# With this random seed the local network's background is positive somewhere, as it begins.
SHAPE = {"transfer": "shape", "form": "paper", "sampling": "corners", "random_seed": 4}


@pytest.fixture(scope="module")
def weights_after_a_step(data, tmp_path_factory):
    """The global network's weights after one step with some settings."""

    @cache
    def train(options):
        chosen = recipe(**{"train": {"steps": 1}, **dict(options)})
        folder = tmp_path_factory.mktemp("step")
        train_l2g(chosen, chosen.l2g, None, Salient(data), data, folder, CPU)
        return load_weights(folder / "model.safetensors")

    return lambda options: train(tuple(options.items()))


@pytest.mark.parametrize(
    ("options", "name", "value"),
    [
        ({}, "form", "code"),
        ({"transfer": "shape"}, "form", "paper"),
        ({}, "transfer", "shape"),
        ({}, "views", 3),
        ({}, "sampling", "corners"),
        ({}, "winner_takes_all", True),
        ({}, "alignment", "roi"),
        ({}, "background", "binary"),
        (SHAPE, "background", "binary"),
        ({**SHAPE, "background": "binary"}, "background", "continuous"),
        (SHAPE, "threshold", 0.6),
        (SHAPE, "binary_saliency", False),
        (SHAPE, "attention_where_empty", False),
        ({}, "weight", 1.0),
        ({}, "global_classification", 1.0),
        ({}, "shared_backbone", True),
        ({}, "pcm", True),
        ({}, "shuffle", False),
    ],
)
def test_every_setting_trains_differently(weights_after_a_step, options, name, value):
    one, other = weights_after_a_step(options), weights_after_a_step({**options, name: value})
    assert any(not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.bit_equal
@pytest.mark.parametrize("shared", [False, True])
def test_a_stopped_training_ends_with_the_same_numbers(data, tmp_path, monkeypatch, shared):
    import maskwright.weak.networks.l2g_training as module

    chosen = recipe(shared_trunk=shared, train={"checkpoint_seconds": 0})
    train_l2g(chosen, chosen.l2g, None, data, data, tmp_path / "whole", CPU)
    calls, real = iter(range(100)), l2g_loss

    def failing(*args, **options):
        if next(calls) == 1:
            raise KeyError("power cut")
        return real(*args, **options)

    monkeypatch.setattr(module, "l2g_loss", failing)
    with pytest.raises(KeyError):
        train_l2g(chosen, chosen.l2g, None, data, data, tmp_path / "stopped", CPU)
    state = torch.load(tmp_path / "stopped" / "state.pt", weights_only=True)
    assert state["step"] == 1
    sizes = [sum(value.numel() for value in state[name].values()) for name in ("extra", "model")]
    assert sizes[0] < sizes[1] / 3 if shared else sizes[0] == sizes[1]
    train_l2g(chosen, chosen.l2g, None, data, data, tmp_path / "stopped", CPU)
    weights = [load_weights(tmp_path / name / "model.safetensors") for name in ("whole", "stopped")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert content(tmp_path / "whole") == content(tmp_path / "stopped")


def gradients(shared, loss_part):
    """Which parameters of the two networks a part of the loss reaches."""
    network, local = build_l2g(r := recipe(shared_trunk=shared, pcm=True), r.l2g, None, 3)
    images = torch.randn(2, 3, 64, 64)
    corners = draw_corners(2, 4, (64, 64), (32, 32))
    maps = network(images, maps=True), local.maps(cut_views(images, corners, (32, 32)))
    tags = torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    told, _ = l2g_loss(*maps, tags, corners, (32, 32), 16, weight=0)
    both, _ = l2g_loss(*maps, tags, corners, (32, 32), 16)
    (told if loss_part == "tags" else both - told).backward()
    return tuple(
        {name.split(".")[0] for name, p in net.named_parameters() if p.grad is not None and p.grad.any()}
        for net in (network, local)
    )


def test_each_loss_reaches_its_own_network():
    assert gradients(False, "tags") == (set(), {"backbone", "classifier", "pcm"})
    assert gradients(False, "transfer") == ({"backbone", "classifier", "background", "pcm"}, set())


def test_a_shared_trunk_gets_both_losses_and_each_head_its_own():
    assert gradients(True, "tags") == ({"backbone"}, {"backbone", "classifier", "pcm"})
    assert gradients(True, "transfer") == ({"backbone", "classifier", "background", "pcm"}, {"backbone"})
    network, local = build_l2g(r := recipe(shared_trunk=True), r.l2g, None, 3)
    assert network.backbone is local.backbone
    assert not torch.equal(network.classifier.weight, local.classifier.weight)


def groups_of(chosen, data, tmp_path, monkeypatch):
    import maskwright.weak.networks.l2g_training as module

    found = {}
    monkeypatch.setattr(module, "fit_tags", lambda *args, **options: found.update(options, network=args[0]))
    train_l2g(chosen, chosen.l2g, None, data, data, tmp_path, CPU)
    return found


@pytest.mark.parametrize("shared", [False, True])
def test_rates_of_trunks_and_heads(data, tmp_path, monkeypatch, shared):
    found = groups_of(recipe(shared_trunk=shared, shuffle=False, pcm=True), data, tmp_path, monkeypatch)
    rates = [(group["lr"], p) for group in found["parameter_groups"] for p in group["params"]]
    assert len({id(p) for _, p in rates}) == len(rates)
    by_id = {id(p): rate for rate, p in rates}
    network, extra = found["network"], torch.nn.ModuleList(found["trainable_extra"])
    trunk = {id(p) for p in network.backbone.parameters()}
    for name, p in network.named_parameters():
        expected = 0.001 if id(p) in trunk else 0.01
        assert by_id[id(p)] == pytest.approx(expected * (2 if name.endswith("bias") else 1))
    # The local background is the one part that nothing trains.
    left = [p for p in extra.parameters() if id(p) not in by_id]
    assert [(tuple(p.shape), p.requires_grad) for p in left] == [((1, 288, 1, 1), False)]
    assert (sum(p.numel() for p in extra.parameters()) < 1e5) == shared
    assert found["shuffle"] is False


@pytest.mark.distributed
@pytest.mark.parametrize("shared", [False, True])
def test_every_weight_gets_its_gradient_where_the_network_is_wrapped(tmp_path, shared):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        chosen = recipe(shared_trunk=shared, pcm=True)
        network, local = (net.eval() for net in build_l2g(chosen, chosen.l2g, None, 3))
        wrapped = torch.nn.parallel.DistributedDataParallel(network)
        tags = torch.tensor([[1.0, 0, 1], [0, 1, 0]])
        for _ in range(2):  # the second pass fails where the first left a gradient out
            network.zero_grad()
            images, corners = torch.randn(2, 3, 64, 64), draw_corners(2, 4, (64, 64), (32, 32))
            views = cut_views(images, corners, (32, 32))
            l2g_loss(wrapped(images, maps=True), local.maps(views), tags, corners, (32, 32), 16)[0].backward()
        assert all(p.grad is not None for net in (network, local) for p in net.parameters() if p.requires_grad)
    finally:
        torch.distributed.destroy_process_group()


def test_both_networks_go_on_from_the_one_before(data, tmp_path):
    first = recipe(["classifier"])
    train_classifier(first, first.classifier, None, data, data, tmp_path, CPU)
    start = tmp_path / "model.safetensors"
    weights = load_weights(start)
    r = recipe(["classifier", "l2g"], pcm=True)
    for network in build_l2g(r, r.l2g, start, len(data.labels.foreground)):
        own = network.state_dict()
        assert all(torch.equal(own[name], value) for name, value in weights.items())
        assert network.background is not None
        assert network.pcm.kind == "features"
    begun = build_l2g(r := recipe(), r.l2g, None, 3)
    assert not torch.equal(begun[0].classifier.weight, begun[1].classifier.weight)


def test_shape_transfer_wants_saliency(data, tmp_path):
    with pytest.raises(RecipeError, match="train_00000 has none; give saliency=FOLDER"):
        train_l2g(r := recipe(transfer="shape"), r.l2g, None, data, data, tmp_path, CPU)
    assert not list(tmp_path.iterdir())
    some = Salient(data, missing=(1, 2, 3))
    with pytest.raises(DataError, match="some images have no saliency map"):
        train_l2g(r := recipe(transfer="shape"), r.l2g, None, some, data, tmp_path, CPU)


def test_settings_that_cannot_be(data, tmp_path):
    with pytest.raises(RecipeError, match="multiples of 16"):
        train_l2g(r := recipe(view_size=[40, 32]), r.l2g, None, data, data, tmp_path, CPU)
    with pytest.raises(RecipeError, match=r"corners takes 4 views, found l2g\.views=6"):
        train_l2g(r := recipe(sampling="corners", views=6), r.l2g, None, data, data, tmp_path, CPU)
    with pytest.raises(RecipeError, match=r"view_size=\[96, 32\] does not fit"):
        recipe(view_size=[96, 32])
    with pytest.raises(RecipeError, match="class_uniform"):
        recipe(train={"augment": {"crop": [64, 64], "class_uniform": 0.5}})


CODE_FORM = {
    "views": 6,
    "sampling": "corners_random",
    "winner_takes_all": True,
    "alignment": "roi",
    "background": "binary",
    "threshold": 0.001,
    "binary_saliency": False,
    "attention_where_empty": False,
}


def l2g_of(**fields):
    return build_recipe({"networks": ["l2g"], "l2g": fields}).l2g


def test_attention_is_transferred_in_the_papers_form_and_shape_in_the_codes():
    assert CODE_FORM.keys() == PAPER_FORM.keys()
    for fields, form in (
        ({}, PAPER_FORM),
        ({"transfer": "attention"}, PAPER_FORM),
        ({"transfer": "shape"}, CODE_FORM),
        ({"form": "code"}, CODE_FORM),
        ({"form": "paper", "transfer": "shape"}, PAPER_FORM),
    ):
        found = l2g_of(**fields)
        assert {name: getattr(found, name) for name in form} == form, fields
        assert found.form == ("paper" if form is PAPER_FORM else "code")
        assert found.pcm is False
    assert l2g_of(form="code", pcm=True).pcm is True
    with pytest.raises(RecipeError, match=r"l2g\.form: Input should be 'code' or 'paper'"):
        l2g_of(form="text")


def test_what_a_run_of_before_left_out_of_its_fingerprint_is_what_it_was():
    """Before, everything that was not said was the code's, with PCM; its recipe was kept whole."""
    kept = {**CODE_FORM, "form": "code", "pcm": True, "transfer": "attention", "weight": 10.0, "shared_trunk": False}
    assert effective(l2g_of(**kept)).keys() == {"train"}
    assert effective(l2g_of(**{**kept, **PAPER_FORM, "form": "paper"})).keys() == {*PAPER_FORM, "form", "train"}
    assert effective(l2g_of()).keys() == {*PAPER_FORM, "form", "pcm", "train"}
    assert effective(l2g_of(keep="local")).keys() == {*PAPER_FORM, "form", "pcm", "train", "keep"}


def test_a_run_of_before_is_known_by_its_recipe_and_is_made_again_with_a_word_by_a_new_one(tmp_path):
    data = {"root": "scenes", "options": {"count": 4, "size": [64, 64]}}
    common = {"supervision": "tags", "data": data, "networks": ["l2g"]}
    of_before = {**CODE_FORM, "form": "code", "pcm": True, "view_size": [32, 32]}

    def make(l2g):
        said = []
        context = RunContext(build_recipe({**common, "l2g": l2g}), tmp_path, print)
        stages = [replace(stage, run=lambda folder: None, results=()) for stage in network_stages(context)]
        run_stages(stages, tmp_path, said.append)
        return stages[0].settings["l2g"], said

    written, _ = make(of_before)
    assert written.keys() == {"view_size", "train"}, "as it was written before the default changed"
    assert make(of_before)[1] == [f"[1/1] {NETWORKS['l2g'].title}: done already"]
    (line,) = make({"view_size": [32, 32]})[1]
    assert 'l2g.alignment absent -> "crop"' in line
    assert "the old result is kept in l2g.stale-1" in line
    (line,) = make(of_before)[1]
    assert "taken back from l2g.stale-1" in line


def test_trainings_default_is_the_codes():
    code = l2g_of(train={"batch_size": 8})
    assert (code.weight, code.global_classification, code.train.batch_size) == (10, 0, 8)
    assert (code.train.epochs, code.train.lr, code.train.schedule, code.train.nesterov) == (10, 0.01, "step", True)
    assert code.train.augment.short_side == (512, 512)
    squashed = l2g_of(train={"augment": {"resize": [448, 448]}})
    assert squashed.train.augment.short_side is None
    assert squashed.train.augment.hue == 0.1
    paper = l2g_of(form="paper", views=8, threshold=0.2)
    expected = {**PAPER_FORM, "views": 8, "threshold": 0.2}
    assert {name: getattr(paper, name) for name in expected} == expected
    assert paper.train == build_recipe({}).l2g.train


# The seed method.


def test_maps_are_those_of_the_definition():
    network = trained_like("resnet10t")
    views = views_of([picture()], [(0, 2)], scales=(1.0, 0.5))
    (found,) = l2g_maps(network, views)
    assert NETWORKS["l2g"].maps.maps is l2g_maps
    for size, maps in (((32, 48), found.high_res), ((8, 12), found.cam)):
        total = 0
        for view in views.images:
            for index, turn in ((0, False), (1, True)):
                scores = F.conv2d(network.features(view[index : index + 1]), network.classifier.weight)
                large = F.interpolate(scores, size, mode="bicubic", align_corners=False)
                total = total + (large.flip(-1) if turn else large)
        mean = (total / 4)[0, [0, 2]].relu()
        expected = mean / (mean.amax((1, 2), keepdim=True) + 1e-8)
        torch.testing.assert_close(maps, expected.detach(), rtol=1e-4, atol=1e-5)


def test_maps_can_be_quantised():
    views = views_of([picture()], [(0, 2)])
    plain, coarse = (l2g_maps(trained_like("resnet10t"), views, quantise=q)[0].high_res for q in (False, True))
    levels = coarse * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
    assert 0 < (coarse - plain).abs().max() <= 0.5 / 255 + 1e-6


class Scores(nn.Module):
    """Maps that are given, for any image, brighter images having higher ones."""

    num_tags = 3

    def __init__(self, maps):
        super().__init__()
        self.given = maps

    def maps(self, images):
        return self.given.expand(len(images), -1, -1, -1) + images.mean((1, 2, 3), keepdim=True) * 1e-3


def test_a_class_that_is_nowhere_positive_gets_its_shares_where_asked():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(1, 4, 8, 12, generator=generator)
    maps[0, 1] = -maps[0, 1].abs() - 1
    views = views_of([picture(), picture(1)], [(0, 1), (2,)], scales=(1.0,), flip=False)
    network = Scores(maps)
    plain, filled = (l2g_maps(network, views, shares_where_empty=wanted) for wanted in (False, True))
    for size, part in (((32, 48), "high_res"), ((8, 12), "cam")):
        (before, after), (alone, same) = (
            [getattr(found, part) for found in pair] for pair in zip(plain, filled, strict=True)
        )
        assert not before[1].any()
        assert torch.equal(after[0], before[0])
        assert torch.equal(alone, same)
        shares = network.maps(views.images[0][:1]).softmax(1)[:, 1:2]
        expected = F.interpolate(shares, size, mode="bicubic")[0, 0].relu()
        torch.testing.assert_close(after[1], expected / expected.max())


def test_shares_are_the_mean_of_scales_and_mirrors():
    network = copy.deepcopy(trained_like("resnet10t", background=True))
    with torch.no_grad():
        network.classifier.weight[1].abs_().neg_()
    views = views_of([picture()], [(1,)])
    (found,) = l2g_maps(network, views, shares_where_empty=True)
    total = 0
    for view in views.images:
        straight, mirrored = network.maps(view).detach()
        shares = ((straight + mirrored.flip(-1)) / 2).softmax(0)[None, 1:2]
        total = total + F.interpolate(shares, (32, 48), mode="bicubic")[0]
    torch.testing.assert_close(found.high_res, total.relu() / total.max(), rtol=1e-4, atol=1e-5)


def test_a_background_is_left_out_of_the_maps():
    network = build_l2g(r := recipe(pcm=False), r.l2g, None, 3)[0].eval()
    views = views_of([picture()], [(0, 1, 2)])
    before = l2g_maps(network, views)[0].high_res
    torch.nn.init.constant_(network.background.weight, 5.0)
    assert torch.equal(l2g_maps(network, views)[0].high_res, before)
