"""Compiling functions for the CPU, and what several kernels use; import where compiled kernels are defined."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

f32 = np.float32


def jit(function: Callable) -> Any:
    """Compile, and keep the result on disk where some folder can be written."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder for the cache
        return numba.njit(**options)(function)


# Compiled kernels of other files keep a copy of it on disk: where it changes, their files must be saved again too.
@jit
def exponential(x):
    """`exp(x)` of float32 up to 0, NaN for NaN.

    A polynomial (Cephes' coefficients, relative error 3e-7), which vectorises where a call to a library does not.
    """
    x = f32(-87) if x < f32(-87) else x
    rounded = x * f32(1.44269504) + f32(12582912)  # the rounded exponent is in the low bits
    power = rounded - f32(12582912)
    x = (x - power * f32(0.693359375)) + power * f32(2.12194440e-4)
    y = f32(1.9875691500e-4)
    y = y * x + f32(1.3981999507e-3)
    y = y * x + f32(8.3334519073e-3)
    y = y * x + f32(4.1665795894e-2)
    y = y * x + f32(1.6666665459e-1)
    y = y * x + f32(5.0000001201e-1)
    y = y * x * x + x + f32(1)
    bits = np.int32((f32(rounded).view(np.int32) << np.int32(23)) + np.int32(0x3F800000))
    return y * np.int32(bits).view(np.float32)
