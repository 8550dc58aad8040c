"""The refinement `irn`, in four stages: IR labels -> IRNet -> edges -> walked maps."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from maskwright.engine.checkpoint import MODEL
from maskwright.models.irnet import load_irnet
from maskwright.runs.context import RunContext
from maskwright.runs.folder import LABELS, MAPS
from maskwright.runs.stages import Stage, effective
from maskwright.weak.refine.ir_labels import background_of, write_ir_labels
from maskwright.weak.refine.irn import (
    BATCH_PIXELS,
    build_irnet,
    extract_edges,
    irn_in_memory,
    refine_folder,
    train_irnet,
)
from maskwright.weak.refine.irn_settings import LABEL_SETTINGS, IRNSettings
from maskwright.weak.refine.refinement import Refinement, Refiner, Work, check_start

# Which settings of `irn` each stage's result depends on, so that a changed exponent walks again without the network.
NETWORK_SETTINGS = ("backbone", "pretrained", "output_stride", "options", "train", "displacement_lr", "train_radius")
WALK_SETTINGS = ("cam_power", "radius", "beta", "exp_times", "tolerance")


def irn_stages(context: RunContext, irn: IRNSettings, source: str, suffix: str) -> list[Stage]:
    """The four stages of IRN on the maps of stage `source`.

    Raises:
        RecipeError: IRNet is to start from the tag classifier but has another backbone.
    """
    check_start("irn", irn, context.recipe.classifier)
    size = context.recipe.seeds.size
    settings = effective(irn)

    def chosen(names: tuple[str, ...]) -> dict[str, Any]:
        return {name: settings[name] for name in names if name in settings}

    labels, net, edges, walked = (name + suffix for name in ("ir_labels", "irnet", "edges", "irn"))

    def write_labels(folder: Path) -> None:
        lost = write_ir_labels(
            context.train,
            context.out.maps(source),
            folder / LABELS,
            foreground_threshold=irn.foreground_threshold,
            background_threshold=irn.background_threshold,
            crf=irn.crf,
            scale=irn.crf_scale,
            device=context.device,
        )
        if lost:
            counts = ", ".join(f"{name} {count}" for name, count in lost.items())
            context.say(f"    tags without a certain pixel: {counts}")

    def train(folder: Path) -> None:
        start = context.out.model(context.seed_network)
        ir_labels = context.out.stage(labels) / LABELS
        train_irnet(context.recipe, irn, context.train, ir_labels, folder, context.device, classifier=start)

    def find_edges(folder: Path) -> None:
        network = load_irnet(context.out.model(net)).to(context.device)
        extract_edges(context.train, network, irn, folder / MAPS, context.device, size=size)

    def walk(folder: Path) -> None:
        maps, edge_maps = context.out.maps(source), context.out.maps(edges)
        refine_folder(context.train, maps, edge_maps, irn, folder / MAPS, context.device, size=size)

    every, maps = partial(context.each_image, f"{LABELS}/{{}}.png"), f"{MAPS}/{{}}.npz"
    return [
        Stage(
            labels,
            "IR labels: certain pixels of the maps",
            write_labels,
            chosen(LABEL_SETTINGS),
            (source,),
            each=every,
        ),
        Stage(
            net,
            "train IRNet on the IR labels",
            train,
            {"irn": chosen(NETWORK_SETTINGS), "seed": context.recipe.random_seed},
            (labels, context.seed_network),
            results=(MODEL,),
        ),
        Stage(
            edges,
            "object boundaries",
            find_edges,
            {"pad_to": irn.pad_to, "size": size},
            (net,),
            each=partial(context.each_image, maps, tagged_only=True),
        ),
        Stage(
            walked,
            "maps refined by a random walk",
            walk,
            chosen(WALK_SETTINGS),
            (source, edges),
            each=partial(context.each_image, maps),
        ),
    ]


def irn_refiner(context: RunContext, irn: IRNSettings, suffix: str) -> Refiner:
    """Edges and walk in memory, with the network that the stage `irnet` trained; see `Refinement.refiner`."""
    network = load_irnet(context.out.model(IRN.network + suffix)).to(context.device).eval()
    size, device = context.recipe.seeds.size, context.device
    return lambda samples, maps: irn_in_memory(network, irn, samples, maps, device, size=size)


def _padded(irn: IRNSettings, sizes: np.ndarray, tags: np.ndarray) -> np.ndarray:
    return np.maximum(sizes, irn.pad_to or 0).prod(1) * (tags > 0)


def _per_class(irn: IRNSettings, sizes: np.ndarray, tags: np.ndarray) -> np.ndarray:
    return sizes.prod(1) * tags


IRN = Refinement(
    "IRN",
    IRNSettings,
    irn_stages,
    refiner=irn_refiner,
    network="irnet",
    build=lambda irn, pretrained: build_irnet(irn.model_copy(update={"pretrained": pretrained})),
    check=lambda irn, labels: background_of(labels),
    work={"edges": Work(_padded, BATCH_PIXELS), "irn": Work(_per_class, 8)},
    cheap={"pad_to": None},
    crf=lambda irn: f"IR labels: {irn.crf}" if irn.crf else "",
)
