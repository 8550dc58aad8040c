"""The pages that `make docs` builds: every page is in the navigation, every public name on the page for Python."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import maskwright

ROOT = Path(__file__).parents[1]


def test_every_page_is_in_the_navigation():
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("nav:")[2]
    named = set(re.findall(r"(\S+\.md)$", nav, re.M))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    pages |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "benchmarks").glob("**/results/*.md")}
    assert pages | {"benchmarks/README.md"} == named


def test_every_public_name_is_on_the_page_for_python():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    public = {name for name in maskwright.__all__ if callable(getattr(maskwright, name))}
    assert set(re.findall(r"^::: maskwright\.(\w+)$", page, re.M)) == public
    assert all(inspect.getdoc(getattr(maskwright, name)) for name in public)
