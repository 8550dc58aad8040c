"""Dense CRF: unaries; the lattice against the public library, the exact form against brute force, per iteration."""

import re

import numpy as np
import torch

from maskwright.crf.dense_crf import crf_labels, dense_crf, unary_from_labels, unary_from_probabilities

LATTICE, EXACT = 1e-3, 1e-4


def check(arrays: dict[str, np.ndarray]) -> None:
    torch.set_num_threads(1)
    image, labels = torch.from_numpy(arrays["image"]), torch.from_numpy(arrays["hard_label"])
    probabilities = torch.from_numpy(arrays["prob"])
    unaries = {
        "unary_from_softmax": unary_from_probabilities(probabilities),
        "unary_from_labels_gt07": unary_from_labels(labels, len(probabilities), 0.7),
    }
    for name, unary in unaries.items():
        np.testing.assert_allclose(unary.flatten(1).numpy(), arrays[name], rtol=1e-5, atol=1e-5, err_msg=name)

    seen = 0
    for key, expected in arrays.items():
        found = re.fullmatch(r"(\w+?)_(exact_)?q_iter(\d+)", key)
        if not found:
            continue
        name, exact, iterations = found[1], bool(found[2]), int(found[3])
        sigma, weight, sigma_xy, sigma_rgb, colour_weight = arrays[
            f"{name}_params_sgauss_wgauss_sxy_srgb_wbil"
        ].tolist()
        q = dense_crf(
            image,
            unaries["unary_from_labels_gt07" if name == "irn" else "unary_from_softmax"],
            gaussian=(sigma, weight),
            bilateral=(sigma_xy, sigma_rgb, colour_weight),
            iterations=iterations,
            mode="exact" if exact else "lattice",
        )
        worst = np.abs(q.numpy() - expected).max()
        assert worst <= (EXACT if exact else LATTICE), f"{key}: differs by {worst:.2e}"
        assert exact or (q.argmax(0).numpy() == arrays[f"{name}_exact_q_iter{iterations}"].argmax(0)).mean() > 0.95
        seen += 1
    assert seen == sum("_q_iter" in key for key in arrays)

    refined = crf_labels(image, labels, len(probabilities), preset="irn").numpy()
    np.testing.assert_array_equal(refined, arrays["irn_crf_inference_label"])
