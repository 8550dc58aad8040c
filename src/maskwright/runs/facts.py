"""What, where and when of a run: kept beside its results."""

from __future__ import annotations

import platform
import shlex
import sys
import time
from typing import Any

import torch

from maskwright.engine import distributed
from maskwright.settings import Recipe
from maskwright.version import __version__


def run_facts(recipe: Recipe) -> dict[str, Any]:
    """The content of `run.json`."""
    return {
        "command": shlex.join(["maskwright", *sys.argv[1:]]),
        "version": __version__,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seed": recipe.random_seed,
        "processes": distributed.world_size(),
        "machine": {
            "system": platform.platform(),
            "processor": platform.machine(),
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }
