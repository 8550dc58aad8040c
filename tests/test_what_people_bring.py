"""What people bring: every kind of table, layout, image and mask gives the right value, or is refused with the fix."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskwright.data import Dataset, open_dataset
from maskwright.data.check import check
from maskwright.data.finding import Finding
from maskwright.errors import DataError
from maskwright.settings import DataSettings

SIZE = (40, 48)


@dataclass(frozen=True)
class Variant:
    """One way to bring a set.

    Args:
        draw: writes it into an empty folder.
        gives: what reading it must give, by a key of `SHOWN`.
        refused: pattern of the error that `data check` lists and that stops a reader; empty where the set is fit.
        said: patterns that a warning or a note of `data check` must have.
        settings: of the data, besides the folder.
    """

    draw: Callable[[Path], object]
    gives: dict[str, Any] = field(default_factory=dict)
    refused: str = ""
    said: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)


def _tags(data: Dataset) -> dict[str, str | None]:
    tags = {name: data.tags(index) for index, name in enumerate(data.names)}
    return {
        name: None if row is None else " ".join(data.labels.names[value] for value in row) for name, row in tags.items()
    }


def _masks(data: Dataset) -> dict[str, list[int] | None]:
    masks = {name: data.mask(index) for index, name in enumerate(data.names)}
    return {name: None if mask is None else np.unique(mask).tolist() for name, mask in masks.items()}


# What a variant can state, and how it is read from the set.
SHOWN: dict[str, Callable[[Dataset], Any]] = {
    "names": lambda data: list(data.names),
    "classes": lambda data: " ".join(data.labels.names),
    "tags": _tags,
    "masks": _masks,
}


def picture(path: Path, seed: int = 0) -> Path:
    """A photograph of noise, other for every seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)).save(path)
    return path


def mask(path: Path, values: tuple[int, ...] = (0, 1)) -> Path:
    """An 8-bit mask that holds each of the values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.resize(np.array(values, np.uint8), SIZE)).save(path)
    return path


def pictures(*places: str) -> Callable[[Path], Any]:
    return lambda root: [picture(root / place, seed) for seed, place in enumerate(places)]


def masks(*places: str, values: tuple[int, ...] = (0, 1)) -> Callable[[Path], Any]:
    return lambda root: [mask(root / place, values) for place in places]


def text(place: str, content: str | bytes) -> Callable[[Path], Any]:
    data = content.encode() if isinstance(content, str) else content
    return lambda root: (root / place).write_bytes(data)


def both(*draws: Callable[[Path], Any]) -> Callable[[Path], Any]:
    return lambda root: [draw(root) for draw in draws]


PHOTOS = ("images/a.jpg", "images/b.jpg", "images/c.jpg", "images/d.jpg")
TAGGED = {"classes": "background cup lid", "tags": {"a": "cup", "b": "lid", "c": "cup lid", "d": ""}}


def table(content: str | bytes, name: str = "tags.csv") -> Callable[[Path], Any]:
    """Four photographs, and a table of their tags."""
    return both(pictures(*PHOTOS), text(name, content))


TABLES = {
    "semicolons in a cell": Variant(
        table("image,tags\na.jpg,cup\nb.jpg,lid\nc.jpg,cup;lid\nd.jpg,\n"), TAGGED, settings={"tags": "tags.csv"}
    ),
}

LAYOUTS = {
    "images and masks": Variant(
        both(pictures("images/a.jpg", "images/b.jpg"), masks("masks/a.png", "masks/b.png", values=(0, 1, 2))),
        {"names": ["a", "b"], "masks": {"a": [0, 1, 2], "b": [0, 1, 2]}},
    ),
}

IMAGES: dict[str, Variant] = {}

MASKS: dict[str, Variant] = {}

VARIANTS = {**TABLES, **LAYOUTS, **IMAGES, **MASKS}


@pytest.mark.parametrize("name", VARIANTS)
def test_what_people_bring(tmp_path, name):
    variant = VARIANTS[name]
    variant.draw(tmp_path)
    settings = DataSettings(root=str(tmp_path), **variant.settings)
    findings = check(settings, ["all"])
    errors = [finding.text() for finding in findings if finding.level == "error"]
    if variant.refused:
        assert any(re.search(variant.refused, error) for error in errors), errors
        with pytest.raises(DataError, match=variant.refused):
            _read(settings)
        return
    assert not errors, errors
    data = _read(settings)
    assert {key: SHOWN[key](data) for key in variant.gives} == variant.gives
    said = [_plain(finding) for finding in findings if finding.level != "error"]
    for pattern in variant.said:
        assert any(re.search(pattern, line) for line in said), said


def _read(settings: DataSettings) -> Dataset:
    """The set, every example of which was read."""
    data = open_dataset(settings, "all")
    for index in range(len(data)):
        _ = data[index]
    return data


def _plain(finding: Finding) -> str:
    return f"{finding.level}: {finding.text()}"


def test_the_variants_have_names_of_their_own():
    assert len(VARIANTS) == sum(map(len, (TABLES, LAYOUTS, IMAGES, MASKS)))
