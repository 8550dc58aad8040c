"""Pages of the site that are read from the program itself: commands, settings, and a list of all pages for machines."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from maskwright.cli import verbs
from maskwright.cli.words import EVERY, VERBS
from maskwright.recipe.describe import Setting, settings_of
from maskwright.recipe.load import SHORT_KEYS, build_recipe

DOCS = Path(__file__).parent
SITE = "maskwright: semantic segmentation from image tags, pixel masks, or both"


def commands() -> str:
    """Every command: what it does, its words, options, and which settings it reads."""
    lines = ["# Commands", "", "Read from the program. `maskwright COMMAND --help` shows the same.", ""]
    for name, verb in VERBS.items():
        lines += [f"## maskwright {name}", "", f"`maskwright {name} {verb.usage}`".replace(" `", "`"), ""]
        lines += [inspect.cleandoc(_function(name).__doc__ or ""), ""]
        if verb.options:
            lines += ["| option | default | meaning |", "|---|---|---|"]
            lines += [
                f"| `{key}=` | {_default(option.default)} | {_cell(option.meaning)} |"
                for key, option in verb.options.items()
            ]
            lines.append("")
        if verb.settings == EVERY:
            lines += ["Every [setting](settings.md) of a recipe may follow as `key=value`.", ""]
        elif verb.settings:
            blocks = ", ".join(f"`{block}`" for block in verb.settings)
            lines += [f"Of a recipe's [settings](settings.md) it reads {blocks}.", ""]
        if verb.resumes:
            lines += ["The same command again goes on where it stopped.", ""]
    return "\n".join(lines)


def settings() -> str:
    """Every setting of a recipe, block by block."""
    short = {key: name for name, key in SHORT_KEYS.items()}
    lines = [
        "# Settings",
        "",
        "Read from the program: all that a recipe may say and `key=value` may set, with the default where a recipe "
        "says nothing. `maskwright settings RECIPE` lists those of one recipe with its values.",
        "",
    ]
    blocks: dict[str, list[Setting]] = {}
    for setting in settings_of(build_recipe({}), every=True):
        block = setting.key.rpartition(".")[0]
        blocks.setdefault(block, []).append(setting)
    for block, rows in blocks.items():
        lines += [f"## {block or 'of the run'}", "", "| setting | values | default | meaning |", "|---|---|---|---|"]
        for row in rows:
            also = f", `{short[row.key]}`" if row.key in short else ""
            default = f"`{row.default}`" if row.default else ""
            lines.append(f"| `{row.key}`{also} | {_cell(row.kind)} | {_cell(default)} | {_cell(row.meaning)} |")
        lines.append("")
    return "\n".join(lines)


def llms(nav: list[Any], address: str = "") -> str:
    """`llms.txt`: every page with its address and first sentence.

    Args:
        nav: of `mkdocs.yml`.
        address: of the site.
    """
    lines = [f"# {SITE.partition(':')[0]}", "", f"> {SITE.partition(': ')[2]}", ""]
    for title, page in _pages(nav):
        path = DOCS / page if (DOCS / page).is_file() else DOCS.parent / page
        about = _first_sentence(path.read_text(encoding="utf-8")) if path.is_file() else "read from the program"
        lines.append(f"- [{title}]({address}{page.removesuffix('.md')}/)" + (f": {about}" if about else ""))
    return "\n".join(lines) + "\n"


PAGES: dict[str, Callable[[], str]] = {"commands.md": commands, "settings.md": settings}


def _function(name: str) -> Any:
    return getattr(verbs, name.replace(" ", "_").replace("-", "_"))


def _default(value: Any) -> str:
    if value is None:
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _pages(nav: list[Any]) -> Iterator[tuple[str, str]]:
    for entry in nav:
        for title, inside in entry.items():
            if isinstance(inside, str):
                yield title, inside
            else:
                yield from _pages(inside)


def _first_sentence(text: str) -> str:
    """Of the first paragraph that is no heading, picture, table or code."""
    for paragraph in re.split(r"\n\s*\n", text):
        words = " ".join(paragraph.split())
        if words and words[0] not in "#!|`<*-" and not words.startswith(("Made by", "    ")):
            return re.split(r"(?<=[.:])\s", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", words))[0].rstrip(":")
    return ""
