"""An exported model applied with onnxruntime; neither torch nor the network's code is needed."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskwright.data.decode import Reading
from maskwright.data.sample import LabelSpace
from maskwright.errors import DataError, RecipeError
from maskwright.files import file_hash
from maskwright.inference.files import Prediction, Predicts
from maskwright.inference.tagged import Tags, possible_classes

SUFFIX = ".onnx"
METADATA = "maskwright"  # the key under which an exported file holds what belongs to its model


class OnnxPredictor(Predicts):
    """An exported segmenter with all that belongs to it; call it with an image, as a `Predictor`.

    Args:
        file: what `maskwright export RUN format=onnx` wrote.
        device: where it computes: auto, cpu or cuda; auto takes what the installed onnxruntime can.

    Raises:
        DataError: no such file, or not one that was exported.
        RecipeError: onnxruntime is not installed, or cannot compute there.
    """

    def __init__(self, file: str | Path, device: str = "auto") -> None:
        self.file = Path(file)
        if not self.file.is_file():
            raise DataError(f"{file} does not exist; expected a file that maskwright export RUN format=onnx wrote")
        self._session = _session(self.file, str(device))
        kept = self._session.get_modelmeta().custom_metadata_map.get(METADATA)
        if kept is None:
            raise DataError(
                f"{file} does not say what its classes are; expected a file of maskwright export RUN format=onnx"
            )
        try:
            self.metadata: dict[str, Any] = json.loads(kept)
            self.labels = LabelSpace.from_dict(self.metadata["labels"])
            self.reading = Reading.of(self.metadata["preprocessing"])
            self.channels = len(self.metadata["preprocessing"]["mean"])
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise DataError(f"{file}: what it says of its classes cannot be read: {error}") from error

    def made_by(self) -> dict[str, Any]:
        """What a folder of its masks says of it: `model`, its file, and `weights`, a hash of that."""
        return {"model": str(self.file.resolve()), "weights": file_hash(self.file)}

    def predict(self, pixels: np.ndarray, *, tags: Tags | None = None, probabilities: bool = False) -> Prediction:
        """As a call, of what `pixels` gives."""
        classes = possible_classes(tags, self.labels)
        labels, found = self.run(pixels[None])
        mask, known = labels[0], found[0]
        if classes is not None:
            known = _among(known, classes)
            mask = known.argmax(0).astype(np.uint8)
        return Prediction(pixels, mask, self.labels, self, classes, _known=known if probabilities else None)

    def of_pixels(self, pixels: np.ndarray, *, tags: Tags | None = None) -> np.ndarray:
        """As `probabilities`, of what `pixels` gives."""
        classes = possible_classes(tags, self.labels)
        found = self.run(pixels[None])[1][0]
        return found if classes is None else _among(found, classes)

    def run(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Labels `(B, H, W)` uint8 and probabilities `(B, C, H, W)` float32 of images `(B, H, W, C)` uint8."""
        # Where a range is inside the file, it takes the numbers that files hold.
        if self._session.get_inputs()[0].type == "tensor(float)":
            images = self.reading.stored(images)
        labels, probabilities = self._session.run(None, {"image": np.ascontiguousarray(images)})
        return labels.astype(np.uint8), probabilities


def _among(found: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Probabilities `(C, H, W)` where other classes than these cannot be."""
    chosen = np.zeros_like(found)
    chosen[list(classes)] = np.maximum(found[list(classes)], np.finfo(np.float32).tiny)
    return chosen / chosen.sum(0)


def _session(file: Path, device: str) -> Any:
    """onnxruntime's session for a file on a device."""
    try:
        import onnxruntime
    except ImportError as error:
        raise RecipeError("onnxruntime is not installed; pip install onnxruntime (onnxruntime-gpu for CUDA)") from error
    kind = device.partition(":")[0]
    known = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
    here = [name for name, provider in known.items() if provider in onnxruntime.get_available_providers()]
    if kind == "auto":
        kind = here[-1]
    if kind not in here:
        raise RecipeError(
            f"device={device}: the installed onnxruntime computes on {' and '.join(here)}; for a GPU, install "
            "onnxruntime-gpu in its place"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", 0))  # 0: as many as there are cores
    options.log_severity_level = 3
    providers: list[Any] = [known[kind]]
    if kind == "cuda":
        providers = [(known["cuda"], {"device_id": int(device.partition(":")[2] or 0)}), known["cpu"]]
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=providers)
    except Exception as error:  # onnxruntime has a type of its own for each of its causes
        raise DataError(f"{file} is not an ONNX model that onnxruntime can run: {str(error)[:300]}") from error
