"""Class activation maps of one image against Grad-CAM of the package grad-cam, one call for each class.

    python -m benchmarks.speed.cam

ResNet-18 with a mean and a linear head, where Grad-CAM is CAM up to the scale that both divide out: ours makes one
forward pass and every class, Grad-CAM one forward and one backward pass for each class. Both end in maps of 0 to 1 at
image size. 3 classes is a usual photograph with its tags, 20 all of PASCAL VOC.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

import maskwright._torchvision_guard  # noqa: F401
from benchmarks.speed.operations import operations
from benchmarks.speed.timer import Bar, Comparison, Row, main
from maskwright.models import create_classifier
from maskwright.models.layers import resize
from maskwright.weak.seeds.cam import class_maps


def unit(maps: Tensor) -> Tensor:
    """Maps `(B, K, h, w)` brought to 0..1 each, as grad-cam does."""
    maps = maps - maps.amin((2, 3), keepdim=True)
    return maps / (1e-7 + maps.amax((2, 3), keepdim=True))


def build(device: str, *, size: int, classes: int) -> Comparison:
    torch.manual_seed(0)
    network = create_classifier(backbone="resnet18", num_tags=20, output_stride=32).eval().to(device)
    image = torch.nn.functional.interpolate(torch.randn(1, 3, 16, 16), (size, size), mode="bicubic").to(device)
    keys = list(range(classes))

    @torch.no_grad()
    def ours() -> Tensor:
        maps = class_maps(network.features(image), network.classifier.weight[keys]).relu()
        return unit(resize(unit(maps), (size, size)))[0]

    functions: dict[str, Callable[[], Any]] = {"CAM": ours}
    notes = []
    try:
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    except ImportError as error:
        notes.append(f"SKIPPED: grad-cam cannot be imported ({error})")
    else:
        layers = dict(network.backbone.named_modules())
        explainer = GradCAM(network, [layers["network.layer4"]])

        def theirs() -> np.ndarray:
            return np.concatenate([explainer(image, [ClassifierOutputTarget(key)]) for key in keys])

        functions["Grad-CAM"] = theirs

    def check(results: dict[str, Any]) -> dict[str, float]:
        if "Grad-CAM" not in results:
            return {}
        apart = np.abs(results["CAM"].cpu().numpy() - results["Grad-CAM"]).max().item()
        assert apart < 2e-3, f"the maps differ by {apart:.1e}"
        return {"difference of the maps": apart}

    return Comparison(
        functions,
        check,
        [Bar("Grad-CAM", 8 if classes <= 3 else 40)],
        flops=operations(network, image),
        notes=notes,
    )


ROW = Row(
    "CAM of every class, ResNet-18, 224 px",
    build,
    {"3 classes": {"size": 224, "classes": 3}, "20 classes": {"size": 224, "classes": 20}},
    {"size": 64, "classes": 2},
)

if __name__ == "__main__":
    main(ROW)
