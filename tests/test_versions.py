"""The oldest versions that are allowed are those that are tried, and so are the newest."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch.torch_version import TorchVersion

from maskwright.errors import RecipeError
from maskwright.inference.export import FORMATS, export_model

ROOT = Path(__file__).parents[1]
REQUIREMENT = re.compile(r"^([A-Za-z0-9_.-]+)(?:\[\w+\])?\s*>=\s*([\d.]+)")
EXTRAS = ("dev", "excel", "export", "formats", "heic", "stores")  # that are installed for `make test-oldest`
NO_TESTS = ("ruff", "mypy")  # of `dev`


def lower_bounds() -> dict[str, str]:
    """Name -> the oldest version that pyproject.toml allows, of what `make test-oldest` installs."""
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    texts = [*project["dependencies"], *(text for extra in EXTRAS for text in extras[extra])]
    found = [REQUIREMENT.match(text) for text in reversed(texts)]  # an extra may ask for more than all do
    return {match[1]: match[2] for match in found if match and match[1] not in NO_TESTS}


def pins(name: str) -> dict[str, str]:
    """Name -> version, of a file of constraints."""
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def padded(text: str) -> list[int]:
    numbers = [int(number) for number in text.split(".")]
    return numbers + [0] * (4 - len(numbers))


def test_the_oldest_versions_that_are_allowed_are_tried():
    bounds, oldest = lower_bounds(), pins("constraints-oldest.txt")
    assert {"torch", "timm", "numpy", "typer", "onnx"} <= bounds.keys()
    tried = {name: oldest.get(name, "0") for name in bounds}
    differ = {name: (bound, tried[name]) for name, bound in bounds.items() if padded(bound) != padded(tried[name])}
    assert not differ, "pyproject.toml and constraints-oldest.txt, by name"


def test_no_version_that_is_pinned_is_older_than_what_is_allowed():
    bounds, newest = lower_bounds(), pins("constraints.txt")
    assert {"torch", "timm"} <= newest.keys()
    assert not [name for name, bound in bounds.items() if padded(newest.get(name, bound)) < padded(bound)]


@pytest.mark.parametrize(("name", "file"), [("onnx", "model.onnx"), ("torch-export", "model.pt2")])
def test_a_torch_that_is_too_old_for_a_form_is_said(name, file, monkeypatch, tmp_path):
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.8.0+cpu"))
    with pytest.raises(RecipeError, match=f"format={name} needs torch {FORMATS[name].torch} or newer, found 2.8.0"):
        export_model(None, name, tmp_path / file, [])
