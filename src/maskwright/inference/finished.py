"""Finished models in whatever form: of a run, exported, or in a repository of Hugging Face."""

from __future__ import annotations

from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from maskwright.errors import RecipeError
from maskwright.inference.files import REPOSITORY
from maskwright.inference.onnx_predictor import SUFFIX, OnnxPredictor

if TYPE_CHECKING:
    from maskwright.inference.predict import Predictor
    from maskwright.settings import InferenceSettings


def load(
    path: str | PathLike[str], *, device: Any = "auto", settings: InferenceSettings | None = None
) -> Predictor | OnnxPredictor:
    """The trained segmenter of a run, or one that was exported, ready for images.

    Args:
        path: a run folder, a folder with `model.safetensors`, or such a file; `model.onnx`, which needs onnxruntime and
            not torch; or `hf:user/name`, a repository that `maskwright push` wrote.
        device: "auto" takes the GPU where there is one.
        settings: how the model is applied; default as in the recipe that it was trained by. An exported file holds
            its own.

    Returns:
        A predictor: `load("runs/voc")("street.jpg").mask`.

    Raises:
        DataError: no model there, a file that is no maskwright segmenter, or weights that do not fit their description.
        RecipeError: settings for an exported file, or a device that cannot be had.
    """
    name = fspath(path)
    if name.endswith(SUFFIX):
        if settings is not None:
            raise RecipeError(f"{name} is applied as it was exported; give settings to the export, or load the run")
        return OnnxPredictor(name, str(device))
    from maskwright.inference.load import load as load_run

    if name.startswith(REPOSITORY):
        from maskwright.inference.hub import pulled

        path = pulled(name.removeprefix(REPOSITORY))
    return load_run(path, device=device, settings=settings)
