"""Repositories of Hugging Face, and folders of the same form: a model's weights, what it needs, and its card."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from maskwright.engine.checkpoint import MODEL, load_metadata, save_model
from maskwright.errors import DataError, RecipeError
from maskwright.files import atomic_write, read_json, write_json
from maskwright.inference.export import described, in_short
from maskwright.inference.files import REPOSITORY
from maskwright.inference.predict import Predictor
from maskwright.version import __version__

CONFIG, RECIPE, CARD = "config.json", "recipe.yaml", "README.md"
FILES = (MODEL, CONFIG, RECIPE, CARD)


def push(predictor: Predictor, card: str, where: str) -> str:
    """Write a model to a repository, or to a folder of the same form.

    Paths of this machine are left out of everything: of a path, its last name is kept.

    Args:
        predictor: its settings are those that the model is applied with.
        card: the model card.
        where: `hf:user/name`, or a folder.

    Returns:
        Where it is now.

    Raises:
        DataError: a folder that holds something else, or a repository that cannot be written to.
    """
    metadata = without_places(described(predictor))
    if not where.startswith(REPOSITORY):
        folder = Path(where)
        if folder.is_dir() and any(folder.iterdir()) and not _is_ours(folder):
            raise DataError(
                f"{folder} holds files already, and no model that maskwright pushed. Fix: choose another folder, or "
                f"write {REPOSITORY}user/name for a repository"
            )
        _write(folder, predictor, metadata, card)
        return str(folder)
    name = _repository(where.removeprefix(REPOSITORY))
    hub: Any = _hub()
    with tempfile.TemporaryDirectory() as temporary:
        _write(Path(temporary), predictor, metadata, card)
        try:
            api = hub.HfApi()
            api.create_repo(name, exist_ok=True)
            api.upload_folder(repo_id=name, folder_path=temporary, commit_message="Model trained with maskwright")
        except (OSError, hub.errors.HfHubHTTPError) as error:
            raise DataError(
                f"{where} cannot be written to: {_first_line(error)}. Log in with `hf auth login`, or push to a folder "
                "and upload that"
            ) from error
    return f"https://huggingface.co/{name}"


def pull(where: str, out: str | Path) -> Path:
    """Copy a model from a repository, or a folder of the same form, and look whether it is whole.

    Args:
        where: `hf:user/name`, or a folder.
        out: the folder to write to.

    Returns:
        The folder.

    Raises:
        DataError: no such repository or folder, one without a model, or a folder to write to that holds something else.
    """
    folder = Path(out)
    if folder.is_dir() and any(folder.iterdir()) and not _is_ours(folder):
        raise DataError(f"{folder} holds files already, and no model that was pulled. Fix: choose another out=")
    source = pulled(where.removeprefix(REPOSITORY)) if where.startswith(REPOSITORY) else Path(where)
    if not source.is_dir():
        raise DataError(f"{source} is no folder; write {REPOSITORY}user/name for a repository")
    _check(source)
    for name in FILES:
        if (source / name).is_file():
            with atomic_write(folder / name) as temporary:
                shutil.copyfile(source / name, temporary)
    return folder


def pulled(name: str) -> Path:
    """The folder in which Hugging Face's cache has a repository, which is fetched where it is not there yet.

    Args:
        name: `user/name`.

    Raises:
        DataError: no such repository, no network, or a repository without a model of maskwright.
    """
    name, hub = _repository(name), _hub()
    try:
        folder = Path(hub.snapshot_download(name, allow_patterns=list(FILES)))
    except (OSError, ValueError, hub.errors.HfHubHTTPError) as error:
        raise DataError(f"{REPOSITORY}{name} cannot be fetched: {_first_line(error)}") from error
    _check(folder)
    return folder


def without_places(value: Any) -> Any:
    """The same without paths of this machine: of each absolute one, the last name."""
    if isinstance(value, Mapping):
        return {key: without_places(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_places(inner) for inner in value]
    if isinstance(value, str) and (os.path.isabs(value) or value.startswith("~")):
        return os.path.basename(value.rstrip(os.sep))
    return value


def _write(folder: Path, predictor: Predictor, metadata: dict[str, Any], card: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "maskwright",
        "architecture": metadata["model"]["name"],
        **{key: metadata["model"][key] for key in ("backbone", "output_stride", "options", "num_classes")},
        **in_short(predictor),
        "maskwright": __version__,
    }
    for name, text in ((RECIPE, yaml.safe_dump(metadata["recipe"], sort_keys=False, allow_unicode=True)), (CARD, card)):
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    write_json(folder / CONFIG, config)
    save_model(folder / MODEL, predictor.model, metadata)


def _check(folder: Path) -> None:
    """Refuse what is no whole model, or whose two files name other classes."""
    if not (folder / MODEL).is_file():
        raise DataError(f"{folder} holds no {MODEL}; expected what maskwright push writes: {', '.join(FILES)}")
    names = load_metadata(folder / MODEL, "segmenter")["labels"]["names"]
    if not (folder / CONFIG).is_file():
        return
    found = read_json(folder / CONFIG)
    said = found.get("id2label") if isinstance(found, dict) else None
    if said != {str(value): name for value, name in enumerate(names)}:
        raise DataError(
            f"{folder / CONFIG}: id2label is {said!s:.100}, and the classes of {MODEL} are {', '.join(names)}. One of "
            "them was changed; push the model again"
        )


def _is_ours(folder: Path) -> bool:
    return (folder / MODEL).is_file() and (folder / CONFIG).is_file()


def _repository(name: str) -> str:
    if name.count("/") != 1 or not all(name.split("/")):
        raise RecipeError(f"{REPOSITORY}{name}: a repository is {REPOSITORY}user/name")
    return name


def _hub() -> Any:
    """huggingface_hub, which comes with timm."""
    import huggingface_hub
    import huggingface_hub.errors

    return huggingface_hub


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0][:300].rstrip(".")
