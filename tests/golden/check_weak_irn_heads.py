"""IRNet's heads on given feature maps: edges, displacements with the mean shift, and the merge with the mirror."""

from __future__ import annotations

from ast import literal_eval
from functools import cache

import numpy as np
import torch

from maskwright.models.backbones import Backbone
from maskwright.models.irnet import IRNet, infer_edges

# Group normalisation undoes a factor, so of a map times 1.01 only the rounding is seen: hence so close.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


class GivenFeatures(Backbone):
    """A trunk of output stride 16 that gives what it is told."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__("given", channels, (4, 4, 8, 16, 16))
        self.given: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [feature[: len(images)] for feature in self.given]


@cache
def network(names: tuple[str, ...], shapes: tuple[str, ...]) -> IRNet:
    """The product's network, parameter i of the official names in sorted order filled with sines."""
    expected = dict(zip(names, map(literal_eval, shapes), strict=True))
    made = IRNet(GivenFeatures(tuple(expected[f"fc_edge{tap}.0.weight"][1] for tap in range(1, 6)))).eval()
    layers = {f"fc_edge{tap}": made.edge[tap - 1] for tap in range(1, 6)}
    layers |= {f"fc_dp{tap}": (*made.fine, *made.coarse)[tap - 1] for tap in range(1, 6)}
    layers |= {"fc_edge6": made.edge_out, "fc_dp6": made.merge_coarse}
    layers |= {"fc_dp7.0": made.merge[0], "fc_dp7.1": made.merge[1], "fc_dp7.3": made.displacement_out}
    parameters = {f"{name}.{key}": p for name, layer in layers.items() for key, p in layer.named_parameters()}
    assert {name: tuple(p.shape) for name, p in parameters.items()} == expected
    assert len(parameters) == sum(p.requires_grad for p in made.parameters())
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
    return made


@torch.no_grad()
def check(arrays: dict[str, np.ndarray]) -> None:
    made = network(tuple(map(str, arrays["param_names_sorted"])), tuple(map(str, arrays["param_shapes"])))
    made.backbone.given = [torch.from_numpy(arrays[f"feat{tap}"]).float() for tap in range(1, 6)]
    made.mean_shift.copy_(torch.from_numpy(arrays["mean_shift"]))
    height, width = arrays["edge_logit"].shape[-2:]
    pair = torch.zeros(len(arrays["feat1"]), 3, 4 * height, 4 * width)

    logits, displacements = made(pair)
    np.testing.assert_allclose(logits, arrays["edge_logit"], **CLOSE)
    np.testing.assert_allclose(displacements, arrays["displacement_eval"], **CLOSE)
    edges, first = infer_edges(made, pair, displacement=True)
    np.testing.assert_allclose(edges[0], arrays["edge_prob_flip_merged"], **CLOSE)
    np.testing.assert_allclose(first[0], arrays["displacement_first"], **CLOSE)
