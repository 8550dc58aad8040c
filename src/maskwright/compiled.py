"""Compiling a function for the CPU; import where compiled kernels are defined."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def jit(function: Callable) -> Any:
    """Compile, and keep the result on disk where some folder can be written."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder for the cache
        return numba.njit(**options)(function)
