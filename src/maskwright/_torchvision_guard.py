"""Lets torchvision and timm be imported where torchvision's compiled part was built for another torch.

Such a torchvision (say a CUDA build beside a CPU torch) stops at import: `operator torchvision::nms does not exist`.
Only detection needs those operators, so they are declared here without a kernel. Import this module before torchvision
or timm: `import maskwright._torchvision_guard  # noqa: F401`.
"""

from __future__ import annotations

import importlib.util
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch

OPERATORS = ("nms", "qnms")
SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

# Operators live as long as the library object that declared them.
_library: torch.library.Library | None = None


def _compiled_parts() -> list[Path]:
    """torchvision's compiled operator libraries, found without importing it."""
    spec = importlib.util.find_spec("torchvision")
    folders = spec.submodule_search_locations if spec else None
    return [
        path
        for folder in folders or ()
        for path in sorted(Path(folder).glob("_C*"))
        if path.name.endswith((".dll", *EXTENSION_SUFFIXES))
    ]


def _declared(name: str) -> bool:
    return hasattr(torch.ops.torchvision, name)


def install() -> bool:
    """Declare torchvision's operators where its compiled part cannot be loaded.

    Returns:
        Whether anything had to be declared.
    """
    global _library
    if _library is not None or all(map(_declared, OPERATORS)):
        return False
    try:
        for path in _compiled_parts():
            torch.ops.load_library(path)
    except OSError:
        # Half-registered operators would remain after a failed import, so this must come before it, not after.
        _library = torch.library.Library("torchvision", "FRAGMENT")
        for name in OPERATORS:
            if not _declared(name):
                _library.define(name + SCHEMA)
        return True
    return False


MISMATCH = install()
