"""What every network computes and holds: parameters, multiply-adds and memory, by shapes alone.

    python -m benchmarks.speed.networks [size=512]

One image, float32. Nothing is computed: the networks work on shapes (torch's meta device), so that the figures are the
same on every machine. Memory is what tensors hold at most, beside the weights, in a forward pass and in a training
step; what kernels need for themselves comes on top. Written to `benchmarks/results/networks.md`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.facts import as_lines, facts
from maskwright.files import atomic_write, write_json
from maskwright.models import create_model
from maskwright.models.classifier import create_classifier
from maskwright.models.irnet import create_irnet
from maskwright.models.operations import multiply_adds
from maskwright.plan.peak import Peak

RESULTS = Path(__file__).parents[1] / "results"
CLASSES = 21
HRNET = {"backbone": "hrnet_w48", "output_stride": None}
# By the name in the table: architecture and settings; a ResNet-50 at stride 16 where nothing else is said.
SEGMENTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "FCN": ("fcn", {}),
    "DeepLabV2": ("deeplabv2", {}),
    "DeepLabV3": ("deeplabv3", {}),
    "DeepLabV3+": ("deeplabv3plus", {}),
    "DeepLabV3+, EfficientNet-Lite0": ("deeplabv3plus", {"backbone": "tf_efficientnet_lite0"}),
    "DeepLabV3+ at stride 8": ("deeplabv3plus", {"output_stride": 8}),
    "PSPNet": ("pspnet", {}),
    "UperNet": ("upernet", {"output_stride": None}),
    "UperNet, Swin-T": ("upernet", {"backbone": "swin_tiny_patch4_window7_224", "output_stride": None}),
    "DUpsampling's decoder, bilinear": ("dupsampling", {"upsampling": "bilinear"}),
    "DUpsampling": ("dupsampling", {}),
    "DUpsampling at stride 32": ("dupsampling", {"output_stride": 32}),
    "OCR": ("ocrnet", {}),
    "OCR, HRNet-W48": ("ocrnet", HRNET),
    "Hierarchical multi-scale attention, HRNet-W48": ("hmsa", HRNET),
    "SeeThroughNet, HRNet-W48": ("seethrough", HRNET),
    "light (frozen recipes), EfficientNet-Lite0": ("light", {"backbone": "tf_efficientnet_lite0"}),
}
CLASSIFIERS = {
    "tag classifier, ResNet-50": {"backbone": "resnet50"},
    "tag classifier, ResNet-38": {"backbone": "resnet38", "output_stride": 8},
    "tag classifier, EfficientNet-Lite0": {"backbone": "tf_efficientnet_lite0"},
}


def build() -> dict[str, nn.Module]:
    """Every network with random weights, on the meta device."""
    found: dict[str, nn.Module] = {}
    for name, (architecture, settings) in SEGMENTERS.items():
        options = {"backbone": "resnet50", "output_stride": 16, **settings}
        found[name] = create_model(architecture, num_classes=CLASSES, **options).to("meta")
    for name, settings in CLASSIFIERS.items():
        found[name] = create_classifier(num_tags=CLASSES - 1, **{"output_stride": 16, **settings}).to("meta")
    found["IRNet, ResNet-50"] = create_irnet(backbone="resnet50").to("meta")
    return found


def measure(network: nn.Module, size: int) -> dict[str, float]:
    """Parameters, multiply-adds and bytes of one network."""
    images = torch.zeros(1, 3, size, size, device="meta")
    with torch.no_grad(), Peak(torch.device("cpu")) as applied:
        network.eval()(images)
    # Two images: batch normalisation of one value per channel cannot be trained. Half of their bytes is said.
    with Peak(torch.device("cpu")) as trained:
        total_of(network.train()(images.repeat(2, 1, 1, 1))).backward()
    network.zero_grad(set_to_none=True)
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "multiply_adds": multiply_adds(network, (size, size)),
        "applied": applied.most,
        "trained": trained.most / 2,
    }


def total_of(outputs: Any) -> torch.Tensor:
    """A scalar that every output has a part in."""
    if isinstance(outputs, torch.Tensor):
        return outputs.sum()
    values = outputs.values() if isinstance(outputs, dict) else outputs
    return sum((total_of(value) for value in values), torch.zeros((), device="meta"))


def table(rows: dict[str, dict[str, float]], size: int, found: dict[str, Any]) -> str:
    lines = [
        "# What networks compute and hold",
        "",
        *as_lines(found),
        f"One image of {size}x{size}, {CLASSES} classes, float32; ResNet-50 at stride 16 where nothing else is said. "
        "Multiply-adds of convolutions and matrix products in a forward pass at one scale. Memory: tensors that are "
        "alive at most, beside the weights, when the network is applied, and for each image of a batch when it is "
        "trained, gradients of the weights included; kernels need more for themselves. `plan=true` says the same of "
        "every stage of a recipe on your images.",
        "",
        "| network | parameters, M | multiply-adds, G | applied, MB | trained, MB |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        cells = (row["parameters"] / 1e6, row["multiply_adds"] / 1e9, row["applied"] / 2**20, row["trained"] / 2**20)
        lines.append(
            f"| {name} | " + " | ".join(f"{value:.1f}" for value in cells[:2]) + f" | {cells[2]:.0f} | {cells[3]:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    size = int(dict(argument.split("=", 1) for argument in sys.argv[1:]).get("size", "512"))
    rows, found = {}, facts()
    for name, network in build().items():
        rows[name] = measure(network, size)
        print(name, rows[name], flush=True)
    write_json(RESULTS / "networks.json", {"facts": found, "size": size, "rows": rows})
    with atomic_write(RESULTS / "networks.md") as temporary:
        temporary.write_text(table(rows, size, found), encoding="utf-8")


if __name__ == "__main__":
    main()
