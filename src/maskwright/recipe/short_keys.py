"""What a person types most, spelled short: `data=photos/ tags=tags.csv backbone=resnet50`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from maskwright.errors import RecipeError

SHORT_KEYS = {
    "data": "data.root",
    "layout": "data.layout",
    "masks": "data.masks",
    "masks_are": "data.masks_are",
    "classes": "data.classes",
    "tags": "data.tags",
    "saliency": "data.saliency",
    "background": "data.background",
    "split": "data.val",
    "epochs": "train.epochs",
    "steps": "train.steps",
    "batch_size": "train.batch_size",
    "lr": "train.lr",
    "workers": "train.workers",
    "backbone": "model.backbone",
    "pretrained": "model.pretrained",
}
# In a recipe with tags: what is set in every network, in every training, and what must say which training it means.
OF_NETWORKS = ("backbone", "pretrained")
OF_TRAININGS = ("workers",)
OF_ONE_TRAINING = ("epochs", "steps", "batch_size", "lr")


def spelled_out(fields: Mapping[str, Any], overrides: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Overrides in full, each with how it was typed.

    In a recipe with tags `backbone` and `pretrained` set every network of the chain, `workers` every training; what is
    typed in full wins over them, wherever it stands.

    Args:
        fields: of the recipe, all overrides included.
        overrides: `key=value`, as typed.

    Raises:
        RecipeError: a setting of one training in a recipe that has several, or weights of one network for backbones
            that differ.
    """
    from maskwright.weak.refine import REFINEMENTS  # not at the top: it takes PyTorch

    pairs = [(text.partition("=")[0].strip(), text) for text in overrides]
    if fields.get("supervision", "masks") == "masks":
        yield from (((SHORT_KEYS.get(key, key) + text[len(text.partition("=")[0]) :]), text) for key, text in pairs)
        return
    refine = fields.get("refine") or []
    trained = [word for word in REFINEMENTS if word in refine and REFINEMENTS[word].network]
    networks = [word for word in fields.get("networks") or ["classifier"] if isinstance(word, str)]
    trainings = {**{word: f"{word}.train" for word in [*networks, *trained]}, "segmenter": "train"}
    rest = []
    for key, text in pairs:
        value = text.partition("=")[2]
        if key in OF_ONE_TRAINING:
            choices = [f"{where}.{key}={value} ({name})" for name, where in trainings.items()]
            raise RecipeError(
                f"{text}: this recipe trains {len(trainings)} networks; say which is meant: {', '.join(choices)}"
            )
        blocks = ["classifier", *trained, "model"]
        if key == "pretrained" and value == "classifier":
            blocks.remove("classifier")
        if key in OF_NETWORKS:
            yield from ((f"{block}.{key}={value}", text) for block in blocks)
        elif key in OF_TRAININGS:
            yield from ((f"{where}.{key}={value}", text) for where in trainings.values())
        else:
            rest.append((f"{SHORT_KEYS.get(key, key)}={value}" if "=" in text else text, text))
    yield from rest
