"""Which process this is, for code that must run without torch: only torch can have joined several."""

from __future__ import annotations

import sys
from typing import Any


def rank() -> int:
    """Number of this process, 0 to `world_size() - 1`."""
    dist: Any = sys.modules.get("torch.distributed")
    return dist.get_rank() if dist is not None and dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this is the process that writes and speaks."""
    return rank() == 0
