"""How many bytes a block of code has alive at most."""

from __future__ import annotations

import tracemalloc
import weakref
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Peak(TorchDispatchMode):
    """Counts, inside the block, tensors that operations make in this thread, and arrays of NumPy.

    What is alive at the first convolution after weights were loaded counts as `fixed`; `most` is what comes on top at
    most. On a GPU the allocator is asked, and all counts as `most` but for what was there before.

    Args:
        device: where the work is done.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.fixed = self.most = 0
        self.alive: dict[int, int] = {}
        self.now = self.highest = self.arrays = 0
        self.loaded = False

    def __enter__(self) -> Peak:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.before = torch.cuda.memory_allocated(self.device)
        else:
            super().__enter__()
            tracemalloc.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self.device.type == "cuda":
            self.most = torch.cuda.max_memory_allocated(self.device) - self.before
            return
        arrays = tracemalloc.get_traced_memory()[1] - self.arrays
        tracemalloc.stop()
        super().__exit__(*exception)
        self.most = self.highest - self.fixed + arrays

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.copy_.default and isinstance(args[0], Parameter):
            self.loaded = False
        if not self.loaded and function is torch.ops.aten.convolution.default:
            self.loaded = True
            self.fixed = self.highest = self.now
            self.arrays = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf.untyped_storage())
        return result

    def _note(self, storage: Any) -> None:
        key = storage._cdata
        if key in self.alive:
            return
        self.alive[key] = storage.nbytes()
        self.now += self.alive[key]
        self.highest = max(self.highest, self.now)
        weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.now -= self.alive.pop(key, 0)
