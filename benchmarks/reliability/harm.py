"""Runs whose machine or folder fails them: no room, no right to write, few handles, files that others harm or change.

Each either works, or stops with a message of ours; and the same command afterwards, with what the message asks for,
ends with the results of an undisturbed run.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.reliability import children
from benchmarks.reliability.victims import MASKS, TAGS, digest, tagged_and_masked

ERROR = re.compile(r"^error: .+", re.MULTILINE)
ADVICE = re.compile(r"delete (?:the folder )?(\S+)")
STEPS = 6  # pieces of advice that are followed at most


@dataclass
class Harmed:
    """What came of one harm.

    Args:
        name: of the harm.
        refused: the command stopped and said why; false where it worked nonetheless.
        equal: it ended, then or later, with the results of an undisturbed run.
        said: the message it stopped with, or what was wrong.
    """

    name: str
    refused: bool
    equal: bool
    said: str = ""


def refusal(child: children.Child) -> str:
    """The message that a command stopped with; empty where it worked.

    Raises:
        AssertionError: it failed in another way.
    """
    said = child.said()
    if child.process.exitcode == 0:
        return ""
    assert child.process.exitcode == 2, said[-1000:]
    assert "Traceback" not in said, said[-1000:]
    found = ERROR.findall(said)
    assert found, said[-1000:]
    return found[-1]


class Undisturbed:
    """Folders with the same data, and what a run there gives; made once for each command.

    Args:
        folder: an empty one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.whole: dict[tuple[str, ...], Path] = {}
        self.wanted: dict[tuple[str, ...], dict[str, str]] = {}

    def new(self) -> Path:
        """Another folder with the data."""
        place = self.folder / f"place{self.count}"
        self.count += 1
        place.mkdir(parents=True)
        tagged_and_masked(place)
        return place

    def results(self, words: tuple[str, ...]) -> dict[str, str]:
        """What an undisturbed run gives."""
        if words not in self.wanted:
            place = self.new()
            child = children.finish(words, place)
            assert child.process.exitcode == 0, child.said()
            self.whole[words], self.wanted[words] = place, digest(place / "run")
        return self.wanted[words]

    def finished(self, words: tuple[str, ...]) -> Path:
        """A copy of an undisturbed run, with its data."""
        self.results(words)
        place = self.folder / f"place{self.count}"
        self.count += 1
        return Path(shutil.copytree(self.whole[words], place))

    def judge(self, name: str, words: tuple[str, ...], place: Path, said: str, *, but: str = "") -> Harmed:
        """Give the command again until it ends, doing what it advises, and compare.

        Args:
            name: of the harm.
            words: of the command.
            place: where it was harmed.
            said: the refusal, where there was one.
            but: a file that was harmed itself, and that no later stage reads.
        """
        refused = bool(said)
        for _ in range(STEPS):
            child = children.finish(words, place)
            again = refusal(child)
            if not again:
                break
            said, refused = again, True
            if not follow(again, place):
                return Harmed(name, refused, False, f"no advice that helps: {again}")
        else:
            return Harmed(name, refused, False, f"still refused after {STEPS} times: {said}")
        wanted, found = self.results(words), digest(place / "run")
        differ = {key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key)} - {but}
        if not differ:
            shutil.rmtree(place)
        return Harmed(name, refused, not differ, said if not differ else f"differ: {sorted(differ)[:5]}; {said}")


def follow(advice: str, place: Path) -> bool:
    """Delete what a message says is to be deleted; false where it names nothing that is there."""
    found = ADVICE.search(advice)
    if found is None:
        return False
    words = [found[1].rstrip(",.;:)")] if found[1].rstrip(",.;:)") != "it" else re.findall(r"run/[^\s:;,()]+", advice)
    for word in words:
        path = place / word
        if path.is_dir():
            shutil.rmtree(path)
            return True
        if path.exists():
            path.unlink()
            return True
    return False


@contextlib.contextmanager
def mounted(place: Path, megabytes: int) -> Iterator[Callable[[str], None]]:
    """A file system of so many megabytes at a folder, and a function that mounts it with other options.

    Raises:
        PermissionError: this user may not mount.
    """
    place.mkdir(parents=True, exist_ok=True)

    def mount(options: str) -> None:
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            raise PermissionError(done.stderr)

    mount(f"size={megabytes}m")
    try:
        yield lambda options: mount(f"remount,{options}")
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


def can_mount(folder: Path) -> bool:
    """Whether this user may mount a file system."""
    try:
        with mounted(folder / "mounted", 1):
            return True
    except (PermissionError, FileNotFoundError):
        return False


def limit(kind: int, value: int) -> None:
    resource.setrlimit(kind, (value, value))


def full_disk(there: Undisturbed, words: tuple[str, ...], sizes: tuple[float, ...]) -> list[Harmed]:
    """The disk has so many megabytes left when the first stage begins; then it has more."""
    found = []
    for size in sizes:
        place, name = there.new(), f"room for {size:g} MB"
        if can_mount(there.folder):
            with mounted(place / "run", 200) as mount:
                child = children.start(words, place)
                children.wait_for(place / "run" / "classifier" / "stage.json", child)
                used = sum(path.stat().st_blocks for path in (place / "run").rglob("*")) * 512
                mount(f"size={used + int(size * 2**20)}")
                child.wait(600)
                said = refusal(child)
                mount("size=900m")
                outcome = there.judge(name, words, _moved(place, there), said)
        else:
            before = partial(limit, resource.RLIMIT_FSIZE, int(size * 2**20))
            outcome = there.judge(name, words, place, refusal(children.finish(words, place, before=before)))
        found.append(outcome)
    return found


def _moved(place: Path, there: Undisturbed) -> Path:
    """A copy of what lies in a mounted folder, which cannot be deleted as others are."""
    there.count += 1
    return Path(shutil.copytree(place, there.folder / f"place{there.count - 1}"))


def read_only(there: Undisturbed, words: tuple[str, ...]) -> list[Harmed]:
    """A folder that cannot be written to; then it can."""
    place = there.new()
    if can_mount(there.folder):
        with mounted(place / "run", 900) as mount:
            mount("ro")
            said = refusal(children.finish(words, place))
            mount("rw")
            return [there.judge("a file system that is read-only", words, _moved(place, there), said)]
    (place / "run").mkdir()
    (place / "run").chmod(0o500)
    said = refusal(children.finish(words, place))
    (place / "run").chmod(0o700)
    return [there.judge("a folder that is read-only", words, place, said)]


def few_handles(there: Undisturbed, words: tuple[str, ...], counts: tuple[int, ...]) -> list[Harmed]:
    """So many files may be open beside those that are; then more."""
    found = []
    for count in counts:
        place, name = there.new(), f"{count} handles"
        try:
            said = refusal(children.finish(words, place, before=partial(_few, count), seconds=90))
        except TimeoutError as error:
            found.append(Harmed(name, False, False, f"hangs: {str(error)[-200:]}"))
        else:
            found.append(there.judge(name, words, place, said))
    return found


def _few(count: int) -> None:
    limit(resource.RLIMIT_NOFILE, max(map(int, os.listdir("/proc/self/fd"))) + count)


def two_runs(there: Undisturbed, words: tuple[str, ...]) -> list[Harmed]:
    """A second run in the folder of one that works."""
    place = there.new()
    first = children.start(words, place)
    children.wait_for(place / "run" / "run.json", first)
    said = refusal(children.finish(words, there.folder, before=partial(os.chdir, place)))
    assert "another process is working in run" in said, said
    assert first.wait(600) == 0, first.said()
    return [there.judge("a second run in the folder", words, place, said)]


def foreign(there: Undisturbed) -> list[Harmed]:
    """Another recipe in the folder of a run: nothing of it is lost."""
    place = there.finished(MASKS)
    kept = digest(place / "run")
    kept.pop("data_check.json")  # of the last run
    child = children.finish(TAGS, place)
    assert child.process.exitcode == 0, child.said()
    back = children.finish(MASKS, place)
    assert back.process.exitcode == 0, back.said()
    now = digest(place / "run")
    lost = sorted(key for key, value in kept.items() if now.get(key) != value)
    return [Harmed("another recipe in the folder, and back", False, not lost, f"differ: {lost[:5]}" if lost else "")]


def changed_data(there: Undisturbed, words: tuple[str, ...]) -> list[Harmed]:
    """An image, a mask or a tag that changes while a run works: the next run gives what it would give from scratch."""

    def image(place: Path) -> None:
        shutil.copyfile(place / "photos/images/03.png", place / "photos/images/00.png")

    def mask(place: Path) -> None:
        shutil.copyfile(place / "photos/masks/01.png", place / "photos/masks/00.png")

    def gone(place: Path) -> None:
        (place / "photos/images/02.png").unlink()
        (place / "photos/masks/02.png").unlink()

    def tags(place: Path) -> None:
        table = place / "photos/tags.csv"
        table.write_text(table.read_text().replace("00.png,red", "00.png,red;blue"))

    def results(folder: Path) -> dict[str, str]:
        """Without logs, which tell what a training saw of images that its result does not depend on."""
        return {key: value for key, value in digest(folder).items() if not key.endswith("log.jsonl")}

    found = []
    for change in (image, mask, gone, tags):
        place, fresh = there.new(), there.new()
        change(fresh)
        child = children.finish(words, fresh)
        wanted = refusal(child) or results(fresh / "run")
        child = children.start(words, place)
        children.wait_for(place / "run" / "run.json", child)
        time.sleep(0.5)
        change(place)
        child.wait(600)
        said = refusal(child)
        again = children.finish(words, place)
        now = refusal(again) or results(place / "run")
        found.append(Harmed(f"{change.__name__} changed under the run", bool(said), now == wanted, said))
    return found


def damages() -> dict[str, Callable[[Path], object]]:
    """What can happen to a file."""

    def flip(path: Path) -> None:
        held = bytearray(path.read_bytes())
        held[len(held) // 2] ^= 4
        path.write_bytes(held)

    def folder(path: Path) -> None:
        path.unlink()
        path.mkdir()

    return {
        "gone": Path.unlink,
        "empty": lambda path: path.write_bytes(b""),
        "cut off": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        "a flipped bit": flip,
        "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
        "a folder in its place": folder,
    }


def torn(
    there: Undisturbed, before: tuple[str, ...], after: tuple[str, ...], *, only: slice = slice(None)
) -> list[Harmed]:
    """Each kind of file of a finished run, harmed in each way; then a command that needs some of it again.

    Args:
        there: as `Undisturbed`.
        before: words of the command whose results are harmed.
        after: words of the command that is given then.
        only: which of the harms.
    """
    there.results(before)
    wanted, whole = there.results(after), there.whole[before] / "run"
    kinds: dict[tuple[str, str, str], Path] = {}
    for path in sorted(whole.rglob("*")):
        inside = path.relative_to(whole)
        if path.is_file() and path.name != ".lock" and inside.parts[0] != "after":
            named = "" if path.suffix in (".png", ".npz") and len(inside.parts) > 1 else path.name
            kinds.setdefault((inside.parent.as_posix(), path.suffix, named), inside)
    found = []
    for inside in list(kinds.values()):
        for name, damage in damages().items():
            found.append((inside, name, damage))
    outcomes = []
    for inside, name, damage in found[only]:
        place = there.finished(before)
        damage(place / "run" / inside)
        what = f"{inside.as_posix()}: {name}"
        try:
            outcomes.append(there.judge(what, after, place, "", but=inside.as_posix()))
        except (AssertionError, TimeoutError) as error:
            outcomes.append(Harmed(what, False, False, str(error)[-600:]))
    assert wanted
    return outcomes
