"""DeepLabV3+ with ResNet-18, 256 px, batch 8: training step and inference, against segmentation-models-pytorch.

    python -m benchmarks.speed.deeplab

Both build it by name with their own defaults, 21 classes, output stride 16. They differ in the decoder: ours has the
paper's two convolutions with normalisation and ReLU after each of their halves, smp's has one without, so ours computes
6 % more. Ours runs as `maskwright` runs it on a CPU: channels last, its own cross-entropy, memory kept while it trains,
labels from a copy made for inference. smp runs as its examples do (`model(images)`, torch's cross-entropy,
`argmax(1)`), and once more with channels last. Where both run in one process, memory is handled alike; "processes
apart" gives each its own, and with it ours the memory that `fit` keeps. That ours is right is checked against its own
plain form: contiguous, full-size logits, torch's cross-entropy or arg-max.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import maskwright._torchvision_guard  # noqa: F401
from benchmarks.speed.apart import Apart
from benchmarks.speed.operations import operations
from benchmarks.speed.pictures import label_maps
from benchmarks.speed.timer import Bar, Comparison, Row, main
from maskwright.config import InferenceSettings
from maskwright.engine.device import freed_memory_kept
from maskwright.inference import predict_labels
from maskwright.losses import CrossEntropy
from maskwright.models import create_model
from maskwright.models.folding import inference_copy

CLASSES = 21
OURS, SAME_LAYERS, SMP, SMP_LAST = "maskwright", "maskwright's step, smp's layers", "smp", "smp, channels last"


def network(name: str, backbone: str, device: str) -> nn.Module:
    torch.manual_seed(0)
    if name == OURS:
        model: nn.Module = create_model("deeplabv3plus", backbone=backbone, num_classes=CLASSES, output_stride=16)
    else:
        import segmentation_models_pytorch as smp

        model = smp.DeepLabV3Plus(backbone, encoder_weights=None, classes=CLASSES)
    return model.to(device) if name == SMP else in_channels_last(model.to(device))


def in_channels_last(model: nn.Module) -> nn.Module:
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def example(name: str, size: int, batch: int, device: str) -> tuple[Tensor, Tensor]:
    images = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    labels = label_maps(batch, size, size, CLASSES, ignored=0.05).long().to(device)
    return images if name == SMP else images.contiguous(memory_format=torch.channels_last), labels


def training(
    name: str, backbone: str, size: int, batch: int, device: str, compiled: bool = False, apart: bool = False
) -> Callable[[], float]:
    """One step of SGD, ready to run; gives the loss."""
    if apart and name == OURS:
        ExitStack().enter_context(freed_memory_kept(device))  # until the process ends
    model = network(name, backbone, device).train()
    images, labels = example(name, size, batch, device)
    if compiled:
        model.compile()
    criterion = CrossEntropy() if name in (OURS, SAME_LAYERS) else nn.CrossEntropyLoss(ignore_index=255)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def inference(name: str, backbone: str, size: int, batch: int, device: str, compiled: bool = False) -> Callable:
    """Labels of a batch, ready to run."""
    model = network(name, backbone, device).eval()
    images, _ = example(SMP if name == OURS else name, size, batch, device)
    if compiled:
        model.compile()
    elif name == OURS:
        return partial(predict_labels, inference_copy(model), images, InferenceSettings.model_validate({}))
    return partial(plain_labels, model, images)


@torch.no_grad()
def plain_labels(model: nn.Module, images: Tensor) -> Tensor:
    return model(images).argmax(1)


def build(
    device: str, *, task: str, backbone: str, size: int, batch: int, compiled: bool = False, apart: bool = False
) -> Comparison:
    names, notes = [OURS, SMP, SMP_LAST], []
    if task == "training" and not apart:
        names.append(SAME_LAYERS)
    try:
        import segmentation_models_pytorch  # noqa: F401
    except ImportError as error:
        names = [OURS]
        notes.append(f"SKIPPED: segmentation-models-pytorch cannot be imported ({error})")
    sizes = (backbone, size, batch, device)
    functions: dict[str, Callable[[], Any]] = {}
    for name in names:
        if apart:
            functions[name] = Apart(training, name, *sizes, False, True)
        else:
            functions[name] = (training if task == "training" else inference)(name, *sizes, compiled=compiled)
    plain = network(OURS, backbone, device).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    images, labels = example(SMP, size, batch, device)

    def check(results: dict[str, Any]) -> dict[str, float]:
        if task == "training":
            return check_training(plain, images, labels)
        with torch.no_grad():
            logits = plain.eval()(images)
        found, expected = results[OURS], logits.argmax(1)
        top = logits.topk(2, 1).values
        clear = top[:, 0] - top[:, 1] > 1e-5
        assert torch.equal(found[clear], expected[clear]), "labels differ where no two classes are tied"
        return {"share of labels that differ, all at ties": (found != expected).float().mean().item()}

    bars = [Bar(SMP, 1.3), Bar(SMP_LAST, 1.0)]
    if task == "training":
        bars = [Bar(SMP, 1.0), Bar(SMP_LAST, 1.0, obstacle=DECODER), Bar(SMP, 1.0, ours=SAME_LAYERS)]
    return Comparison(
        functions,
        check,
        [bar for bar in bars if bar.ours in ("", *functions)],
        flops=operations(plain, images[:1]) * batch * (3 if task == "training" else 1),
        notes=notes,
    )


DECODER = (
    "our decoder is the paper's, with 6 % more operations and two more normalised maps of stride 4 than smp's; with "
    "smp's layers our step is the faster one"
)


def check_training(plain: nn.Module, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Loss and gradients of one step, ours in channels last against the plain form."""
    found = []
    for last in (True, False):
        model = copy.deepcopy(plain).train()
        for layer in model.modules():
            if isinstance(layer, nn.Dropout):  # drops in the order of memory, so others in each layout
                layer.p = 0.0
        if last:
            logits = in_channels_last(model)(images.contiguous(memory_format=torch.channels_last))
            loss = CrossEntropy()(logits, labels)
        else:
            loss = F.cross_entropy(model(images), labels, ignore_index=255)
        loss.backward()
        found.append((loss.item(), [value.grad for value in model.parameters() if value.grad is not None]))
    (value, gradients), (other, other_gradients) = found
    norm = torch.stack([gradient.norm() for gradient in other_gradients]).norm()
    apart = torch.stack([(a - b).norm() for a, b in zip(gradients, other_gradients, strict=True)]).norm() / norm
    assert abs(value - other) < 1e-4 * other, f"the losses differ: {value} against {other}"
    assert apart < 1e-2, f"the gradients differ by {apart:.1e} of their norm"
    return {"difference of the losses": abs(value - other), "of the gradients, of their norm": apart.item()}


SIZES = {"backbone": "resnet18", "size": 256, "batch": 8}
ROW = Row(
    "DeepLabV3+ ResNet-18, 256 px, batch 8",
    build,
    {
        "training step": {"task": "training", **SIZES},
        "training step, processes apart": {"task": "training", "apart": True, **SIZES},
        "inference": {"task": "inference", **SIZES},
    },
    {"size": 64, "batch": 2},
    seconds=10.0,
)

if __name__ == "__main__":
    main(ROW)
