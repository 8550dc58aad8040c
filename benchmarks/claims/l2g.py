"""L2G beside CAM and ReCAM: views, sizes, trunks, saliency, refinement; what each is worth and what it costs.

    python -m benchmarks.claims.l2g DATA [out=DIR] [seeds=0,1,2] [only=NAME;NAME]

DATA is `scenes`, the built-in set, or the folder of MSRC-21 (objects task). As `benchmarks.claims.tags`; up to the
pseudo-masks only, without a final model. Every second network goes on from the same tag classifier for as many epochs,
so "CAM, trained on as long" is what L2G and ReCAM are to be compared with.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.claims.runs import FAST, Experiment, kind_of, main
from maskwright.files import atomic_write

RECIPES = {"scenes": "demo", "msrc21": "cam-scratch"}
SETS = {
    "scenes": [
        "oracle=false",
        "data.options={size: [96, 96]}",
        "classifier.train.augment.crop=[96, 96]",
        "seeds.scales=[1.0]",
        "pseudo_masks.threshold=0.3",
    ],
    "msrc21": [
        "masks=SegmentationClassObjects",
        "classes=classes_objects.txt",
        "tags=tags_objects.csv",
        "classifier.train.epochs=30",
        "seeds.scales=[1.0]",
    ],
}
CROP = {"scenes": "[96, 96]", "msrc21": "[128, 192]"}
VIEWS = {
    "scenes": {"small": "[48, 48]", "middle": "[64, 64]", "large": "[80, 80]"},
    "msrc21": {"small": "[64, 96]", "middle": "[96, 144]", "large": "[112, 176]"},
}
EPOCHS = {"scenes": 2, "msrc21": 3}
SECOND = {
    "batch_size": "8",
    "optimizer": "adamw",
    "lr": "0.001",
    "backbone_lr": "0.3",
    "weight_decay": "0.01",
    "schedule": "onecycle",
    "freeze_batchnorm": "true",
}
L2G = [
    *("networks=[classifier, l2g]", "seeds.method=l2g", "l2g.form=code", "l2g.pcm=true"),
    *("l2g.views=4", "l2g.sampling=random"),
]
SHAPE = [*L2G, "l2g.transfer=shape"]
RECAM = ["networks=[classifier, recam]", "seeds.method=recam"]
IRN = {
    "batch_size": "8",
    "optimizer": "adamw",
    "lr": "0.003",
    "weight_decay": "0.01",
    "schedule": "onecycle",
}
REFINE = ["refine=[irn]", "irn.options={dilate: false}", "irn.displacement_lr=1", "irn.train_radius=5", "irn.radius=4"]
TRUTH = "saliency=TRUTH"  # a folder made from the true masks: what a perfect detector would give


def row(*settings: str, view: str = "middle", shares: tuple[str, ...] = ("CAM",)) -> dict[str, Any]:
    return {"settings": list(settings), "view": view, "shares": list(shares)}


ROWS: dict[str, dict[str, Any]] = {
    "CAM": row(shares=()),
    "CAM, trained on as long": row("networks=[classifier, recam]", "recam.lam=0", "seeds.method=cam"),
    "ReCAM": row(*RECAM),
    "L2G": row(*L2G),
    "L2G, 1 view": row(*L2G, "l2g.views=1"),
    "L2G, 2 views": row(*L2G, "l2g.views=2"),
    "L2G, 8 views": row(*L2G, "l2g.views=8"),
    "L2G, small views": row(*L2G, view="small"),
    "L2G, large views": row(*L2G, view="large"),
    "L2G, shared trunk": row(*L2G, "l2g.shared_trunk=true"),
    "L2G, tag loss on the global network": row(*L2G, "l2g.global_classification=1"),
    "L2G, shape of the built-in detector": row(*SHAPE, "saliency=barrier"),
    "L2G, shape of true masks": row(*SHAPE, TRUTH),
    "CAM, IRN": row(*REFINE),
    "ReCAM, IRN": row(*RECAM, *REFINE, shares=("CAM", "ReCAM")),
    "L2G, IRN": row(*L2G, *REFINE, shares=("CAM", "L2G")),
    "L2G, ReCAM": row(*L2G[2:], "networks=[classifier, l2g, recam]", "seeds.method=recam", shares=("CAM", "L2G")),
    "L2G, paper form": row(*L2G, "l2g.form=paper"),
    "L2G, corners": row(*L2G, "l2g.sampling=corners"),
    "L2G, 2 x 2 even steps": row(*L2G, "l2g.sampling=uniform"),
    "L2G, no PCM": row(*L2G, "l2g.pcm=false"),
}
ORDER = ["recam", "l2g"]


def overrides(name: str, data: str, folder: Path, seed: int) -> tuple[str, list[str]]:
    """The recipe of a row and what is changed in it."""
    kind = kind_of(data)
    settings = [setting for setting in ROWS[name]["settings"] if setting != TRUTH]
    if TRUTH in ROWS[name]["settings"]:
        settings.append(f"saliency={folder.parent / 'true_saliency'}")
    words = [f"out={folder}", f"seed={seed}", f"data={data}", *SETS[kind], *settings]
    words += [f"classifier.train.{word}" for word in FAST]
    sized = f"{{crop: {CROP[kind]}, scale: [0.9, 1.25], flip: 0.5, color_jitter: 0.1"
    sized += f", resize: {CROP[kind]}}}" if kind == "msrc21" else "}"
    networks = next((word for word in settings if word.startswith("networks=")), "")
    for network in ORDER:
        if network in networks:
            said = [*FAST, *(f"{key}={value}" for key, value in SECOND.items()), f"epochs={EPOCHS[kind]}"]
            words += [f"{network}.train.{word}" for word in [*said, f"augment={sized}"]]
    if "l2g" in networks:
        words.append(f"l2g.view_size={VIEWS[kind][ROWS[name]['view']]}")
    if "refine=[irn]" in settings:
        words.append("irn.backbone=" + {"scenes": "resnet10t", "msrc21": "resnet18"}[kind])
        said = [*(f"{key}={value}" for key, value in IRN.items()), "epochs=3", f"augment={sized}"]
        words += [f"irn.train.{word}" for word in said]
    return RECIPES[kind], words


def write_truth(data: str, out: Path) -> None:
    """Saliency maps that show the true foreground, for the rows that say so."""
    from PIL import Image

    from maskwright.data import open_dataset
    from maskwright.recipe.load import load_recipe

    recipe = load_recipe(*overrides("CAM", data, out / "CAM-0", 0))
    for split in (recipe.data.train, recipe.data.val):
        dataset = open_dataset(recipe.data, split)
        for index, name in enumerate(dataset.names):
            path = out / "true_saliency" / f"{name}.png"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                mask: Any = dataset[index].mask
                shown = np.where((mask > 0) & (mask != 255), 255, 0).astype(np.uint8)
                with atomic_write(path) as temporary:
                    Image.fromarray(shown).save(temporary, "PNG")


EXPERIMENT = Experiment(
    "l2g",
    "L2G beside CAM and ReCAM",
    ROWS,
    overrides,
    words=(
        "L2G: 4 random views of two thirds of the image's side, separate trunks, attention transfer, PCM, no saliency; "
        "maps at one scale and its mirror. All second networks go on from the row CAM's classifier for as many epochs. "
        "True masks as saliency are what a perfect detector would give, and no method from tags: an upper bound.",
    ),
    until="pseudo_masks",
    prepare=write_truth,
)

if __name__ == "__main__":
    main(EXPERIMENT, __doc__ or "")
