"""One ReCAM step: masks, class features, both losses, and their gradients in single and in double precision."""

from typing import Any

import numpy as np
import torch
from numpy.testing import assert_allclose, assert_array_equal

from maskwright.weak.networks.recam import class_features, recam_loss, sce_loss, soft_masks
from maskwright.weak.seeds.classes import positive_classes


def check(arrays: dict[str, np.ndarray]) -> None:
    check_step(arrays, "", {"rtol": 1e-5, "atol": 1e-6})
    check_step(arrays, "_f64", {"rtol": 1e-10, "atol": 1e-10})


def check_step(arrays: dict[str, np.ndarray], end: str, close: dict[str, Any]) -> None:
    features, w1, w2 = (torch.from_numpy(arrays[key + end]).requires_grad_() for key in ("feature", "w1", "w2"))
    tags = torch.from_numpy(arrays["label" + end])

    def same(found: torch.Tensor, key: str) -> None:
        assert_allclose(found.detach(), arrays[key + end], err_msg=key + end, **close)

    same(torch.nn.functional.conv2d(features.mean((2, 3), keepdim=True), w1)[:, :, 0, 0], "logits1")
    every = torch.arange(len(w1)).expand(len(features), -1)
    masks = soft_masks(features, w1, every)
    same(masks, "cam_norm")
    same(class_features(features, masks), "class_feature")

    classes = positive_classes(tags)
    second = class_features(features, soft_masks(features, w1, classes)) @ w2[:, :, 0, 0].T
    same(second[classes >= 0], "logits2_concat")
    images, slots = torch.nonzero(classes >= 0, as_tuple=True)
    assert_array_equal(images, arrays["logits2_image_index"])
    assert_array_equal(classes[images, slots], arrays["logits2_target"])
    alone = sce_loss(second, classes)
    same(alone, "loss_sce")
    feature_alone, w1_alone, w2_alone = torch.autograd.grad(alone, (features, w1, w2))
    same(feature_alone, "grad_feature_sce_only")
    same(w1_alone, "grad_w1_sce_only")

    total, parts = recam_loss(features, w1, w2, tags, float(arrays["lambda"]))
    for found, key in ((total, "loss_total"), (parts["tags"], "loss_bce"), (parts["sce"], "loss_sce")):
        same(found, key)
    same(parts["second_accuracy"], "acc")
    feature_total, w1_total, w2_total = torch.autograd.grad(total, (features, w1, w2))
    same(feature_total, "grad_feature")
    same(w1_total, "grad_w1")
    # The stored gradient of W2, unlike the others, was not cleared between the two backward passes that made the file:
    # it is the sum over the total loss and the second head's alone.
    same(w2_total + w2_alone, "grad_w2")
