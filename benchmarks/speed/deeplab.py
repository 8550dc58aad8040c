"""DeepLabV3+ with ResNet-18, 256 px, batch 8: training step and inference, against segmentation-models-pytorch.

    python -m benchmarks.speed.deeplab

Both build it by name with their own defaults, 21 classes, output stride 16. They differ in the decoder: ours has the
paper's two convolutions with normalisation and ReLU after each of their halves, smp's has one without, so ours computes
6 % more. Ours runs as `maskwright` runs it on a CPU: channels last, its own cross-entropy, memory kept while it trains,
labels from a copy made for inference. smp runs as its examples do (`model(images)`, torch's cross-entropy,
`argmax(1)`), and once more with channels last. Where both run in one process, memory is handled alike; "processes
apart" gives each its own, and with it ours the memory that `fit`, `evaluate` and `predict_files` keep. That ours is
right is checked against its own plain form: contiguous, full-size logits, torch's cross-entropy or arg-max.

Inference has two more of ours: in bfloat16 (`inference.autocast=bfloat16`), whose labels must be the same wherever the
best class leads by 5 % of the range of the logits; and with smp's layers in place of ours, without smp's upsampling.
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
from maskwright.engine.device import freed_memory_kept, half_type
from maskwright.inference.views import predict_labels
from maskwright.losses import CrossEntropy
from maskwright.models import create_model
from maskwright.models.base import SegmentationModel
from maskwright.models.folding import inference_copy
from maskwright.settings import InferenceSettings

CLASSES = 21
OURS, HALF, SMP, SMP_LAST = "maskwright", "maskwright, bfloat16", "smp", "smp, channels last"
SAME_LAYERS, SAME_PATH = "maskwright's step, smp's layers", "maskwright's path, smp's layers"


def network(name: str, backbone: str, device: str) -> nn.Module:
    torch.manual_seed(0)
    if name in (OURS, HALF):
        model: nn.Module = create_model("deeplabv3plus", backbone=backbone, num_classes=CLASSES, output_stride=16)
    else:
        import segmentation_models_pytorch as smp

        model = smp.DeepLabV3Plus(backbone, encoder_weights=None, classes=CLASSES)
    return model.to(device) if name == SMP else in_channels_last(model.to(device))


class SmpLayers(SegmentationModel):
    """smp's network as one of ours, without its own upsampling."""

    def __init__(self, network: Any) -> None:
        super().__init__(network.encoder, CLASSES)
        network.segmentation_head[1] = nn.Identity()
        self.network = network

    def outputs(self, images: Tensor, *, auxiliary: bool = False) -> dict[str, Tensor]:
        return {"logits": self.network(images)}


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


def inference(
    name: str, backbone: str, size: int, batch: int, device: str, compiled: bool = False, apart: bool = False
) -> Callable[[], Tensor]:
    """Labels of a batch, ready to run."""
    if apart and name in (OURS, HALF, SAME_PATH):
        ExitStack().enter_context(freed_memory_kept(device))  # until the process ends
    model = network(name, backbone, device).eval()
    our_path = name in (OURS, HALF, SAME_PATH)
    images, _ = example(SMP if our_path else name, size, batch, device)
    if compiled:
        model.compile()
    elif our_path:
        settings = InferenceSettings(autocast="bfloat16" if name == HALF else "none")
        model = SmpLayers(model) if name == SAME_PATH else model
        return partial(predict_labels, inference_copy(model, half_type(settings.autocast, device)), images, settings)
    return partial(plain_labels, model, images)


@torch.no_grad()
def plain_labels(model: nn.Module, images: Tensor) -> Tensor:
    return model(images).argmax(1)


def build(
    device: str, *, task: str, backbone: str, size: int, batch: int, compiled: bool = False, apart: bool = False
) -> Comparison:
    # Compiled code chooses layouts by itself, so there smp is one contestant.
    names, notes = [OURS, SMP, *([] if compiled else [SMP_LAST])], []
    if task == "training" and not apart:
        names.append(SAME_LAYERS)
    if task == "inference" and not compiled:
        names += [HALF, SAME_PATH]
    try:
        import segmentation_models_pytorch  # noqa: F401
    except ImportError as error:
        names = [name for name in names if name in (OURS, HALF)]
        notes.append(f"SKIPPED: segmentation-models-pytorch cannot be imported ({error})")
    sizes = (backbone, size, batch, device)
    functions: dict[str, Callable[[], Any]] = {}
    make = training if task == "training" else inference
    for name in names:
        functions[name] = Apart(make, name, *sizes, False, True) if apart else make(name, *sizes, compiled=compiled)
    plain = network(OURS, backbone, device).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    images, labels = example(SMP, size, batch, device)

    def check(results: dict[str, Any]) -> dict[str, float]:
        if task == "training":
            return check_training(plain, images, labels)
        differ = {"share of labels that differ, all at ties": check_labels(results[OURS], plain, images)}
        if HALF in results:
            differ["the same in bfloat16, at near ties"] = check_labels(results[HALF], plain, images, 0.05)
        if SAME_PATH in results:
            same = SmpLayers(network(SAME_PATH, backbone, device))
            differ["the same with smp's layers, at ties"] = check_labels(results[SAME_PATH], same, images)
        return differ

    bars = [
        Bar(SMP, 1.3, obstacle=ARITHMETIC),
        Bar(SMP_LAST, 1.0, obstacle=ARITHMETIC),
        Bar(SMP, 1.3, ours=HALF),
        Bar(SMP_LAST, 1.0, ours=SAME_PATH, obstacle=ARITHMETIC),
    ]
    if task == "training":
        bars = [Bar(SMP, 1.0, obstacle=DECODER), Bar(SMP_LAST, 1.0, obstacle=DECODER), Bar(SMP, 1.0, ours=SAME_LAYERS)]
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
ARITHMETIC = (
    "both sides run at eight or nine tenths of what the arithmetic of the machine allows in float32, and our decoder "
    "has 6 % more operations than smp's. Tried: folded normalisations, channels last, batches that fit the caches, "
    "an arg-max without full-size logits; bfloat16 and smp's layers are the next lines"
)


@torch.no_grad()
def check_labels(found: Tensor, model: nn.Module, images: Tensor, near: float = 0.0) -> float:
    """The share of labels that are not those of the model's plain logits; all of them must be at ties.

    Args:
        found: labels.
        model: their network.
        images: what they were found in.
        near: what counts as a tie, beside rounding, as a share of the range of the logits.
    """
    logits = model.eval()(images)
    expected, top = logits.argmax(1), logits.topk(2, 1).values
    clear = top[:, 0] - top[:, 1] > max(1e-5, near * (logits.amax() - logits.amin()).item())
    assert clear.any(), "everything is a tie"
    assert torch.equal(found[clear], expected[clear]), "labels differ where no two classes are tied"
    return (found != expected).float().mean().item()


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
        "inference, processes apart": {"task": "inference", "apart": True, **SIZES},
    },
    {"size": 64, "batch": 2},
    seconds=8.0,
    one_thread=False,
)

if __name__ == "__main__":
    main(ROW)
