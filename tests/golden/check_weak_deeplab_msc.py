"""DeepLabV2 on three sizes: logits of each, their maximum, labels brought to each map, and the sum of four losses."""

import numpy as np
import torch

from maskwright.data.sample import LabelSpace
from maskwright.losses import create_loss, cross_entropy, resize_labels
from maskwright.models.backbones import Backbone
from maskwright.models.deeplabv2 import DeepLabV2
from maskwright.settings import LossSettings

ORDER = ("scale.1", "scale.0.5", "scale.0.75", "logits")


class OneConvolution(Backbone):
    def __init__(self, weight, bias):
        super().__init__("one convolution", [len(weight)], [4])
        self.conv = torch.nn.Conv2d(weight.shape[1], len(weight), weight.shape[2], stride=4, padding=1)
        self.conv.weight.data, self.conv.bias.data = weight, bias

    def forward(self, images):
        return [self.conv(images).relu()]


def check(arrays):
    tensors = {key: torch.from_numpy(value) for key, value in arrays.items()}
    branches = sorted(key[: -len("_w")] for key in arrays if key.startswith("aspp") and key.endswith("_w"))
    classes = len(arrays["aspp0_b"])
    model = DeepLabV2(
        OneConvolution(tensors["conv_w"], tensors["conv_b"]),
        classes,
        scales=(1, 0.5, 0.75),
        rates=range(1, len(branches) + 1),
    )
    for name, branch in zip(branches, model.aspp.branches, strict=True):
        branch.weight.data, branch.bias.data = tensors[f"{name}_w"], tensors[f"{name}_b"]
    images, labels = tensors["x"], tensors["label"]
    with torch.no_grad():
        outputs = model.train()(images, auxiliary=True, upsample=False)
        assert set(outputs) == set(ORDER)
        np.testing.assert_allclose(model.eval()(images, upsample=False), arrays["eval_logits"], rtol=0, atol=1e-5)
        for number, name in enumerate(ORDER):
            np.testing.assert_allclose(outputs[name], arrays[f"train_logits{number}"], rtol=0, atol=1e-5)
            height, width = outputs[name].shape[2:]
            resized = resize_labels(labels, (height, width))
            np.testing.assert_array_equal(resized, arrays[f"labels_resized_wh{number}"])
            # The public code hands height and width over in the other order, which only shows where they differ.
            np.testing.assert_array_equal(
                resize_labels(labels, (width, height)), arrays[f"labels_resized_official_call{number}"]
            )
            loss = cross_entropy(outputs[name], resized)
            np.testing.assert_allclose(loss, arrays[f"ce{number}"], rtol=1e-5)
        names = tuple(f"class {number}" for number in range(classes))
        criterion = create_loss(LossSettings(resize="labels", auxiliary={"scale": 1.0}), LabelSpace(names))
        total, parts = criterion(outputs, labels)
    np.testing.assert_allclose(total, arrays["loss_sum"], rtol=1e-5)
    np.testing.assert_allclose(parts["main"], arrays["ce3"], rtol=1e-5)
