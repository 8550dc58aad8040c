"""Trained segmenters applied: views, windows, whole folders, explanations.

Public names are imported when they are first used, so that an exported model can be applied without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskwright.inference.views import evaluate, predict_labels, predict_logits, predict_probabilities
    from maskwright.inference.windows import sliding_window

__all__ = ["evaluate", "predict_labels", "predict_logits", "predict_probabilities", "sliding_window"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'maskwright.inference' has no attribute {name!r}")
    module = "windows" if name == "sliding_window" else "views"
    return getattr(importlib.import_module(f"maskwright.inference.{module}"), name)
