"""Settings of everything a run does; pydantic models, unknown keys refused.

Methods bring their own: a network's stand beside the network in `maskwright.weak.networks`, a refinement's in
`maskwright.weak.refine`; `maskwright.recipe.recipe_type` puts them together.
"""

from maskwright.settings.base import CRFPreset, KernelScale, Settings
from maskwright.settings.recipe import Recipe
from maskwright.settings.training import (
    AugmentSettings,
    DataSettings,
    InferenceSettings,
    LossSettings,
    ModelSettings,
    TrainSettings,
)
from maskwright.settings.weak import ClassifierSettings, MaskSettings, PaperTagTraining, PaperTraining, SeedSettings

__all__ = [
    "AugmentSettings",
    "CRFPreset",
    "ClassifierSettings",
    "DataSettings",
    "InferenceSettings",
    "KernelScale",
    "LossSettings",
    "MaskSettings",
    "ModelSettings",
    "PaperTagTraining",
    "PaperTraining",
    "Recipe",
    "SeedSettings",
    "Settings",
    "TrainSettings",
]
