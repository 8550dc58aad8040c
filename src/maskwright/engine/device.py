"""Where to compute, whether runs must repeat exactly, and how much memory was used."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from maskwright.errors import RecipeError, unknown_name


def choose_device(name: str | torch.device = "auto") -> torch.device:
    """The device behind a name.

    Args:
        name: `auto` (CUDA where there is one, else the CPU), `cpu`, `cuda`, `cuda:1`, `mps`. With `auto` and `cuda`
            each process that torchrun started on this machine gets a GPU of its own.

    Raises:
        RecipeError: no such kind of device, or it is not on this machine.
    """
    kind, _, number = str(name).partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (number and not number.isdigit()):
        raise RecipeError(unknown_name("device", str(name), ("auto", "cpu", "cuda", "cuda:0", "cuda:1", "mps")))
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "mps" and not torch.backends.mps.is_available():
        raise RecipeError("device 'mps' was asked for, but this machine has none; use device=cpu")
    if kind != "cuda":
        return torch.device(kind)
    if not torch.cuda.is_available():
        why = "PyTorch was installed without CUDA" if torch.version.cuda is None else "no GPU was found"
        raise RecipeError(f"device {str(name)!r} was asked for, but {why} (torch {torch.__version__}); use device=cpu")
    index = int(number) if number else int(os.environ.get("LOCAL_RANK", 0))
    count = torch.cuda.device_count()
    if index >= count:
        raise RecipeError(
            f"GPU {index} was asked for, but there are {count} (0 to {count - 1}); "
            "choose another, or start at most one process per GPU"
        )
    return torch.device("cuda", index)


def prefers_channels_last(network: nn.Module, device: torch.device | str) -> bool:
    """Whether a network is trained faster in memory layout NHWC: one of convolutions, without attention, on a CPU.

    Attention works on tokens, whose maps are turned either way.
    """
    if torch.device(device).type != "cpu":
        return False
    attends = any(
        "attn" in (kind := type(module).__name__.lower()) or "attention" in kind
        for module in network.modules()
        if any(isinstance(child, nn.Linear) for child in module.children())
    )
    return not attends and any(isinstance(module, nn.Conv2d) for module in network.modules())


def half_type(name: str, device: torch.device | str) -> torch.dtype | None:
    """The type behind a setting `autocast` of inference: `bfloat16`, `float16`, or None for `none`.

    Raises:
        RecipeError: float16 on a CPU.
    """
    if name == "float16" and torch.device(device).type == "cpu":
        raise RecipeError(
            "autocast=float16 was asked for on a CPU, where it can be a hundred times slower than float32; use "
            "autocast=bfloat16 or autocast=none there, or a GPU"
        )
    return None if name == "none" else getattr(torch, name)


def autocast(name: str, device: torch.device | str) -> AbstractContextManager:
    """`torch.autocast` as a setting says; with `none` whatever holds outside.

    Raises:
        RecipeError: float16 on a CPU.
    """
    kind = half_type(name, device)
    return nullcontext() if kind is None else torch.autocast(torch.device(device).type, kind)


def set_deterministic(enabled: bool) -> None:
    """Refuse operations whose result varies between runs, or allow them."""
    if enabled:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if enabled != torch.are_deterministic_algorithms_enabled():  # the call imports the compiler, a second or more
        torch.use_deterministic_algorithms(enabled)


@contextmanager
def deterministic(enabled: bool) -> Iterator[None]:
    """`set_deterministic` for as long as the block lasts; cuDNN's search for fast operations stays as it was."""
    before, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    set_deterministic(enabled)
    try:
        yield
    finally:
        set_deterministic(before)
        torch.backends.cudnn.benchmark = benchmark


# Options of glibc's mallopt, and what its own rule arrives at once large blocks have been freed.
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
USUAL = {MMAP_MAX: 65536, MMAP_THRESHOLD: 32 * 2**20, TRIM_THRESHOLD: 64 * 2**20}

_keeping, _counting = 0, threading.Lock()


@contextmanager
def freed_memory_kept(device: torch.device | str) -> Iterator[None]:
    """Memory that is freed inside the block stays with the process, for steps that need the same blocks again.

    Otherwise large blocks go back to the system and are fetched again, page by page, at every step: on a CPU a quarter
    to a third of a training step (`benchmarks.speed.deeplab`). With glibc only; elsewhere nothing is changed. A block
    inside another one, of any thread, changes nothing: memory goes back when the last one ends.

    Args:
        device: where it computes; a GPU has an allocator of its own.
    """
    global _keeping
    libc: Any = ctypes.CDLL(None) if sys.platform == "linux" and torch.device(device).type == "cpu" else None
    if not hasattr(libc, "mallopt"):
        yield
        return
    with _counting:
        _keeping += 1
        libc.mallopt(MMAP_MAX, 0)
        libc.mallopt(TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        with _counting:
            _keeping -= 1
            if not _keeping:
                for option, value in USUAL.items():
                    libc.mallopt(option, value)
                libc.malloc_trim(0)


def memory_mb(device: torch.device | str = "cpu") -> float:
    """Largest memory used so far in MiB: allocated on the GPU, or resident in this process on the CPU."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        return 0.0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
