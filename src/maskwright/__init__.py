"""Semantic segmentation from the cheapest labels you have: image tags, pixel masks, or both.

Public names are imported when they are first used, so that `import maskwright` and `maskwright --help` stay fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from maskwright.version import __version__

_WHERE = {
    "create_model": "maskwright.models",
    "create_backbone": "maskwright.models",
    "create_classifier": "maskwright.models",
    "list_models": "maskwright.models",
    "multiply_adds": "maskwright.models",
    "open_dataset": "maskwright.data",
    "LabelSpace": "maskwright.data.sample",
    "Sample": "maskwright.data.sample",
    "ConfusionMatrix": "maskwright.metrics",
    "load": "maskwright.inference.finished",
    "load_recipe": "maskwright.recipe",
    "Recipe": "maskwright.settings",
    "run": "maskwright.pipeline.run",
    "scenes": "maskwright.data.scenes",
}
_MODULES = (
    *("data", "models", "losses", "crf", "weak", "engine", "inference", "metrics", "report", "settings", "recipe"),
    "errors",
)

__all__ = ["__version__", *_WHERE, *_MODULES]

if TYPE_CHECKING:
    from maskwright import (
        crf,
        data,
        engine,
        errors,
        inference,
        losses,
        metrics,
        models,
        recipe,
        report,
        settings,
        weak,
    )
    from maskwright.data import open_dataset
    from maskwright.data.sample import LabelSpace, Sample
    from maskwright.data.scenes import scenes
    from maskwright.inference.finished import load
    from maskwright.metrics import ConfusionMatrix
    from maskwright.models import create_backbone, create_classifier, create_model, list_models, multiply_adds
    from maskwright.pipeline.run import run
    from maskwright.recipe import load_recipe
    from maskwright.settings import Recipe


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
