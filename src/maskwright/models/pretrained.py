"""Where a backbone's weights come from: timm's zoo, a hub repository or a local file; and checks that fail early."""

from __future__ import annotations

import pickle
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from maskwright.engine.checkpoint import check_unchanged, names_weights
from maskwright.errors import RecipeError, unknown_name

if TYPE_CHECKING:
    from maskwright.models.backbone import Backbone

SUFFIXES = (".pth", ".pt", ".bin", ".safetensors", ".tar", ".ckpt")
HUB_PREFIX = "hf-hub:"
# A model that maskwright saved holds its backbone under this name.
OWN_PREFIX = "backbone."
ADVICE = "Give pretrained=FILE with weights you have (.pth or .safetensors), or pretrained=false to start from scratch."

Finish = Callable[[nn.Module], None]


def find_weights(timm: Any, architecture: str, tag: str, pretrained: bool | str) -> tuple[dict[str, Any], Finish]:
    """Arguments for `timm.create_model` that load the wanted weights, and what to call with the finished backbone.

    Args:
        timm: the imported package.
        architecture: timm's name without a weight tag.
        tag: weight tag of the name, or "".
        pretrained: as for `create_backbone`.

    Raises:
        RecipeError: no such file, tag or weights; a file that cannot be read; or a download that cannot work.
    """
    if isinstance(pretrained, str) and Path(pretrained).is_file():
        return _from_file(timm, architecture, pretrained)
    arguments: dict[str, Any] = {"pretrained": bool(pretrained)}
    if isinstance(pretrained, str):
        if pretrained.startswith(HUB_PREFIX):
            repository = pretrained.removeprefix(HUB_PREFIX)
            _require_download(architecture, hub=repository, url=None)
            overlay = {"hf_hub_id": repository, "hf_hub_filename": None}
            return {"pretrained": True, "pretrained_cfg_overlay": overlay}, _nothing
        if pretrained.endswith(SUFFIXES) or "/" in pretrained:
            raise RecipeError(f"weights file {pretrained} does not exist (it was given as pretrained weights)")
        tag = pretrained
    known = [name.partition(".")[2] for name in timm.list_models(f"{architecture}.*", pretrained=True)]
    if tag:
        if tag not in known:
            raise RecipeError(unknown_name(f"weights of {architecture}", tag, known))
        arguments["pretrained_cfg"] = tag
    if pretrained:
        if not known:
            raise RecipeError(f"timm has no weights for {architecture}. {ADVICE}")
        source = timm.models.get_pretrained_cfg(f"{architecture}.{tag}" if tag else architecture)
        _require_download(architecture, hub=source.hf_hub_id, url=source.url, filename=source.hf_hub_filename)
    return arguments, _nothing


def _nothing(backbone: nn.Module) -> None:
    """Weights from a zoo need no check: timm names file and network together."""


def load_local(timm: Any, backbone: Backbone, path: bool | str, *, stem: str, optional: tuple[str, ...] = ()) -> None:
    """Load a file into a backbone of ours, whose modules are named as in the file; a head in the file is left out.

    Args:
        timm: the imported package.
        backbone: gets the weights.
        path: a local file, as for `create_backbone`; or a model saved by maskwright.
        stem: see `load_tensors`.
        optional: see `load_tensors`.

    Raises:
        RecipeError: no such file, or one that cannot be read or does not fit.
    """
    path = weights_file(backbone.name, path)
    state = _read(timm, path)
    load_tensors(timm, backbone, _own(state) or state, path, stem=stem, optional=optional)


def weights_file(name: str, pretrained: bool | str) -> str:
    """The file that weights of a backbone of ours come from, which nobody offers for download.

    Raises:
        RecipeError: no file is named, or it does not exist.
    """
    if not isinstance(pretrained, str):
        raise RecipeError(f"there are no weights of {name} to download. {ADVICE}")
    if not Path(pretrained).is_file():
        raise RecipeError(f"weights file {pretrained} does not exist (it was given as pretrained weights)")
    return pretrained


def load_tensors(
    timm: Any, backbone: Backbone, state: dict[str, Tensor], origin: str, *, stem: str, optional: tuple[str, ...] = ()
) -> None:
    """Load tensors by name into a backbone; those of other names are left out.

    Args:
        timm: the imported package.
        backbone: gets the weights.
        state: the tensors.
        origin: where they come from, for messages.
        stem: name of the first convolution, which is adapted where the images do not have three channels.
        optional: beginnings of names that may be missing.

    Raises:
        RecipeError: tensors are missing or of another shape.
    """
    # Files of other code may lack the counters that batch normalisation does not need.
    own = {key: value for key, value in backbone.state_dict().items() if not key.endswith("num_batches_tracked")}
    missing = [key for key in own if key not in state and not key.startswith(optional)]
    if missing:
        _refuse(origin, len(own) - len(missing), len(own), missing[0], state)
    found = {key: state[key] for key in own if key in state}
    if found[stem].shape[1] == 3 != backbone.in_channels:
        found[stem] = timm.models.adapt_input_conv(backbone.in_channels, found[stem])
    for key, value in found.items():
        if value.shape != own[key].shape:
            raise RecipeError(
                f"the weights of {origin} do not fit {backbone.name}: {key} is {tuple(value.shape)}, expected "
                f"{tuple(own[key].shape)}"
            )
    backbone.load_state_dict(found, strict=False)


def _read(timm: Any, path: str) -> dict[str, Tensor]:
    check_unchanged(path)
    try:
        return {
            key: value
            for key, value in timm.models.load_state_dict(path, weights_only=True).items()
            if torch.is_tensor(value)
        }
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, AttributeError, OSError) as error:
        raise RecipeError(
            f"{path} cannot be read as weights: {why_unreadable(error)}. Expected a state dict saved by torch.save or "
            "safetensors, bare or under 'state_dict' or 'model'."
        ) from error


def why_unreadable(error: Exception) -> str:
    """What is wrong with a file of weights; where it is what the file holds, in our words: timm's and torch's name
    settings to pass, and advise to let the file run code."""
    if isinstance(error, pickle.UnpicklingError) or isinstance(error.__cause__, pickle.UnpicklingError):
        return (
            "it is damaged, or holds more than tensors, numbers and text, which is not read because it could run code; "
            "where the file came from, save the state dict alone"
        )
    return str(error)


def refuse_sources(options: Mapping[str, Any]) -> None:
    """Refuse options of a network that would have timm load weights past `pretrained` and its checks.

    Raises:
        RecipeError: there is one.
    """
    for option in options:
        if names_weights(option):
            raise RecipeError(f"{option} is no option of a backbone: only pretrained= says where weights come from")


def _own(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's tensors, if it is a model that maskwright saved."""
    return {key.removeprefix(OWN_PREFIX): value for key, value in state.items() if key.startswith(OWN_PREFIX)}


def _from_file(timm: Any, architecture: str, path: str) -> tuple[dict[str, Any], Finish]:
    state = _read(timm, path)
    own = _own(state)
    if own:
        return {"pretrained": False}, lambda backbone: _load_own(backbone, own, path)
    # A copy, because timm takes the classifier out of the dictionary that it is given.
    overlay = {"state_dict": dict(state)}
    return {"pretrained": True, "pretrained_cfg_overlay": overlay}, lambda backbone: _check_used(backbone, state, path)


def _load_own(backbone: nn.Module, state: dict[str, Tensor], path: str) -> None:
    try:
        backbone.load_state_dict(state)
    except RuntimeError as error:
        raise RecipeError(f"the backbone saved in {path} is another one: {error}") from error


def _check_used(backbone: nn.Module, state: dict[str, Tensor], path: str) -> None:
    """Refuse a file from which most layers got nothing: timm passes over names that it does not know.

    Layers are compared by content, because timm renames and reshapes what comes from other code bases.
    """
    given: dict[torch.Size, list[Tensor]] = {}
    for value in state.values():
        given.setdefault(value.shape, []).append(value)
    layers = {name: value.detach() for name, value in backbone.named_parameters() if value.ndim > 1}
    missing = [
        name
        for name, value in layers.items()
        if not any(torch.equal(value, other.to(value)) for other in given.get(value.shape, ()))
    ]
    if 2 * len(missing) > len(layers):
        _refuse(path, len(layers) - len(missing), len(layers), missing[0], state)


def _refuse(path: str, found: int, expected: int, missing: str, state: dict[str, Tensor]) -> NoReturn:
    raise RecipeError(
        f"{path} has weights for only {found} of the {expected} layers of the backbone; missing is for example "
        f"{missing}, while the file holds for example {next(iter(state), 'nothing')}. Give weights of the same "
        "architecture."
    )


def _require_download(architecture: str, *, hub: str | None, url: str | None, filename: str | None = None) -> None:
    """Return if the weights are in the cache or their server answers.

    Raises:
        RecipeError: downloads are switched off, or the server does not answer; without this check the hub's client
            would try for most of a minute before it says so.
    """
    import huggingface_hub
    from huggingface_hub import constants

    if hub:
        names = [filename] if filename else ["model.safetensors", "pytorch_model.bin"]
        if any(isinstance(huggingface_hub.try_to_load_from_cache(hub, name), str) for name in names):
            return
        if constants.HF_HUB_OFFLINE:
            raise RecipeError(
                f"the weights of {architecture} ({hub}) are not in the cache, and HF_HUB_OFFLINE forbids downloads. "
                f"{ADVICE}"
            )
        server = constants.ENDPOINT
    elif url:
        if (Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]).is_file():
            return
        server = url
    else:
        raise RecipeError(f"timm knows no place to load the weights of {architecture} from. {ADVICE}")
    problem = _why_unreachable(server)
    if problem:
        raise RecipeError(f"the weights of {architecture} cannot be downloaded: {server}: {problem}. {ADVICE}")


def _why_unreachable(server: str, seconds: float = 5.0) -> str:
    """Why a server cannot be reached, or "" where it answers; never waits longer than `seconds`."""
    answer = [f"no answer in {seconds:g} s"]

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(server, method="HEAD"), timeout=seconds).close()
        except urllib.error.HTTPError:
            answer[0] = ""
        except OSError as error:
            answer[0] = str(getattr(error, "reason", error))
        else:
            answer[0] = ""

    # In a thread, because looking up the name of a server has no time limit of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answer[0]
