"""OCR: regions, attention, context features and output of one head, float32 and float64."""

import numpy as np
import torch

from maskwright.models.ocr import OCRHead, gather_regions, region_attention

UNUSED = {"names": "descriptions"}
# Golden layer -> ours, (convolution, normalisation).
LAYERS = {
    ("pixel_conv1", "pixel_bn1"): "attention.pixel.0",
    ("pixel_conv2", "pixel_bn2"): "attention.pixel.1",
    ("object_conv1", "object_bn1"): "attention.region.0",
    ("object_conv2", "object_bn2"): "attention.region.1",
    ("value_conv", "value_bn"): "attention.value",
    ("up_conv", "up_bn"): "attention.up",
    ("out_conv", "out_bn"): "fuse",
}


def check(arrays):
    cases = sorted({key.split("__")[0] for key in arrays if "__" in key})
    assert cases
    for case in cases:
        fields = {key.split("__")[1]: value for key, value in arrays.items() if key.startswith(f"{case}__")}
        weights = {name.removeprefix("w_"): value for name, value in fields.items() if name.startswith("w_")}
        # The stated tolerance; in float64 that of numbers stored in float32, which one altered bias exceeds.
        for dtype, tolerance in ((torch.float32, 5e-5), (torch.float64, 2e-6)):
            given = {name: torch.from_numpy(value).to(dtype) for name, value in fields.items()}
            features, region_logits = given["features"], given["region_logits"]
            channels, classes = features.shape[1], region_logits.shape[1]
            head = OCRHead(
                channels,
                classes,
                channels=channels,
                key_channels=weights["value_conv.weight"].shape[0],
                own_regions=False,
            )
            head.pixels = torch.nn.Identity()  # the file begins after it
            load(head, weights)
            head.to(dtype).eval()
            with torch.no_grad():
                regions = gather_regions(features, region_logits)
                attention = region_attention(
                    head.attention.pixel(features), head.attention.region(regions.unsqueeze(3)).squeeze(3)
                )
                found = {
                    "object_context": regions,
                    "attention": attention,
                    "object_context_features": head.attention(features, regions),
                    "output": head(features, region_logits)["features"],
                }
            for name, value in found.items():
                assert value.dtype == dtype
                np.testing.assert_allclose(
                    value.numpy(), fields[name], rtol=0, atol=tolerance, err_msg=f"{case} {name}"
                )
            assert set(fields) - {f"w_{name}" for name in weights} == {*found, "features", "region_logits"}


def load(head, weights):
    renamed = {}
    for name, value in weights.items():
        layer, _, parameter = name.rpartition(".")
        ours, number = next((ours, names.index(layer)) for names, ours in LAYERS.items() if layer in names)
        renamed[f"{ours}.{number}.{parameter}"] = torch.from_numpy(value)
    missing, unexpected = head.load_state_dict(renamed, strict=False)
    assert not unexpected
    assert all(name.startswith("classifier") or name.endswith("num_batches_tracked") for name in missing), missing
