"""What the record of pseudo-masks says of a run: how they were made, and what else than tags had a part in it."""

from __future__ import annotations

from typing import Any

from maskwright.engine.checkpoint import PRETRAINED, weights_hash
from maskwright.engine.weights import weights_of
from maskwright.runs.context import RunContext
from maskwright.settings import Recipe
from maskwright.weak.refine import REFINEMENTS


def provenance_of(context: RunContext) -> dict[str, Any]:
    """What a run's pseudo-masks must say beside their threshold; see `weak.pseudo_masks.write_pseudo_masks`.

    Raises:
        DataError: the network is missing or damaged.
    """
    recipe, network = context.recipe, context.out.model(context.seed_network)
    record = {
        "method": recipe.seeds.method,
        "seeds": recipe.seeds.model_dump(mode="json"),
        "classifier": recipe.classifier.backbone,
        "weights": weights_hash(network),
        "pretrained": recipe.classifier.pretrained,
        PRETRAINED: weights_of(network),
        "saliency": recipe.data.saliency,
        "networks": recipe.networks,
        "crf": ", ".join(crf_facts(recipe)) or False,
        "refinement": {word: getattr(recipe, word).model_dump(mode="json") for word in recipe.refine},
        "source": context.train.source,
    }
    return {**record, "threshold_from": "tags"} if recipe.pseudo_masks.threshold == "auto" else record


def crf_facts(recipe: Recipe) -> list[str]:
    """Where a dense CRF had a part in the pseudo-masks."""
    found = [REFINEMENTS[word].crf(getattr(recipe, word)) for word in dict.fromkeys(recipe.refine)]
    return [words for words in found if words]
