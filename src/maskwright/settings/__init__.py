"""Settings of everything a run does; pydantic models, unknown keys refused."""

from maskwright.settings.base import Settings
from maskwright.settings.recipe import Recipe
from maskwright.settings.training import (
    AugmentSettings,
    DataSettings,
    InferenceSettings,
    LossSettings,
    ModelSettings,
    TrainSettings,
)
from maskwright.settings.weak import (
    ClassifierSettings,
    CRFSettings,
    EDAMSettings,
    EPSSettings,
    IRNSettings,
    L2GSettings,
    MaskSettings,
    RecamSettings,
    SaliencySettings,
    SEAMSettings,
    SeedSettings,
)

__all__ = [
    "AugmentSettings",
    "CRFSettings",
    "ClassifierSettings",
    "DataSettings",
    "EDAMSettings",
    "EPSSettings",
    "IRNSettings",
    "InferenceSettings",
    "L2GSettings",
    "LossSettings",
    "MaskSettings",
    "ModelSettings",
    "RecamSettings",
    "Recipe",
    "SEAMSettings",
    "SaliencySettings",
    "SeedSettings",
    "Settings",
    "TrainSettings",
]
