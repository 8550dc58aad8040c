"""Windows, visit counts, averaged logits and the flip average of a network that is one convolution."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from maskwright.inference.views import predict_logits, predict_probabilities
from maskwright.inference.windows import sliding_window, window_starts
from maskwright.settings import InferenceSettings


class Convolution(nn.Module):
    def __init__(self, weight, bias):
        super().__init__()
        self.weight, self.bias = torch.from_numpy(weight), torch.from_numpy(bias)

    def forward(self, images, *, upsample=True):
        return nn.functional.conv2d(images, self.weight, self.bias, padding=self.weight.shape[-1] // 2)


def check(arrays):
    for case in sorted({name.split("__")[0] for name in arrays if "__" in name}):
        fields = {
            name.removeprefix(f"{case}__"): array for name, array in arrays.items() if name.startswith(f"{case}__")
        }
        crop, stride = fields["crop_stride"].tolist()
        images = torch.from_numpy(fields["image"])
        height, width = images.shape[2:]
        windows = [
            (top, min(top + crop, height), left, min(left + crop, width))
            for top in window_starts(height, crop, stride)
            for left in window_starts(width, crop, stride)
        ]
        assert fields["windows"].tolist() == [list(window) for window in windows]
        count = np.zeros((height, width), np.int64)
        for top, bottom, left, right in windows:
            count[top:bottom, left:right] += 1
        np.testing.assert_array_equal(fields["count"], count)

        model = Convolution(fields["conv_weight"], fields["conv_bias"])
        for batch_size in (1, 3, 100):
            logits = sliding_window(model, images, (crop, crop), (stride, stride), batch_size=batch_size)
            np.testing.assert_allclose(logits.numpy(), fields["logits"], rtol=0, atol=2e-5)
        settings = InferenceSettings(window=(crop, crop), stride=(stride, stride))
        logits = predict_logits(model, images, settings)
        np.testing.assert_allclose(logits.numpy(), fields["logits"], rtol=0, atol=2e-5)
        probabilities = predict_probabilities(model, images, InferenceSettings(flip=True))
        np.testing.assert_allclose(probabilities.numpy(), fields["flip_mean_probs_whole_image"], rtol=0, atol=2e-5)
