"""Names of tags that are probably slips: joins of others, a letter too many, other capitals, numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence

from maskwright.data.finding import Finding, number_of

JOINTS = (r"\s*[;,|，、；]\s*", r"\s*[/&+]\s*", r"\s+(?:and|und|et|y)\s+", r"\s+", r"[-_]")
# Marks between tags as a setting names them, since a command line takes some of them for its own.
MARKS = {"comma": ",", "semicolon": ";", "bar": "|", "slash": "/", "ampersand": "&", "plus": "+", "blank": " "}
FREQUENT = 3  # times as many images as the name with a slip has
FEW = 3  # images; with fewer a class is not learned
SHOWN = 8
YAML_WORDS = frozenset(("no", "yes", "on", "off", "null", "true", "false", "y", "n"))


def joined(name: str, names: Collection[str]) -> list[str]:
    """The names that one name joins, as `cup, lid` does; empty where it joins none."""
    for joint in JOINTS:
        parts = [part for part in re.split(joint, name.strip()) if part]
        if len(parts) > 1 and all(part in names and part != name for part in parts):
            return parts
    return []


def rename_words(names: Mapping[str, str]) -> str:
    """The setting that gives tags other names, as it is typed."""

    def word(text: str) -> str:
        simple = re.fullmatch(r"[^\W\d][\w ;-]*", text) and text.casefold() not in ("no", "yes", "on", "off", "null")
        return (
            text
            if simple and text.casefold() not in ("true", "false", "y", "n")
            else json.dumps(text, ensure_ascii=False)
        )

    return "data.rename='{" + ", ".join(f"{word(old)}: {word(new)}" for old, new in names.items()) + "}'"


def join_finding(source: str, names: Sequence[str]) -> Finding | None:
    """The error for classes that are joins of other classes."""
    joins = {name: parts for name in names if (parts := joined(name, names))}
    if not joins:
        return None
    shown = dict(list(joins.items())[:SHOWN])
    listed = ", ".join(repr(name) for name in shown)
    more = f" and {len(joins) - SHOWN} more" if len(joins) > SHOWN else ""
    typed = rename_words({name: ";".join(parts) for name, parts in shown.items()})
    mark = next((word for word, mark in MARKS.items() if all(mark in name for name in joins)), None)
    option = f", or data.options.tag_separator={mark}" if mark else ""
    return Finding(
        "error",
        f"{number_of(len(joins), 'tag')} of {source} {'is a join' if len(joins) == 1 else 'are joins'} of other tags: "
        f"{listed}{more}",
        count=len(joins),
        expected="';' between the tags of an image",
        fix=f"write {';'.join(next(iter(joins.values())))}, or give {typed}{option}; where it is one thing, name all "
        "classes in classes=",
        kind="tag-joined",
    )


def blank_finding(source: str, names: Sequence[str]) -> Finding | None:
    """A warning where tags are made of a few words again and again, which may be tags of their own."""
    several = [name for name in names if " " in name]
    words = {word for name in several for word in name.split()}
    if len(several) < 3 or len(words) >= len(several):
        return None
    return Finding(
        "warning",
        f"{len(several)} tags of {source} are made of {len(words)} words: {', '.join(several[:SHOWN])}",
        count=len(several),
        fix="if each word is a tag, give data.options.tag_separator=blank",
        kind="tag-blanks",
    )


def number_finding(source: str, names: Sequence[str]) -> Finding | None:
    """A warning where tags are numbers, which may stand for names, or words for yes and no, which stand for one."""
    words = {name: "" if name.casefold() in ("no", "false", "n", "f") else "NAME" for name in names}
    if names and all(name.casefold() in YAML_WORDS | {"t", "f"} for name in names):
        return Finding(
            "warning",
            f"the tags of {source} are words for yes and no: {', '.join(names)}; each is a class of its own",
            count=len(names),
            fix=f"say what they tell, as in {rename_words(words)}",
            kind="tag-number",
        )
    if not names or not all(re.fullmatch(r"\d+", name) for name in names):
        return None
    shown = ", ".join(names[:SHOWN])
    return Finding(
        "warning",
        f"the tags of {source} are numbers: {shown}{' ...' if len(names) > SHOWN else ''}; each is a class of its own",
        count=len(names),
        fix=f"give them names, as in {rename_words({name: f'name{name}' for name in names[:2]})}",
        kind="tag-number",
    )


def slips(names: Sequence[str], counts: Sequence[int]) -> tuple[dict[str, str], dict[str, str]]:
    """Tags that are probably meant to be another.

    Args:
        names: of tags.
        counts: images of each.

    Returns:
        Names that differ only in capitals, blanks or dashes from a more frequent one -> that one; and names that are
        one edit (a letter more, less or other, or two swapped) away from a much more frequent one, or from its plural.
    """
    of = dict(zip(names, counts))
    by_count = sorted(names, key=lambda name: (-of[name], name != name.casefold()))
    alike: dict[str, str] = {}
    first: dict[str, str] = {}
    for name in by_count:
        key = "".join(filter(str.isalnum, name.casefold()))
        if key in first:
            alike[name] = first[key]
        first.setdefault(key, name)
    near: dict[str, str] = {}
    edits: dict[str, list[str]] = {}  # all names by what is left of them without one letter, which finds pairs at once
    left = [name for name in by_count if name not in alike]
    for name in left:
        for form in {name.casefold(), *(name.casefold()[:i] + name.casefold()[i + 1 :] for i in range(len(name)))}:
            edits.setdefault(form, []).append(name)
    for group in edits.values():
        for place, name in enumerate(group):
            for other in group[:place]:
                frequent = of[other] >= FREQUENT * max(1, of[name])
                plural = name.casefold() + "s" == other.casefold() or other.casefold() + "s" == name.casefold()
                if min(len(name), len(other)) >= 3 and (frequent or plural) and _one_edit(name, other):
                    near.setdefault(name, other)
    return alike, near


def _one_edit(first: str, second: str) -> bool:
    """Whether one letter more, less or other, or two neighbours swapped, make one name the other; capitals aside."""
    first, second = sorted((first.casefold(), second.casefold()), key=len)
    start = next((i for i, (a, b) in enumerate(zip(first, second)) if a != b), len(first))
    one, two = first[start:], second[start:]
    if len(one) < len(two):
        return one == two[1:]
    return len(one) == len(two) and (one[1:] == two[1:] or (one[:2] == two[1::-1] and one[2:] == two[2:]))
