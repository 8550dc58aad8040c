"""DUpsampling forward: logits, loss at several temperatures and its slope, arg-max without the logits, cropping."""

import numpy as np
import torch

from maskwright.losses import cross_entropy
from maskwright.models.dupsampling import dupsample, dupsample_argmax

UNUSED = {"names": "descriptions"}
FIELDS = {
    "features",
    "weight",
    "cfg",
    "logits",
    "labels",
    "temperatures",
    "ce",
    "dce_dT",
    "argmax",
    "crop_size",
    "ce_cropped_first_T",
}


def check(arrays):
    cases = sorted({key.split("__")[0] for key in arrays if "__" in key})
    assert cases
    for case in cases:
        fields = {key.split("__")[1]: value for key, value in arrays.items() if key.startswith(f"{case}__")}
        assert set(fields) == FIELDS, set(fields) ^ FIELDS
        classes, ratio = (int(value) for value in fields["cfg"])
        features, weight = torch.from_numpy(fields["features"]), torch.from_numpy(fields["weight"])
        logits = dupsample(features, weight, classes, ratio)
        np.testing.assert_allclose(logits.numpy(), fields["logits"], rtol=0, atol=1e-4)
        labels = torch.from_numpy(fields["labels"].astype(np.int64))
        for temperature, loss, slope in zip(fields["temperatures"], fields["ce"], fields["dce_dT"], strict=True):
            divisor = torch.tensor(temperature, requires_grad=True)
            found = cross_entropy(logits.double() / divisor, labels)
            found.backward()
            np.testing.assert_allclose(found.item(), loss, rtol=1e-5)
            np.testing.assert_allclose(divisor.grad.item(), slope, rtol=1e-4)
        height, width = (int(side) for side in fields["crop_size"])
        cropped = cross_entropy(
            logits[:, :, :height, :width] / float(fields["temperatures"][0]), labels[:, :height, :width]
        )
        np.testing.assert_allclose(cropped.item(), float(fields["ce_cropped_first_T"]), rtol=1e-5)
        top = logits.topk(2, 1).values
        clear = (top[:, 0] - top[:, 1] > 1e-4).numpy()
        predicted = dupsample_argmax(features, weight, classes, ratio).numpy()
        np.testing.assert_array_equal(predicted[clear], fields["argmax"][clear])
