"""The stages that refine seed maps by IRN: IR labels -> IRNet -> edges -> refined maps, in the form of seed maps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskwright.errors import RecipeError
from maskwright.stages import Stage

if TYPE_CHECKING:
    from maskwright.pipeline import Run

# Which settings of `irn` each stage's result depends on, so that a changed exponent walks again without the network.
LABEL_SETTINGS = ("foreground_threshold", "background_threshold", "crf")
NETWORK_SETTINGS = ("backbone", "pretrained", "output_stride", "options", "train", "displacement_lr", "train_radius")
WALK_SETTINGS = ("cam_power", "radius", "beta", "exp_times", "tolerance")


def irn_stages(job: Run, settings: dict[str, Any]) -> list[Stage]:
    """The four stages between seeds and pseudo-masks.

    Args:
        job: the run; its recipe has `irn`.
        settings: those of `irn` that are not defaults.

    Raises:
        RecipeError: IRNet is to start from the tag classifier but has another backbone.
    """
    irn, classifier = job.recipe.irn, job.recipe.classifier
    assert irn is not None
    if irn.pretrained == "classifier" and irn.backbone != classifier.backbone:
        raise RecipeError(
            "irn.pretrained=classifier takes the tag classifier's backbone as the trunk: set irn.backbone="
            f"{classifier.backbone}, found {irn.backbone}; or give irn.pretrained=true or a file"
        )

    def chosen(names: tuple[str, ...]) -> dict[str, Any]:
        return {name: settings[name] for name in names if name in settings}

    size = job.recipe.seeds.size
    return [
        Stage(
            "ir_labels", "certain pixels from the maps", lambda f: _labels(job, f), chosen(LABEL_SETTINGS), ("seeds",)
        ),
        Stage(
            "irnet",
            "train IRNet on the certain pixels",
            lambda f: _train(job, f),
            {"irn": chosen(NETWORK_SETTINGS), "seed": job.recipe.seed},
            ("ir_labels", job.seed_network),
        ),
        Stage(
            "edges",
            "edges between objects",
            lambda f: _edges(job, f),
            {"pad_to": irn.pad_to, "size": size},
            ("irnet",),
        ),
        Stage(
            "refined",
            "maps refined by a random walk",
            lambda f: _walk(job, f),
            chosen(WALK_SETTINGS),
            ("seeds", "edges"),
        ),
    ]


def _labels(job: Run, folder: Path) -> None:
    from maskwright.weak.ir_labels import write_ir_labels

    irn = job.recipe.irn
    assert irn is not None
    lost = write_ir_labels(
        job.train,
        job.out / "seeds" / "maps",
        folder / "labels",
        foreground_threshold=irn.foreground_threshold,
        background_threshold=irn.background_threshold,
        crf=irn.crf is not None,
        device=job.device,
    )
    if lost:
        job.say("    tags without a certain pixel: " + ", ".join(f"{name} {count}" for name, count in lost.items()))


def _train(job: Run, folder: Path) -> None:
    from maskwright.weak.irn import train_irnet

    classifier = job.out / job.seed_network / "model.safetensors"
    train_irnet(job.recipe, job.train, job.out / "ir_labels" / "labels", folder, job.device, classifier=classifier)


def _edges(job: Run, folder: Path) -> None:
    from maskwright.models.irnet import load_irnet
    from maskwright.weak.irn import extract_edges

    assert job.recipe.irn is not None
    network = load_irnet(job.out / "irnet" / "model.safetensors").to(job.device)
    extract_edges(job.train, network, job.recipe.irn, folder / "maps", job.device, size=job.recipe.seeds.size)


def _walk(job: Run, folder: Path) -> None:
    from maskwright.weak.irn import refine_folder

    assert job.recipe.irn is not None
    maps, edges = job.out / "seeds" / "maps", job.out / "edges" / "maps"
    refine_folder(job.train, maps, edges, job.recipe.irn, folder / "maps", job.device, size=job.recipe.seeds.size)
