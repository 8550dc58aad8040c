"""Methods that are compared, and their runs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maskwright.data.dataset import Dataset
from maskwright.runs.folder import RunFolder
from maskwright.settings import Recipe


@dataclass(frozen=True)
class Method:
    """One of the things that are compared.

    Args:
        label: how it is called on the page.
        source: name or file of a recipe; of finished runs, what was given.
        settings: what is changed in the recipe.
        folders: of finished runs; empty for a recipe.
    """

    label: str
    source: str
    settings: tuple[str, ...] = ()
    folders: tuple[Path, ...] = ()


@dataclass
class Job:
    """One run of a method.

    Args:
        method: which.
        recipe: of the run; of a finished one only what says which images it is about and how its maps are evaluated.
        folder: the run folder.
        done: stages whose results belong to the recipe.
        error: why the run, or reading it, failed.
        judged: of `weak.seed_evaluation.evaluate_seeds`; empty without maps.
        train: images that maps are evaluated on.
        val: images that models are evaluated on.
        content: "train", "val" -> what tells these images and their labels from others.
    """

    method: Method
    recipe: Recipe
    folder: RunFolder
    done: set[str] = field(default_factory=set)
    error: str | None = None
    judged: dict[str, Any] = field(default_factory=dict)
    train: Dataset | None = None
    val: Dataset | None = None
    content: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the run, among those of the comparison."""
        return folder_name(f"{self.method.label} {self.folder}") if self.method.folders else self.folder.path.name


def folder_name(label: str) -> str:
    """A label as the name of a folder: letters, digits, dots, and dashes for the rest."""
    return re.sub(r"[^\w.+]+", "-", label).strip("-.") or "method"
