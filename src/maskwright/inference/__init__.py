"""Trained segmenters applied: views, windows, whole folders, explanations."""

from maskwright.inference.views import evaluate, predict_labels, predict_logits, predict_probabilities
from maskwright.inference.windows import sliding_window

__all__ = ["evaluate", "predict_labels", "predict_logits", "predict_probabilities", "sliding_window"]
