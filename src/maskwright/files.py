"""Files that are either wholly there or not at all."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import shutil
import stat
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

from maskwright.errors import DataError

if TYPE_CHECKING:
    from concurrent.futures import Future

    import numpy as np


TEMPORARY = re.compile(r"\.(.+)\.(\d+)\.tmp(\.\w+)?")  # name, process and suffix, as `atomic_write` makes them


@contextmanager
def atomic_write(path: str | Path, *, lasting: bool = False) -> Iterator[Path]:
    """A temporary path in the same folder that replaces `path` when the block ends without an error.

    The suffix is kept, since image and array writers choose their format by it.

    Args:
        path: of the file.
        lasting: wait until the disk has it, so that a power cut leaves the old file or the new one. Otherwise it may
            leave an empty one, which `is_there` does not count.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        if lasting:
            with open(temporary, "r+b") as stream:
                os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A new folder beside `path` that takes its place, and that of what is in it, when the block ends without an error.

    What processes that were killed left beside it is deleted.
    """
    path = Path(os.path.abspath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        found = TEMPORARY.fullmatch(left.name)
        if found is not None and left.is_dir() and not _runs(int(found[2])):
            shutil.rmtree(left)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            before = path.with_name(f".{path.name}.before.{os.getpid()}.tmp")
            os.rename(path, before)
            os.rename(temporary, path)
            shutil.rmtree(before)
        else:
            os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def is_there(path: str | Path) -> bool:
    """Whether there is a file that holds something: a power cut leaves empty ones."""
    try:
        facts = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return stat.S_ISREG(facts.st_mode) and facts.st_size > 0


def remove_unfinished(folder: Path) -> None:
    """Delete, in a folder and those within it, what processes that were killed while they wrote left behind.

    Files of processes that run now stay; where the system cannot tell (Windows) all stay.
    """
    for inside, folders, files in os.walk(folder):
        for name in [*files, *folders]:
            found = TEMPORARY.fullmatch(name) if name.startswith(".") else None
            if found is None or _runs(int(found[2])):
                continue
            if name in folders:
                folders.remove(name)
                shutil.rmtree(Path(inside, name))
            else:
                Path(inside, name).unlink(missing_ok=True)


def _runs(process: int) -> bool:
    if os.name == "nt":
        return True
    try:
        os.kill(process, 0)  # sends nothing
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


@contextmanager
def written_beside(most: int, threads: int = 1) -> Iterator[Callable[..., None]]:
    """A function that calls another one in a thread beside the caller's work; when the block ends all calls are done.

    An error of a call is raised by a later one, or when the block ends. What is to be written waits in memory, so the
    caller waits where too much does.

    Args:
        most: calls that wait at most.
        threads: that make the calls.
    """
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(threads) as pool:
        calls: deque[Future[object]] = deque()

        def call(function: Callable[..., object], *arguments: object) -> None:
            calls.append(pool.submit(function, *arguments))
            while calls and (calls[0].done() or len(calls) > most):
                calls.popleft().result()

        yield call
        while calls:
            calls.popleft().result()


def write_json(path: str | Path, value: Any, *, lasting: bool = False) -> None:
    """Write strict JSON (NaN is refused; give None) with two spaces of indent, as `atomic_write` does."""
    with atomic_write(path, lasting=lasting) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: the file is missing or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (ValueError, RecursionError) as error:  # also other encodings, numbers of thousands of digits, deep nesting
        raise DataError(
            f"{path} is not valid JSON: {error}. If maskwright wrote it, delete it and give the same command again"
        ) from error


def read_arrays(path: str | Path, keys: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The arrays of a `.npz` file that maskwright wrote.

    Args:
        path: of the file.
        keys: names of the arrays that are wanted; by default all are read.

    Raises:
        DataError: it is missing, damaged, or lacks one of them.
        OSError: the system cannot read it now.
    """
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in keys or arrays.files}
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; give the command of the run again, which makes it") from None
    except (
        *(ArithmeticError, AttributeError, BadZipFile, EOFError, LookupError, MemoryError, OSError, RuntimeError),
        *(SyntaxError, TypeError, ValueError, zlib.error),
    ) as error:
        if isinstance(error, OSError) and error.errno is not None:  # no right to it, too many open files
            raise
        expected = f"the arrays {', '.join(keys)}" if keys else "arrays"
        raise DataError(f"{path} must hold {expected} ({error}); delete it and run again") from None


def append_jsonl(path: str | Path, value: Any) -> None:
    """Append one JSON line."""
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(value, allow_nan=False, ensure_ascii=False) + "\n")


def file_sha256(path: str | Path) -> str:
    """The SHA-256 over a file's bytes, 64 hexadecimal digits; read once a process, unless the file changes."""
    facts = os.stat(path)
    return _sha256_of(os.path.realpath(path), (facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns))


@lru_cache(maxsize=64)
def _sha256_of(path: str, version: tuple[int, ...]) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def file_hash(path: str | Path) -> str:
    """The first 16 hexadecimal digits of the SHA-256 over a file's bytes."""
    return file_sha256(path)[:16]
