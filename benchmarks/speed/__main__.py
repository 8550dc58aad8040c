"""Run the speed benchmarks in turn, each in a process of its own.

    python -m benchmarks.speed [NAME ...] [--device cuda]

Without names: every row of the table, then how cost scales. Exit code 1 if one failed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.facts import as_lines, facts

FOLDER = Path(__file__).parent
ROWS = (
    "cpp_pooling",
    "loss_max_pooling",
    "rmi",
    "dupsampling",
    "random_walk",
    "dense_crf",
    "cam",
    "cam_extraction",
    "advcam",
    "recam",
    "confusion_matrix",
    "deeplab",
    "deeplab_compiled",
    "evaluation",
    "exported",
    "data_pipeline",
    "startup",
    "gpu",
)
OTHERS = ("scaling",)


def main() -> None:
    parser = argparse.ArgumentParser(description="run the speed benchmarks in turn")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default all: {', '.join((*ROWS, *OTHERS))}")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, of the rows")
    options = parser.parse_args()
    wanted = options.names or [*ROWS, *OTHERS]
    unknown = [name for name in wanted if name not in (*ROWS, *OTHERS)]
    if unknown:
        sys.exit(f"no benchmark {', '.join(unknown)}; there are {', '.join((*ROWS, *OTHERS))}")
    print(as_lines(facts())[0], flush=True)
    failed = []
    for name in wanted:
        print(f"\n## {name}\n", flush=True)
        start = time.monotonic()
        command = [sys.executable, "-m", f"benchmarks.speed.{name}"]
        if options.device != "cpu" and name in ROWS:
            command += ["--device", options.device]
        if subprocess.run(command, cwd=FOLDER.parent.parent).returncode:
            failed.append(name)
        print(f"({time.monotonic() - start:.0f} s)", flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
