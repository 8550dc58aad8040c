"""The RMI loss and its two terms, their gradient, and what the released code gives."""

import numpy as np
import torch

from maskwright.losses.rmi import region_term, rmi_loss, sigmoid_cross_entropy

UNUSED = {"names": "descriptions"}
FIELDS = {"logits", "labels", "cfg", "loss", "bce", "rmi", "loss_public_code_f32", "grad_logits_public_code"}
POOLS = {0: "max", 1: "avg", -1: "none"}


def check(arrays):
    cases = sorted({key.split("__")[0] for key in arrays if "__" in key})
    assert cases
    for case in cases:
        fields = {key.split("__")[1]: value for key, value in arrays.items() if key.startswith(f"{case}__")}
        assert set(fields) == FIELDS, set(fields) ^ FIELDS
        classes, pool, pool_size, radius = (int(value) for value in fields["cfg"])
        assert classes == fields["logits"].shape[1]
        labels = torch.from_numpy(fields["labels"].astype(np.int64))
        where = {"pool": POOLS[pool], "pool_size": pool_size, "radius": radius}
        for dtype, rtol in ((torch.float32, 2e-5), (torch.float64, 1e-8)):
            logits = torch.from_numpy(fields["logits"]).to(dtype).requires_grad_()
            loss = rmi_loss(logits, labels, **where)
            loss.backward()
            found = {
                "loss": loss,
                "bce": sigmoid_cross_entropy(logits, labels),
                "rmi": region_term(logits, labels, **where),
            }
            for name, value in found.items():
                assert value.dtype == dtype
                np.testing.assert_allclose(value.item(), float(fields[name]), rtol=rtol, err_msg=f"{case} {name}")
            np.testing.assert_allclose(loss.item(), float(fields["loss_public_code_f32"]), rtol=2e-5)
            np.testing.assert_allclose(
                logits.grad.numpy(), fields["grad_logits_public_code"], rtol=1e-3, atol=1e-6, err_msg=case
            )
