"""The pages that `make docs` builds: every page is in the navigation, every public name on the page for Python."""

from __future__ import annotations

import importlib.util
import inspect
import re
from pathlib import Path

import maskwright
from maskwright.cli.words import VERBS
from maskwright.recipe.describe import settings_of
from maskwright.recipe.load import build_recipe

ROOT = Path(__file__).parents[1]


def reference():
    """The pages that are read from the program."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_commands_has_every_command_with_its_options():
    sections = dict(zip(VERBS, re.split(r"^## ", reference().commands(), flags=re.M)[1:], strict=True))
    for name, verb in VERBS.items():
        lines = sections[name].splitlines()
        assert lines[0] == f"maskwright {name}"
        assert lines[2] == f"`{f'maskwright {name} {verb.usage}'.strip()}`"
        assert lines[4].endswith("."), "what it does"
        assert re.findall(r"^\| `([\w]+)=`", sections[name], re.M) == list(verb.options)


def test_the_page_of_settings_has_every_setting_once():
    listed = re.findall(r"^\| `([\w.]+)`", reference().settings(), re.M)
    assert listed == sorted(listed, key=listed.index)
    assert len(listed) == len(set(listed))
    assert set(listed) == {setting.key for setting in settings_of(build_recipe({}), every=True)}


def test_the_list_for_machines_names_every_page_of_the_navigation():
    nav = [{"Start": "index.md"}, {"Results": [{"Overview": "results.md"}]}, {"Commands": "commands.md"}]
    lines = reference().llms(nav, "https://example.org/").splitlines()
    assert lines[0] == "# maskwright"
    assert lines[4].startswith("- [Start](https://example.org/index/): Semantic segmentation from image tags")
    assert lines[5].startswith("- [Overview](https://example.org/results/): What we measured")
    assert lines[6] == "- [Commands](https://example.org/commands/): read from the program"


def test_every_page_is_in_the_navigation():
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("nav:")[2]
    named = set(re.findall(r"(\S+\.md)$", nav, re.M))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    pages |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "benchmarks").glob("**/results/*.md")}
    made = set(reference().PAGES)
    assert pages | made | {"benchmarks/README.md"} == named
    assert not pages & made


def test_every_public_name_is_on_the_page_for_python():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    public = {name for name in maskwright.__all__ if callable(getattr(maskwright, name))}
    assert set(re.findall(r"^::: maskwright\.(\w+)$", page, re.M)) == public
    assert all(inspect.getdoc(getattr(maskwright, name)) for name in public)
