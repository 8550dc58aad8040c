"""Grad-CAM of a segmenter: whole image, a region, and the pixels predicted as the class, raw and normalised."""

import numpy as np
import torch

from maskwright.inference.explain import explain
from maskwright.models.backbones import Backbone
from maskwright.models.base import SegmentationModel

UNUSED = {"names": "descriptions"}


class Identity(Backbone):
    def forward(self, images):
        return [images]


class OneConvolution(SegmentationModel):
    def __init__(self, weight, bias):
        classes, channels, side, _ = weight.shape
        super().__init__(Identity("identity", [channels], [1]), classes)
        self.classifier = torch.nn.Conv2d(channels, classes, side, padding=side // 2)
        self.classifier.weight.data, self.classifier.bias.data = weight, bias

    def head(self, features, size):
        return {"logits": self.classifier(features[-1])}


def check(arrays):
    cases = sorted({key.split("__")[0] for key in arrays if "__" in key})
    assert cases
    for case in cases:
        fields = {key.split("__")[1]: value for key, value in arrays.items() if key.startswith(f"{case}__")}
        model = OneConvolution(torch.from_numpy(fields["conv_weight"]), torch.from_numpy(fields["conv_bias"]))
        features, target = torch.from_numpy(fields["features"]), int(fields["target"])
        with torch.no_grad():
            np.testing.assert_allclose(model(features), fields["logits"], rtol=0, atol=1e-5)
        regions = {"all_pixels": "all", "region": torch.from_numpy(fields["region"]), "predicted": "predicted"}
        for name, region in regions.items():
            for layer in (None, "backbone"):
                for normalised, suffix in ((False, ""), (True, "_norm")):
                    maps = explain(model, features, target, region=region, layer=layer, normalised=normalised)
                    np.testing.assert_allclose(maps, fields[f"cam_{name}{suffix}"], rtol=1e-4, atol=1e-5)
        assert set(fields) == {"conv_weight", "conv_bias", "features", "target", "logits", "region"} | {
            f"cam_{name}{suffix}" for name in regions for suffix in ("", "_norm")
        }
