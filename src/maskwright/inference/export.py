"""Finished models written in other forms, each compared with the model itself before its file takes its place."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from maskwright.data.augment import resize_image
from maskwright.data.decode import Reading
from maskwright.engine.checkpoint import save_model
from maskwright.errors import DataError, RecipeError, unknown_name
from maskwright.files import atomic_write
from maskwright.formats import MODEL_FORMATS
from maskwright.inference.graph import INPUT, OUTPUTS, WholeGraph, followed, followed_in_parts
from maskwright.inference.load import load
from maskwright.inference.onnx_predictor import METADATA, OnnxPredictor
from maskwright.inference.predict import Predictor
from maskwright.models.folding import inference_copy

# Images `(B, H, W, 3)` uint8 -> labels `(B, H, W)` and probabilities `(B, C, H, W)`.
Applied = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

LONGEST = 640  # pixels of the long side of an image that an export is compared on
# How far probabilities may lie apart: rounding in another order; where images are resized first, one in ten thousand
# values of theirs differs from Pillow's by one.
TOLERANCE, TOLERANCE_RESIZED = 1e-3, 2e-2
LABELS_APART = 1e-3  # share of pixels whose labels may differ though two classes are not as good as equally likely


class Format(NamedTuple):
    """A form that a model is written in: what writes it, what applies it again, and the oldest torch that can."""

    write: Callable[[Predictor, Path], None]
    read: Callable[[Path], Applied]
    torch: str = "2.6"


def described(predictor: Predictor) -> dict[str, Any]:
    """What belongs to a model, as in the header of its file, with the settings that it is applied with."""
    metadata = predictor.metadata
    inference = predictor.settings.model_dump(mode="json")
    return {
        **metadata,
        "labels": predictor.labels.to_dict(),
        "preprocessing": {
            **metadata.get("preprocessing", {}),
            "mean": list(predictor.mean),
            "std": list(predictor.std),
        },
        "recipe": {**metadata.get("recipe", {}), "inference": inference},
    }


def in_short(predictor: Predictor) -> dict[str, Any]:
    """What other programs need of that, each under its usual name."""
    labels, settings = predictor.labels, predictor.settings
    return {
        "id2label": {str(value): name for value, name in enumerate(labels.names)},
        "label2id": {name: value for value, name in enumerate(labels.names)},
        "palette": [list(colour) for colour in labels.palette],
        "ignore_index": labels.ignore_index,
        "background": labels.background,
        "image_mean": list(predictor.mean),
        "image_std": list(predictor.std),
        "range": None if predictor.reading.range is None else list(predictor.reading.range),
        "size": settings.size,
        "scales": list(settings.scales),
        "flip": settings.flip,
    }


def _write_onnx(predictor: Predictor, path: Path) -> None:
    try:
        import onnx_ir
        import onnxruntime  # noqa: F401  # before the work, not after it
        import onnxscript  # noqa: F401
        from onnx.compose import merge_models
    except ImportError as error:
        raise RecipeError(f"{error.name} is not installed; pip install 'maskwright[export]'") from error
    graph = WholeGraph(predictor)
    # Normalisations in the convolutions' weights are operations less to follow, twice: a fifth of the time.
    graph.model = inference_copy(predictor.model)
    graph.model.to(memory_format=torch.contiguous_format)
    if graph.open_sizes:
        before, network = followed_in_parts(graph)
        between = [f"seen {number}" for number, _ in enumerate(before.graph_signature.user_outputs)]
        first, second = _onnx(before, [INPUT], between), _onnx(network, between, OUTPUTS)
        joined = [(name, name) for name in between]
        model = onnx_ir.from_proto(merge_models(first.model_proto, second.model_proto, joined, prefix1="before/"))
        model.graph.inputs[0].name = INPUT
    else:
        model = _onnx(followed(graph), [INPUT], OUTPUTS).model
    model.producer_name = "maskwright"
    sides = ["batch", "height", "width"]
    model.graph.inputs[0].shape = onnx_ir.Shape([*sides, len(predictor.mean)])
    labels, probabilities = model.graph.outputs
    labels.shape = onnx_ir.Shape(sides)
    probabilities.shape = onnx_ir.Shape([sides[0], predictor.labels.num_classes, *sides[1:]])
    model.metadata_props[METADATA] = _json(described(predictor))
    for key, value in in_short(predictor).items():
        model.metadata_props[key] = _json(value)
    onnx_ir.save(model, path)


def _onnx(program: torch.export.ExportedProgram, inputs: Sequence[str], outputs: Sequence[str]) -> Any:
    """A program in ONNX's words."""
    return torch.onnx.export(
        program,
        input_names=list(inputs),
        output_names=list(outputs),
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def _read_onnx(path: Path) -> Applied:
    return OnnxPredictor(path, "cpu").run


def _write_program(predictor: Predictor, path: Path) -> None:
    kept = {f"{METADATA}.json": _json({**described(predictor), **in_short(predictor)})}
    torch.export.save(followed(WholeGraph(predictor)), str(path), extra_files=kept)


def _read_program(path: Path) -> Applied:
    module = torch.export.load(str(path), extra_files=(kept := {f"{METADATA}.json": ""})).module()
    reading = Reading.of(json.loads(kept[f"{METADATA}.json"])["preprocessing"])

    def applied(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            labels, probabilities = module(torch.from_numpy(reading.stored(images)))
        return labels.numpy(), probabilities.numpy()

    return applied


def _write_weights(predictor: Predictor, path: Path) -> None:
    save_model(path, predictor.model, described(predictor))


def _read_weights(path: Path) -> Applied:
    predictor = load(path, device="cpu")

    def applied(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        masks = np.stack([predictor.predict(image).mask for image in images])
        return masks, np.stack([predictor.of_pixels(image) for image in images])

    return applied


FORMATS = {
    "onnx": Format(_write_onnx, _read_onnx, "2.11"),
    "torch-export": Format(_write_program, _read_program, "2.9"),
    "safetensors": Format(_write_weights, _read_weights),
}


def export_model(predictor: Predictor, name: str, out: str | Path, images: Sequence[np.ndarray]) -> list[str]:
    """Write a model in another form, and compare what that makes of images with what the model makes of them.

    Args:
        predictor: on the CPU; its settings are those that the file is applied with.
        name: of the form, one of `FORMATS`.
        out: the file; it is there at the end only where it gives what the model gives.
        images: `(H, W, C)` uint8, as the predictor sees them, at least one; they are looked at in three sizes.

    Returns:
        For each size a line with what was found.

    Raises:
        RecipeError: an unknown form, a file of another suffix, a package that is missing, a torch that is too old for
            it, or a model that cannot be written in this form.
        DataError: the file gives something else than the model.
    """
    if name not in FORMATS:
        raise RecipeError(unknown_name("format", name, FORMATS))
    form, suffix = FORMATS[name], MODEL_FORMATS[name]
    if Path(out).suffix != suffix:
        raise RecipeError(f"out={out}: a model of format={name} is a file that ends in {suffix}")
    if torch.__version__ < form.torch:  # which compares as versions do
        raise RecipeError(
            f"format={name} needs torch {form.torch} or newer, found {torch.__version__}: pip install --upgrade torch"
        )
    predictor.settings = predictor.settings.model_copy(update={"autocast": "none"})
    with atomic_write(out) as temporary:
        form.write(predictor, temporary)
        applied = form.read(temporary)
        return [_compared(predictor, applied, image, out) for image in three_sizes(images)]


def three_sizes(images: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """One as it is, one with odd sides, one on its side; no long side is above `LONGEST`."""
    for number, part in enumerate((1.0, 0.6, 0.8)):
        image = images[number % len(images)]
        part *= min(1.0, LONGEST / max(image.shape[:2]))
        height, width = (max(1, int(length * part)) for length in image.shape[:2])
        if number:
            height, width = height | 1, width | 1
        resized = resize_image(image, (height, width))
        yield np.ascontiguousarray(np.rot90(resized) if number == 2 else resized)


def _compared(predictor: Predictor, applied: Applied, image: np.ndarray, out: str | Path) -> str:
    """What a file makes of an image and its mirror image, in one batch, beside what the model makes of each."""
    batch = np.stack([image, image[:, ::-1]])
    height, width = image.shape[:2]
    try:
        labels, probabilities = applied(batch)
    except Exception as error:  # onnxruntime has a type of its own for each of its causes
        raise DataError(
            f"{out} was not written: for images of {height}x{width} pixels it ends with: {str(error)[:300]}"
        ) from error
    expected = np.stack([predictor.of_pixels(one) for one in batch])
    apart = labels != np.stack([predictor.predict(one).mask for one in batch])
    far = float(np.abs(probabilities - expected).max())
    found = f"{height}x{width}: labels equal at {100 - 100 * apart.mean():.3f} % of pixels, "
    found += f"probabilities within {far:.1e}"
    tolerance = TOLERANCE if predictor.settings.size is None else TOLERANCE_RESIZED
    best = np.sort(expected, axis=1)[:, -2:]
    apart &= np.ptp(best, axis=1) > 2 * tolerance if best.shape[1] == 2 else True
    if not (apart.mean() <= LABELS_APART and far <= tolerance):
        raise DataError(
            f"{out} was not written: it gives something else than the model. {found}; expected probabilities within "
            f"{tolerance:g}, and other labels only where two classes are as likely. Please report it with the name of "
            f"the model, {type(predictor.model).__name__} on {predictor.model.backbone.name}"
        )
    return found


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False)
