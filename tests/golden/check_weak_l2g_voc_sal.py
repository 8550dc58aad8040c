"""L2G with saliency as released for VOC: the background target is binary."""

import importlib.util
from functools import partial
from pathlib import Path

_spec = importlib.util.spec_from_file_location(
    "check_weak_l2g_nosal", Path(__file__).with_name("check_weak_l2g_nosal.py")
)
assert _spec is not None
assert _spec.loader is not None
_step = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_step)
check = partial(_step.check_step, background="binary")
indifferent = partial(_step.indifferent, background="binary")
