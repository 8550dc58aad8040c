"""mkdocs hook: what `benchmarks/` keeps is part of the site, so that links work there and in the repository alike; and
pages that are read from the program."""

from __future__ import annotations

import sys
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
KEPT = ("benchmarks/README.md", "benchmarks/results/*.md", "benchmarks/*/results/*.md", "benchmarks/*/results/*.png")


def on_files(files, config):
    sys.path.insert(0, str(ROOT / "docs"))
    from reference import PAGES, llms

    for name, made in PAGES.items():
        files.append(File.generated(config, name, content=made()))
    files.append(File.generated(config, "llms.txt", content=llms(config["nav"], config["site_url"] or "")))
    for path in sorted(path for pattern in KEPT for path in ROOT.glob(pattern)):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, **_):
    # In the repository the folder lies beside docs/; on the site it lies among the pages.
    return markdown.replace("](../benchmarks/", "](benchmarks/").replace("../docs/", "../")
