"""The CPP loss: KL maps, means and gradients in both ignore modes, float32 and float64."""

import numpy as np
import torch

from maskwright.losses.cpp import cpp_loss, cpp_loss_map, pool_labels

UNUSED = {"names": "descriptions"}


def check(arrays):
    cases = sorted({key.split("__")[0] for key in arrays if "__" in key})
    assert cases
    for case in cases:
        fields = {key.split("__")[1]: value for key, value in arrays.items() if key.startswith(f"{case}__")}
        labels = torch.from_numpy(fields["labels"].astype(np.int64))
        classes, stride = int(fields["num_classes"]), int(fields["stride"])
        # Gradients are stored in float32, so that is how well they are known.
        for dtype, map_atol, rtol, gradient_atol in (
            (torch.float32, 1e-5, 1e-5, 1e-7),
            (torch.float64, 1e-10, 1e-8, 1e-8),
        ):
            used = set()
            for ignore, logits_key, map_key, losses in (
                ("channel", "logits_c_plus_1", "kl_map_ignore_channel", {"all": "loss_ignore_channel_mean"}),
                (
                    "renormalise",
                    "logits_c",
                    "kl_map_renormalised",
                    {"fraction": "loss_renormalised_fraction_weighted", "cells": "loss_renormalised_mean_valid_cells"},
                ),
            ):
                pooled = pool_labels(labels, classes, stride=stride, ignore=ignore, dtype=dtype)
                logits = torch.from_numpy(fields[logits_key]).to(dtype).requires_grad_()
                divergence = cpp_loss_map(logits, pooled.probabilities)
                shown = np.where(pooled.valid.numpy() > 0, divergence.detach().numpy(), 0)
                shown = divergence.detach().numpy() if ignore == "channel" else shown
                np.testing.assert_allclose(shown, fields[map_key], rtol=0, atol=map_atol)
                used |= {logits_key, map_key}
                for weighting, key in losses.items():
                    logits.grad = None
                    loss = cpp_loss(logits, pooled, weighting=weighting)
                    loss.backward()
                    np.testing.assert_allclose(loss.item(), float(fields[key]), rtol=rtol)
                    used.add(key)
                    gradient = next((g for g in fields if g.startswith("grad") and _matches(g, key)), None)
                    if gradient is not None:
                        np.testing.assert_allclose(logits.grad.numpy(), fields[gradient], rtol=0, atol=gradient_atol)
                        used.add(gradient)
            np.testing.assert_allclose(pooled.valid.numpy(), fields["valid_fraction"], rtol=0, atol=1e-6)
        channel = pool_labels(labels, classes, stride=stride, ignore="channel").probabilities.double()
        prediction = torch.from_numpy(fields["logits_c_plus_1"]).double().softmax(1)
        reverse = (prediction * (prediction / channel.clamp(min=1e-6)).log()).sum(1).mean()
        np.testing.assert_allclose(reverse.item(), float(fields["reverse_kl_ignore_channel_mean_clamp1e-6"]), rtol=1e-6)
        left = set(fields) - used - {"labels", "num_classes", "stride", "valid_fraction"}
        assert left == {"reverse_kl_ignore_channel_mean_clamp1e-6"}, left


def _matches(gradient, loss):
    return loss.removeprefix("loss_") in gradient or gradient.removeprefix("grad_") in loss
