"""The mask of one image by an exported model and onnxruntime, against the same model in torch.

    python -m benchmarks.speed.exported

DeepLabV3+ with ResNet-18, from an image as it is in its file to a mask of its size. torch's form is the one that
`maskwright predict` uses for many images: normalisations in the convolutions' weights, channels last. onnxruntime also
gives probabilities, since its file has both outputs; torch's form gives the mask alone.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.speed.pictures import photograph
from benchmarks.speed.timer import Bar, Comparison, Row, main
from maskwright.data.sample import LabelSpace
from maskwright.errors import RecipeError
from maskwright.inference.export import export_model
from maskwright.inference.onnx_predictor import OnnxPredictor
from maskwright.inference.predict import Predictor
from maskwright.models import create_model

LABELS = LabelSpace(tuple(f"class {value}" for value in range(21)), background=None)
OURS, TORCH = "exported, onnxruntime", "torch"


def build(device: str, *, backbone: str, height: int, width: int) -> Comparison:
    torch.manual_seed(0)
    model = create_model("deeplabv3plus", backbone=backbone, num_classes=len(LABELS.names), output_stride=16)
    predictor = Predictor(model, LABELS)
    image = photograph(height, width)
    functions: dict[str, Any] = {}
    notes = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            export_model(predictor, "onnx", path, [image])
            functions[OURS] = partial(OnnxPredictor(path), image)
    except RecipeError as error:
        notes.append(f"SKIPPED: {error}")
    functions[TORCH] = partial(predictor.for_many(), image)

    def check(results: dict[str, Any]) -> dict[str, float]:
        differ = float(np.mean([result.mask != results[TORCH].mask for result in results.values()]))
        assert differ < 1e-3, f"{differ:.1e} of the labels differ"
        return {"share of labels that differ": differ}

    return Comparison(functions, check, [Bar(TORCH, 1, words="as fast")] if OURS in functions else [], notes=notes)


ROW = Row(
    "A mask by an exported model",
    build,
    {
        "360x480": {"backbone": "resnet18", "height": 360, "width": 480},
        "720x960": {"backbone": "resnet18", "height": 720, "width": 960},
    },
    {"backbone": "resnet10t", "height": 61, "width": 75},
    on_gpu=False,
    memory=False,
    one_thread=False,  # onnxruntime takes its threads when a file is opened
)

if __name__ == "__main__":
    main(ROW)
