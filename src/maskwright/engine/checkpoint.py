"""A model as one safetensors file: weights, and in its header all that is needed to use them. Loading runs no code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from maskwright.errors import DataError
from maskwright.files import atomic_write

HEADER_KEY = "maskwright"


def names_weights(option: str) -> bool:
    """Whether an option of a network is one of timm's that say which file weights come from."""
    return option.startswith("pretrained") or option in ("checkpoint_path", "cache_dir")


def save_model(path: str | Path, model: torch.nn.Module, metadata: dict[str, Any]) -> None:
    """Write a model's weights with its metadata in the header, atomically.

    Args:
        path: ends in `.safetensors`.
        model: on any device.
        metadata: JSON-able; `kind`, `model`, `labels`, `preprocessing`, `recipe`, `maskwright` (the version).
    """
    weights, seen = {}, set()
    for name, tensor in model.state_dict().items():
        tensor = tensor.detach().to("cpu").contiguous()
        if tensor.untyped_storage().data_ptr() in seen:  # the format has no shared tensors
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        weights[name] = tensor
    header = {HEADER_KEY: json.dumps(metadata, allow_nan=False, ensure_ascii=False)}
    with atomic_write(path) as temporary:
        save_file(weights, temporary, metadata=header)


def load_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata of a model file.

    Raises:
        DataError: the file is missing, not safetensors, was not written by `save_model`, or names another file.
    """
    try:
        with safe_open(_existing(path), "pt") as stream:
            header = stream.metadata() or {}
    except SafetensorError as error:
        raise DataError(_not_a_model(path, str(error))) from error
    if HEADER_KEY not in header:
        raise DataError(_not_a_model(path, "its header does not say how the model is built"))
    metadata = json.loads(header[HEADER_KEY])
    for option in _keys(metadata.get("model")):
        if names_weights(option):
            raise DataError(
                f"{path}: its header sets {option}, which would open another file. A model file holds all of its "
                "weights and never sets that; do not use it"
            )
    return metadata


def _keys(value: Any) -> Iterator[str]:
    """Keys of a dictionary and of those within it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _keys(inner)


def load_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """The weights of a model file, by name, on the CPU.

    Raises:
        DataError: the file is missing or not safetensors.
    """
    try:
        return load_file(_existing(path))
    except SafetensorError as error:
        raise DataError(_not_a_model(path, str(error))) from error


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
        raise DataError(f"{path} does not exist; a trained run holds model.safetensors")
    return str(path)


def _not_a_model(path: str | Path, why: str) -> str:
    return f"{path} is not a maskwright model: {why}. Expected the model.safetensors that a run wrote"
