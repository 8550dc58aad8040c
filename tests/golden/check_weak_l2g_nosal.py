"""One step of L2G in the released code's forms: targets, aligned predictions, both losses, the global gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.testing import assert_allclose, assert_array_equal

from maskwright.weak.networks.l2g import (
    cut_views,
    global_prediction,
    local_attention,
    normalised_attention,
    scaled_saliency,
    shape_target,
    transfer_loss,
    view_maps,
    view_saliency,
    view_tag_loss,
)

UNUSED = {"bg_thr": "there is no saliency, so nothing is thresholded"}


def check(arrays: dict[str, np.ndarray]) -> None:
    check_step(arrays)


def indifferent(key: str, arrays: dict[str, np.ndarray], **form: Any) -> bool:
    """Each local map is divided by its maximum; a threshold matters only where attention crosses it."""
    if key == "bg_thr":
        other = {**arrays, key: 1.01 * arrays[key]}
        return torch.equal(target_of(arrays, **form), target_of(other, **form))
    return key == "feat_local"


def place_of(arrays: dict[str, np.ndarray]) -> tuple[torch.Tensor, tuple[int, int], tuple[int, int]]:
    """Corners of the views, their size in pixels, the size of their maps."""
    count, views, side = len(arrays["feat_global"]), int(arrays["patches"]), int(arrays["crop_size"])
    boxes = arrays["boxes"].astype(np.int64)
    assert_array_equal(boxes, arrays["boxes"])
    assert_array_equal(boxes[:, 0], np.repeat(np.arange(count), views))
    assert_array_equal(boxes[:, 3:] - boxes[:, 1:3], side)
    height, width = arrays["feat_local"].shape[2:]
    return torch.from_numpy(boxes[:, [2, 1]].reshape(count, views, 2)), (side, side), (height, width)


def target_of(arrays: dict[str, np.ndarray], **form: Any) -> torch.Tensor:
    """The target of every view; `form` goes to `shape_target`."""
    target = local_attention(torch.from_numpy(arrays["feat_local"]), torch.from_numpy(arrays["label"]))
    if "saliency_full" not in arrays:
        return target
    seen = view_saliency(scaled_saliency(torch.from_numpy(arrays["saliency_full"])[:, None]), *place_of(arrays))
    return shape_target(target, seen, threshold=float(arrays["bg_thr"]), **form)


def check_step(arrays: dict[str, np.ndarray], **form: Any) -> None:
    """Check every array of one step."""
    whole = torch.from_numpy(arrays["feat_global"]).requires_grad_()
    local, logits, tags = (torch.from_numpy(arrays[key]) for key in ("feat_local", "logits_local", "label"))
    corners, view, size = place_of(arrays)
    stride = view[0] // size[0]
    assert whole.shape[2] == -(-int(arrays["input_size"]) // stride)

    assert_allclose(normalised_attention(local), arrays["attention_normalised_before_masking"], atol=1e-5)
    if "saliency_full" in arrays:
        crops = cut_views(torch.from_numpy(arrays["saliency_full"])[:, None], corners, view).numpy()
        expected = arrays["saliency_crops"]
        step = view[0] // expected.shape[-1]
        assert_array_equal(crops[:, :, ::step, ::step].reshape(expected.shape), expected)
    first, second = local_attention(local, tags, winner_takes_all=False).topk(2, 1).values.unbind(1)
    clear = ((first != second) | (first == 0))[:, None].expand_as(local).numpy()  # of equal channels any may win
    assert clear.any()
    target = target_of(arrays, **form)
    assert_allclose(target.numpy()[clear], arrays["target"][clear], rtol=1e-6)

    assert_allclose(view_maps(whole.detach(), corners, view, size, stride), arrays["global_aligned_raw"], atol=1e-5)
    prediction = global_prediction(whole, corners, view, size, stride)
    assert_allclose(prediction.detach(), arrays["global_aligned_softmax"], atol=1e-5)

    transfer = float(arrays["kd_weight"]) * transfer_loss(prediction, target)
    told = view_tag_loss(logits, tags)
    total = told + transfer
    for found, key in ((transfer, "loss_kd"), (told, "loss_cls_local"), (total, "loss_total")):
        assert_allclose(found.detach(), arrays[key], rtol=1e-5)
    (gradient,) = torch.autograd.grad(total, whole)
    assert_allclose(gradient, arrays["grad_feat_global"], atol=1e-6)
