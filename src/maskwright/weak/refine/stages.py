"""The stages that refine maps, maps in and maps out, in any order: IRN, a dense CRF, saliency.

IRN is four stages: IR labels -> IRNet -> edges -> walked maps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maskwright.errors import RecipeError
from maskwright.runs.context import RunContext
from maskwright.runs.stages import Stage, effective
from maskwright.settings import Recipe

# Which settings of `irn` each stage's result depends on, so that a changed exponent walks again without the network.
LABEL_SETTINGS = ("foreground_threshold", "background_threshold", "crf", "crf_scale")
NETWORK_SETTINGS = ("backbone", "pretrained", "output_stride", "options", "train", "displacement_lr", "train_radius")
WALK_SETTINGS = ("cam_power", "radius", "beta", "exp_times", "tolerance")


def refinement_stages(context: RunContext) -> tuple[list[Stage], str]:
    """The stages of the recipe's `refine`, in its order, and the name of the last stage that has maps.

    Raises:
        RecipeError: IRNet is to start from the tag classifier but has another backbone.
    """
    stages: list[Stage] = []
    source = "seeds"
    words = context.recipe.refine
    for place, word in enumerate(words):
        times = words[: place + 1].count(word)
        suffix = "" if times == 1 else f"-{times}"
        stages += REFINEMENTS[word](context, source, suffix)
        source = stages[-1].name
    return stages, source


def irn_stages(context: RunContext, source: str, suffix: str) -> list[Stage]:
    """The four stages of IRN on the maps of stage `source`."""
    irn, classifier = context.recipe.irn, context.recipe.classifier
    if irn.pretrained == "classifier" and irn.backbone != classifier.backbone:
        raise RecipeError(
            "irn.pretrained=classifier takes the tag classifier's backbone as the trunk: set irn.backbone="
            f"{classifier.backbone}, found {irn.backbone}; or give irn.pretrained=true or a file"
        )
    settings = effective(irn)

    def chosen(names: tuple[str, ...]) -> dict[str, Any]:
        return {name: settings[name] for name in names if name in settings}

    labels, net, edges, walked = (name + suffix for name in ("ir_labels", "irnet", "edges", "irn"))
    return [
        Stage(
            labels,
            "certain pixels from the maps",
            lambda folder: _labels(context, source, folder),
            chosen(LABEL_SETTINGS),
            (source,),
        ),
        Stage(
            net,
            "train IRNet on the certain pixels",
            lambda folder: _train(context, labels, folder),
            {"irn": chosen(NETWORK_SETTINGS), "seed": context.recipe.seed},
            (labels, context.seed_network),
        ),
        Stage(
            edges,
            "edges between objects",
            lambda folder: _edges(context, net, folder),
            {"pad_to": irn.pad_to, "size": context.recipe.seeds.size},
            (net,),
        ),
        Stage(
            walked,
            "maps refined by a random walk",
            lambda folder: _walk(context, source, edges, folder),
            chosen(WALK_SETTINGS),
            (source, edges),
        ),
    ]


def crf_stages(context: RunContext, source: str, suffix: str) -> list[Stage]:
    """The dense CRF on the maps of stage `source`."""
    background = crf_background(context.recipe)

    def run(folder: Path) -> None:
        from maskwright.weak.refine.crf_maps import crf_folder

        crf_folder(
            context.train,
            context.out / source / "maps",
            context.recipe.crf,
            folder / "maps",
            context.device,
            background=background,
            size=context.recipe.seeds.size,
        )

    settings = {**effective(context.recipe.crf), "background": background, "size": context.recipe.seeds.size}
    return [Stage(f"crf{suffix}", "maps through a dense CRF", run, settings, (source,))]


def crf_background(recipe: Recipe) -> float:
    """The background's score in the CRF: its own setting, else the threshold that masks are made with."""
    return recipe.crf.background or mask_threshold(recipe)


def saliency_stages(context: RunContext, source: str, suffix: str) -> list[Stage]:
    """Saliency maps that overrule the maps of stage `source`."""
    threshold = mask_threshold(context.recipe)

    def run(folder: Path) -> None:
        from maskwright.weak.refine.saliency_maps import saliency_folder

        saliency_folder(
            context.train,
            context.out / source / "maps",
            context.recipe.saliency,
            folder / "maps",
            threshold=threshold,
            size=context.recipe.seeds.size,
        )

    settings = {**effective(context.recipe.saliency), "score": threshold, "size": context.recipe.seeds.size}
    settings |= context.saliency_facts
    return [Stage(f"saliency{suffix}", "maps overruled by saliency", run, settings, (source,))]


def mask_threshold(recipe: Recipe) -> float:
    """The threshold that masks are made with, or 0.25 where it is still to be found."""
    threshold = recipe.pseudo_masks.threshold
    return 0.25 if isinstance(threshold, str) else threshold


REFINEMENTS = {"irn": irn_stages, "crf": crf_stages, "saliency": saliency_stages}


def _labels(context: RunContext, source: str, folder: Path) -> None:
    from maskwright.weak.refine.ir_labels import write_ir_labels

    irn = context.recipe.irn
    lost = write_ir_labels(
        context.train,
        context.out / source / "maps",
        folder / "labels",
        foreground_threshold=irn.foreground_threshold,
        background_threshold=irn.background_threshold,
        crf=irn.crf,
        scale=irn.crf_scale,
        device=context.device,
    )
    if lost:
        context.say("    tags without a certain pixel: " + ", ".join(f"{name} {count}" for name, count in lost.items()))


def _train(context: RunContext, labels: str, folder: Path) -> None:
    from maskwright.weak.refine.irn import train_irnet

    classifier = context.out / context.seed_network / "model.safetensors"
    ir_labels = context.out / labels / "labels"
    train_irnet(context.recipe, context.train, ir_labels, folder, context.device, classifier=classifier)


def _edges(context: RunContext, net: str, folder: Path) -> None:
    from maskwright.models.irnet import load_irnet
    from maskwright.weak.refine.irn import extract_edges

    network = load_irnet(context.out / net / "model.safetensors").to(context.device)
    recipe = context.recipe
    extract_edges(context.train, network, recipe.irn, folder / "maps", context.device, size=recipe.seeds.size)


def _walk(context: RunContext, source: str, edges: str, folder: Path) -> None:
    from maskwright.weak.refine.irn import refine_folder

    maps, edge_maps = context.out / source / "maps", context.out / edges / "maps"
    recipe = context.recipe
    refine_folder(context.train, maps, edge_maps, recipe.irn, folder / "maps", context.device, size=recipe.seeds.size)
