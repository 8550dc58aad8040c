"""The model card of a run: what a stranger must know of its model before they use it."""

from __future__ import annotations

from typing import Any

import yaml

from maskwright.report.content import cautions, headline, percent, pretrained_words, trained_on
from maskwright.runs.contents import RunContents
from maskwright.version import __version__


def model_card(run: RunContents, metadata: dict[str, Any], address: str) -> str:
    """A README.md for a repository of Hugging Face.

    Args:
        run: its records say what the model learned from and what it scores.
        metadata: of the model file.
        address: that others load it by, `hf:user/name`.
    """
    labels, model = metadata["labels"]["names"], metadata["model"]
    recipe = metadata["recipe"]
    supervision = str(recipe.get("supervision", ""))
    words = {
        "library_name": "maskwright",
        "pipeline_tag": "image-segmentation",
        "tags": ["image-segmentation", "semantic-segmentation", "maskwright", *([supervision] if supervision else [])],
    }
    architecture = f"{model['name']} on {model['backbone']}"
    began = pretrained_words(run)
    weights = [f"- {network}: {text}" for network, text in began.items()]
    parts = [
        f"---\n{yaml.safe_dump(words, sort_keys=False)}---",
        f"# {address.rpartition('/')[2]}",
        f"Semantic segmentation into {len(labels)} classes with {architecture}, trained with maskwright {__version__} "
        f"by the recipe `{recipe.get('name', '')}` (`recipe.yaml`).",
        f"Classes: {', '.join(labels)}.",
        "## What it learned from",
        "\n".join(f"- {term}: {text}" for term, text in trained_on(run)) or "The run does not say.",
        "## Weights that it began with",
        "\n".join(weights) or "None: it was trained from random numbers.",
        "No licence is chosen for this model. Whoever publishes it must, and has to respect those of the images, the "
        "labels and the weights above: add `license:` at the top.",
        "## How well it does",
        _scores(run),
        *(f"**{note['head']}.** {note['text']}" for note in cautions(run)),
        "## What it is for",
        "Images like those that it was trained on, in which these classes are all that matters. Every pixel gets one "
        "of them, also where something else is shown. Nobody has tried it on other images than those named above: look "
        "at its masks of yours before you rely on it, and do not let it decide about people.",
        "## How to use it",
        f'```python\nimport maskwright\n\nprediction = maskwright.load("{address}")("photo.jpg")\n'
        "prediction.mask           # (H, W) label values, whose names are id2label in config.json\n"
        'prediction.save("photo.png")\n```',
        f"Or for a folder: `maskwright predict {address} photos/ out=masks`.",
    ]
    return "\n\n".join(parts) + "\n"


def _scores(run: RunContents) -> str:
    """The headline's numbers, and the model's IoU of each class."""
    tiles = headline(run)
    if not tiles:
        return "It was not scored: there was no ground truth."
    rows = ["| | | measured | how |", "|---|---|---|---|"]
    rows += [
        f"| {tile['name']} | {tile['value']}{tile.get('unit', ' %')} | {tile['where']} | {tile['how']} |"
        for tile in tiles
    ]
    score = run.scores.get("segmenter", {})
    found = score.get("per_class") or {}
    if found:
        rows += ["", f"| class | IoU on {score.get('split') or 'the set'} |", "|---|---|"]
        rows += [f"| {name} | {percent(row.get('iou'))} % |" for name, row in found.items()]
    return "\n".join(rows)
