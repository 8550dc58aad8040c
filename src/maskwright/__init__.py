"""Semantic segmentation from the cheapest labels you have: image tags, pixel masks, or both.

Public names are imported when they are first used, so that `import maskwright` and `maskwright --help` stay fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "create_model": "maskwright.models",
    "create_backbone": "maskwright.models",
    "create_classifier": "maskwright.models",
    "list_models": "maskwright.models",
    "open_dataset": "maskwright.data",
    "LabelSpace": "maskwright.data.sample",
    "Sample": "maskwright.data.sample",
    "ConfusionMatrix": "maskwright.metrics",
    "load": "maskwright.hub",
    "load_recipe": "maskwright.config",
    "Recipe": "maskwright.config",
    "run": "maskwright.pipeline",
    "scenes": "maskwright.data.scenes",
}
_MODULES = ("data", "models", "losses", "weak", "engine", "inference", "metrics", "report", "config", "errors", "hub")

__all__ = ["__version__", *_WHERE, *_MODULES]

if TYPE_CHECKING:
    from maskwright import config, data, engine, errors, hub, inference, losses, metrics, models, report, weak
    from maskwright.config import Recipe, load_recipe
    from maskwright.data import open_dataset
    from maskwright.data.sample import LabelSpace, Sample
    from maskwright.data.scenes import scenes
    from maskwright.hub import load
    from maskwright.metrics import ConfusionMatrix
    from maskwright.models import create_backbone, create_classifier, create_model, list_models
    from maskwright.pipeline import run


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value = importlib.import_module(f"maskwright.{name}")
    elif name in _WHERE:
        value = getattr(importlib.import_module(_WHERE[name]), name)
    else:
        from maskwright.errors import unknown_name

        raise AttributeError(f"module 'maskwright': {unknown_name('attribute', name, __all__)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
