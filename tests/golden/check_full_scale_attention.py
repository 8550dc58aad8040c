"""Maps of two and three scales combined, in both corner conventions, and SeeThroughNet's aggregation."""

import numpy as np
import torch

from maskwright.models.multiscale_attention import combine_scales, combine_two_scales
from maskwright.models.seethrough import aggregate

UNUSED = {"names": "descriptions"}


def check(arrays):
    cases = sorted({key.split("__")[0] for key in arrays if "__" in key})
    assert cases
    for case in cases:
        fields = {key.split("__")[1]: value for key, value in arrays.items() if key.startswith(f"{case}__")}
        for dtype in (torch.float32, torch.float64):
            given = {name: torch.from_numpy(value).to(dtype) for name, value in fields.items()}
            used = {"pred_1x", "attn_1x", "pred_05x", "attn_05x", "pred_2x"}
            logits = {0.5: given["pred_05x"], 1.0: given["pred_1x"], 2.0: given["pred_2x"]}
            attentions = {0.5: given["attn_05x"], 1.0: given["attn_1x"]}
            for convention, align_corners in (("half_pixel", False), ("align_corners", True)):
                two = combine_two_scales(logits[0.5], attentions[0.5], logits[1.0], align_corners=align_corners)
                same = combine_scales(
                    {scale: logits[scale] for scale in (0.5, 1.0)}, attentions, align_corners=align_corners
                )
                three = combine_scales(logits, attentions, align_corners=align_corners)
                for name, found in (("two_scale", two), ("two_scale", same), ("three_scale", three)):
                    close(found, fields[f"{name}_{convention}"], dtype)
                    used.add(f"{name}_{convention}")
            levels = sorted(name for name in fields if name.startswith("decoder_x"))
            masks = sorted(name for name in fields if name.startswith("decoder_mask"))
            found = aggregate([given[name] for name in levels], [given[name] for name in masks])
            close(found, fields["decoder_out"], dtype)
            assert set(fields) == used | {*levels, *masks, "decoder_out"}


def close(found, expected, dtype):
    assert found.dtype == dtype
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=2e-5)
