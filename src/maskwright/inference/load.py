"""Finished models: one file holds weights, classes, preprocessing and recipe, so one path is all that is needed."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from maskwright.data.sample import LabelSpace
from maskwright.engine.checkpoint import MODEL, load_metadata, load_model
from maskwright.engine.device import choose_device
from maskwright.errors import DataError
from maskwright.inference.onnx_predictor import SUFFIX
from maskwright.inference.predict import Predictor
from maskwright.models import SegmentationModel, create_model
from maskwright.runs.folder import RunFolder
from maskwright.settings import InferenceSettings


def load(
    path: str | PathLike[str], *, device: str | torch.device = "auto", settings: InferenceSettings | None = None
) -> Predictor:
    """The trained segmenter of a run, ready for images.

    Args:
        path: a run folder, a folder with `model.safetensors`, or such a file.
        device: "auto" takes the GPU where there is one.
        settings: how the model is applied; default as in the recipe that it was trained by.

    Returns:
        A predictor: `load("runs/voc")("street.jpg").mask`.

    Raises:
        DataError: no model there, a file that is no maskwright segmenter, or weights that do not fit their description.
    """
    file = model_file(path)
    if settings is None:
        settings = _settings(load_metadata(file, "segmenter"), file)

    def create(described: dict[str, Any]) -> SegmentationModel:
        return create_model(
            described["name"],
            backbone=described["backbone"],
            num_classes=described["num_classes"],
            output_stride=described["output_stride"],
            pretrained=False,
            **described["options"],
        )

    model, metadata = load_model(file, "segmenter", create)
    labels = LabelSpace.from_dict(metadata["labels"])
    return Predictor(model, labels, settings, choose_device(device), metadata, file)


def _settings(metadata: dict[str, Any], file: Path) -> InferenceSettings:
    """How the recipe in a model file applies the model."""
    try:
        return InferenceSettings.model_validate(metadata["recipe"].get("inference", {}))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, ("recipe", "inference", *first["loc"])))
        found = f"{first['input']!r:.60}"
        raise DataError(
            f"{file}: {field} in its header is {found}: {first['msg']}. Take a file as a run wrote it"
        ) from error


def model_file(path: str | PathLike[str]) -> Path:
    """The segmenter's file in a run folder or another folder, or the file itself.

    Raises:
        DataError: none is there; the message says where it was looked for.
    """
    path = Path(path)
    if path.suffix == SUFFIX:
        raise DataError(
            f"{path} is an exported model, which maskwright predict and maskwright.load take; this needs the run that "
            "it was exported from"
        )
    if path.is_file():
        return path
    if not path.is_dir():
        raise DataError(f"{path} does not exist; expected a run folder or a {MODEL}")
    candidates = [RunFolder(path).model("segmenter"), path / MODEL]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise DataError(
        f"{path} holds no trained segmenter: neither {candidates[0]} nor {candidates[1]} exists. If the run was "
        "stopped, run the same command again to finish it"
    )
