"""Seeds from sliding windows: what is put together, where, and that nothing else changes."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from maskwright.errors import RecipeError
from maskwright.models import ImageTagClassifier
from maskwright.models.backbone import Backbone
from maskwright.settings import SeedSettings
from maskwright.weak import extract_seeds, seed_methods
from maskwright.weak.seeds.cam import Views
from maskwright.weak.seeds.extract import load_maps
from maskwright.weak.seeds.windows import in_windows

from .contract import BACKBONES, picture, trained_like, views_of
from .test_seed_contract import EVERY


class Grid(Backbone):
    """Maps of strides 2, 4 and 8; with `blind` every position sees its own pixels alone."""

    def __init__(self, blind: bool = True) -> None:
        super().__init__("grid", [4, 6, 8], [2, 4, 8])
        torch.manual_seed(0)
        kernel = 2 if blind else 5
        self.layers = nn.ModuleList(
            nn.Conv2d(*channels, kernel, 2, padding=0 if blind else 2) for channels in ((3, 4), (4, 6), (6, 8))
        )
        self.seen = []

    def forward(self, images):
        self.seen.append(tuple(images.shape[-2:]))
        maps = []
        for layer in self.layers:
            rows, columns = (-length % 2 for length in images.shape[-2:])
            images = layer(nn.functional.pad(images, (0, columns, 0, rows))).relu()
            maps.append(images)
        return maps


def network(blind: bool = True, **parts) -> ImageTagClassifier:
    torch.manual_seed(0)
    made = ImageTagClassifier(Grid(blind), 3, **{"recam_head": True, **parts}).eval()
    with torch.no_grad():
        made.classifier.weight.add_(0.1)
    return made


def windowed(network, window, stride=None):
    return in_windows(network, SeedSettings(window=window, stride=stride))


@pytest.mark.parametrize("size", [(32, 48), (33, 47), (16, 40), (70, 25)])
def test_windows_are_the_whole_where_no_position_sees_another(size):
    whole, images = network(), torch.randn(2, 3, *size)
    found = windowed(whole, (16, 24), (8, 16)).backbone(images)
    for maps, expected, stride in zip(found, whole.backbone(images), whole.backbone.strides, strict=True):
        assert maps.shape[2:] == tuple(-(-side // stride) for side in size)
        torch.testing.assert_close(maps, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("method", "case"), EVERY.values(), ids=EVERY)
def test_every_method_goes_on_from_maps_put_together(method, case):
    whole, maps = network(**case.parts).double(), seed_methods()[method].maps
    images = [picture(seed, (40, 56)) for seed in range(2)]
    views = views_of(images, [(0, 2), (1,)], (1.0, 0.5), dtype=torch.float64)
    for found, expected in zip(
        maps(windowed(whole, (16, 24)), views, **case.options), maps(whole, views, **case.options), strict=True
    ):
        torch.testing.assert_close(found.high_res, expected.high_res, rtol=0, atol=case.tolerance)
        torch.testing.assert_close(found.cam, expected.cam, rtol=0, atol=case.tolerance)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_any_backbone(backbone):
    whole = trained_like(backbone)
    cell = whole.backbone.strides[-1]
    images = torch.randn(1, 3, 2 * cell + 5, 3 * cell)
    found = windowed(whole, (cell, 2 * cell)).backbone(images)
    assert [maps.shape for maps in found] == [maps.shape for maps in whole.backbone(images)]
    assert not torch.allclose(
        found[-1], whole.backbone(images)[-1], atol=1e-3
    )  # windows end where there is more to see


def test_scores_are_the_mean_over_windows_before_they_are_rectified():
    """By hand: scores of every window, added where they lie, divided by how many see a position, then CAM's steps."""
    whole = network(blind=False)
    images = torch.randn(1, 3, 32, 40)
    total, count = torch.zeros(3, 4, 5), torch.zeros(4, 5)
    for top in (0, 8, 16):
        for left in (0, 16, 24):
            scores = whole.maps(images[..., top : top + 16, left : left + 16])[0]
            place = (slice(top // 8, top // 8 + 2), slice(left // 8, left // 8 + 2))
            total[:, place[0], place[1]] += scores
            count[place] += 1
    assert (count.min(), count.max()) == (1, 4)
    views = Views([images], (1.0,), [(0, 1, 2)], (32, 40))
    seen = windowed(whole, (16, 16), (8, 16))
    torch.testing.assert_close(seen.maps(images)[0], total / count, rtol=1e-5, atol=1e-6)
    (found,) = seed_methods()["cam"].maps(seen, views)
    high = nn.functional.interpolate((total / count).relu()[None], (32, 48), mode="bilinear")[0, :, :, :40]
    torch.testing.assert_close(found.high_res, high / (high.amax((1, 2), keepdim=True) + 1e-5), rtol=1e-4, atol=1e-5)


def test_a_window_without_the_class_has_a_low_map():
    """Were maps of windows divided by their own maximum, the dark half would be as high as the light one."""
    whole = network()
    light = torch.full((1, 3, 16, 32), 0.1)
    light[..., 16:] = 2.0
    with torch.no_grad():  # scores are in proportion to the light
        whole.classifier.weight.abs_()
        for layer in whole.backbone.layers:
            layer.weight.abs_()
            layer.bias.zero_()
    (found,) = seed_methods()["cam"].maps(windowed(whole, (16, 16), (16, 16)), Views([light], (1.0,), [(0,)], (16, 32)))
    assert found.high_res[0, :, 24:].min() > 0.99
    assert 0.01 < found.high_res[0, :, :8].max() < 0.1


def test_gradients_reach_the_image():
    seen = windowed(network(), (16, 16))
    images = torch.randn(1, 3, 33, 40, requires_grad=True)
    seen.features(images).sum().backward()
    assert (images.grad[..., :32, :].abs().amax(1) > 0).float().mean() > 0.5


def test_no_window_is_larger_than_asked_and_a_small_image_is_seen_whole():
    whole = network()
    seen = windowed(whole, (16, 24))
    seen.backbone(torch.zeros(1, 3, 33, 47))
    assert set(whole.backbone.seen) == {(16, 24), (16, 23), (9, 24), (9, 23)}
    whole.backbone.seen.clear()
    seen.backbone(torch.zeros(1, 3, 12, 20))
    seen.backbone(torch.zeros(1, 3, 12, 40))
    assert whole.backbone.seen == [(12, 20), (12, 24), (12, 24)]


@pytest.mark.parametrize(
    ("window", "stride", "message"),
    [
        ((20, 16), None, r"seeds.window=\[20, 16\] must be multiples of 8.*the nearest are \[16, 16\]"),
        ((0, 16), None, r"seeds.window=\[0, 16\] must be multiples of 8.*the nearest are \[8, 16\]"),
        ((16, 16), (8, 4), r"seeds.stride=\[8, 4\] must be multiples of 8"),
        ((16, 16), (8, 24), r"seeds.stride=\[8, 24\] leaves pixels out between windows of \[16, 16\]"),
    ],
)
def test_windows_that_cannot_be(window, stride, message):
    with pytest.raises(RecipeError, match=message):
        windowed(network(), window, stride)


def test_the_network_itself_still_sees_whole_images():
    whole = network()
    before = whole.backbone
    seen = windowed(whole, (16, 16))
    assert whole.backbone is before
    assert seen.backbone.backbone is before
    assert in_windows(whole, SeedSettings()) is whole


def test_folders_of_before_go_on_and_others_are_told_apart(memory_set, tmp_path):
    data = memory_set(sizes=((32, 48),) * 2, tags=[(1,), (2,)])
    settings = SeedSettings(scales=(1.0,), flip=False)
    folder = extract_seeds(data, network(blind=False), settings, tmp_path / "whole", "cpu")
    assert not {"window", "stride"} & json.loads((folder / "maps.json").read_text())["seeds"].keys()
    windows = SeedSettings(scales=(1.0,), flip=False, window=(16, 16))
    parted = extract_seeds(data, network(blind=False), windows, tmp_path / "windows", "cpu")
    assert json.loads((parted / "maps.json").read_text())["seeds"]["window"] == [16, 16]
    name = data.names[0]
    assert np.abs(load_maps(folder, name)[1] - load_maps(parted, name)[1]).max() > 0.01
