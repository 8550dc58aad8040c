"""The house has one way down: no import climbs, no files import each other in a circle, few rooms at the top."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import maskwright

ROOT = Path(maskwright.__file__).parent

# From the ground up. A file imports from its own room and from rooms on lower floors.
FLOORS = (
    ("errors", "version", "_torchvision_guard"),
    ("files", "cpu"),
    ("settings", "crf"),
    ("data",),
    ("formats",),
    ("losses", "metrics", "engine"),
    ("models",),
    ("runs",),
    ("inference",),
    ("report",),
    ("weak",),
    ("recipe",),
    ("pipeline",),
    ("studies", "plan"),
    ("cli",),
    ("__init__", "__main__"),
)
MOST_ROOMS = 24


def files() -> dict[str, Path]:
    """Every module by its dotted name below `maskwright`; a package by its own."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return found


def imports(path: Path, known: set[str]) -> Iterator[tuple[str, int]]:
    """Modules that a file imports anywhere, for types only as well, with the line; a name from a package's own
    `__init__` is an import of the package."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            targets = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            if target.split(".")[0] != "maskwright":
                continue
            name = target.removeprefix("maskwright").lstrip(".")
            while name and name not in known:
                name = name.rpartition(".")[0]
            yield name or "__init__", node.lineno


MODULES = files()
ARROWS = [
    (name, target, line)
    for name, path in MODULES.items()
    for target, line in imports(path, set(MODULES))
    if target != name
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def room(name: str) -> str:
    return name.partition(".")[0]


def climbing(arrows: list[tuple[str, str, int]]) -> list[str]:
    """Imports from a room to another that is not below it."""
    return [
        f"{name}:{line} imports {target}"
        for name, target, line in arrows
        if room(name) != room(target) and FLOOR[room(name)] <= FLOOR[room(target)]
    ]


def circles(arrows: list[tuple[str, str, int]]) -> list[list[str]]:
    """Groups of files each of which imports all others, directly or through others."""
    names = {name for arrow in arrows for name in arrow[:2]}
    reach: dict[str, set[str]] = {name: set() for name in names}
    for name, target, _ in arrows:
        reach[name].add(target)
    for middle in names:
        for name in names:
            if middle in reach[name]:
                reach[name] |= reach[middle]
    groups = {frozenset(other for other in names if other in reach[name] and name in reach[other]) for name in names}
    return sorted(sorted(group) for group in groups if group)


def test_every_room_has_a_floor():
    found = {room(name) for name in MODULES}
    assert found == set(FLOOR), f"rooms without a floor: {found - set(FLOOR)}; floors of no room: {set(FLOOR) - found}"


def test_few_rooms_at_the_top():
    entries = {path.name for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert len(entries) <= MOST_ROOMS, sorted(entries)


def test_no_import_climbs():
    assert climbing(ARROWS) == []


def test_no_circle_of_files():
    assert circles(ARROWS) == []


@pytest.mark.parametrize(
    ("arrow", "found"),
    [
        (("data.masks", "weak.labels", 1), 1),
        (("weak.labels", "data.masks", 1), 0),
        (("losses.cpp", "engine.fit", 1), 1),
    ],
)
def test_a_climbing_import_would_be_seen(arrow, found):
    assert len(climbing([arrow])) == found


def test_a_circle_would_be_seen():
    arrows = [("data.a", "data.b", 1), ("data.b", "data.c", 1), ("data.c", "data.a", 1), ("data.d", "data.a", 1)]
    assert circles(arrows) == [["data.a", "data.b", "data.c"]]
