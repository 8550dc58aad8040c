"""Tags to masks: what each method's seeds, refinements and final model are worth, and what they cost.

    python -m benchmarks.claims.tags DATA [out=DIR] [seeds=0,1,2] [only=NAME;NAME]

DATA is `scenes`, the built-in set, or the folder of MSRC-21 (objects task). A row is one run of a recipe with a few
settings changed, in a process of its own with one thread; stages that rows have in common are made once and copied. A
run that was stopped goes on, one that is finished is read; two commands with the same `out` and other rows share the
work. The table of all rows that are done stands in `benchmarks/claims/results/tags-NAME.md`.

Cost is processor time up to the pseudo-masks, in units of plain CAM's (training the classifier and taking maps). The
threshold of a row is fixed beforehand (the recipe's, for refined maps those of the papers); the best of the sweep is
shown beside it, and is tuned on true masks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.claims.runs import FAST, Experiment, kind_of, main

TRUNK = {"scenes": "irn.backbone=resnet10t", "msrc21": "irn.backbone=resnet18"}
CROP = {"scenes": "[128, 128]", "msrc21": "[128, 192]"}
SETS: dict[str, tuple[str, list[str]]] = {
    "scenes": ("demo", ["oracle=false"]),
    "msrc21": (
        "cam-scratch",
        [
            "masks=SegmentationClassObjects",
            "classes=classes_objects.txt",
            "tags=tags_objects.csv",
            "train.epochs=8",
            "classifier.train.epochs=30",
        ],
    ),
}

# What goes on from the tag classifier: a few epochs at a rate that suits a network trained from scratch with AdamW; the
# papers' rates are for SGD and pre-trained weights.
SECOND = [
    "recam.train.epochs=4",
    "recam.train.batch_size=8",
    "recam.train.optimizer=adamw",
    "recam.train.lr=0.001",
    "recam.train.backbone_lr=0.3",
    "recam.train.weight_decay=0.01",
    "recam.train.schedule=onecycle",
]
RECAM = ["networks=[classifier, recam]", *SECOND]
IRN = [
    "refine=[irn]",
    "irn.options={dilate: false}",
    "irn.train.epochs=3",
    "irn.train.batch_size=8",
    "irn.train.optimizer=adamw",
    "irn.train.lr=0.003",
    "irn.displacement_lr=1",
    "irn.train_radius=5",
    "irn.radius=4",
]
# The papers' 27 and 23 steps on full-size photographs at four scales are cut to what a small network needs.
ADVCAM = ["seeds.method=advcam", "seeds.scales=[1.0]", "seeds.options={steps: 5}"]

ROWS: dict[str, dict[str, Any]] = {
    "CAM": {"settings": []},
    "CAM, trained on as long as ReCAM": {
        "settings": [*RECAM, "recam.lam=0", "seeds.method=cam"],
        "shares": ["CAM"],
    },
    "SCE instead of BCE": {"settings": ["classifier.loss=sce"]},
    "SCE on single-label images": {"settings": ["classifier.loss=sce_single"]},
    **{
        f"ReCAM, {option}": {
            "settings": [*RECAM, "seeds.method=recam", f"seeds.options={{weight: {option}}}"],
            "shares": ["CAM", "ReCAM, product"],
        }
        for option in ("product", "w1", "w2", "sum")
    },
    "AdvCAM": {"settings": ADVCAM, "shares": ["CAM"]},
    "CAM, CRF": {"settings": ["refine=[crf]"], "shares": ["CAM"]},
    "CAM, CRF, kernels as published": {"settings": ["refine=[crf]", "crf.scale=1"], "shares": ["CAM"]},
    "CAM, CRF, SEAM's background": {"settings": ["refine=[crf]", "crf.alpha=4"], "shares": ["CAM"]},
    "CAM, IRN": {"settings": IRN, "shares": ["CAM"]},
    "ReCAM, IRN": {
        "settings": [*RECAM, "seeds.method=recam", "seeds.options={weight: product}", *IRN],
        "shares": ["CAM", "ReCAM, product"],
    },
    "AdvCAM, IRN": {"settings": [*ADVCAM, *IRN], "shares": ["CAM", "AdvCAM"]},
    "ReCAM, AdvCAM, IRN": {"settings": [*RECAM, *ADVCAM, *IRN], "shares": ["CAM", "ReCAM, product"]},
    "CAM, IRN, CRF": {
        "settings": [*IRN, "refine=[irn, crf]"],
        "shares": ["CAM", "CAM, IRN"],
    },
}


def overrides(name: str, data: str, folder: Path, seed: int) -> tuple[str, list[str]]:
    """The recipe of a row and what is changed in it."""
    kind = kind_of(data)
    recipe, settings = SETS[kind]
    words = [f"out={folder}", f"seed={seed}", f"data={data}", *settings, *ROWS[name]["settings"]]
    parts = ["train", "classifier.train"]
    if any(word.startswith("networks=") for word in words):
        parts.append("recam.train")
        words.append(f"recam.train.augment={{crop: {CROP[kind]}, scale: [0.9, 1.25], flip: 0.5, color_jitter: 0.1}}")
        if kind == "msrc21":
            words.append(f"recam.train.augment.resize={CROP[kind]}")
    if any(word.startswith("irn.") for word in words):
        words += [TRUNK[kind], f"irn.train.augment.crop={CROP[kind]}"]
        if kind == "msrc21":
            words.append(f"irn.train.augment.resize={CROP[kind]}")
    return recipe, words + [f"{part}.{word}" for part in parts for word in FAST]


if __name__ == "__main__":
    main(Experiment("tags", "Tags to masks", ROWS, overrides), __doc__ or "")
