"""Stages that runs have in common: what one has finished, another takes over."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from maskwright.files import write_json
from maskwright.runs.folder import RECORD, RunFolder
from maskwright.runs.stages import Stage, State, states


def share_stages(
    stages: list[Stage], folder: str | os.PathLike[str], others: Iterable[Path], say: Callable[[str], None]
) -> list[str]:
    """Take over what other runs have finished, so that runs with stages in common make them once.

    A stage is the same where its fingerprint is, and where the stages that it read are those that lie here: two runs
    may both have trained the same classifier, and seeds of the one do not belong to the other. Files are linked, or
    copied where the file system cannot; finished stages are never written to. Call it in one process.

    Args:
        stages: of the run, in order.
        folder: of the run.
        others: run folders; the first that has a stage gives it.
        say: prints one line.

    Returns:
        Names of the stages that were taken over.
    """
    run, taken = RunFolder(folder), []
    theirs = {other: states(stages, other) for other in others if other.resolve() != run.path.resolve()}
    for number, stage in enumerate(stages, start=1):
        mine = states(stages[:number], run)
        if mine[stage.name].word not in ("missing", "stale"):
            continue
        other = next((other for other, found in theirs.items() if _has_same(stage, found, mine)), None)
        if other is None:
            continue
        own, state = run.stage(stage.name), theirs[other][stage.name]
        partial = own.with_name(f".{stage.name}.{os.getpid()}.tmp")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(state.aside or other / stage.name, partial, copy_function=_link)
        write_json(partial / RECORD, {**state.record, "number": number})
        if own.exists():
            run.set_aside(stage.name)
        os.replace(partial, own)
        taken.append(stage.name)
        say(f"[{number}/{len(stages)}] {stage.title}: the same as in {other}, taken from there")
    return taken


def _has_same(stage: Stage, theirs: dict[str, State], mine: dict[str, State]) -> bool:
    if theirs[stage.name].word != "finished":
        return False
    return all(theirs[need].making == mine[need].making is not None for need in stage.needs)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)
