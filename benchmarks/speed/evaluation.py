"""Labels of images of 1024x2048 with 19 classes, against the softmax of upsampled logits and its arg-max.

    python -m benchmarks.speed.evaluation

First the step after the network alone, from logits at a quarter of the image size; then a folder from files to scores
and written masks, with a network that is cheap enough for the step to matter (MobileNetV3-Small, head at stride 16).
The plain way reads, computes, counts with torch's bincount over the pixels that are not ignored, and writes palette
PNGs, one image after the other. Both see the same files and must give the same masks and the same mIoU.
"""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from benchmarks.speed.operations import operations
from benchmarks.speed.pictures import label_maps, photograph
from benchmarks.speed.timer import Bar, Comparison, Row, main
from maskwright.data.sample import LabelSpace, Sample
from maskwright.inference.views import evaluate
from maskwright.metrics import ConfusionMatrix
from maskwright.models import create_model
from maskwright.models.base import resize_argmax
from maskwright.settings import InferenceSettings

CLASSES = 19
LABELS = LabelSpace(tuple(f"class {value}" for value in range(CLASSES)), background=None)


@torch.no_grad()
def softmax_argmax(logits: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(logits, size, mode="bilinear", align_corners=False).softmax(1).argmax(1)


def step(device: str, height: int, width: int) -> Comparison:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(1, CLASSES, height // 4, width // 4, generator=generator).to(device)
    size = (height, width)

    def check(results: dict[str, Any]) -> dict[str, float]:
        top = F.interpolate(logits, size, mode="bilinear", align_corners=False).softmax(1).topk(2, 1).values
        clear = top[:, 0] > top[:, 1]  # the softmax rounds some classes to equal probabilities
        ours, plain = results["resize_argmax"], results["softmax, arg-max"]
        assert torch.equal(ours[clear], plain[clear])
        return {"share of labels that differ, all at ties": (ours != plain).float().mean().item()}

    return Comparison(
        {
            "resize_argmax": partial(resize_argmax, logits, size),
            "softmax, arg-max": partial(softmax_argmax, logits, size),
        },
        check,
        [Bar("softmax, arg-max", 2), Bar("softmax, arg-max", 4, of="memory")],
        moved=logits.nbytes + 8 * height * width,
        flops=CLASSES * height * width * 6,
    )


class Folder:
    """Image and mask files as `evaluate` reads a data set."""

    labels = LABELS

    def __init__(self, root: Path, count: int, height: int, width: int) -> None:
        self.root = root
        self.names = [f"{index:03d}" for index in range(count)]
        masks = label_maps(count, height, width, CLASSES, ignored=0.05)
        for index, name in enumerate(self.names):
            Image.fromarray(photograph(height, width, seed=index)).save(root / f"{name}.jpg", quality=90)
            Image.fromarray(masks[index].numpy()).save(root / f"{name}.png")
        self.shape = (height, width)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        image = np.asarray(Image.open(self.root / f"{self.names[index]}.jpg"))
        mask = np.asarray(Image.open(self.root / f"{self.names[index]}.png"))
        return Sample(self.names[index], image, mask)

    def size(self, index: int) -> tuple[int, int]:
        return self.shape

    def has_mask(self, index: int) -> bool:
        return True


@torch.no_grad()
def plain_evaluation(model: Any, dataset: Folder, folder: Path, device: str) -> float:
    counts = torch.zeros(CLASSES**2, dtype=torch.int64)
    mean, std = (torch.tensor(values).view(3, 1, 1).to(device) for values in (model.mean, model.std))
    (folder / "predictions").mkdir(parents=True)
    for index, name in enumerate(dataset.names):
        sample = dataset[index]
        assert sample.mask is not None
        image = torch.from_numpy(sample.image.transpose(2, 0, 1).copy()).to(device).float() / 255
        logits = model(((image - mean) / std)[None], upsample=False)
        predicted = softmax_argmax(logits, dataset.shape)[0].cpu()
        truth = torch.from_numpy(sample.mask.copy()).long()
        valid = truth != 255
        counts += torch.bincount(truth[valid] * CLASSES + predicted[valid], minlength=CLASSES**2)
        picture = Image.fromarray(predicted.numpy().astype(np.uint8))
        picture.putpalette([value for colour in LABELS.palette for value in colour])
        picture.save(folder / "predictions" / f"{name}.png")
    matrix = counts.view(CLASSES, CLASSES)
    return float(ConfusionMatrix.from_matrix(matrix, LABELS).scores()["miou"])


def whole_folder(device: str, count: int, height: int, width: int) -> Comparison:
    torch.manual_seed(0)
    model: Any = create_model("fcn", backbone="mobilenetv3_small_050", num_classes=CLASSES, output_stride=16)
    model.eval().to(device)
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.normal_(std=1.0)  # so that every class is predicted somewhere
    space = tempfile.TemporaryDirectory()
    root, out = Path(space.name) / "data", Path(space.name) / "out"
    root.mkdir()
    dataset = Folder(root, count, height, width)
    settings = InferenceSettings.model_validate({"batch_size": 1})

    def run(function: Any) -> tuple[float, list[np.ndarray]]:
        shutil.rmtree(out, ignore_errors=True)
        score = function(out)
        return score, [np.asarray(Image.open(path)) for path in sorted((out / "predictions").glob("*.png"))]

    def ours(folder: Path) -> float:
        return float(evaluate(model, dataset, settings, device, folder=folder)[0].scores()["miou"] or 0.0)

    def check(results: dict[str, Any]) -> dict[str, float]:
        (score, masks), (other, other_masks) = results["evaluate"], results["softmax, arg-max"]
        assert len(masks) == len(other_masks) == count
        differ = float(np.mean([(a != b).mean() for a, b in zip(masks, other_masks, strict=True)]))
        assert differ < 1e-4, f"{differ:.1e} of the labels differ"
        assert abs(score - other) < 1e-5, f"mIoU {score} against {other}"
        assert space is not None
        return {"share of labels that differ": differ, "difference of the mIoU": abs(score - other)}

    image = torch.zeros(1, 3, height, width, device=device)
    return Comparison(
        {
            "evaluate": partial(run, ours),
            "softmax, arg-max": partial(run, lambda folder: plain_evaluation(model, dataset, folder, device)),
        },
        check,
        [Bar("softmax, arg-max", 2, obstacle=OBSTACLE), Bar("softmax, arg-max", 1, of="memory", words="less memory")],
        flops=count * operations(model, image),
    )


OBSTACLE = ""


def build(device: str, *, kind: str, height: int, width: int, count: int) -> Comparison:
    return step(device, height, width) if kind == "step" else whole_folder(device, count, height, width)


SIZES = {"height": 1024, "width": 2048, "count": 4}
ROW = Row(
    "Evaluation and prediction at 1024x2048, 19 classes",
    build,
    {"after the network": {"kind": "step", **SIZES}, "a folder, files to scores": {"kind": "folder", **SIZES}},
    {"height": 64, "width": 128, "count": 2},
    seconds=8.0,
)

if __name__ == "__main__":
    main(ROW)
