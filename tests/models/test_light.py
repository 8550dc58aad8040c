"""The heads for frozen backbones."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from maskwright.models import create_model

from .contract import ModelContract, backbone  # noqa: F401

CONVOLUTIONS = {"backbone": "resnet10t", "num_classes": 3, "output_stride": 16}


class TestLight(ModelContract):
    name = "light"
    options: ClassVar = {"channels": 16, "fine_channels": 8}


class TestLightOfOneMap(ModelContract):
    name = "light"
    options: ClassVar = {"channels": 16, "fine_stride": None}


class TestLinear(ModelContract):
    name = "linear"

    def test_learns_one_batch(self):
        """A position of the coarsest map is larger than what the contract paints: on one colour an image."""
        model = self.make("resnet18").train()
        labels = torch.arange(4)[:, None, None].expand(4, 64, 64)
        images = self.images(4) + labels[:, None] - 2
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
        losses = []
        for _ in range(15):
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.6 * losses[0]


@torch.no_grad()
@pytest.mark.parametrize(
    ("options", "stride", "read"), [({}, 8, [1, 2, 4]), ({"fine_stride": 16}, 16, []), ({"fine_stride": 4}, 4, [])]
)
def test_logits_have_the_resolution_of_the_finest_map_that_is_read(options, stride, read):
    model = create_model("light", **CONVOLUTIONS, channels=8, **options).eval()
    assert model(torch.randn(1, 3, 64, 96), upsample=False).shape == (1, 3, 64 // stride, 96 // stride)


@torch.no_grad()
@pytest.mark.parametrize("name", ["light", "linear"])
def test_kept_maps_give_what_the_image_gives(name):
    """Also where no more is given than the heads read."""
    model = create_model(name, **CONVOLUTIONS).eval()
    images = torch.randn(2, 3, 64, 96)
    maps = model.backbone(images)
    read = {len(maps) - 1, *([] if name == "linear" else [model.fine])}
    given = [level if place in read else None for place, level in enumerate(maps)]
    assert torch.equal(model(given, size=(64, 96)), model(images))
    assert torch.equal(model(given, size=(64, 96), upsample=False), model(images, upsample=False))
