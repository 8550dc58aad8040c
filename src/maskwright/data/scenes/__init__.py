"""`scenes`, the built-in set."""

from maskwright.data.scenes.dataset import LABELS, MIN_VISIBLE, SPLITS, Scenes, scenes

__all__ = ["LABELS", "MIN_VISIBLE", "SPLITS", "Scenes", "scenes"]
