"""The stages that turn tags into masks: networks, seeds, refinements, pseudo-masks."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from maskwright.engine import distributed
from maskwright.engine.checkpoint import MODEL
from maskwright.errors import RecipeError
from maskwright.metrics import end_of_sweep
from maskwright.models.classifier import load_classifier
from maskwright.runs.context import RunContext
from maskwright.runs.folder import CLASSES, CONFIDENCE, MAPS, MASKS, PROVENANCE, SCORES
from maskwright.runs.stages import Stage, effective
from maskwright.weak import extract_seeds
from maskwright.weak.networks import NETWORKS
from maskwright.weak.networks.frozen import frozen_store, is_frozen
from maskwright.weak.one_pass.stage import label_in_parts, part_files
from maskwright.weak.provenance import provenance_of
from maskwright.weak.pseudo_masks import write_pseudo_masks
from maskwright.weak.refine import REFINEMENTS, refinement_stages
from maskwright.weak.refine.threshold import chosen_threshold

VIEWS = ("size", "scales", "flip")


def label_stages(context: RunContext) -> list[Stage]:
    """The stages up to the pseudo-masks, in order; the last but one makes the maps that masks are made of.

    Where images are labelled in one pass, maps are made as files of a sample alone, for the threshold, for what is
    learned from maps, and for eyes.

    Raises:
        DataError: a split that does not exist.
        RecipeError: settings that do not go together.
    """
    _ = context.judged  # a split that is not there should be known before the work, not after it
    recipe = context.recipe
    networks = network_stages(context)
    one_pass, whole, context = context.one_pass, context, context.sampled
    sample = {} if one_pass is None else {"sample": one_pass.sample}
    seeds = Stage(
        "seeds",
        f"seed maps from the network ({recipe.seeds.method})",
        partial(make_seeds, context),
        {"seeds": effective(recipe.seeds), **sample},
        (context.seed_network,),
        each=partial(context.each_image, f"{MAPS}/{{}}.npz"),
    )
    refinements, map_stage = refinement_stages(context)
    needs = (map_stage, "threshold") if recipe.pseudo_masks.threshold == "auto" else (map_stage,)
    settings, results = {"pseudo_masks": effective(recipe.pseudo_masks)}, (SCORES, PROVENANCE, CLASSES)
    every = partial(context.each_image, f"{CONFIDENCE}/{{}}.png", f"{MASKS}/{{}}.png")
    if one_pass is None:
        make = partial(make_pseudo_masks, context, map_stage)
        masks = Stage("pseudo_masks", "maps to pseudo-masks", make, settings, needs, results=results, each=every)
    else:
        if recipe.pseudo_masks.threshold == "best":
            raise RecipeError(
                "pseudo_masks.threshold=best compares maps of all images, which are not kept where they are labelled "
                "in one pass; give auto, or a number"
            )
        lacking = [word for word in recipe.refine if REFINEMENTS[word].refiner is None]
        if lacking:
            raise RecipeError(
                f"refine=[{lacking[0]}] works on folders of maps alone, which are not kept where images are labelled "
                "in one pass; leave it out, or label a folder without engine="
            )
        make = partial(label_in_parts, whole)
        settings |= {"one_pass": one_pass.facts(whole.has_shards), "data": whole.train_facts}
        every = partial(part_files, whole)
        title = "images to pseudo-masks, part by part"
        masks = Stage("pseudo_masks", title, make, settings, needs, results=results, each=every)
    return [*networks, seeds, *refinements, masks]


def network_stages(context: RunContext) -> list[Stage]:
    """One stage for each of the recipe's networks; each starts from the one before."""
    recipe = context.recipe
    stages: list[Stage] = []
    for before, word in zip([None, *recipe.networks], recipe.networks, strict=False):
        settings = {word: effective(getattr(recipe, word)), "seed": recipe.random_seed}
        if getattr(recipe, word).train.frozen:  # fitted on the views that maps are taken of
            settings["views"] = {key: value for key, value in effective(recipe.seeds).items() if key in VIEWS}
        if recipe.seeds.accumulate != "none" and word == context.seed_network:
            settings["snapshots"] = True
        if before is None:
            backbone = recipe.classifier if word == "classifier" else recipe.classifier.without_training()
            settings = {"data": context.train_facts, "classifier": effective(backbone), **settings}
        if word != "classifier":
            settings |= context.saliency_facts
        needs = () if before is None else (before,)
        work = partial(_train_network, context, word, before)
        stages.append(Stage(word, NETWORKS[word].title, work, settings, needs, results=(MODEL,)))
    return stages


def _train_network(context: RunContext, word: str, before: str | None, folder: Path) -> None:
    start = None if before is None else context.out.model(before)
    recipe = context.recipe
    NETWORKS[word].train(recipe, getattr(recipe, word), start, context.train, context.val, folder, context.device)


def make_seeds(context: RunContext, folder: Path) -> None:
    """The stage `seeds`: maps of the last network."""
    classifier = load_classifier(context.out.model(context.seed_network)).to(context.device)
    recipe, train, device = context.recipe, context.train, context.device
    store = frozen_store(recipe, classifier, train, context.out, device) if is_frozen(recipe) else None
    models = context.out.epochs(context.seed_network)
    extract_seeds(train, classifier, recipe.seeds, folder, device, store=store, models=models)


def make_pseudo_masks(context: RunContext, map_stage: str, folder: Path) -> None:
    """The stage `pseudo_masks`: masks of the maps that stage `map_stage` made, with what shaped them."""
    if not distributed.is_main():
        return
    provenance, settings = provenance_of(context), context.recipe.pseudo_masks
    if settings.threshold == "auto":
        settings = settings.model_copy(update={"threshold": chosen_threshold(context)})
    scores = write_pseudo_masks(context.train, context.out.maps(map_stage), settings, folder, provenance)
    if scores["miou"] is not None:
        end = end_of_sweep(scores["sweep"], scores["best_threshold"])
        context.say(
            f"    pseudo-masks: mIoU {scores['miou']:.3f} on {scores['split']} at threshold {scores['threshold']:.2f} "
            f"(best {scores['best_threshold']:.2f}{end and ', ' + end})"
        )
