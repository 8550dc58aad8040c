"""AdvCAM as released with more than ten steps: half of them at scale 0.5, whose factor of two stays for all scales."""

import importlib.util
from pathlib import Path

_spec = importlib.util.spec_from_file_location(
    "check_weak_advcam_a", Path(__file__).with_name("check_weak_advcam_a.py")
)
assert _spec is not None
assert _spec.loader is not None
_other = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_other)
check = _other.check
