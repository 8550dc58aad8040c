"""Loss max-pooling on top of cross-entropy: weights, values and gradients, image-wise and batch-wise."""

import numpy as np
import torch

from maskwright.losses.cross_entropy import cross_entropy_map
from maskwright.losses.loss_max_pooling import LossMaxPooling, loss_max_pooling_weights

UNUSED = {"names": "descriptions"}


def check(arrays):
    cases = sorted({key.split("__")[0] for key in arrays if "__" in key})
    assert cases
    for case in cases:
        fields = {key.split("__")[1]: value for key, value in arrays.items() if key.startswith(f"{case}__")}
        labels = torch.from_numpy(fields["labels"].astype(np.int64))
        p, ratio = float(fields["p"]), float(fields["ratio"])
        for dtype, rtol, gradient_rtol, atol in ((torch.float32, 1e-4, 5e-3, 1e-7), (torch.float64, 1e-8, 1e-6, 1e-9)):
            logits = torch.from_numpy(fields["logits"]).to(dtype).requires_grad_()
            losses, valid = cross_entropy_map(logits, labels)
            np.testing.assert_allclose(losses.detach().numpy(), fields["pixel_loss"], rtol=rtol, atol=rtol / 100)
            flat, mask = losses.detach().flatten(1), valid.flatten(1)
            weights = loss_max_pooling_weights(flat, p=p, ratio=ratio, valid=mask)
            expected = fields["image_weights"]
            np.testing.assert_allclose(
                weights.view_as(losses).numpy(), expected, rtol=50 * rtol, atol=rtol * expected.max()
            )
            np.testing.assert_allclose((weights * flat).sum(1).numpy(), fields["image_values"], rtol=rtol, atol=1e-12)
            pooled = loss_max_pooling_weights(flat.reshape(1, -1), p=p, ratio=ratio, valid=mask.reshape(1, -1))
            expected = fields["batch_weights"]
            np.testing.assert_allclose(
                pooled.view_as(losses).numpy(), expected, rtol=50 * rtol, atol=rtol * expected.max()
            )
            for scope, value, gradient in (
                ("image", "image_loss_mean_over_nonempty", "image_grad_logits"),
                ("batch", "batch_value", "batch_grad_logits"),
            ):
                logits.grad = None
                loss = LossMaxPooling(p=p, ratio=ratio, scope=scope)(logits, labels)
                loss.backward()
                np.testing.assert_allclose(loss.item(), float(fields[value]), rtol=rtol)
                np.testing.assert_allclose(logits.grad.numpy(), fields[gradient], rtol=gradient_rtol, atol=atol)
