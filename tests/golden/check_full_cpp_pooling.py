"""CPP pooling by counting: counts exact, shares in both ignore modes, all size policies."""

import numpy as np
import torch

from maskwright.losses.cpp import cell_counts, probabilities

UNUSED = {"names": "descriptions"}


def indifferent(key, arrays):
    """`size` is what follows for ceil and floor; a policy is a word."""
    return key.endswith("__policy")


def check(arrays):
    cases = sorted({key.split("__")[0] for key in arrays if "__" in key})
    assert cases
    for case in cases:
        fields = {key.split("__")[1]: value for key, value in arrays.items() if key.startswith(f"{case}__")}
        labels = torch.from_numpy(fields["labels"].astype(np.int64))
        policy, size = str(fields["policy"]), tuple(int(side) for side in fields["size"])
        where = {"size": size} if policy == "adaptive" else {"stride": int(fields["stride_or_0"])}
        counts = cell_counts(labels, int(fields["num_classes"]), policy=policy, **where)
        assert tuple(counts.shape[2:]) == size
        assert (int(fields["stride_or_0"]) == 0) == (policy == "adaptive")
        np.testing.assert_array_equal(counts.numpy(), fields["counts"])
        shares, valid = probabilities(counts, ignore="channel")
        np.testing.assert_allclose(shares.numpy(), fields["prob_ignore_channel"], rtol=0, atol=1e-6)
        np.testing.assert_allclose(valid.numpy(), fields["valid_fraction"], rtol=0, atol=1e-6)
        shares, _ = probabilities(counts, ignore="renormalise")
        np.testing.assert_allclose(shares.numpy(), fields["prob_renormalised"], rtol=0, atol=1e-6)
