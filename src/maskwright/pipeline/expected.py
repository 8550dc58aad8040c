"""What a run found against what its recipe expects, stage by stage: the published numbers and how far off they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from maskwright.data.dataset import Dataset
from maskwright.files import read_json
from maskwright.metrics import end_of_sweep
from maskwright.runs.contents import read_log
from maskwright.runs.folder import RunFolder
from maskwright.settings import Recipe


def compare(
    recipe: Recipe,
    out: RunFolder,
    dataset: Dataset,
    map_stages: Sequence[str],
    model: dict[str, Any] | None,
    known: dict[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Scores of a run's stages beside those that its recipe expects.

    A network that is trained on tags counts by its mean average precision of tags. Seeds count at the threshold of the
    sweep where they score best, as papers have it; refined maps at the recipe's own threshold, unless that is tuned on
    ground truth too, or chosen from tags; pseudo-masks as they are.

    Args:
        recipe: `expected`, `tolerance`, `pseudo_masks` and `source` are read.
        out: the run folder.
        dataset: images on whose ground truth the maps are evaluated.
        map_stages: stages of this run that have maps.
        model: scores of the segmenter, or None; those against masks that are not ground truth are left out.
        known: of `evaluate_seeds` on the same images, so that no map need be read again.

    Returns:
        Per stage of `recipe.expected` that the run can evaluate, in the order of their making: `stage`, `score` (what
        is compared), `found`, `threshold` (None where there is none), `end` (of the sweep, where the threshold is at
        one: see `end_of_sweep`), `split`, `images` (None where they were not counted), `expected`, `agrees` (not more
        than the tolerance below).

    Raises:
        DataError: a tagged image has no maps, or maps and masks do not fit.
    """
    from maskwright.weak.labels import sweep
    from maskwright.weak.pseudo_masks import sweep_thresholds

    given = recipe.pseudo_masks.threshold
    rows: list[dict[str, Any]] = []
    where: dict[str, Any]
    for stage in recipe.networks if recipe.supervision != "masks" else []:
        told = [line for line in read_log(out.log(stage)) if line.get("event") == "validate" and "tag_map" in line]
        if stage in recipe.expected and told:
            where = {"split": recipe.data.val, "images": None, "threshold": None, "end": ""}
            rows.append({"stage": stage, "score": "tag mAP", "found": told[-1]["tag_map"], **where})
    judged = sum(dataset.has_mask(index) and dataset.tags(index) is not None for index in range(len(dataset)))
    for stage in map_stages:
        if stage not in recipe.expected or not judged:
            continue
        tuned = stage == "seeds" or isinstance(given, str)
        if known is not None:
            best = known["stages"][stage]["best" if tuned else "default"]
            swept = known["stages"][stage]["sweep"] if tuned else []
        else:
            swept = sweep(dataset, out.maps(stage), sweep_thresholds(recipe.pseudo_masks) if tuned else [float(given)])
            best = max(swept, key=lambda row: row["miou"] or 0.0)
        where = {"split": dataset.source.get("split"), "images": judged}
        end = end_of_sweep(swept, best["threshold"])
        rows.append({"stage": stage, "found": best["miou"], "threshold": best["threshold"], "end": end, **where})
    masks = read_json(out.mask_scores) if "pseudo_masks" in recipe.expected and out.mask_scores.is_file() else {}
    if masks.get("miou") is not None:
        where = {"split": masks["split"], "images": masks["images"], "threshold": masks["threshold"]}
        rows.append({"stage": "pseudo_masks", "found": masks["miou"], "end": "", **where})
    truth = recipe.data.masks_are is None
    if "miou" in recipe.expected and truth and model and model.get("miou") is not None:
        where = {"split": model["split"], "images": model["images"]}
        rows.append({"stage": "miou", "found": model["miou"], "threshold": None, "end": "", **where})
    for row in rows:
        row.setdefault("score", "mIoU")
        row["expected"] = recipe.expected[row["stage"]]
        row["agrees"] = row["found"] >= row["expected"] - recipe.tolerance
    return rows


def compared_lines(rows: Sequence[dict[str, Any]], source: str) -> list[str]:
    """What `compare` found, in words."""
    lines = [f"compared with {source or 'what the recipe expects'}:"] if rows else []
    for row in rows:
        name = "model" if row["stage"] == "miou" else row["stage"]
        at = "" if row["threshold"] is None else f" at threshold {row['threshold']:g}"
        at += f", {row['end']}" if row.get("end") else ""  # scores of earlier versions do not say it
        images = f" ({row['images']} images)" if row["images"] is not None else ""
        off = row["found"] - row["expected"]
        verdict = "agrees" if row["agrees"] else f"{-off:.3f} too low"
        lines.append(
            f"  {name:<20} {row.get('score', 'mIoU')} {row['found']:.3f}  on {row['split']}{images}{at}; "
            f"expected {row['expected']:.3f}: {verdict}"
        )
    return lines
