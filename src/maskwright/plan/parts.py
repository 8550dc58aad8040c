"""What a plan says of a run that labels in one pass, from estimates of the stages that do the same by way of files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from maskwright.runs.context import RunContext
from maskwright.runs.stages import Stage
from maskwright.weak.engines.job import devices
from maskwright.weak.networks.frozen import is_frozen
from maskwright.weak.refine import network_stage_names

Estimate = tuple[float, float, float]  # seconds, bytes of memory, bytes on disk


def in_parts(found: dict[str, Estimate], stages: Sequence[Stage], context: RunContext) -> dict[str, Estimate]:
    """Stages with maps as files work on a sample, and the last one does for all images what they do.

    Args:
        found: estimates of the stages by way of files.
        stages: of the run.
        context: of the run.
    """
    sharing, recipe = context.one_pass, context.recipe
    if sharing is None or "pseudo_masks" not in found:
        return found
    names = [stage.name for stage in stages]
    of_maps = names[len(recipe.networks) : names.index("pseudo_masks")]
    of_maps = [name for name in of_maps if name not in network_stage_names(recipe) and name in found]
    whole = sum(found[name][0] for name in of_maps if name not in ("threshold", "ir_labels"))
    if is_frozen(recipe) and recipe.networks[0] in found:
        whole += found[recipe.networks[0]][0]  # which makes the maps of the backbone, as the parts do
    share = min(1.0, sharing.sample / max(1, len(context.train)))
    result = dict(found)
    for name in of_maps:
        seconds, memory, disk = found[name]
        result[name] = (seconds if name == "threshold" else seconds * share, memory, disk * share)
    workers = len(devices(replace(sharing, device=recipe.device)))
    seconds, memory, disk = found["pseudo_masks"]
    most = max(memory, *(found[name][1] for name in of_maps))
    result["pseudo_masks"] = ((seconds + whole) / workers, most * workers, disk)
    return result
