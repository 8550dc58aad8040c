"""Tags to masks: what each method's seeds, refinements and final model are worth, and what they cost.

    python -m benchmarks.claims.tags DATA [out=DIR] [seeds=0,1,2] [only=NAME;NAME]

DATA is `scenes`, the built-in set, or the folder of MSRC-21 (objects task). A row is one run of a recipe with a few
settings changed, in a process of its own with one thread; stages that rows have in common are made once and copied. A
run that was stopped goes on, one that is finished is read; two commands with the same `out` and different rows share the
work. The table of all rows that are done stands in `benchmarks/claims/results/tags-NAME.md`.

Cost is processor time up to the pseudo-masks, in units of plain CAM's (training the classifier and taking maps). The
threshold of a row is fixed beforehand (the recipe's, for refined maps those of the papers); the best of the sweep is
shown beside it, and is tuned on true masks.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.facts import as_lines, facts
from maskwright.errors import MaskwrightError
from maskwright.files import atomic_write, write_json

RESULTS = Path(__file__).parent / "results"

FAST = ["autocast=bfloat16", "channels_last=true", "workers=1"]
TRUNK = {"scenes": "irn.backbone=resnet10t", "msrc21": "irn.backbone=resnet18"}
CROP = {"scenes": "[128, 128]", "msrc21": "[128, 192]"}
SETS: dict[str, tuple[str, list[str]]] = {
    "scenes": ("demo", ["oracle=false"]),
    "msrc21": (
        "cam",
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
    kind = "scenes" if data == "scenes" else "msrc21"
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


def run_row(name: str, data: str, out: Path, seed: int) -> dict[str, Any]:
    """One run, and what the table says of it."""
    import torch

    from maskwright.config import load_recipe
    from maskwright.pipeline import run

    torch.set_num_threads(1)
    folder = out / folder_name(name, seed)
    for other in ROWS[name].get("shares", []):
        share(out / folder_name(other, seed), folder)
    recipe, words = overrides(name, data, folder, seed)
    run(load_recipe(recipe, words))
    metrics = json.loads((folder / "metrics.json").read_text())
    made = json.loads((folder / "pseudo_masks" / "scores.json").read_text())
    stages = [json.loads(path.read_text()) for path in folder.glob("*/stage.json")]
    used = {stage["name"]: stage["processor_seconds"] for stage in stages}
    ahead = ["segmenter", "evaluation", "oracle", "oracle_evaluation"]
    log = [json.loads(line) for line in (folder / "classifier" / "log.jsonl").read_text().splitlines()]
    return {
        "row": name,
        "seed": seed,
        "settings": ROWS[name]["settings"],
        "tag_map": [line["tag_map"] for line in log if line["event"] == "validate"][-1],
        "seeds_best": best_of_stage(folder, "seeds"),
        "pseudo": made["miou"],
        "threshold": made["threshold"],
        "best": max(line["miou"] for line in made["sweep"]),
        "best_threshold": made["best_threshold"],
        "model": metrics["segmenter"]["miou"],
        "processor_seconds": sum(seconds for stage, seconds in used.items() if stage not in ahead),
        "stages": used,
        "facts": facts(),
    }


def best_of_stage(folder: Path, stage: str) -> float | None:
    """Best mIoU over thresholds of the maps of a stage."""
    from maskwright.config import load_recipe
    from maskwright.data import open_dataset
    from maskwright.weak import sweep

    recipe = load_recipe(str(folder / "recipe.yaml"))
    rows = sweep(
        open_dataset(recipe.data, recipe.data.train), folder / stage / "maps", [0.05 * step for step in range(1, 13)]
    )
    return max(row["miou"] for row in rows)


def share(other: Path, folder: Path) -> None:
    """Copy the finished stages of another run; those that do not fit are noticed as stale and made anew."""
    for record in other.glob("*/stage.json"):
        stage = record.parent.name
        if stage in ("segmenter", "evaluation", "pseudo_masks") or ".stale" in stage or (folder / stage).exists():
            continue
        if json.loads(record.read_text())["finished"]:
            partial = folder / f".{stage}.copy"
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(record.parent, partial)
            os.replace(partial, folder / stage)


def table(rows: list[dict[str, Any]], name: str, found: dict[str, Any]) -> str:
    """One line a method: mean over the seeds, and with more than one the half width of the 95 % interval."""
    unit = {row["seed"]: row["processor_seconds"] for row in rows if row["row"] == "CAM"}
    lines = [
        f"# Tags to masks on {name}",
        "",
        *as_lines(found),
        "Command, commit, machine and date of each run are in the JSON file beside this one.",
        "mIoU of seed maps (at their best threshold), of pseudo-masks at the threshold fixed beforehand and at the best, "
        "all on the training images; of the final model on `val`. Cost: processor time up to the pseudo-masks over plain "
        "CAM's.",
        "",
        "| method | seeds of the generator | tag mAP | seeds, best | pseudo-masks | at best threshold | final model "
        "| cost |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for method in ROWS:
        mine = [row for row in rows if row["row"] == method]
        if not mine:
            continue
        cost = [row["processor_seconds"] / unit[row["seed"]] for row in mine if row["seed"] in unit]
        cells = [[row[key] for row in mine] for key in ("tag_map", "seeds_best", "pseudo", "best", "model")]
        seeds = ", ".join(str(row["seed"]) for row in mine)
        lines.append(f"| {method} | {seeds} | " + " | ".join(map(interval, cells)) + f" | {interval(cost, 1)} |")
    return "\n".join(lines) + "\n"


T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}  # Student's t


def interval(values: list[float], digits: int = 3) -> str:
    """Mean, and the half width of its 95 % interval where there are at least two values."""
    if not values:
        return ""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{mean:.{digits}f}"
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return f"{mean:.{digits}f} ± {T_95[len(values)] * deviation / math.sqrt(len(values)):.{digits}f}"


def folder_name(row: str, seed: int) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in row) + f"-{seed}"


def main() -> None:
    data, *rest = sys.argv[1:] or [""]
    options = dict(argument.split("=", 1) for argument in rest)
    if data != "scenes" and not Path(data).is_dir():
        sys.exit(__doc__)
    name = "scenes" if data == "scenes" else "msrc21"
    out = Path(options.get("out", f"runs/tags-{name}"))
    if "row" in options:  # the process of one row
        seed = int(options["seed"])
        folder = out / folder_name(options["row"], seed)
        try:
            write_json(folder / "row.json", run_row(options["row"], data, out, seed))
        except MaskwrightError as error:
            sys.exit(f"{options['row']}: {error}")
        return
    found = facts()
    seeds = [int(seed) for seed in options.get("seeds", "0").split(",")]
    chosen = options["only"].split(";") if "only" in options else list(ROWS)
    for seed in seeds:
        for row in chosen:
            if not (out / folder_name(row, seed) / "row.json").is_file():
                command = [sys.executable, "-m", "benchmarks.claims.tags", *sys.argv[1:], f"row={row}", f"seed={seed}"]
                subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
            done = [json.loads(path.read_text()) for path in sorted(out.glob("*/row.json"))]
            write_json(RESULTS / f"tags-{name}.json", {"facts": found, "rows": done})
            with atomic_write(RESULTS / f"tags-{name}.md") as temporary:
                temporary.write_text(table(done, name, found))


if __name__ == "__main__":
    main()
