"""What all settings share: unknown keys are refused, and `none` may be a word."""

from __future__ import annotations

import typing
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

# Kernels and iterations of a dense CRF; `maskwright.crf.dense_crf.PRESETS` holds them.
CRFPreset = Literal["irn", "seam", "deeplab", "largefov", "deeplab-vgg16"]
KernelScale = Annotated[
    Annotated[float, Field(gt=0)] | Literal["image"],
    Field(description="factor on the CRF's reach in pixels; 1: as published; image: longest side / 500"),
]

Autocast = Annotated[
    Literal["none", "bfloat16", "float16"],
    Field(description="number type of the network; none: float32; bfloat16: GPU, or a CPU made for it; float16: GPU"),
]


def _words(annotation: Any) -> set[Any]:
    """The literal values that an annotation allows."""
    if typing.get_origin(annotation) is Literal:
        return set(typing.get_args(annotation))
    return {word for part in typing.get_args(annotation) for word in _words(part)}


class Settings(BaseModel):
    """A block of settings.

    `earlier_defaults`: defaults of earlier versions, which every `recipe.yaml` that they wrote holds. They leave
    finished stages as they are, as today's do; so they are for settings of what is reported or how fast it comes, not
    of what is made.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)
    earlier_defaults: ClassVar[dict[str, Any]] = {}

    @model_validator(mode="before")
    @classmethod
    def _none_may_be_a_word(cls, values: Any) -> Any:
        """`key=none` stands for nothing, but where `none` is one of a setting's words it is that word."""
        if not isinstance(values, dict):
            return values
        empty = [key for key, value in values.items() if value is None and key in cls.model_fields]
        return {**values, **{key: "none" for key in empty if "none" in _words(cls.model_fields[key].annotation)}}
