"""Weights and value of loss max-pooling on single vectors, float64 and float32."""

import numpy as np
import torch

from maskwright.losses.loss_max_pooling import loss_max_pooling_weights

UNUSED = {"names": "descriptions"}


def indifferent(key, arrays):
    """A single loss has weight 1 for every p; m does not enter at p = inf."""
    case, _, field = key.partition("__")
    return (field == "p" and len(arrays[f"{case}__loss"]) == 1) or (field == "m" and np.isinf(arrays[f"{case}__p"]))


def check(arrays):
    cases = sorted({key.split("__")[0] for key in arrays if "__" in key})
    assert cases
    for case in cases:
        loss, expected = arrays[f"{case}__loss"], arrays[f"{case}__weights"]
        p, m = float(arrays[f"{case}__p"]), float(arrays[f"{case}__m"])
        value, alpha = float(arrays[f"{case}__value"]), float(arrays[f"{case}__alpha"])
        gamma, tau = float(arrays[f"{case}__gamma"]), float(arrays[f"{case}__tau"])
        n = len(loss)
        power = 0.0 if np.isinf(p) else 1 / p
        np.testing.assert_allclose(gamma, n ** (power - 1), rtol=1e-12)
        np.testing.assert_allclose(tau, gamma * m**-power, rtol=1e-12)
        weights = loss_max_pooling_weights(torch.from_numpy(loss), p=p, m=m).numpy()
        np.testing.assert_allclose(weights @ loss, value, rtol=1e-9, atol=1e-300)
        tied = p == 1 and len(np.unique(loss)) < n
        got, want = (np.sort(weights), np.sort(expected)) if tied else (weights, expected)
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-12)
        assert value >= loss.mean() * (1 - 1e-12)
        np.testing.assert_allclose(expected @ loss, value, rtol=1e-9, atol=1e-300)
        if 1 < p < np.inf and alpha > 0:
            q = p / (p - 1)
            np.testing.assert_allclose(np.minimum(1, (loss / alpha) ** q).sum(), m, rtol=1e-6)
            np.testing.assert_allclose(expected, tau * np.minimum(1, (loss / alpha) ** (q - 1)), rtol=1e-6, atol=0)
        single = loss_max_pooling_weights(torch.from_numpy(loss).float(), p=p, m=m).double().numpy()
        np.testing.assert_allclose(single @ loss, value, rtol=1e-5, atol=1e-300)
        got = np.sort(single) if tied else single
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6 * max(want.max(), 1e-300))
