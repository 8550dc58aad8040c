"""What is wrong with a set of images and labels, in one form for errors and for the data check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from maskwright.errors import DataError

SHOWN_FILES = 5


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
    """

    level: Literal["error", "warning", "info"]
    what: str
    files: list[str] = field(default_factory=list)
    count: int = 1
    expected: str = ""
    fix: str = ""

    def __post_init__(self) -> None:
        self.files = [str(file) for file in self.files[:SHOWN_FILES]]

    def text(self) -> str:
        """The finding as one paragraph, for an error message."""
        more = self.count - len(self.files)
        files = ", ".join(self.files) + (f" and {more} more" if more > 0 else "") if self.files else ""
        parts = [f"{files}: {self.what}" if files else self.what]
        if self.expected:
            parts.append(f"Expected {self.expected}.")
        if self.fix:
            parts.append(f"Fix: {self.fix}")
        return parts[0].rstrip(".") + "." + "".join(f" {part}" for part in parts[1:])


Complain = Callable[[Finding], None]


def refuse(finding: Finding) -> None:
    """What a reader does with a finding outside of the data check: errors stop it, the rest is passed over.

    Raises:
        DataError: the finding is an error.
    """
    if finding.level == "error":
        raise DataError(finding.text())
