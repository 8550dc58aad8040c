"""Errors whose text says what was found, what was expected, where, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class MaskwrightError(Exception):
    """Base of every error that a user can cause and mend; the command line prints it without a traceback."""


class DataError(MaskwrightError, ValueError):
    """Images, masks or tags are not what they should be."""


class RecipeError(MaskwrightError, ValueError):
    """A recipe or an override is not valid."""


class TrainingStopped(MaskwrightError, RuntimeError):
    """Training was stopped because continuing could not give a usable model."""


LONGEST_NAME = 200  # letters of what was given for a name that a message repeats


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Text for a name that does not exist, with the nearest ones that do.

    Args:
        kind: what the name stands for, in words ("model", "class", "recipe").
        name: the name that was given.
        known: every valid name.

    Returns:
        One sentence or two, e.g. ``unknown model 'deeplabv3pls'. Did you mean 'deeplabv3plus'?``
    """
    known = sorted(map(str, known))
    name = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}..."
    near = get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return f"unknown {kind} {name!r}. Did you mean {' or '.join(repr(n) for n in near)}?"
    shown = ", ".join(known[:20]) + (f", ... ({len(known)} in all)" if len(known) > 20 else "")
    return f"unknown {kind} {name!r}. Known: {shown or 'none'}."
