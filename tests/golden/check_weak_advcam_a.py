"""AdvCAM as released: every step of the first climb, the images where all climbs end, and both products."""

from typing import Any

import numpy as np
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch.nn import functional as F

from maskwright.weak.seeds.advcam import advcam, climb, steps_at
from maskwright.weak.seeds.cam import Views


class Network(torch.nn.Module):
    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.tensors = tensors
        weight = tensors["classifier_weight"]
        self.classifier = torch.nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=False)
        self.classifier.weight = torch.nn.Parameter(weight)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        for name in ("conv1", "conv2"):
            weight, bias = self.tensors[f"{name}_weight"], self.tensors[f"{name}_bias"]
            images = F.conv2d(images, weight, bias, stride=2, padding=1).relu()
        return images


def check(arrays: dict[str, np.ndarray]) -> None:
    tensors = {key: torch.from_numpy(np.asarray(array)) for key, array in arrays.items()}
    network = Network(tensors)
    scales, steps = arrays["scales"].tolist(), int(arrays["adv_iter"])
    keys = np.flatnonzero(arrays["label"] == 1)
    assert_array_equal(keys, arrays["keys"])
    order = np.argsort(arrays["scales"])
    assert_array_equal(order, arrays["visit_order_scale_index"])
    made = [steps_at(steps, scales[index]) for index in order]
    assert_array_equal(made, arrays["steps_per_scale_visit"])

    options: dict[str, Any] = {
        "step_size": float(arrays["ad_stepsize"]),
        "penalty": float(arrays["ad_coeff"]),
        "threshold": float(arrays["score_th"]),
    }
    inputs = [tensors[f"input_scale{index}"] for index in range(len(scales))]
    for visit, index in enumerate(order):
        images = inputs[index][:, None].expand(-1, len(keys), -1, -1, -1)
        trace = list(climb(network, images, torch.from_numpy(keys), steps=made[visit], **options))
        if visit == 0:
            check_trace(arrays, images, trace)
        for place in range(len(keys)):
            expected = arrays[f"final_image_scaleidx{index}_class{place}"]
            apart = -(-images.shape[-1] // expected.shape[-1])
            assert_allclose(trace[-1].images[:, place, :, ::apart, ::apart], expected, rtol=0, atol=1e-4)

    views = Views(inputs, tuple(scales), [tuple(keys.tolist())], tuple(inputs[scales.index(1.0)].shape[-2:]))
    (found,) = advcam(network, views, steps=steps, **options)
    assert_array_equal(found.keys, keys)
    assert_allclose(found.cam, arrays["cam_stride4"], rtol=0, atol=2e-3)
    assert_allclose(found.high_res, arrays["cam_full"], rtol=0, atol=2e-3)


def check_trace(arrays: dict[str, np.ndarray], images: torch.Tensor, trace: list) -> None:
    """The first class of the first visited scale, step by step."""
    assert len(trace) == sum(key.startswith("trace_grad_") for key in arrays)
    before = images
    for number, step in enumerate(trace):
        assert_allclose(before[:, 0], arrays[f"trace_image_in_{number}"], rtol=0, atol=1e-4)
        gradient = arrays[f"trace_grad_{number}"]
        assert_allclose(step.gradient[:, 0], gradient, rtol=0, atol=1e-3 * np.abs(gradient).max())
        assert_allclose(step.images[:, 0], arrays[f"trace_image_out_{number}"], rtol=0, atol=1e-4)
        maps = arrays[f"trace_gradcam_{number}"]
        assert_allclose(step.maps[:, 0, None], maps, rtol=0, atol=min(2e-3, 1e-3 * maps.max()))
        before = step.images
