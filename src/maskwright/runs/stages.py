"""Stages of a run: each has a folder, a fingerprint of all it depends on, and is done, resumed or made anew.

A stage whose fingerprint is unchanged is skipped when it is finished and resumed when it is not. One whose inputs
changed is stale: its folder is set aside, never deleted, and the stage is made anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskwright.errors import MaskwrightError
from maskwright.files import read_json, write_json

if TYPE_CHECKING:
    from pydantic import BaseModel

# Raised when the same settings come to mean another result, so that what older versions made is noticed as stale.
FORMAT = 1

# Settings that change how fast a result comes, not what it is.
WITHOUT_EFFECT = {"workers", "log_every", "checkpoint_seconds", "compile"}


@dataclass
class Stage:
    """One step of a run.

    Args:
        name: also the name of its folder in the run folder.
        title: what it does, in words, for the person who waits.
        run: called with the stage's folder; must be able to go on where an earlier call was stopped.
        settings: JSON-able settings that its result depends on.
        needs: names of the stages whose results it reads.
        label: how a report calls its maps, where they stand between seeds and pseudo-masks.
    """

    name: str
    title: str
    run: Callable[[Path], None]
    settings: dict[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    label: str = ""


def effective(settings: BaseModel) -> dict[str, Any]:
    """Settings as JSON, without those that cannot change a result, and without defaults.

    Settings that a later version adds thus leave finished stages as they are; where a version changes what a default
    does, it raises `stages.FORMAT`.
    """
    return _without(json.loads(settings.model_dump_json(exclude_defaults=True)))


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without(inner) for key, inner in value.items() if key not in WITHOUT_EFFECT}
    return value


def fingerprint(value: Any) -> str:
    """Short hash of a JSON-able value, equal for equal values whatever the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def fingerprints(stages: list[Stage]) -> dict[str, str]:
    """Each stage's hash over its settings and the hashes of the stages that it needs."""
    found: dict[str, str] = {}
    for stage in stages:
        found[stage.name] = fingerprint([FORMAT, stage.name, stage.settings, [found[name] for name in stage.needs]])
    return found


def state_of(stage: Stage, hash_now: str, out: Path) -> str:
    """`missing`, `finished`, `unfinished` or `stale`."""
    record = out / stage.name / "stage.json"
    if not record.is_file():
        return "missing"
    found = read_json(record)
    if found["fingerprint"] != hash_now:
        return "stale"
    return "finished" if found["finished"] else "unfinished"


def run_stages(stages: list[Stage], out: Path, say: Callable[[str], None]) -> None:
    """Run every stage that is not finished, in order, on all processes; only the first writes records and speaks.

    Args:
        stages: in an order in which each comes after those it needs.
        out: the run folder.
        say: prints one line.
    """
    from maskwright.engine import distributed

    hashes = fingerprints(stages)
    for number, stage in enumerate(stages, start=1):
        folder = out / stage.name
        state = distributed.broadcast(state_of(stage, hashes[stage.name], out) if distributed.is_main() else None)
        head = f"[{number}/{len(stages)}] {stage.title}"
        if state == "finished":
            say(f"{head}: done already")
            continue
        before = (0.0, 0.0)
        if distributed.is_main():
            if state == "stale":
                kept = _set_aside(folder)
                say(f"{head}: {_what_changed(kept, stage)}; the old result is kept in {kept.name}")
            elif state == "unfinished":
                record = read_json(folder / "stage.json")
                before = (record["seconds"], record.get("processor_seconds", 0.0))
                say(f"{head}: going on")
            else:
                say(head)
            folder.mkdir(parents=True, exist_ok=True)
            _record(folder, stage, number, hashes[stage.name], finished=False, spent=before)
        distributed.barrier()
        started = _clocks()
        stage.run(folder)
        distributed.barrier()
        if distributed.is_main():
            spent = tuple(old + now - then for old, now, then in zip(before, _clocks(), started, strict=True))
            _record(folder, stage, number, hashes[stage.name], finished=True, spent=spent)


def share_stages(stages: list[Stage], out: Path, others: Iterable[Path], say: Callable[[str], None]) -> list[str]:
    """Take over what other runs have finished, so that runs with stages in common make them once.

    A stage is the same where its fingerprint is, and where the stages that it read are those that lie here: two runs
    may both have trained the same classifier, and seeds of the one do not belong to the other. Files are linked, or
    copied where the file system cannot; finished stages are never written to. Call it in one process.

    Args:
        stages: of the run, in order.
        out: its folder.
        others: run folders; the first that has a stage gives it.
        say: prints one line.

    Returns:
        Names of the stages that were taken over.
    """
    hashes, taken = fingerprints(stages), []
    others = [other for other in others if other.resolve() != out.resolve()]
    for number, stage in enumerate(stages, start=1):
        state = state_of(stage, hashes[stage.name], out)
        if state not in ("missing", "stale"):
            continue
        other = next((other for other in others if _has_same(stage, hashes[stage.name], other, out)), None)
        if other is None:
            continue
        folder = out / stage.name
        partial = folder.with_name(f".{stage.name}.{os.getpid()}.copy")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(other / stage.name, partial, copy_function=_link)
        write_json(partial / "stage.json", {**read_json(partial / "stage.json"), "number": number})
        if state == "stale":
            _set_aside(folder)
        os.replace(partial, folder)
        taken.append(stage.name)
        say(f"[{number}/{len(stages)}] {stage.title}: the same as in {other}, taken from there")
    return taken


def _has_same(stage: Stage, hash_now: str, other: Path, out: Path) -> bool:
    if state_of(stage, hash_now, other) != "finished":
        return False
    return all(_making(other, need) == _making(out, need) is not None for need in stage.needs)


def _making(out: Path, name: str) -> tuple[Any, ...] | None:
    """What tells one making of a stage from another: no two take the same time, to 10 ms, by both clocks."""
    path = out / name / "stage.json"
    if not path.is_file():
        return None
    record = read_json(path)
    return record["fingerprint"], record["seconds"], record.get("processor_seconds")


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


def _record(
    folder: Path, stage: Stage, number: int, hash_now: str, *, finished: bool, spent: tuple[float, ...]
) -> None:
    fields: dict[str, Any] = {
        "name": stage.name,
        "title": stage.title,
        "number": number,
        "fingerprint": hash_now,
        "finished": finished,
        "seconds": round(spent[0], 2),
        "processor_seconds": round(spent[1], 2),
        "needs": list(stage.needs),
        "settings": json.loads(json.dumps(stage.settings, default=str)),
        **({"label": stage.label} if stage.label else {}),
    }
    model = folder / "model.safetensors"
    if finished and model.is_file():
        from maskwright.engine.checkpoint import file_hash

        fields["model_hash"] = file_hash(model)  # whoever reads the model compares
    write_json(folder / "stage.json", fields)


def _clocks() -> tuple[float, float]:
    """Seconds that have passed, and seconds that processors worked for this process and those it started and ended."""
    used = os.times()
    return time.monotonic(), used.user + used.system + used.children_user + used.children_system


def _set_aside(folder: Path) -> Path:
    number = 1
    while (kept := folder.with_name(f"{folder.name}.stale-{number}")).exists():
        number += 1
    os.rename(folder, kept)
    return kept


def _what_changed(kept: Path, stage: Stage) -> str:
    """The first few settings that differ between a stage that was set aside and the one to be made."""
    before, now = (
        flat(read_json(kept / "stage.json")["settings"]),
        flat(json.loads(json.dumps(stage.settings, default=str))),
    )
    changed = [
        f"{key} {before.get(key, 'absent')} -> {now.get(key, 'absent')}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key, "absent") != now.get(key, "absent")
    ]
    if not changed:
        return "an earlier stage was made anew"
    return (
        "changed since it was made: "
        + ", ".join(changed[:3])
        + (f" and {len(changed) - 3} more" if changed[3:] else "")
    )


def flat(value: Any, path: str = "") -> dict[str, str]:
    """Nested settings by dotted key, values as JSON."""
    if isinstance(value, dict):
        return {key: inner for name, child in value.items() for key, inner in flat(child, f"{path}.{name}").items()}
    return {path.lstrip("."): json.dumps(value)}


@contextmanager
def run_lock(out: Path) -> Iterator[None]:
    """Hold a run folder for this process; where the system has no `flock` (Windows) nothing is held.

    Raises:
        MaskwrightError: another process works in the folder now.
    """
    out.mkdir(parents=True, exist_ok=True)
    if os.name == "nt":
        yield
        return
    import fcntl

    with open(out / ".lock", "w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MaskwrightError(f"another process is working in {out}; wait for it, or choose another out=") from None
        yield
