"""DeepLabV3+ as in `deeplab`, after `torch.compile`; needs a C++ compiler.

python -m benchmarks.speed.deeplab_compiled
"""

from __future__ import annotations

import shutil

from benchmarks.speed.deeplab import SIZES, build
from benchmarks.speed.timer import Row, main

ROW = Row(
    "DeepLabV3+ ResNet-18, 256 px, batch 8, compiled",
    build,
    {
        "training step": {"task": "training", "compiled": True, **SIZES},
        "inference": {"task": "inference", "compiled": True, **SIZES},
    },
    {"size": 64, "batch": 2},
    seconds=6.0,
    memory=False,
    one_thread=False,
)

if __name__ == "__main__":
    if shutil.which("c++") or shutil.which("g++"):
        main(ROW)
    else:
        print("SKIPPED: torch.compile needs a C++ compiler, and none is installed")
