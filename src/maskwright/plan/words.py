"""Durations and amounts of memory to read."""

from __future__ import annotations

from maskwright.engine.progress import in_words


def words(seconds: float) -> str:
    """A duration, from milliseconds to days."""
    if seconds < 90:
        return f"{seconds:.3g} s"
    return in_words(seconds) if seconds < 3 * 86400 else f"{seconds / 86400:.0f} days"


def operation_words(count: float) -> str:
    """An amount of multiply-adds, in billions."""
    return f"{count / 1e9:.3g} G"


def size_words(count: float) -> str:
    """An amount of bytes."""
    if count < 2**20:
        return f"{count / 2**10:.0f} kB"
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.0f} MB"
