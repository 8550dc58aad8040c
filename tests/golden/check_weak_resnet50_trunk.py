"""The image-tag papers' ResNet-50 trunk, at output strides 16 (no dilation) and 8."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from maskwright.models import create_backbone

RTOL, ATOL = 2e-3, 2e-4


VARIANTS = {
    "s16": {"output_stride": 16, "dilate": False},
    "s8": {"output_stride": 8, "dilations": (1, 1, 2, 2)},
}


@cache
def trunk(variant: str, names: tuple[str, ...]) -> torch.nn.Module:
    """The product's trunk, parameter i of the sorted names filled with sines by the fixture's formula."""
    backbone = create_backbone("resnet50", **VARIANTS[variant])
    parameters = dict(backbone.network.named_parameters())
    assert sorted(parameters) == sorted(names)
    for position, name in enumerate(names):
        parameter = parameters[name]
        values = torch.sin(12.9898 * torch.arange(parameter.numel(), dtype=torch.float64) + 0.7 * position)
        values = values.reshape(parameter.shape)
        if parameter.ndim > 1:
            values *= np.sqrt(2 / (parameter.numel() / parameter.shape[0]))
        elif name.endswith(".weight"):
            values = 1 + 0.1 * values
        else:
            values *= 0.1
        with torch.no_grad():
            parameter.copy_(values)
    return backbone.eval()


@torch.no_grad()
def check(arrays: dict[str, np.ndarray]) -> None:
    images = torch.from_numpy(arrays["x"])
    for variant in VARIANTS:
        backbone = trunk(variant, tuple(map(str, arrays["param_names"])))
        stages = backbone(images)
        stages[0] = backbone.network.maxpool(stages[0])
        for number, stage in enumerate(stages):
            key = f"{variant}_stage{number}"
            np.testing.assert_array_equal(stage.shape, arrays[f"{key}_shape"])
            mean = stage.mean((0, 2, 3)).numpy()
            np.testing.assert_allclose(mean, arrays[f"{key}_chanmean"], rtol=RTOL, atol=ATOL)
        first = arrays[f"{variant}_stage4_first64"]
        np.testing.assert_allclose(stages[-1][:, : first.shape[1]].numpy(), first, rtol=RTOL, atol=ATOL)
