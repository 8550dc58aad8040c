"""Stages of a run: each has a folder, a fingerprint of all it depends on, and is done, resumed or made again.

A stage whose fingerprint is unchanged is skipped when it is finished and resumed when it is not. One whose inputs
changed is stale: its folder is set aside, never deleted, and the stage is made again, unless a folder that was set
aside before has what is wanted now. No time of a file decides anything.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskwright.files import file_hash, is_there, read_json, write_json
from maskwright.runs.folder import MODEL, RECORD, RunFolder, read_record

if TYPE_CHECKING:
    from maskwright.settings import Settings

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
        run: called with the stage's folder; must be able to resume where an earlier call was stopped.
        settings: JSON-able settings that its result depends on.
        needs: names of the stages whose results it reads.
        label: how a report calls its maps, where they stand between seeds and pseudo-masks.
        results: files of its folder without which it is not finished, whatever its record says.
        each: gives the files of its folder that it makes one by one, which `run` makes again where they are missing;
            asked for when a stage that reads them is to be made.
        files: of a stage that has no folder of its own, what it writes into the run folder itself, which `run` is then
            called with. Such a stage is quick: it is made without a word, and what is stale is written over.
    """

    name: str
    title: str
    run: Callable[[Path], None]
    settings: dict[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    label: str = ""
    results: tuple[str, ...] = ()
    each: Callable[[], list[str]] | None = None
    files: tuple[Path, ...] = ()


class Renewed(dict[str, Any]):
    """A part of a stage's settings that an earlier version wrote in another way, so that its stages are still known.

    Args:
        now: as it is written now.
        before: called with what a record has in its place, or None; gives what the earlier version would have written
            for what is there today.
    """

    def __init__(self, now: dict[str, Any], before: Callable[[Any], Any]) -> None:
        super().__init__(now)
        self.before = before


@dataclass(frozen=True)
class State:
    """What a run folder has of a stage.

    Args:
        word: `missing`, `finished`, `unfinished` or `stale`.
        record: of the result that counts; empty where there is none.
        aside: the folder that was set aside and has it, if it is not in the stage's own.
        renewed: the record is one of an earlier version, given as this one writes it.
    """

    word: str
    record: dict[str, Any] = field(default_factory=dict)
    aside: Path | None = None
    renewed: bool = False

    @property
    def making(self) -> str | None:
        """What tells one making of a stage from another; None where it is still to be made."""
        return making(self.record) if self.record else None


def making(record: dict[str, Any]) -> str:
    """What tells one making of a stage from another; where a record does not say, the time that it took does."""
    return record.get("making") or f"{record.get('seconds')} s, {record.get('processor_seconds')} s of a processor"


def effective(settings: Settings) -> dict[str, Any]:
    """Settings as JSON, without those that cannot change a result, and without defaults.

    A setting goes by the name that it had first (`serialization_alias`), and those that a later version adds leave
    finished stages as they are, and so do the defaults that a setting had before (`Settings.earlier_defaults`); where a
    version changes what a default does, it raises `stages.FORMAT`.
    """
    return _without(json.loads(_renewed(settings).model_dump_json(exclude_defaults=True, by_alias=True)))


def _renewed(settings: Settings) -> Settings:
    """Settings in which earlier defaults, of blocks inside too, are today's."""
    changes: dict[str, Any] = {}
    for name, field_ in type(settings).model_fields.items():
        value = getattr(settings, name)
        if name in settings.earlier_defaults and value == settings.earlier_defaults[name]:
            changes[name] = field_.default
        elif hasattr(value, "earlier_defaults"):
            changes[name] = _renewed(value)
    return settings.model_copy(update=changes)


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
        found[stage.name] = _fingerprint(stage, stage.settings, found)
    return found


def _fingerprint(stage: Stage, settings: Any, needed: dict[str, str]) -> str:
    return fingerprint([FORMAT, stage.name, settings, [needed[name] for name in stage.needs]])


def states(stages: list[Stage], folder: str | os.PathLike[str]) -> dict[str, State]:
    """What a run folder has of each stage, without writing anything.

    Args:
        stages: in an order in which each comes after those it needs.
        folder: of the run.

    Raises:
        DataError: a record is damaged.
    """
    run, now, before = RunFolder(folder), fingerprints(stages), _Before(stages)
    found: dict[str, State] = {}
    for stage in stages:
        path = _record_path(run, stage)
        record = _read(path)
        makings = {name: found[name].making for name in stage.needs}
        renewed = bool(record) and record["fingerprint"] != now[stage.name] and before.has_made(stage, record)
        if renewed:
            record = {
                **record,
                "fingerprint": now[stage.name],
                "settings": _plain(stage.settings),
                "fingerprint of 0.1": record["fingerprint"],
            }
        before.add(stage, record)
        if record and record["fingerprint"] == now[stage.name] and record.get("made_of", makings) == makings:
            word = _how_far(stage, record, run.stage(stage.name))
            found[stage.name] = State(word, record, None, renewed)
            continue
        for aside in run.aside(stage.name):
            kept = _read(aside / RECORD)
            if kept and kept["fingerprint"] == now[stage.name] and kept.get("made_of") == makings:
                found[stage.name] = State(_how_far(stage, kept, aside), kept, aside)
                break
        else:
            found[stage.name] = State("stale" if record else "missing")
    return found


def _how_far(stage: Stage, record: dict[str, Any], folder: Path) -> str:
    there = all(map(is_there, [*stage.files, *(folder / name for name in stage.results)]))
    kept = record.get("hashes", {})  # a record of an earlier version has none
    same = there and all(file_hash(folder / name) == kept[name] for name in stage.results if name in kept)
    return "finished" if record["finished"] and same else "unfinished"


class _Before:
    """The hashes that version 0.1 gave to stages; worked out only where a record is not one of today's."""

    def __init__(self, stages: list[Stage]) -> None:
        self.stages = {stage.name: stage for stage in stages}
        self.records: dict[str, dict[str, Any]] = {}

    def add(self, stage: Stage, record: dict[str, Any]) -> None:
        self.records[stage.name] = record

    def has_made(self, stage: Stage, record: dict[str, Any]) -> bool:
        return record["fingerprint"] == self._hash(stage, record)

    def _hash(self, stage: Stage, record: dict[str, Any]) -> str:
        if "fingerprint of 0.1" in record:
            return record["fingerprint of 0.1"]
        needed = {name: self._hash(self.stages[name], self.records[name]) for name in stage.needs}
        return _fingerprint(stage, _as_before(stage.settings, record.get("settings")), needed)


def _as_before(value: Any, recorded: Any) -> Any:
    if isinstance(value, Renewed):
        return value.before(recorded)
    if isinstance(value, dict):
        there = recorded if isinstance(recorded, dict) else {}
        return {key: _as_before(inner, there.get(key)) for key, inner in value.items()}
    if isinstance(value, list):
        listed = recorded if isinstance(recorded, list) and len(recorded) == len(value) else [None] * len(value)
        return [_as_before(inner, one) for inner, one in zip(value, listed, strict=True)]
    return value


def run_stages(
    stages: list[Stage],
    folder: str | os.PathLike[str],
    say: Callable[[str], None],
    *,
    anew: bool = False,
    made: Sequence[Stage] = (),
) -> None:
    """Run every stage that is not finished, in order, on all processes; only the first writes records and speaks.

    What has vanished of stages that one reads is made again before: nothing goes on with fewer images unsaid.

    Args:
        stages: in an order in which each comes after those it needs.
        folder: of the run.
        say: prints one line.
        anew: make what lies in the run folder itself (see `Stage.files`) even if nothing has changed.
        made: finished stages that these may read besides those that they need.
    """
    from maskwright.engine import distributed

    run = RunFolder(folder)
    if distributed.is_main():
        for stage, state in zip(stages, states(stages, run).values(), strict=True):
            if state.renewed:
                write_json(_record_path(run, stage), state.record)
    for number, stage in enumerate(stages, start=1):
        word = distributed.broadcast(_begin(stages, number, run, say, anew) if distributed.is_main() else None)
        if word == "finished":
            continue
        distributed.barrier()
        started = _clocks()
        _make_vanished([*made, *stages], [*stage.needs, *(other.name for other in made)], run, say)
        stage.run(run.path if stage.files else run.stage(stage.name))
        distributed.barrier()
        if distributed.is_main():
            _end(stage, run, started)


def _make_vanished(stages: Sequence[Stage], names: Iterable[str], run: RunFolder, say: Callable[[str], None]) -> None:
    """Make again what has vanished of finished stages, and before that, of those that they read."""
    from maskwright.engine import distributed

    known = {stage.name: stage for stage in stages}
    for stage in (known[name] for name in names):
        if stage.each is None:
            continue
        files, folder = stage.each(), run.stage(stage.name)
        missing = distributed.broadcast([file for file in files if not is_there(folder / file)])
        if missing:
            few = ", ".join(missing[:5])
            say(f"    {len(missing)} of {len(files)} files in {folder} have vanished ({few}); they are made again")
            _make_vanished(stages, stage.needs, run, say)
            stage.run(folder)
            distributed.barrier()


def _begin(stages: list[Stage], number: int, run: RunFolder, say: Callable[[str], None], anew: bool) -> str:
    """Make a stage's folder ready and note that it has begun; gives the word for what is there."""
    stage = stages[number - 1]
    found = states(stages[:number], run)
    state, path = found[stage.name], _record_path(run, stage)
    word = state.word
    if stage.files:
        word = "stale" if anew else word
    else:
        head, own = f"[{number}/{len(stages)}] {stage.title}", run.stage(stage.name)
        if state.aside is not None:
            if own.exists():
                run.set_aside(stage.name)
            os.rename(state.aside, own)
            head += f": made before with these settings, taken back from {state.aside.name}"
        if word == "stale":
            kept = run.set_aside(stage.name)
            head += f": {_what_changed(kept, stage)}; the old result is kept in {kept.name}"
        elif word == "unfinished":
            head += ": resuming"
        elif word == "finished" and state.aside is None:
            head += ": done already"
        say(head)
    if word != "finished":
        record = state.record if word == "unfinished" else {}
        replaced = record.get("replaces", record.get("model_hash"))
        fields = {
            "name": stage.name,
            "title": stage.title,
            "number": number,
            "fingerprint": fingerprints(stages[:number])[stage.name],
            "finished": False,
            "seconds": record.get("seconds", 0.0),
            "processor_seconds": record.get("processor_seconds", 0.0),
            "making": record.get("making") or uuid.uuid4().hex,
            "needs": list(stage.needs),
            "made_of": {name: found[name].making for name in stage.needs},
            "settings": _plain(stage.settings),
            **({"label": stage.label} if stage.label else {}),
            **({"replaces": replaced} if replaced else {}),
        }
        write_json(path, fields)
    return word


def _end(stage: Stage, run: RunFolder, started: tuple[float, float]) -> None:
    path, now = _record_path(run, stage), _clocks()
    record = read_json(path)
    for key, then, at in zip(("seconds", "processor_seconds"), started, now, strict=True):
        record[key] = round(record[key] + at - then, 2)
    # Whoever reads a model compares it with its hash; the other results are small, and compared wherever they count.
    small = [name for name in stage.results if name != MODEL]
    if small:
        record["hashes"] = {name: file_hash(run.stage(stage.name) / name) for name in small}
    model = run.model(stage.name)
    if model.is_file():
        record["model_hash"] = file_hash(model)
        if record.pop("replaces", record["model_hash"]) != record["model_hash"]:
            record["making"] = uuid.uuid4().hex  # made again of one that vanished, with other bits
    write_json(path, {**record, "finished": True}, lasting=not stage.files)


def _record_path(run: RunFolder, stage: Stage) -> Path:
    return run.after(stage.name) if stage.files else run.record(stage.name)


def _read(path: Path) -> dict[str, Any]:
    """A record; empty where there is none."""
    return read_record(path, ("fingerprint", "finished", "seconds", "settings")) if path.is_file() else {}


def _plain(settings: dict[str, Any]) -> Any:
    return json.loads(json.dumps(settings, default=str))


def _clocks() -> tuple[float, float]:
    """Seconds that have passed, and seconds that processors worked for this process and those it started and ended."""
    used = os.times()
    return time.monotonic(), used.user + used.system + used.children_user + used.children_system


def _what_changed(kept: Path, stage: Stage) -> str:
    """The first few settings that differ between a stage that was set aside and the one to be made."""
    recorded = read_json(kept / RECORD)["settings"]
    before = flat(recorded)
    written = [flat(_plain(settings)) for settings in (stage.settings, _as_before(stage.settings, recorded))]
    # Beside what a record of an earlier version says the same facts look changed; the other form shows what is.
    changed = min(
        (
            [
                f"{key} {before.get(key, 'absent')} -> {now.get(key, 'absent')}"
                for key in sorted(before.keys() | now.keys())
                if before.get(key, "absent") != now.get(key, "absent")
            ]
            for now in written
        ),
        key=len,
    )
    if not changed:
        return "an earlier stage was made again"
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
