"""What every kept figure carries: the command, the commit, the machine and the date that made it."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any


def facts() -> dict[str, Any]:
    """Command, commit (with `+` where the tree had changes), machine, versions and date, JSON-able."""
    import torch

    return {
        "command": shlex.join(["python", *_script(), *map(_nameless, sys.argv[1:])]),
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def machine() -> str:
    """Cores, memory, processor and GPU in words."""
    import torch

    model = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    words = f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB"
    return words + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU")


def commit() -> str:
    """Short hash of the commit, `+` appended where tracked files other than kept results differ from it."""
    root = Path(__file__).parent
    run = lambda *words: subprocess.run(words, cwd=root, capture_output=True, text=True).stdout.strip()  # noqa: E731
    # What a run writes, one after the other, does not count.
    results = [f":(top,exclude,glob)benchmarks/{where}results/**" for where in ("", "*/")]
    changed = run("git", "status", "--porcelain", "--untracked-files=no", "--", ":/", *results)
    return (run("git", "rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")


def as_lines(found: dict[str, Any]) -> list[str]:
    """The facts as the head of a Markdown table."""
    return [
        f"Made by `{found['command']}` at commit {found['commit']} on {found['date']}, {found['machine']}, "
        f"{found['threads']} threads, Python {found['python']}, torch {found['torch']}.",
        "",
    ]


def _script() -> list[str]:
    module = sys.modules["__main__"].__spec__
    return ["-m", module.name.removesuffix(".__main__")] if module else [os.path.relpath(sys.argv[0])]


def _nameless(word: str) -> str:
    """A word of a command without the machine's folders: `/a/b` is `b`, `out=/a/b` is `out=b`."""
    key, equals, value = word.rpartition("=")
    return key + equals + Path(value).name if os.path.isabs(value) else word


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
