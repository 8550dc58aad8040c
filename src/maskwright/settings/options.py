"""Free options of a recipe (`options`) compared with what the function or class that gets them is annotated to take."""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from maskwright.errors import RecipeError

ANY_TYPE = ConfigDict(arbitrary_types_allowed=True)


def check_values(build: Callable[..., Any], options: Mapping[str, Any], where: str) -> None:
    """Refuse values of another type than the annotation says; names that it does not have are for others to refuse.

    Args:
        build: gets the options as keyword arguments.
        options: as a recipe gives them.
        where: key of the options, for messages.

    Raises:
        RecipeError: a value that the option cannot have.
    """
    if not options:
        return
    types = typing.get_type_hints(build.__init__ if isinstance(build, type) else build)  # type: ignore[misc]
    for name, value in options.items():
        try:
            TypeAdapter(types.get(name, Any), config=ANY_TYPE).validate_python(value)
        except ValidationError as error:
            # Of several types, those that a recipe cannot give would say nothing of what it can.
            problems = sorted(error.errors(), key=lambda problem: problem["type"] == "is_instance_of")
            said = problems[0]["msg"]
            raise RecipeError(f"{where}.{name}: {said}, found {value!r}") from None
