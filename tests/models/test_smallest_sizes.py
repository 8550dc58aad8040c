"""Every model of the registry takes images of any size, from a single pixel on."""

from __future__ import annotations

import pytest
import torch

from maskwright.models import MODELS, create_model


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_every_model_from_one_pixel_on(name):
    torch.manual_seed(0)
    model = create_model(name, backbone="resnet18", num_classes=3).eval()
    for size in ((1, 1), (1, 7), (3, 2), (65, 1)):
        images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
        logits = model(images)
        assert logits.shape == (2, 3, *size)
        assert torch.isfinite(logits).all()
        assert model.predict(images).shape == (2, *size)
