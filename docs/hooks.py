"""mkdocs hook: what `benchmarks/` keeps is part of the site, so that links work there and in the repository alike."""

from __future__ import annotations

from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
KEPT = ("benchmarks/README.md", "benchmarks/results/*.md", "benchmarks/*/results/*.md", "benchmarks/*/results/*.png")


def on_files(files, config):
    for path in sorted(path for pattern in KEPT for path in ROOT.glob(pattern)):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, **_):
    # In the repository the folder lies beside docs/; on the site it lies among the pages.
    return markdown.replace("](../benchmarks/", "](benchmarks/").replace("../docs/", "../")
