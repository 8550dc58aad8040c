"""Maps in, maps out, by the word that a recipe's `refine` names them with. A new one is one file and one line."""

from __future__ import annotations

from maskwright.runs.context import RunContext
from maskwright.runs.stages import Stage
from maskwright.settings import Recipe
from maskwright.weak.refine.crf_maps import CRF
from maskwright.weak.refine.irn_stages import IRN
from maskwright.weak.refine.psa import PSA
from maskwright.weak.refine.refinement import Refinement
from maskwright.weak.refine.saliency_maps import SALIENCY
from maskwright.weak.refine.threshold import threshold_stage

REFINEMENTS: dict[str, Refinement] = {"irn": IRN, "psa": PSA, "crf": CRF, "saliency_background": SALIENCY}


def suffixed(recipe: Recipe) -> list[tuple[str, str]]:
    """The words of a recipe's `refine` in its order, each with what stands at the end of its stages' names."""
    found = []
    for place, word in enumerate(recipe.refine):
        times = recipe.refine[: place + 1].count(word)
        found.append((word, "" if times == 1 else f"-{times}"))
    return found


def network_stage_names(recipe: Recipe) -> list[str]:
    """The stages that train the networks of a recipe's refinements."""
    return [REFINEMENTS[word].network + suffix for word, suffix in suffixed(recipe) if REFINEMENTS[word].network]


def refinement_stages(context: RunContext) -> tuple[list[Stage], str]:
    """The stages of the recipe's `refine`, in its order, and the name of the last stage that has maps.

    Raises:
        RecipeError: settings that do not go together.
    """
    stages: list[Stage] = []
    source = "seeds"
    unknown = context.recipe.pseudo_masks.threshold == "auto"
    for word, suffix in suffixed(context.recipe):
        refinement = REFINEMENTS[word]
        if unknown and refinement.reads_threshold:
            stages.append(threshold_stage(context, source))
            unknown = False
        stages += refinement.stages(context, getattr(context.recipe, word), source, suffix)
        stages[-1].label = refinement.title + suffix.replace("-", " ")
        source = stages[-1].name
    if unknown:
        stages.append(threshold_stage(context, source))
    return stages, source
