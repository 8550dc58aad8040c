"""Ways to share work in parts, by the name that `engine=` gives. A new one is one file and one line."""

from __future__ import annotations

from maskwright.weak.engines.job import Engine, Job
from maskwright.weak.engines.local import run_local
from maskwright.weak.engines.ray import run_ray
from maskwright.weak.engines.task import run_task
from maskwright.weak.engines.torchrun import run_torchrun

ENGINES: dict[str, Engine] = {"local": run_local, "torchrun": run_torchrun, "task": run_task, "ray": run_ray}

__all__ = ["ENGINES", "Engine", "Job"]
