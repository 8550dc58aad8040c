"""What every seed method must keep; a method is tested by being registered."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

from maskwright.errors import RecipeError
from maskwright.models.folding import inference_copy
from maskwright.weak import SEED_METHODS, SeedMethod, seed_methods
from maskwright.weak.seeds.cam import SeedMaps, class_activation_maps, strided

from .contract import BACKBONES, halves, picture, signed_like, trained_like, views_of


@dataclass
class Case:
    """How a method is called and which parts its network needs beside the heads; `tolerance` is that of maps, between
    one batch and image by image; `rivals`: classes share positions out, so that one of them may get none; `signed`:
    where the evidence of a class is negative, its map is zero."""

    options: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, Any] = field(default_factory=dict)
    tolerance: float = 1e-4
    rivals: bool = False
    signed: bool = True


# Methods that need options or parts, that are slow without options, or that have several forms.
CASES: dict[str, dict[str, Case]] = {
    # Each step divides by the largest gradient and cuts at a threshold: rounding grows.
    "advcam": {
        "released": Case({"steps": 2}, tolerance=1e-3),
        "equation": Case({"steps": 2, "form": "equation"}, tolerance=1e-3),
    },
    # Softmax shares, which are above zero everywhere.
    "edam": {"": Case(parts={"edam": True}, signed=False)},
    "eps": {"": Case(parts={"background": True}, signed=False)},
    # Weighted sums of channels with positive weights alone, or of masked images' scores.
    "gradcam++": {"": Case(signed=False)},
    "layercam": {"": Case(signed=False)},
    "l2g": {
        "": Case(),
        "whole": Case({"quantise": True}, {"background": True, "pcm": "features"}, tolerance=1 / 254),
        "shares": Case({"shares_where_empty": True}, {"background": True}),
    },
    # The product of two negative weights is positive.
    "recam": {"product": Case(signed=False), "agree": Case({"weight": "agree"})},
    "scorecam": {"": Case({"channels": 4}, signed=False)},
    # PCM carries a map to all positions that look a little alike.
    "seam": {"": Case(parts={"pcm": "cam"}, rivals=True, signed=False)},
}
EVERY = {
    f"{method}-{form}" if form else method: (method, case)
    for method in seed_methods()
    for form, case in CASES.get(method, {"": Case()}).items()
}
FIRST = next(iter(BACKBONES))


@pytest.mark.parametrize(("method", "case"), EVERY.values(), ids=EVERY)
class TestSeedMethod:
    def maps(self, method, case, images, tags, network: nn.Module | None = None, **view) -> list[SeedMaps]:
        network = trained_like(FIRST, **case.parts) if network is None else network
        return seed_methods()[method].maps(network, views_of(images, tags, **view), **case.options)

    @pytest.mark.parametrize("backbone", BACKBONES)
    def test_any_backbone(self, method, case, backbone):
        (found,) = self.maps(method, case, [picture()], [(0, 2)], trained_like(backbone, **case.parts))
        self.check(found, (0, 2), (32, 48))
        present = found.high_res.amax((1, 2)) > 0.5
        assert present.any() if case.rivals else present.all()

    def check(self, found: SeedMaps, keys: tuple[int, ...], size: tuple[int, int]) -> None:
        assert found.keys.dtype == torch.int64
        assert found.keys.tolist() == list(keys)
        assert found.cam.shape == (len(keys), strided(size[0], 4), strided(size[1], 4))
        assert found.high_res.shape == (len(keys), *size)
        for maps in (found.cam, found.high_res):
            assert torch.isfinite(maps).all()
            assert (maps >= 0).all()
            assert (maps <= 1).all()
            assert not maps.requires_grad

    @pytest.mark.parametrize("size", [(33, 47), (7, 70), (16, 5)])
    def test_any_size(self, method, case, size):
        (found,) = self.maps(method, case, [picture(size=size)], [(1,)])
        self.check(found, (1,), size)

    @pytest.mark.parametrize("flip", [True, False])
    @pytest.mark.parametrize("tags", [(), (1,), (0, 1, 2)])
    def test_any_tags(self, method, case, tags, flip):
        (found,) = self.maps(method, case, [picture()], [tags], flip=flip)
        self.check(found, tags, (32, 48))

    def test_a_network_of_one_class(self, method, case):
        (found,) = self.maps(method, case, [picture()], [(0,)], trained_like(FIRST, 1, **case.parts))
        self.check(found, (0,), (32, 48))
        assert found.high_res.max() > 0.5

    def test_batch_equals_loop(self, method, case):
        images, tags = [picture(seed) for seed in range(3)], [(0, 2), (), (1,)]
        together = self.maps(method, case, images, tags)
        for pixels, keys, found in zip(images, tags, together, strict=True):
            (alone,) = self.maps(method, case, [pixels], [keys])
            self.check(found, keys, (32, 48))
            torch.testing.assert_close(found.high_res, alone.high_res, rtol=0, atol=case.tolerance)
            torch.testing.assert_close(found.cam, alone.cam, rtol=0, atol=case.tolerance)

    def test_classes_do_not_depend_on_which_others_are_tagged(self, method, case):
        (every,) = self.maps(method, case, [picture()], [(0, 1, 2)])
        (alone,) = self.maps(method, case, [picture()], [(1,)])
        torch.testing.assert_close(every.high_res[1:2], alone.high_res, rtol=0, atol=case.tolerance)

    def test_mirror_image_has_mirrored_maps(self, method, case):
        (found,) = self.maps(method, case, [picture()], [(0, 2)])
        (mirrored,) = self.maps(method, case, [picture()[:, ::-1].copy()], [(0, 2)])
        torch.testing.assert_close(mirrored.high_res, found.high_res.flip(-1), rtol=0, atol=10 * case.tolerance)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_dtype_of_the_caller(self, method, case, dtype):
        network = copy.deepcopy(trained_like(FIRST, **case.parts)).to(dtype)
        (found,) = self.maps(method, case, [picture()], [(0, 2)], network, dtype=dtype)
        self.check(found, (0, 2), (32, 48))
        assert found.high_res.dtype == found.cam.dtype == torch.promote_types(dtype, torch.float32)
        if dtype == torch.float64:
            (single,) = self.maps(method, case, [picture()], [(0, 2)])
            torch.testing.assert_close(found.high_res.float(), single.high_res, rtol=0, atol=10 * case.tolerance)
            # Nothing on the way was rounded to float32.
            assert not torch.equal(found.high_res, found.high_res.float().double())

    def test_any_network_with_all_parts(self, method, case):
        """What other methods have trained does not stand in the way."""
        parts = {"background": True, "edam": True, "pcm": "features", **case.parts}
        (found,) = self.maps(method, case, [picture()], [(0, 2)], trained_like(FIRST, **parts))
        self.check(found, (0, 2), (32, 48))

    def test_classes_that_nothing_speaks_for(self, method, case):
        network = copy.deepcopy(trained_like(FIRST, **case.parts))
        with torch.no_grad():
            for head in (network.classifier, network.recam_head):
                head.weight.abs_().neg_()
        (found,) = self.maps(method, case, [picture()], [(0, 2)], network)
        self.check(found, (0, 2), (32, 48))

    def test_negative_evidence_leaves_nothing(self, method, case):
        """One class speaks for the left half of the picture and against the right, the other the opposite."""
        if not case.signed:
            pytest.skip("this method does not keep the sign of evidence")
        (found,) = self.maps(method, case, [halves()], [(0, 1)], signed_like(FIRST, **case.parts))
        outer = (slice(None, 24), slice(-24, None))  # further from the middle than a resize can carry
        for maps, own, other in ((found.high_res[0], *outer), (found.high_res[1], *outer[::-1])):
            assert not maps[:, other].any()
            assert maps[:, own].amin() > 0.5

    def test_autocast(self, method, case):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            (found,) = self.maps(method, case, [picture()], [(0, 2)])
        self.check(found, (0, 2), (32, 48))
        assert found.high_res.dtype == torch.float32

    def test_a_copy_for_half_precision(self, method, case):
        """As `extract_folder` runs it: under autocast, with weights that are in half precision already."""
        network = trained_like(FIRST, **case.parts)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            (found,) = self.maps(method, case, [picture()], [(0, 2)], inference_copy(network, torch.bfloat16))
        self.check(found, (0, 2), (32, 48))
        assert found.high_res.dtype == torch.float32
        (expected,) = self.maps(method, case, [picture()], [(0, 2)])
        assert (found.high_res - expected.high_res).abs().mean() < 0.05

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
    def test_device_of_the_caller(self, method, case):
        network = copy.deepcopy(trained_like(FIRST, **case.parts)).cuda()
        (found,) = self.maps(method, case, [picture()], [(0, 2)], network, device="cuda")
        (expected,) = self.maps(method, case, [picture()], [(0, 2)])
        assert found.high_res.device.type == "cuda"
        torch.testing.assert_close(found.high_res.cpu(), expected.high_res, rtol=0, atol=0.02)

    def test_nothing_is_made_on_another_device(self, method, case):
        """Without a GPU: what is made without saying where lands on a device on which nothing can be computed."""
        network, views = trained_like(FIRST, **case.parts), views_of([picture()], [(0, 2)])
        with torch.device("meta"):
            (found,) = seed_methods()[method].maps(network, views, **case.options)
        self.check(found, (0, 2), (32, 48))
        assert found.high_res.device.type == found.cam.device.type == "cpu"

    def test_network_and_views_stay_as_they_were(self, method, case):
        network = trained_like(FIRST, **case.parts)
        views = views_of([picture()], [(0, 2)])
        before = [view.clone() for view in views.images]
        weights = {name: value.clone() for name, value in network.state_dict().items()}
        trainable = [p.requires_grad for p in network.parameters()]
        seed_methods()[method].maps(network, views, **case.options)
        assert all(torch.equal(view, old) for view, old in zip(views.images, before, strict=True))
        assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
        assert [p.requires_grad for p in network.parameters()] == trainable
        assert all(p.grad is None for p in network.parameters())
        assert not network.training

    def test_the_same_under_no_grad(self, method, case):
        (found,) = self.maps(method, case, [picture()], [(1,)])
        with torch.no_grad():
            (again,) = self.maps(method, case, [picture()], [(1,)])
        assert torch.equal(found.high_res, again.high_res)


def broken(change):
    def method(network, views):
        return change(class_activation_maps(network, views), network, views)

    return method


def swapped(maps, network, views):
    return maps[::-1]


def of_the_batch(maps, network, views):
    return [SeedMaps(each.keys, each.cam / len(maps), each.high_res / len(maps)) for each in maps]


def single(maps, network, views):
    return [SeedMaps(each.keys, each.cam.float(), each.high_res.float()) for each in maps]


def rounded(maps, network, views):
    dtype = maps[0].cam.dtype
    return [SeedMaps(each.keys, each.cam.float().to(dtype), each.high_res.float().to(dtype)) for each in maps]


def half(maps, network, views):
    return [SeedMaps(each.keys, each.cam.half(), each.high_res.half()) for each in maps]


def without_guard(maps, network, views):
    return [SeedMaps(each.keys, each.cam, each.high_res / each.high_res.amax((1, 2), keepdim=True)) for each in maps]


def of_those_with_tags(maps, network, views):
    return [each for each in maps if len(each.keys)]


def too_small(maps, network, views):
    return [SeedMaps(each.keys, each.cam, each.high_res[:, :-1]) for each in maps]


def trains(maps, network, views):
    network.train()
    return maps


def draws(maps, network, views):
    views.images[0].add_(1e-3)
    return maps


def with_gradient(maps, network, views):
    return [SeedMaps(each.keys, each.cam, each.high_res.clone().requires_grad_()) for each in maps]


def chance(maps, network, views):
    return [SeedMaps(each.keys, each.cam, each.high_res * torch.rand(())) for each in maps]


def shared_out(maps, network, views):
    total = [each.high_res.sum(0).clamp(min=1e-5) for each in maps]
    return [SeedMaps(each.keys, each.cam, each.high_res / sum_) for each, sum_ in zip(maps, total, strict=True)]


def to_the_right(maps, network, views):
    slope = torch.linspace(0, 1, views.size[1])
    return [SeedMaps(each.keys, each.cam, each.high_res * slope) for each in maps]


def unsigned(maps, network, views):
    return [SeedMaps(each.keys, each.cam, (each.high_res - each.high_res.mean()).abs().clamp(max=1)) for each in maps]


def elsewhere(maps, network, views):
    return [SeedMaps(each.keys, each.cam, each.high_res * torch.ones(views.size)) for each in maps]


def three_classes(maps, network, views):
    if network.num_tags != 3:
        raise RecipeError("only three classes")
    return maps


BROKEN = {
    swapped: ("test_batch_equals_loop", ()),
    of_the_batch: ("test_batch_equals_loop", ()),
    single: ("test_dtype_of_the_caller", (torch.float64,)),
    rounded: ("test_dtype_of_the_caller", (torch.float64,)),
    half: ("test_autocast", ()),
    without_guard: ("test_classes_that_nothing_speaks_for", ()),
    of_those_with_tags: ("test_any_tags", ((), True)),
    too_small: ("test_any_size", ((33, 47),)),
    trains: ("test_network_and_views_stay_as_they_were", ()),
    draws: ("test_network_and_views_stay_as_they_were", ()),
    with_gradient: ("test_any_backbone", (FIRST,)),
    chance: ("test_the_same_under_no_grad", ()),
    shared_out: ("test_classes_do_not_depend_on_which_others_are_tagged", ()),
    to_the_right: ("test_mirror_image_has_mirrored_maps", ()),
    unsigned: ("test_negative_evidence_leaves_nothing", ()),
    elsewhere: ("test_nothing_is_made_on_another_device", ()),
    three_classes: ("test_a_network_of_one_class", ()),
}


@pytest.mark.parametrize("change", BROKEN, ids=lambda change: change.__name__)
def test_a_broken_method_does_not_pass(change, monkeypatch):
    name, arguments = BROKEN[change]
    test = getattr(TestSeedMethod(), name)
    monkeypatch.setitem(SEED_METHODS, "broken", SeedMethod(class_activation_maps))
    test("broken", Case(), *arguments)
    monkeypatch.setitem(SEED_METHODS, "broken", SeedMethod(broken(change)))
    try:
        with pytest.raises((AssertionError, RecipeError, RuntimeError, ValueError)):
            test("broken", Case(), *arguments)
    finally:
        trained_like(FIRST).eval()
