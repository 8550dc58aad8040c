"""AdvCAM against its text, step by step and class by class; the contract of seed methods."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from maskwright.errors import RecipeError
from maskwright.settings import SeedSettings
from maskwright.weak import extract_seeds
from maskwright.weak.seeds.advcam import advcam, climb, grad_cam, merge_views, steps_at, summed_maps
from maskwright.weak.seeds.cam import class_activation_maps, finish, normalise_maps
from maskwright.weak.seeds.extract import extract_maps, load_maps

from .contract import picture, trained_like, views_of


class Tiny(nn.Module):
    """Two convolutions of stride 2 and a head; counts the calls."""

    def __init__(self, num_tags: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(6, 7, 3, stride=2, padding=1), nn.ReLU()
        )
        self.classifier = nn.Conv2d(7, num_tags, 1, bias=False)
        self.batches: list[int] = []

    def features(self, images: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(images))
        return self.layers(images)


def released(network, pair, key, *, steps, step_size=0.08, penalty=7.0, threshold=0.5):
    """One class, both backward passes, as the released code goes: maps on the way and the last pair."""
    found, first = [], None
    for _ in range(steps):
        pair = pair.detach().requires_grad_()
        features = network.features(pair)
        scores = network.classifier(features)
        (gradient,) = torch.autograd.grad(scores[:, key].relu().sum(), features, retain_graph=True)
        count = (gradient > 0).sum()
        alpha = gradient.sum((2, 3), keepdim=True) / (count + 1e-12)
        maps = (alpha * features).sum(1).relu()
        merged = maps[0] + maps[1].flip(-1)
        first = merged.detach() if first is None else first
        found.append(merged.detach())
        means = scores.relu().mean((2, 3))
        clear = merged.detach() / merged.detach().max() > threshold
        objective = 2 * means[:, key].sum() - means.sum() - penalty * ((merged - first).abs() * clear).sum()
        (data,) = torch.autograd.grad(objective, pair)
        moved = pair.detach() + step_size * data / (data.abs().max() + 1e-12)
        pair = moved.clamp(pair.min().item(), pair.max().item())
    return found, pair


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_one_batch_of_classes_and_images_equals_class_by_class_with_two_backward_passes(dtype):
    network = Tiny().to(dtype).eval()
    views = views_of([picture(seed) for seed in range(2)], [(0, 2), (1,)], (1.0,), dtype=dtype)
    images = views.images[0].unflatten(0, (2, 2))
    owners, keys = torch.tensor([0, 0, 1]), torch.tensor([0, 2, 1])
    steps = list(climb(network, images[:, owners], keys, steps=4))
    for place in range(3):
        maps, pair = released(network, images[:, owners[place]], int(keys[place]), steps=4)
        tight = {"rtol": 0, "atol": 1e-9 if dtype == torch.float64 else 1e-4}
        torch.testing.assert_close(torch.stack([merge_views(s.maps)[place] for s in steps]), torch.stack(maps), **tight)
        torch.testing.assert_close(steps[-1].images[:, place], pair, **tight)


def test_one_forward_per_step_for_all_classes():
    network = Tiny().eval()
    advcam(network, views_of([picture(0), picture(1)], [(0, 1, 2), (1,)], (1.0, 0.5)), steps=12)
    assert network.batches == [8] * (6 + 12)
    network.batches.clear()
    advcam(network, views_of([picture(0), picture(1)], [(0, 1, 2), (1,)], (1.0,)), steps=1, batch_pixels=1)
    assert network.batches == [2] * 4


def test_small_batches_change_nothing():
    network = Tiny().eval()
    views = views_of([picture(0), picture(1)], [(0, 1, 2), (1,)], (1.0, 0.5))
    for one, other in zip(
        advcam(network, views, steps=3), advcam(network, views, steps=3, batch_pixels=1), strict=True
    ):
        torch.testing.assert_close(one.high_res, other.high_res, rtol=0, atol=1e-4)


def test_closed_form_of_grad_cam():
    scores = torch.tensor([[[[1.0, 0.0], [3.0, 2.0]]], [[[0.0, 0.0], [4.0, 0.0]]]])  # two views of one climb
    weight = torch.tensor([[0.5, -1.0, 2.0]])  # two channels speak for the class
    found = grad_cam(scores, weight)
    assert torch.allclose(found, scores * torch.tensor([3.0, 1.0])[:, None, None, None] / (2 * 4))
    assert torch.equal(grad_cam(torch.zeros(2, 1, 2, 2), weight), torch.zeros(2, 1, 2, 2))


@pytest.mark.parametrize(
    ("steps", "scale", "made"), [(27, 0.5, 13), (27, 2.0, 27), (11, 0.5, 5), (10, 0.5, 5), (6, 0.5, 5), (5, 0.5, 5)]
)
def test_steps_at_scale_one_half(steps, scale, made):
    assert steps_at(steps, scale) == made


def weighted(network, views, steps, factors):
    images = [view.unflatten(0, (2, 1)) for view in views.images]
    maps = [
        factor * summed_maps(network, pair, torch.tensor([1]), steps=steps_at(steps, scale), form="released")
        for pair, scale, factor in zip(images, views.scales, factors, strict=True)
    ]
    return finish(maps, views.tags, views.size)[0].high_res


@pytest.mark.parametrize(("fix", "factors"), [(False, (1, 1)), (True, (1, 2))])
def test_scale_one_half_weighs_half_as_much_unless_asked(fix, factors):
    network = Tiny().eval()
    views = views_of([picture()], [(1,)], (1.0, 0.5))
    (found,) = advcam(network, views, steps=11, fix_scale_weight=fix)
    torch.testing.assert_close(found.high_res, weighted(network, views, 11, factors), rtol=0, atol=2e-3)
    other = weighted(network, views, 11, (1, 2) if factors == (1, 1) else (1, 1))
    assert (found.high_res - other).abs().max() > 5e-3


def test_images_stay_in_their_range_and_their_class_rises():
    network = Tiny().eval()
    images = views_of([picture()], [(1,)], (1.0,)).images[0].unflatten(0, (2, 1))
    steps = list(climb(network, images, torch.tensor([1]), steps=6, penalty=0.0))
    low, high = images.min(), images.max()
    assert all((step.images >= low).all() and (step.images <= high).all() for step in steps)
    assert all(
        (step.images - before).abs().max() <= 0.08 + 1e-6
        for step, before in zip(steps[1:], [s.images for s in steps], strict=False)
    )

    def gain(pair):
        means = network.classifier(network.features(pair[:, 0])).relu().mean((2, 3)).detach()
        return float((2 * means[:, 1] - means.sum(1)).sum())

    assert gain(steps[-1].images) > gain(images)


def test_penalty_keeps_clear_regions():
    network = Tiny().eval()
    images = views_of([picture()], [(1,)], (1.0,)).images[0].unflatten(0, (2, 1))

    def change(penalty):
        steps = list(climb(network, images, torch.tensor([1]), steps=8, penalty=penalty))
        return float((merge_views(steps[-1].maps) - merge_views(steps[0].maps)).abs().max())

    assert change(1000.0) < change(0.0)


def test_without_gradient_every_step_is_the_same_map():
    network = Tiny().eval()
    views = views_of([picture()], [(0, 2)], (1.0,), flip=False)
    (still,) = advcam(network, views, steps=3, step_size=0.0)
    (cam,) = class_activation_maps(network, views)
    torch.testing.assert_close(still.high_res, cam.high_res, rtol=0, atol=1e-3)  # one view: Grad-CAM is CAM


def test_equation_form_is_the_text():
    network = Tiny().double().eval()
    views = views_of([picture()], [(1,)], (1.0,), dtype=torch.float64)
    steps, step_size, penalty = 3, 0.05, 2.0

    def cam(image):
        raw = network.classifier(network.features(image))
        mine = raw[:, 1].relu()
        return raw, mine / mine.amax((1, 2), keepdim=True)

    total = torch.zeros(1, 8, 12, dtype=torch.float64)
    for number, image in enumerate(views.images[0][:, None]):
        first = cam(image)[1].detach()
        for turn in range(steps + 1):
            image = image.detach().requires_grad_()
            raw, mine = cam(image)
            total = total + (mine if number == 0 else mine.flip(-1)).detach()
            z = raw.mean((2, 3))[0]
            ascended = z[1] - z[0] - z[2] - penalty * ((mine - first) * (mine.detach() > 0.5)).abs().sum()
            if turn < steps:
                image = image + step_size * torch.autograd.grad(ascended, image)[0]
    options = {"steps": steps, "step_size": step_size, "penalty": penalty}
    (found,) = advcam(network, views, form="equation", **options)
    expected = F.interpolate(total[None], (32, 48), mode="bilinear")[0]
    torch.testing.assert_close(found.high_res, normalise_maps(expected), rtol=0, atol=1e-9)


def test_recams_weights_can_climb():
    network = trained_like("resnet10t")
    views = views_of([picture()], [(0,)], (1.0,))
    (named,) = advcam(network, views, steps=1, weight="product")
    product = network.classifier.weight * network.recam_head.weight
    (given,) = advcam(network, views, steps=1, weight=product)
    assert torch.equal(named.high_res, given.high_res)
    assert not torch.equal(named.high_res, advcam(network, views, steps=1)[0].high_res)


def test_wrong_options_say_so():
    views = views_of([picture()], [(0,)], (1.0,))
    with pytest.raises(RecipeError, match="Did you mean 'released'"):
        advcam(Tiny(), views, form="relased")
    with pytest.raises(RecipeError, match="found steps: 0"):
        advcam(Tiny(), views, steps=0)
    with pytest.raises(RecipeError, match="second head"):
        advcam(Tiny(), views, weight="product")


def test_an_unknown_option_of_a_recipe_is_named_before_anything_is_written(memory_set, network, tmp_path):
    settings = SeedSettings(method="advcam", options={"penalti": 7.0})
    with pytest.raises(RecipeError, match="Did you mean 'penalty'"):
        extract_seeds(memory_set(), network, settings, tmp_path, "cpu")
    assert not list(tmp_path.iterdir())


def test_a_folder_of_maps(memory_set, network, tmp_path):
    dataset = memory_set(tags=((1,), (), (2, 3), None))
    settings = SeedSettings(method="advcam", options={"steps": 2}, scales=(1.0, 0.5))
    folder = extract_seeds(dataset, network, settings, tmp_path, "cpu")
    assert [len(load_maps(folder, name)[0]) for name in dataset.names[:3]] == [1, 0, 2]
    alone = extract_maps(network, dataset.images[2], (1, 2), method=advcam, scales=(1.0, 0.5), steps=2)
    torch.testing.assert_close(
        torch.from_numpy(load_maps(folder, dataset.names[2])[1]).float(), alone.high_res, rtol=0, atol=3e-3
    )
