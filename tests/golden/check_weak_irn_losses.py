"""IRNet's losses: sums over pairs of each kind, their means, and gradients, in single and double precision."""

from __future__ import annotations

import numpy as np
import torch
from numpy.testing import assert_allclose

from maskwright.weak.refine.irn_loss import irn_loss, pair_sums

NUM_CLASSES = 21


def check(arrays: dict[str, np.ndarray]) -> None:
    labels = torch.from_numpy(arrays["ir_label"]).long()
    radius = int(arrays["radius"])
    for kind, close in (("", 2e-5), ("_f64", 1e-6)):
        logits = torch.from_numpy(arrays[f"edge_logit{kind}"]).requires_grad_()
        displacements = torch.from_numpy(arrays[f"displacement{kind}"]).requires_grad_()

        # Labels that make every pair one of P0, P1 or N.
        edges = logits.detach()[:, 0].sigmoid()
        zeros = torch.zeros_like(labels)
        rows, columns = torch.meshgrid(*map(torch.arange, labels.shape[1:]), indexing="ij")
        alone = (rows % radius * radius + columns % radius).expand_as(labels)
        for which, (names, all_of) in enumerate(((("pos", "dpbg"), 0), (("pos", "dpfg"), 1), (("neg",), 2))):
            given = (zeros, zeros + 1, alone)[all_of]
            sums, counts = pair_sums(edges, displacements.detach(), given, radius**2, radius=radius)
            assert counts[all_of] == counts.sum() > 0
            assert_allclose(sums[all_of], arrays[f"{names[0]}_sum{kind}"], rtol=close)
            for name in names[1:]:
                assert_allclose(sums[4 - which], arrays[f"{name}_sum{kind}"], rtol=close)

        _, counts = pair_sums(edges, displacements.detach(), labels, NUM_CLASSES, radius=radius)
        assert counts.tolist() == [float(arrays[f"n_{name}"]) for name in ("bg_pos", "fg_pos", "neg")]
        loss, parts = irn_loss(logits, displacements, labels, NUM_CLASSES, radius=radius)
        assert loss.dtype == logits.dtype
        parts["pos"] = (parts["bg_pos"] + parts["fg_pos"]) / 2
        for name, value in {**parts, "total": loss}.items():
            assert_allclose(value.item(), arrays[f"loss_{name}{kind}"], rtol=close)
        loss.backward()
        for name, tensor in (("edge", logits), ("displacement", displacements)):
            expected = arrays[f"grad_{name}{kind}"]
            assert_allclose(tensor.grad, expected, rtol=close, atol=close * np.abs(expected).max())
