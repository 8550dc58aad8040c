"""L2G's form, PCM and the rate of its backbone, all from one trained tag classifier on the built-in scenes.

    python -m benchmarks.claims.l2g_form [out=DIR] [seeds=0,1,2] [only=NAME;NAME]

The classifier is the recipe demo's, trained once; every row goes on from it, a few minutes on one thread. Random seeds
are those of the second training: its order and its views, the background's projection and PCM. A row that is done is
read from `out`; the table has all that are.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.claims.runs import FAST, RESULTS, folder_name, interval
from benchmarks.facts import as_lines, facts
from maskwright.files import atomic_write, write_json

EPOCHS = 2
TRAIN = (
    "{batch_size: 8, optimizer: adamw, lr: 0.001, weight_decay: 0.01, schedule: onecycle, freeze_batchnorm: true, "
    f"epochs: {EPOCHS}, augment: {{crop: [128, 128], scale: [0.9, 1.25], flip: 0.5, color_jitter: 0.1}}}}"
)
L2G = [
    "networks=[classifier, l2g]",
    "seeds.method=l2g",
    f"l2g.train={TRAIN}",
    *(f"l2g.train.{word}" for word in FAST),
    "l2g.view_size=[96, 96]",
    "l2g.views=4",
    "l2g.sampling=random",
]
CONTROL = ["networks=[classifier, recam]", "recam.sce_weight=0", "seeds.method=cam", f"recam.train={TRAIN}"]
CONTROL += [f"recam.train.{word}" for word in (*FAST, "backbone_lr=0.03")]


def l2g(form: str, rate: float = 0.03, *more: str, pcm: bool = False) -> list[str]:
    return [*L2G, f"l2g.form={form}", f"l2g.pcm={str(pcm).lower()}", f"l2g.train.backbone_lr={rate}", *more]


ROWS: dict[str, list[str]] = {
    "CAM": [],
    "CAM, trained on as long": CONTROL,
    "code, PCM": l2g("code", pcm=True),
    "code": l2g("code"),
    "paper, PCM": l2g("paper", pcm=True),
    "paper": l2g("paper"),
    "paper, shares where empty": l2g("paper", 0.03, "seeds.options={shares_where_empty: true}"),
    "code, PCM, rate .1": l2g("code", 0.1, pcm=True),
    "paper, rate .3": l2g("paper", 0.3),
    "paper, rate .1": l2g("paper", 0.1),
    "paper, rate 0": l2g("paper", 0.0),
}
# Rows that differ from another in how maps are taken alone.
TRAINED_AS = {"paper, shares where empty": "paper"}


def overrides(name: str, folder: Path, seed: int) -> tuple[str, list[str]]:
    """The recipe of a row and what is changed in it."""
    return "demo", [f"out={folder}", f"random_seed={seed}", "fully_supervised=false", *ROWS[name]]


def train_classifier(out: Path) -> Path:
    """The folder of the tag classifier that all rows go on from; trained where it is not there yet."""
    from maskwright.pipeline.run import run
    from maskwright.recipe.load import load_recipe

    folder = out / "classifier"
    run(load_recipe(*overrides("CAM", folder, 0)), until="classifier")
    return folder / "classifier"


def run_row(name: str, out: Path, seed: int, classifier: Path) -> dict[str, Any]:
    """Train on from the classifier, take the maps, and score their masks on the training images."""
    from maskwright.recipe.load import load_recipe
    from maskwright.runs.context import RunContext
    from maskwright.weak.stages import label_stages

    folder = out / folder_name(name, seed)
    context = RunContext(load_recipe(*overrides(name, folder, seed)), folder, print)
    shutil.copytree(classifier, folder / "classifier", dirs_exist_ok=True)
    trained = out / folder_name(TRAINED_AS[name], seed) if name in TRAINED_AS else None
    if trained is not None:
        shutil.copytree(trained / "l2g", folder / "l2g", dirs_exist_ok=True)
    seconds: dict[str, float] = {}
    for stage in label_stages(context)[1:]:
        if not (trained is not None and stage.name == "l2g"):
            print(f"{name}, seed {seed}: {stage.title}")
            context.out.stage(stage.name).mkdir(parents=True, exist_ok=True)
            started = time.process_time()
            stage.run(context.out.stage(stage.name))
            seconds[stage.name] = round(time.process_time() - started, 1)
    scores = json.loads((folder / "pseudo_masks" / "scores.json").read_text())
    return {
        "row": name,
        "seed": seed,
        "settings": ROWS[name],
        "pseudo": scores["miou"],
        "threshold": scores["threshold"],
        "best": max(line["miou"] for line in scores["sweep"]),
        "best_threshold": scores["best_threshold"],
        "vanished": sum(lost for lost, _ in scores["vanished_tags"].values()),
        "processor_seconds": seconds,
        "facts": facts(),
    }


def table(rows: list[dict[str, Any]], found: dict[str, Any]) -> str:
    """One line a row: mean over the random seeds, and with more than one the half width of the 95 % interval."""
    lines = [
        "# L2G's form, PCM and the rate of its backbone, on the built-in scenes",
        "",
        *as_lines(found),
        "Command, commit, machine and date of each run are in the JSON file beside this one.",
        f"One tag classifier (recipe demo, random seed 0); every row but CAM trains on from it for {EPOCHS} epochs of "
        "600 images, 4 random views of 96x96 in 128x128 pixels, attention transfer, AdamW at a rate of .001, the "
        "backbone at `rate` times that (.03 where none is given). Maps at scales 1 and 1.5 and their mirrors. mIoU of "
        "the pseudo-masks on the training images at threshold .3, fixed beforehand, and at the best one; tags that "
        "vanished from the masks; with several random seeds: mean ± half width of the 95 % interval.",
        "",
        "| method | random seeds | pseudo-masks | at best threshold | vanished tags |",
        "|---|---|---|---|---|",
    ]
    for name in ROWS:
        mine = [row for row in rows if row["row"] == name]
        if mine:
            cells = [interval([row[key] for row in mine]) for key in ("pseudo", "best")]
            cells.append(interval([row["vanished"] for row in mine], 0))
            lines.append(f"| {name} | {', '.join(str(row['seed']) for row in mine)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    import torch

    torch.set_num_threads(1)
    options = dict(argument.split("=", 1) for argument in sys.argv[1:])
    if unknown := options.keys() - {"out", "seeds", "only"}:
        sys.exit(f"unknown: {', '.join(sorted(unknown))}\n{__doc__}")
    out, found = Path(options.get("out", "runs/l2g_form")), facts()
    chosen = options["only"].split(";") if "only" in options else list(ROWS)
    classifier = train_classifier(out)
    for seed in map(int, options.get("seeds", "0").split(",")):
        for name in chosen if seed == 0 else [name for name in chosen if name != "CAM"]:
            path = out / folder_name(name, seed) / "row.json"
            if not path.is_file():
                write_json(path, run_row(name, out, seed, classifier))
            done = [json.loads(file.read_text()) for file in sorted(out.glob("*/row.json"))]
            write_json(RESULTS / "l2g_form-scenes.json", {"facts": found, "rows": done})
            with atomic_write(RESULTS / "l2g_form-scenes.md") as temporary:
                temporary.write_text(table(done, found))


if __name__ == "__main__":
    main()
