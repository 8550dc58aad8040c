"""How the process ends: a mistake that the user can fix is one line, a stop says how to resume, a bug shows where."""

from __future__ import annotations

import errno
import gc
import os
import signal
import sys
from types import FrameType

from maskwright.cli.app import Ended
from maskwright.cli.verbs import app
from maskwright.cli.words import VERBS
from maskwright.errors import MaskwrightError, RecipeError
from maskwright.version import __version__

FULL = "the disk is full, or a quota is used up; make room and give the same command again"
IN_WORDS = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
    errno.EFBIG: FULL,
    errno.EROFS: "the file system is read-only; choose another folder with out=",
    errno.EACCES: "permission denied; choose another folder, or ask for the right to use this one",
    errno.EPERM: "permission denied; choose another folder, or ask for the right to use this one",
    errno.ENOTDIR: "a file stands where a folder should be; choose another folder",
    errno.EEXIST: "a file stands where a folder should be; choose another folder",
    errno.EISDIR: "is a folder, expected a file",
    errno.ENOENT: "there is no such file or folder",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n) or lower workers=",
}
# What libraries make of the system's words when they write; torch sees a file that is shorter than what it wrote.
TOLD_BY_LIBRARIES = {
    "unexpected pos": FULL,
    "No space left on device": FULL,
    "File too large": FULL,
    "Disk quota exceeded": FULL,
    "Read-only file system": IN_WORDS[errno.EROFS],
    "Permission denied": IN_WORDS[errno.EACCES],
    "Too many open files": IN_WORDS[errno.EMFILE],
}
OUT_OF_MEMORY = "smaller batches (train.batch_size=, inference.batch_size=), crops or images need less"


MAIN_PROCESS = os.environ.get("RANK", "0") == "0"  # of those that torchrun started
AGAIN = 0.05  # seconds


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


stops: list[KeyboardInterrupt] = []  # that were asked for


def main() -> None:
    """Run the command line.

    Exit codes: 0 done, 1 something failed (its verb says what) or a bug, 2 a mistake in the command, the data or the
    disk, 130 and 143 stopped by SIGINT and SIGTERM.
    """
    if MAIN_PROCESS:  # the others may wait for this one inside of a call that no signal interrupts
        signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # and not ignored, as in a shell's background
        signal.signal(signal.SIGINT, _stop)
    sys.unraisablehook = _unraisable
    try:
        app(prog_name="maskwright")
    except Ended as ended:
        sys.exit(_end(ended.error))
    except (Exception, KeyboardInterrupt) as error:  # a stop may come before the verb begins
        # A library that a stop interrupts may raise an error of its own in its place.
        sys.exit(_end(stops[0] if stops else error))
    finally:
        _end_loaders()
        gc.freeze()  # the process ends: looking through all that torch has built once more would take 0.7 seconds


def _end_loaders() -> None:
    """Kill loader processes that an error left: they do not hear SIGTERM, and Python would wait for them for ever."""
    if "multiprocessing.process" in sys.modules:
        from multiprocessing import active_children

        if hasattr(signal, "SIGCHLD"):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch takes a loader process that is killed for an error
        for process in active_children():
            process.kill()


def _stop(number: int, frame: FrameType | None) -> None:
    stops.append(Terminated() if number == signal.SIGTERM else KeyboardInterrupt())
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)  # for a second one
    raise stops[-1]


def _unraisable(lost: sys.UnraisableHookArgs) -> None:
    """Let a stop that fell into a ``__del__``, from where Python hands nothing on, come again a moment later.

    That of a loader waits for its processes; the stop would be told on the terminal and the run would go on.
    """
    if lost.exc_value not in stops:
        sys.__unraisablehook__(lost)
        return
    from threading import Timer

    number = signal.SIGTERM if isinstance(lost.exc_value, Terminated) else signal.SIGINT
    signal.signal(number, _stop)
    again = Timer(AGAIN, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()


def _end(error: BaseException) -> int:
    """Say what an error means, and give the exit code."""
    if isinstance(error, KeyboardInterrupt):
        if MAIN_PROCESS:
            print(f"\nstopped{_how_to_go_on(sys.argv[1:])}", file=sys.stderr)
        return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)
    text = in_words(error)
    if text is None:
        import traceback  # here, as what only errors need would be a tenth of the time of --help

        traceback.print_exception(error)
        text = (
            f"this is a bug in maskwright {__version__}, not a mistake of yours; please report it with the command and "
            "the lines above"
        )
        print(text, file=sys.stderr)
        return 1
    if MAIN_PROCESS or not isinstance(error, RecipeError):  # of which every process has the same
        print(f"error: {text}", file=sys.stderr)
    return 2


def _how_to_go_on(words: list[str]) -> str:
    verb = VERBS.get(words[0] if words else "") or VERBS.get(" ".join(words[:2]))
    return "; give the same command again to resume" if verb is not None and verb.resumes else ""


def in_words(error: BaseException) -> str | None:
    """What an error says to the person who can mend it; None for a bug."""
    if isinstance(error, MaskwrightError):
        return str(error)
    if isinstance(error, OSError):
        known = IN_WORDS.get(error.errno or 0)
        folder = os.path.dirname(str(error.filename))
        if error.errno == errno.ENOENT and folder and not os.path.isdir(folder):
            known = f"the folder {folder} does not exist"
        return f"{_path(error)}{known}" if known else str(error) or type(error).__name__
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        where = "GPU memory" if type(error).__name__ == "OutOfMemoryError" else "memory"
        return f"out of {where}; {OUT_OF_MEMORY}"
    told = next((text for sign, text in TOLD_BY_LIBRARIES.items() if sign in str(error)), None)
    if told is None and "can't allocate memory" in str(error):
        told = f"out of memory; {OUT_OF_MEMORY}"
    return told


def _path(error: OSError) -> str:
    """The file that an error is about, by the name that it would have had."""
    if not isinstance(error.filename, str):
        return ""
    from maskwright.files import TEMPORARY

    folder, name = os.path.split(error.filename)
    return f"{os.path.join(folder, TEMPORARY.sub(lambda found: found[1] + (found[3] or ''), name))}: "
