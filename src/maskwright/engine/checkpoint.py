"""A model as one safetensors file: weights, and in its header all that is needed to use them. Loading runs no code."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch.nn import init
from torch.overrides import TorchFunctionMode

from maskwright.data.decode import Reading
from maskwright.data.sample import LabelSpace
from maskwright.errors import DataError
from maskwright.files import atomic_write, file_hash, read_json
from maskwright.settings import Recipe
from maskwright.version import __version__

MODEL = "model.safetensors"  # the name of a trained model in its folder
RECORD = "stage.json"  # the name of what is known of a stage of a run, in its folder
HEADER_KEY = "maskwright"
PRETRAINED = "pretrained_weights"  # in the header, and in the record of pseudo-masks: what the network began with

# What a model file may hold, and what each kind's description calls the number of its outputs.
KINDS = {"segmenter": "num_classes", "classifier": "num_tags", "irnet": None, "affinity": None}

# No number that describes a model is larger: what is asked for in memory follows from them.
LARGEST_NUMBER = 2**16

Network = TypeVar("Network", bound=torch.nn.Module)


def names_weights(option: str) -> bool:
    """Whether an option of a network is one of timm's that say which file weights come from."""
    return option.startswith("pretrained") or option in ("checkpoint_path", "cache_dir")


def describe(kind: str, model: dict[str, Any], network: Any, labels: LabelSpace, recipe: Recipe) -> dict[str, Any]:
    """The metadata of a model file: all that is needed to build the network again and to use it.

    Args:
        kind: one of `KINDS`.
        model: what the network is built from: `backbone`, `output_stride`, `options`, and what its kind needs.
        network: has `mean` and `std`, which images are normalised with, and a `backbone` that knows which pre-trained
            weights it began with.
        labels: what it was trained on.
        recipe: what it was trained by.
    """
    return {
        "kind": kind,
        "model": model,
        "labels": labels.to_dict(),
        "preprocessing": {
            "mean": list(network.mean),
            "std": list(network.std),
            **Reading.of(recipe.data.options).to_dict(),
        },
        PRETRAINED: network.backbone.pretrained_weights,
        "recipe": recipe.model_dump(mode="json"),
        "maskwright": __version__,
    }


def save_model(path: str | Path, model: torch.nn.Module, metadata: dict[str, Any]) -> None:
    """Write a model's weights with its metadata in the header, atomically.

    Args:
        path: ends in `.safetensors`.
        model: on any device.
        metadata: as `describe` gives it.
    """
    weights, seen = {}, set()
    for name, tensor in model.state_dict().items():
        tensor = tensor.detach().to("cpu").contiguous()
        if tensor.untyped_storage().data_ptr() in seen:  # the format has no shared tensors
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        weights[name] = tensor
    header = {HEADER_KEY: json.dumps(metadata, allow_nan=False, ensure_ascii=False)}
    with atomic_write(path, lasting=True) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # as the user's umask says; the library makes files for their owner alone
        save_file(weights, temporary, metadata=header)
        temporary.chmod(mode)


def weights_digest(network: torch.nn.Module) -> str:
    """SHA-256 over names and values of a network's weights, as 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


DRAWING = {
    *(torch.Tensor.uniform_, torch.Tensor.normal_),
    *(init.uniform_, init.normal_, init.kaiming_uniform_, init.kaiming_normal_),
}


class _Undrawn(TorchFunctionMode):
    """Random numbers are not drawn for weights that a file replaces, all of them or none: half the time of loading."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in DRAWING:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


def load_model(
    path: str | Path, kind: str, create: Callable[[dict[str, Any]], Network]
) -> tuple[Network, dict[str, Any]]:
    """The network of a model file, in evaluation mode, on the CPU, and the file's metadata.

    Args:
        path: the file.
        kind: what it must hold, one of `KINDS`.
        create: builds the network from the metadata's `model`.

    Raises:
        DataError: as `load_metadata`; a description that no network can be built from, or weights that do not fit it.
    """
    metadata = load_metadata(path, kind)
    try:
        with _Undrawn():
            network = create(metadata["model"])
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise DataError(f"{path}: no {kind} can be built from `model` in its header: {error}") from error
    load_into(network, load_weights(path), path)
    return network.eval(), metadata


def load_metadata(path: str | Path, kind: str | None = None) -> dict[str, Any]:
    """The metadata of a model file, in which every field is as `describe` writes it.

    Args:
        path: the file.
        kind: what it must hold, one of `KINDS`; None for any of them.

    Raises:
        DataError: the file is missing, not safetensors, was not written by `save_model`, was changed since its
            stage wrote it, holds another kind, names another file, or a field is missing or not what it should be.
    """
    check_unchanged(path)
    try:
        with safe_open(_existing(path), "pt") as stream:
            header = stream.metadata() or {}
    except SafetensorError as error:
        raise DataError(_not_a_model(path, str(error))) from error
    if HEADER_KEY not in header:
        raise DataError(_not_a_model(path, "its header does not say how the model is built"))
    try:
        metadata = json.loads(header[HEADER_KEY])
    except (ValueError, RecursionError) as error:
        raise DataError(_not_a_model(path, f"its header is not JSON ({error})")) from error
    _check(metadata, kind, path)
    return metadata


def _check(metadata: Any, kind: str | None, path: str | Path) -> None:
    """Refuse metadata that is not as `describe` writes it, before anything is built from it."""

    def need(good: bool, field: str, found: Any, expected: str) -> None:
        if not good:
            raise DataError(
                f"{path}: {field} in its header is {found!r:.60}, expected {expected}. Take a file as a run wrote it"
            )

    need(isinstance(metadata, dict), "everything", metadata, "a dictionary with kind, model, labels, ...")
    for field in ("kind", "model", "labels", "preprocessing", "recipe"):
        if field not in metadata:
            raise DataError(f"{path}: its header has no {field}. Take a file as a run wrote it")
    found = metadata["kind"]
    need(isinstance(found, str) and found in KINDS, "kind", found, f"one of {', '.join(KINDS)}")
    if kind is not None and found != kind:
        where = f"; a finished run has it in RUN/segmenter/{MODEL}" if kind == "segmenter" else ""
        raise DataError(f"{path} holds a {found}, expected a {kind}{where}")
    for field in ("model", "preprocessing", "recipe"):
        need(isinstance(metadata[field], dict), field, metadata[field], "a dictionary")
    model = metadata["model"]
    for key, value in _items(model):
        if names_weights(key):
            raise DataError(
                f"{path}: its header sets {key}, which would open another file. A model file holds all of its "
                "weights and never sets that; do not use it"
            )
        large = isinstance(value, (int, float)) and not abs(value) <= LARGEST_NUMBER
        need(not large, f"model: {key}", value, f"at most {LARGEST_NUMBER}")
    for field in ("backbone", "name") if found == "segmenter" else ("backbone",):
        need(isinstance(model.get(field), str), f"model.{field}", model.get(field), "a name")
    stride = model.get("output_stride", "missing")
    need(stride is None or _is_count(stride), "model.output_stride", stride, "a number of pixels, or null")
    need(isinstance(model.get("options"), dict), "model.options", model.get("options"), "a dictionary")

    try:
        labels = LabelSpace.from_dict(metadata["labels"])
        need(isinstance(metadata["labels"]["names"], list), "labels.names", metadata["labels"]["names"], "a list")
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        why = f"no {error}" if isinstance(error, KeyError) else error
        raise DataError(f"{path}: labels in its header are no class names and colours: {why}") from error
    outputs = KINDS[found]
    if outputs is not None:
        expected = labels.num_classes if outputs == "num_classes" else len(labels.foreground)
        need(
            _is_count(model.get(outputs)) and model[outputs] == expected,
            f"model.{outputs}",
            model.get(outputs),
            f"{expected}, as there are labels",
        )
    channels = model["options"].get("in_channels", 3)
    several = "three numbers" if channels == 3 else f"{channels} numbers, one for each channel of the images"
    for field, lowest in (("mean", -math.inf), ("std", 0.0)):
        numbers = metadata["preprocessing"].get(field)
        need(
            isinstance(numbers, list)
            and len(numbers) == channels
            and all(type(number) in (int, float) and lowest < number < math.inf for number in numbers),
            f"preprocessing.{field}",
            numbers,
            several + (" above 0" if lowest == 0 else ""),
        )


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _items(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values of a dictionary and of what is within it; a list's values have its name."""
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else ((name, inner) for inner in value):
            yield key, inner
            yield from _items(inner, key)


def load_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """The weights of a model file, by name, on the CPU.

    Raises:
        DataError: the file is missing or not safetensors, or holds NaN or infinity.
    """
    try:
        weights = load_file(_existing(path))
    except SafetensorError as error:
        raise DataError(_not_a_model(path, str(error))) from error
    for name, value in weights.items():
        # A sum is finite only if every value is, and costs a fifth; large values may overflow it.
        if not torch.isfinite(value.sum()) and not torch.isfinite(value).all():
            raise DataError(
                f"{path} cannot be used: {name} is not finite everywhere. The file is damaged, or its training failed; "
                f"take another model, or delete {Path(path).parent} and train again"
            )
    return weights


def check_unchanged(path: str | Path) -> None:
    """Compare a model file with the hash in the record of the stage that wrote it, where there is one.

    Raises:
        DataError: they differ.
    """
    record = Path(path).with_name(RECORD)
    written = read_json(record).get("model_hash") if record.is_file() else None
    if written is not None and (found := file_hash(_existing(path))) != written:
        raise DataError(
            f"{path} is not the file that training wrote: its hash is {found}, {record} says {written}. It is damaged "
            f"or was replaced. Put the file back, or delete {record.parent} and run again"
        )


def weights_hash(path: str | Path) -> str:
    """The first 16 hexadecimal digits of the SHA-256 over names, types, shapes and values; metadata does not count.

    Raises:
        DataError: the file is missing or not safetensors.
    """
    load_metadata(path)
    with open(path, "rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        header.pop("__metadata__", None)
        digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


def load_into(model: torch.nn.Module, weights: Mapping[str, torch.Tensor], source: str | Path) -> None:
    """Copy weights into a model, all of them or none.

    Raises:
        DataError: names or shapes differ; the message names them.
    """
    expected = model.state_dict()
    missing = sorted(expected.keys() - weights.keys())
    surplus = sorted(weights.keys() - expected.keys())
    differing = [
        f"{name} is {tuple(weights[name].shape)}, the model's is {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    problems = (
        differing + [f"{name} is missing" for name in missing] + [f"{name} is not in the model" for name in surplus]
    )
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise DataError(
            f"{source} was made with another model: {'; '.join(problems[:5])}{more}. "
            "Give the settings it was made with, or choose another folder"
        )
    model.load_state_dict(dict(weights))


def _existing(path: str | Path) -> str:
    if not Path(path).is_file():
        raise DataError(f"{path} does not exist; a trained run holds {MODEL}")
    return str(path)


def _not_a_model(path: str | Path, why: str) -> str:
    return f"{path} is not a maskwright model: {why}. Expected the {MODEL} that a run wrote"
