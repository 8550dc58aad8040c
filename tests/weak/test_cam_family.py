"""Grad-CAM, Grad-CAM++, LayerCAM and Score-CAM against their texts, class by class; their soft masks for ReCAM."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from maskwright.errors import RecipeError
from maskwright.models import ImageTagClassifier, create_classifier
from maskwright.weak import SEED_METHODS, seed_methods
from maskwright.weak.networks.recam import recam_loss, soft_masks
from maskwright.weak.networks.soft_masks import SOFT_MASKS
from maskwright.weak.seeds.cam import class_activation_maps
from maskwright.weak.seeds.classes import positive_classes
from maskwright.weak.seeds.gradcam import class_table, grad_cam_maps, grad_cam_plus_plus_maps, linear_head
from maskwright.weak.seeds.layercam import layer_cam_maps
from maskwright.weak.seeds.scorecam import score_cam_maps, scorecam, unit_masks

from .contract import picture, trained_like, views_of

TAGS = torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0]])
CLASSES = positive_classes(TAGS)


class Deep(nn.Module):
    """Features of either sign and a head of two layers that is no mean of a linear map; counts images per call."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(6, 7, 3, 2, 1))
        self.hidden = nn.Conv2d(7, 5, 3, padding=1)
        self.classifier = nn.Conv2d(5, 3, 1)
        self.batches: list[int] = []

    def features(self, images: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(images))
        return self.trunk(images)

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.hidden(features).tanh().square().mean((2, 3), keepdim=True)).flatten(1)


@pytest.fixture
def deep() -> Deep:
    return Deep().double().eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 22, 34, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def gradient(network, features, key):
    leaf = features.detach()[None].requires_grad_()
    return torch.autograd.grad(network.logits(leaf)[0, key], leaf)[0][0]


def naive_gradcam(network, image, f, key):
    return (gradient(network, f, key).mean((1, 2))[:, None, None] * f).sum(0)


def naive_gradcam_plus_plus(network, image, f, key):
    g = gradient(network, f, key)
    total = torch.zeros_like(f[0])
    for c in range(len(f)):
        alpha = g[c] ** 2 / (2 * g[c] ** 2 + f[c].clamp(min=0).sum() * g[c] ** 3)
        total += (alpha * g[c])[g[c] > 0].sum() * f[c]
    return total


def naive_layercam(network, image, f, key):
    return (gradient(network, f, key).clamp(min=0) * f).sum(0)


def naive_scorecam(network, image, f, key, score="softmax"):
    scores = []
    for channel in f:
        mask = F.interpolate(channel[None, None], image.shape[1:], mode="bilinear")[0, 0]
        mask = (mask - mask.min()) / (mask.max() - mask.min())
        logits = network.logits(network.features((image * mask)[None]))[0]
        scores.append(logits.softmax(0)[key] if score == "softmax" else logits[key])
    weights = torch.stack(scores).softmax(0) if score == "channels" else scores
    return sum(weight * channel for weight, channel in zip(weights, f, strict=True))


METHODS = {
    "gradcam": (grad_cam_maps, naive_gradcam),
    "gradcam++": (grad_cam_plus_plus_maps, naive_gradcam_plus_plus),
    "layercam": (layer_cam_maps, naive_layercam),
    "scorecam": (score_cam_maps, naive_scorecam),
    "scorecam raw": (partial(score_cam_maps, score="raw"), partial(naive_scorecam, score="raw")),
    "scorecam channels": (partial(score_cam_maps, score="channels"), partial(naive_scorecam, score="channels")),
}
GRADIENTS = ("gradcam", "gradcam++", "layercam")


@pytest.mark.parametrize(("method", "naive"), METHODS.values(), ids=METHODS)
def test_all_classes_at_once_are_the_text_class_by_class(method, naive, deep, images):
    with torch.no_grad():
        features = deep.features(images)
        maps = method(deep, images, features, CLASSES)
    assert maps.dtype == torch.float64
    compared = 0
    for image in (0, 2):
        for found, key in zip(maps[image], CLASSES[image], strict=True):
            if key >= 0:
                expected = naive(deep, images[image], features[image], int(key)).relu().detach()
                torch.testing.assert_close(found / found.max(), expected / expected.max(), rtol=0, atol=1e-9)
                compared += 1
    assert compared == 3


class Unknown(ImageTagClassifier):
    """The same head, but nobody knows."""

    def logits(self, features):
        return super().logits(features)


@pytest.mark.parametrize("method", GRADIENTS)
def test_the_closed_form_is_what_the_gradient_gives(method):
    parts = {"background": True, "pcm": "features"}  # neither changes what the logits are to the features
    network, unknown = (copy.deepcopy(trained_like("resnet10t", 3, **parts)).double() for _ in range(2))
    unknown.__class__ = Unknown
    images = views_of([picture(seed) for seed in range(3)], [(), (), ()], (1.0,), flip=False).images[0].double()
    with torch.no_grad():
        features = network.features(images)
        closed = METHODS[method][0](network, images, features, CLASSES)
        general = METHODS[method][0](unknown, images, features, CLASSES)
    rows = CLASSES >= 0
    torch.testing.assert_close(closed[rows], general[rows], rtol=1e-9, atol=1e-12)
    assert closed[rows].amax((1, 2)).min() > 0


def test_only_a_head_that_is_known_to_be_linear_counts_as_one(deep):
    network = create_classifier(backbone="resnet10t", num_tags=3, output_stride=None, recam_head=True, background=True)
    assert torch.equal(linear_head(network), network.classifier.weight.flatten(1))
    assert linear_head(deep) is None

    assert linear_head(Unknown(network.backbone, 3)) is None


def test_gradcam_is_cam_with_a_mean_and_a_linear_layer():
    """At several scales and with mirrors too, since the number of positions is no weight."""
    network = trained_like("resnet10t")
    views = views_of([picture(0), picture(1)], [(0, 2), (1,)], (1.0, 0.5, 2.0))
    for found, expected in zip(
        SEED_METHODS["gradcam"].maps(network, views), class_activation_maps(network, views), strict=True
    ):
        torch.testing.assert_close(found.high_res, expected.high_res, rtol=0, atol=1e-6)
        torch.testing.assert_close(found.cam, expected.cam, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", [*GRADIENTS, "scorecam"])
def test_a_network_without_a_linear_head(method, deep):
    pixels, tags = [picture(seed, (33, 47)) for seed in range(3)], [(0, 2), (), (1,)]
    together = seed_methods()[method].maps(deep, views_of(pixels, tags, dtype=torch.float64))
    for image, keys, found in zip(pixels, tags, together, strict=True):
        (alone,) = seed_methods()[method].maps(deep, views_of([image], [keys], dtype=torch.float64))
        assert found.keys.tolist() == list(keys)
        assert found.high_res.shape == (len(keys), 33, 47)
        torch.testing.assert_close(found.high_res, alone.high_res, rtol=0, atol=1e-9)
        assert all(peak > 0.9 for peak in found.high_res.amax((1, 2)))
    assert all(value.grad is None for value in deep.parameters())


def test_one_backward_pass_serves_a_class_of_every_image(deep, images, monkeypatch):
    calls = []
    plain = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **options: calls.append(1) or plain(*args, **options))
    with torch.no_grad():
        grad_cam_maps(deep, images, deep.features(images), CLASSES)
    assert len(calls) == 2  # as many as the image with most classes has


def test_half_precision_keeps_small_gradients():
    """1 / positions is below what float16 holds exactly; the weights must not suffer from it."""
    head = nn.Conv2d(4, 2, 1, bias=False)

    class Half(nn.Module):
        def logits(self, features):
            return head.half()(features.mean((2, 3), keepdim=True)).flatten(1)

    features = torch.rand(1, 4, 100, 100).half()
    with torch.no_grad():
        found = grad_cam_maps(Half(), features, features, torch.tensor([[0, 1]]))
        expected = torch.einsum("kd,bdhw->bkhw", head.weight.float()[..., 0, 0], features.float()).relu()
    torch.testing.assert_close(found, expected, rtol=0.01, atol=2e-3)


def test_class_table():
    assert class_table([(0, 2), (), (1,)], torch.device("cpu")).tolist() == [[0, 2], [-1, -1], [1, -1]]
    assert class_table([(), ()], torch.device("cpu")).shape == (2, 0)


def test_scorecam_computes_only_images_with_tags_in_batches_that_fit(deep):
    views = views_of([picture(0), picture(1)], [(), (1, 2)], (1.0,), dtype=torch.float64)
    whole = scorecam(deep, views)
    assert deep.batches == [4, 14]  # the views, then seven channels of two of them, for both classes at once
    deep.batches.clear()
    pieces = scorecam(deep, views, batch_pixels=5 * 32 * 48)
    assert deep.batches == [4, 5, 5, 4]
    torch.testing.assert_close(whole[1].high_res, pieces[1].high_res, rtol=0, atol=1e-12)


def test_scorecams_strongest_channels(deep, images):
    with torch.no_grad():
        features = deep.features(images)
        found = score_cam_maps(deep, images, features, CLASSES, channels=3)
        strongest = features[2].flatten(1).var(1).argsort(descending=True)[:3]
        kept = features[2][strongest]
        expected = naive_scorecam(deep, images[2], kept, 1).relu()
        torch.testing.assert_close(found[2, 0], expected, rtol=0, atol=1e-12)
        every = score_cam_maps(deep, images, features, CLASSES, channels=99)
        assert torch.equal(every, score_cam_maps(deep, images, features, CLASSES))


def test_a_channel_that_is_the_same_everywhere_says_nothing(deep, images):
    with torch.no_grad():
        features = deep.features(images)
        features[:, 2:] = 3.0
        for score in ("softmax", "raw"):
            without = sum(
                weight * channel
                for weight, channel in zip(
                    weights_of(deep, images[2], features[2, :2], score), features[2, :2], strict=True
                )
            )
            found = score_cam_maps(deep, images, features, CLASSES, score=score)
            torch.testing.assert_close(found[2, 0], without.relu(), rtol=0, atol=1e-12)
        features[:] = 3.0
        assert not score_cam_maps(deep, images, features, CLASSES).any()
    assert torch.equal(unit_masks(torch.ones(1, 2, 2), (4, 4)), torch.zeros(1, 4, 4))


def weights_of(network, image, channels, score):
    eye = torch.eye(len(channels), dtype=channels.dtype)
    masks = unit_masks(channels, tuple(image.shape[1:]))
    logits = network.logits(network.features(image * masks[:, None]))
    values = logits.softmax(1)[:, 1] if score == "softmax" else logits[:, 1]
    return eye @ values


def test_wrong_options_of_scorecam_say_so(deep):
    views = views_of([picture()], [(0,)], (1.0,), dtype=torch.float64)
    with pytest.raises(RecipeError, match="Did you mean 'softmax'"):
        scorecam(deep, views, score="softmx")
    with pytest.raises(RecipeError, match="found channels: 0"):
        scorecam(deep, views, channels=0)


GIVEN = {name: masks for name, masks in SOFT_MASKS.items() if masks is not None}


# What soft masks that are no class activation maps are made of.
PARTS = {"eps": {"background": True}, "edam": {"edam": True}}


@pytest.fixture
def training(request):
    name = request.node.callspec.params.get("name") if hasattr(request.node, "callspec") else None
    network = copy.deepcopy(trained_like("resnet10t", **PARTS.get(name, {}))).double()
    images = views_of([picture(seed) for seed in range(3)], [(), (), ()], (1.0,), flip=False).images[0].double()
    network.train()
    network.backbone.network.bn1.eval()
    return network, images


def test_every_soft_mask_has_a_seed_method_of_its_name():
    assert set(SOFT_MASKS) <= set(seed_methods())
    assert SOFT_MASKS["cam"] is None


@pytest.mark.parametrize("name", GIVEN)
def test_soft_masks(name, training):
    network, images = training
    modes = [module.training for module in network.modules()]
    state = {key: value.clone() for key, value in network.state_dict().items()}
    features = network.eval().features(images)
    for module, mode in zip(network.modules(), modes, strict=True):
        module.training = mode
    masks = GIVEN[name](network, images, features, TAGS.double())
    assert masks.shape == (3, 3, *features.shape[2:])
    assert masks.dtype == torch.float64
    assert not masks[TAGS == 0].any()
    peaks = masks[TAGS > 0].amax((1, 2))
    assert (masks >= 0).all()
    assert (peaks > 0.5).all()
    assert (peaks < 1).all()
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    loss, _ = recam_loss(features, network.classifier.weight, network.recam_head.weight, TAGS.double(), masks=masks)
    loss.backward()
    for value in (
        network.recam_head.weight,
        network.classifier.weight,
        network.backbone.network.conv1[0].weight,
    ):
        assert torch.isfinite(value.grad).all()
        assert value.grad.any()
    assert masks.requires_grad == (name in GRADIENTS or name in PARTS)


@pytest.mark.parametrize("name", GIVEN)
def test_soft_masks_of_images_without_tags_cost_nothing(name, training):
    network, images = training
    features = network.eval().features(images)
    network.features = None  # no further pass may be made
    masks = GIVEN[name](network, images, features, torch.zeros(3, 3))
    assert masks.shape == (3, 3, *features.shape[2:])
    assert not masks.any()


def test_gradcams_soft_masks_are_recams_own(training):
    network, images = training
    w1, w2 = network.classifier.weight, network.recam_head.weight
    features = network.eval().features(images)
    own = soft_masks(features, w1, CLASSES)
    given = SOFT_MASKS["gradcam"](network, images, features, TAGS.double())
    torch.testing.assert_close(given[0, [0, 2]], own[0])
    gradients = [
        torch.autograd.grad(recam_loss(features, w1, w2, TAGS.double(), masks=masks)[0], w1, retain_graph=True)[0]
        for masks in (None, given)
    ]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", GRADIENTS)
def test_soft_masks_made_of_gradients_can_be_differentiated(name, deep):
    features = torch.randn(1, 7, 2, 3, dtype=torch.float64, requires_grad=True)
    weight = deep.classifier.weight

    def masks(features, weight):
        return SOFT_MASKS[name](deep, features, features, TAGS[:1])

    assert torch.autograd.gradcheck(masks, (features, weight))


@pytest.mark.parametrize("name", GIVEN)
def test_soft_masks_under_autocast(name):
    network = trained_like("resnet10t", **PARTS.get(name, {}))
    images = views_of([picture(0)], [()], (1.0,), flip=False).images[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        masks = GIVEN[name](network, images, network.features(images), TAGS[:1])
    assert masks.dtype == torch.float32
    assert torch.isfinite(masks).all()
    assert masks[TAGS[:1] > 0].amax() > 0.5
