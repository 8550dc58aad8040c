"""What is wrong with a set of images and labels, in one form for errors and for the data check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from maskwright.errors import DataError

SHOWN_FILES = 5
SHOWN_NAMES = 8
ASSUMED = "assumed"  # kind of findings that say how something was read that may be read in another way

Level = Literal["error", "warning", "info"]


@dataclass
class Finding:
    """One fact about a data set.

    Args:
        level: "error" where training or its scores would be wrong, "warning" where they may be, else "info".
        what: what was found, with numbers.
        files: the first few files that it was found in.
        count: in how many files, or rows, it was found.
        expected: what should have been found.
        fix: what to do.
        kind: one word or two that findings of one sort share, whatever their numbers.
    """

    level: Level
    what: str
    files: list[str] = field(default_factory=list)
    count: int = 1
    expected: str = ""
    fix: str = ""
    kind: str = ""

    def __post_init__(self) -> None:
        self.files = [str(file) for file in self.files[:SHOWN_FILES]]

    def text(self) -> str:
        """The finding as one paragraph, for an error message."""
        more = self.count - len(self.files)
        files = ", ".join(self.files) + (f" and {more} more" if more > 0 else "") if self.files else ""
        parts = [f"{files}: {self.what}" if files else self.what]
        if self.expected:
            parts.append(f"Expected {self.expected}")
        if self.fix:
            parts.append(f"Fix: {self.fix}")
        return " ".join(part if part[-1] in ".?" else f"{part}." for part in parts)


class Some:
    """The first few of many names, and how many there are.

    Args:
        kept: names that are kept at most.
    """

    def __init__(self, kept: int = SHOWN_NAMES) -> None:
        self.kept, self.first, self.count = kept, list[str](), 0

    def add(self, names: Sequence[str], count: int | None = None) -> None:
        """Add names, or the first few of `count` of them."""
        self.first += names[: max(0, self.kept - len(self.first))]
        self.count += len(names) if count is None else count

    def __len__(self) -> int:
        return self.count


class FindingError(DataError):
    """A finding that stops the reader; built from text alone it has no `finding` (as other processes rebuild it)."""

    def __init__(self, finding: Finding | str) -> None:
        super().__init__(finding.text() if isinstance(finding, Finding) else finding)
        self.finding = finding if isinstance(finding, Finding) else None


def number_of(count: int, noun: str) -> str:
    """A count with its noun: `1 image`, `3 images`, `2 classes`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}{'es' if noun.endswith('s') else 's'}"


def few(names: Sequence[str], shown: int = SHOWN_NAMES) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")


Complain = Callable[[Finding], None]


def refuse(finding: Finding) -> None:
    """What a reader does with a finding outside of the data check: errors stop it, the rest is passed over.

    Raises:
        DataError: the finding is an error.
    """
    if finding.level == "error":
        raise FindingError(finding)
