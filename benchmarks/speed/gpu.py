"""Throughput on a GPU: training steps of the VOC and Cityscapes recipes, and maps of the label stage, in images/s.

    python -m benchmarks.speed.gpu

Steps are the recipes' own (network, loss, optimiser, batch and crop as they stand) on images that already lie on the
GPU: float32 beside bfloat16 in channels last, and that compiled. The label stage takes CAM at four scales with mirrors
from the recipe's classifier; compiled, it replays a CUDA graph for each scale. Weights are random, so that nothing is
downloaded. The rows of our own kernels take `--device cuda` too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.speed.operations import operations
from benchmarks.speed.pictures import label_maps, photograph
from benchmarks.speed.timer import Bar, Comparison, Row, main
from maskwright.data.sample import LabelSpace
from maskwright.engine.optimizer import create_optimizer
from maskwright.models import create_classifier
from maskwright.models.base import parameter_groups
from maskwright.pipeline.segment import build_segmenter
from maskwright.recipe.load import load_recipe
from maskwright.weak.seeds.cam import class_activation_maps
from maskwright.weak.seeds.extract import make_views

FLOAT32, BFLOAT16, COMPILED = "float32", "bfloat16, channels last", "the same, compiled"


def precision(name: str, device: str) -> AbstractContextManager:
    return torch.autocast(device, torch.bfloat16, enabled=name != FLOAT32)


def variants(device: str) -> list[str]:
    return [BFLOAT16, FLOAT32, *([COMPILED] if device == "cuda" else [])]


def laid_out(network: nn.Module, name: str) -> nn.Module:
    return network if name == FLOAT32 else network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def training(device: str, recipe: str, classes: int, backbone: str, batch: int, side: int) -> Comparison:
    """One step of a recipe; what is given as "" or 0 is the recipe's."""
    known = load_recipe(recipe, ["model.pretrained=false", *([f"model.backbone={backbone}"] if backbone else [])])
    batch = batch or known.train.batch_size
    height, width = (side, side) if side else known.train.augment.crop or (512, 512)
    labels = LabelSpace(tuple(f"class {value}" for value in range(classes)), background=None)
    masks = label_maps(batch, height, width, classes, ignored=0.05).to(device)
    images = torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, device=device)

    def step_of(name: str) -> Callable[[], float]:
        model, step = build_segmenter(known, labels, torch.device(device))
        model = laid_out(model.to(device).train(), name)  # type: ignore[assignment]
        optimizer = create_optimizer(parameter_groups(model, known.train), known.train)
        runner: Any = torch.compile(model) if name == COMPILED else model
        given = images if name == FLOAT32 else images.contiguous(memory_format=torch.channels_last)

        def run() -> float:
            with precision(name, device):
                loss, _ = step(runner, {"image": given, "mask": masks})
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return loss.item()

        return run

    def check(results: dict[str, Any]) -> dict[str, float]:
        apart = max(abs(value / results[FLOAT32] - 1) for value in results.values())
        assert apart < 0.1, f"the first step's losses differ by {apart:.1%}: {results}"
        return {"difference of the first step's losses, with its own dropout each": apart}

    network = build_segmenter(known, labels, torch.device(device))[0].to(device)
    count = 3 * batch * operations(network, torch.zeros(1, 3, height, width, device=device))
    return compared({name: step_of(name) for name in variants(device)}, check, count, batch)


def maps(device: str, recipe: str, classes: int, backbone: str, batch: int, side: int) -> Comparison:
    """CAM of a batch of photographs at four scales with mirrors; each image has two tags."""
    known = load_recipe(recipe)
    size = (side, side) if side else (375, 500)
    torch.manual_seed(0)
    network = create_classifier(backbone=backbone or known.classifier.backbone, num_tags=classes).eval().to(device)
    images = [photograph(*size, seed=index) for index in range(batch)]
    tags = [(index % classes, (index + 1) % classes) for index in range(batch)]
    views = make_views(images, tags, mean=network.mean, std=network.std, device=device)

    def method_of(name: str) -> Callable[[], Tensor]:
        # Each has a network of its own: the layout belongs to the weights.
        own: Any = create_classifier(backbone=backbone or known.classifier.backbone, num_tags=classes)
        own.load_state_dict(network.state_dict())
        own = laid_out(own.eval().to(device), name)
        if name == COMPILED:
            own.features = torch.compile(own.features, mode="reduce-overhead")

        @torch.no_grad()
        def run() -> Tensor:
            with precision(name, device):
                return torch.stack([found.cam for found in class_activation_maps(own, views)])

        return run

    def check(results: dict[str, Any]) -> dict[str, float]:
        apart = max((value - results[FLOAT32]).abs().max().item() for value in results.values())
        assert apart < 0.1, f"the maps differ by {apart:.1e}"
        return {"difference of the maps": apart}

    count = sum(operations(network, view[:1], "features") * len(view) for view in views.images)
    return compared({name: method_of(name) for name in variants(device)}, check, count, batch)


def compared(functions: dict[str, Callable[[], Any]], check: Any, flops: float, images: int) -> Comparison:
    bars = [Bar(FLOAT32, 1, words="faster")]
    if COMPILED in functions:
        bars.append(Bar(BFLOAT16, 1, ours=COMPILED, words="faster"))
    return Comparison(functions, check, bars, flops=flops, precision=torch.bfloat16, images=images)


def build(device: str, *, kind: str, **settings: Any) -> Comparison:
    return (training if kind == "training" else maps)(device, **settings)


AS_THE_RECIPE: dict[str, Any] = {"backbone": "", "side": 0}
ROW = Row(
    "Throughput of recipes on a GPU",
    build,
    {
        "voc-deeplabv3plus, step": {
            "kind": "training",
            "recipe": "voc-deeplabv3plus",
            "classes": 21,
            "batch": 0,
            **AS_THE_RECIPE,
        },
        "cityscapes-deeplabv3plus, step": {
            "kind": "training",
            "recipe": "cityscapes-deeplabv3plus",
            "classes": 19,
            "batch": 0,
            **AS_THE_RECIPE,
        },
        "voc-cam, maps": {"kind": "maps", "recipe": "voc-cam", "classes": 20, "batch": 16, **AS_THE_RECIPE},
    },
    {"backbone": "resnet10t", "batch": 2, "side": 64},
    seconds=20.0,
)

if __name__ == "__main__":
    if torch.cuda.is_available() and "--device" not in sys.argv:
        sys.argv += ["--device", "cuda"]
    if "cuda" in sys.argv or "--tiny" in sys.argv:
        main(ROW)
    else:
        print("SKIPPED: there is no GPU; --tiny runs it at the size of the tests on a CPU")
