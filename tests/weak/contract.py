"""What every seed method must keep; a new one is tested by a subclass that says what it is called with."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from maskwright.models import create_classifier
from maskwright.weak import SEED_METHODS, make_views
from maskwright.weak.cam import SeedMaps, Views, strided

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NUM_TAGS = 3
SCALES = (1.0, 0.5)


def picture(seed: int = 0, size: tuple[int, int] = (32, 48)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def views_of(images, tags, scales=SCALES, flip=True, dtype=torch.float32, device="cpu") -> Views:
    views = make_views(images, tags, mean=MEAN, std=STD, scales=scales, flip=flip, device=device)
    views.images = [view.to(dtype) for view in views.images]
    return views


@cache
def trained_like(backbone: str) -> nn.Module:
    """A classifier whose maps are not empty: its head agrees with the mean of what the backbone gives."""
    torch.manual_seed(0)
    network = create_classifier(backbone=backbone, num_tags=NUM_TAGS, output_stride=None, recam_head=True).eval()
    with torch.no_grad():
        usual = network.features(views_of([picture()], [()], (1.0,)).images[0]).mean((0, 2, 3))
        for head in (network.classifier, network.recam_head):
            head.weight.add_(0.05 * (usual / usual.norm())[None, :, None, None])
    return network


class SeedMethodContract:
    """Subclass as `TestX` and give `method` and, where needed, `options`."""

    method: str
    options: ClassVar[dict[str, Any]] = {}
    backbones = ("resnet10t", "mobilenetv3_small_050", "convnext_atto")
    tolerance = 1e-4  # of maps, between one batch and image by image

    def maps(self, images, tags, network: nn.Module | None = None, **view) -> list[SeedMaps]:
        network = trained_like(self.backbones[0]) if network is None else network
        return SEED_METHODS[self.method](network, views_of(images, tags, **view), **self.options)

    @pytest.mark.parametrize("index", range(3))
    def test_any_backbone(self, index):
        (found,) = self.maps([picture()], [(0, 2)], trained_like(self.backbones[index]))
        self.check(found, (0, 2), (32, 48))
        assert (found.high_res.amax((1, 2)) > 0.5).all()

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
    def test_any_size(self, size):
        (found,) = self.maps([picture(size=size)], [(1,)])
        self.check(found, (1,), size)

    @pytest.mark.parametrize("flip", [True, False])
    @pytest.mark.parametrize("tags", [(), (1,), (0, 1, 2)])
    def test_any_tags(self, tags, flip):
        (found,) = self.maps([picture()], [tags], flip=flip)
        self.check(found, tags, (32, 48))

    def test_batch_equals_loop(self):
        images, tags = [picture(seed) for seed in range(3)], [(0, 2), (), (1,)]
        together = self.maps(images, tags)
        for pixels, keys, found in zip(images, tags, together, strict=True):
            (alone,) = self.maps([pixels], [keys])
            self.check(found, keys, (32, 48))
            torch.testing.assert_close(found.high_res, alone.high_res, rtol=0, atol=self.tolerance)
            torch.testing.assert_close(found.cam, alone.cam, rtol=0, atol=self.tolerance)

    def test_classes_do_not_depend_on_which_others_are_tagged(self):
        (every,) = self.maps([picture()], [(0, 1, 2)])
        (alone,) = self.maps([picture()], [(1,)])
        torch.testing.assert_close(every.high_res[1:2], alone.high_res, rtol=0, atol=self.tolerance)

    def test_mirror_image_has_mirrored_maps(self):
        (found,) = self.maps([picture()], [(0, 2)])
        (mirrored,) = self.maps([picture()[:, ::-1].copy()], [(0, 2)])
        torch.testing.assert_close(mirrored.high_res, found.high_res.flip(-1), rtol=0, atol=10 * self.tolerance)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_dtype_of_the_caller(self, dtype):
        network = copy.deepcopy(trained_like(self.backbones[0])).to(dtype)
        (found,) = self.maps([picture()], [(0, 2)], network, dtype=dtype)
        self.check(found, (0, 2), (32, 48))
        assert found.high_res.dtype == torch.promote_types(dtype, torch.float32)

    def test_autocast(self):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            (found,) = self.maps([picture()], [(0, 2)])
        self.check(found, (0, 2), (32, 48))
        assert found.high_res.dtype == torch.float32

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
    def test_device_of_the_caller(self):
        network = copy.deepcopy(trained_like(self.backbones[0])).cuda()
        (found,) = self.maps([picture()], [(0, 2)], network, device="cuda")
        (expected,) = self.maps([picture()], [(0, 2)])
        assert found.high_res.device.type == "cuda"
        torch.testing.assert_close(found.high_res.cpu(), expected.high_res, rtol=0, atol=0.02)

    def test_network_and_views_stay_as_they_were(self):
        network = trained_like(self.backbones[0])
        views = views_of([picture()], [(0, 2)])
        before = [view.clone() for view in views.images]
        weights = {name: value.clone() for name, value in network.state_dict().items()}
        trainable = [p.requires_grad for p in network.parameters()]
        SEED_METHODS[self.method](network, views, **self.options)
        assert all(torch.equal(view, old) for view, old in zip(views.images, before, strict=True))
        assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
        assert [p.requires_grad for p in network.parameters()] == trainable
        assert all(p.grad is None for p in network.parameters())
        assert not network.training

    def test_the_same_under_no_grad(self):
        (found,) = self.maps([picture()], [(1,)])
        with torch.no_grad():
            (again,) = self.maps([picture()], [(1,)])
        assert torch.equal(found.high_res, again.high_res)
