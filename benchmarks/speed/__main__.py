"""Run every speed benchmark in turn: `python -m benchmarks.speed [NAME ...]`; exit code 1 if one of them failed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.facts import as_lines, facts

FOLDER = Path(__file__).parent


def main() -> None:
    known = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))
    wanted = sys.argv[1:] or known
    unknown = [name for name in wanted if name not in known]
    if unknown:
        sys.exit(f"no benchmark {', '.join(unknown)}; there are {', '.join(known)}")
    print(as_lines(facts())[0], flush=True)
    failed = []
    for name in wanted:
        print(f"\n## {name}\n", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.speed.{name}"], cwd=FOLDER.parent.parent).returncode:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
