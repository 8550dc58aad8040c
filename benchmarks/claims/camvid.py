"""Pixel masks on real road scenes: every loss and decoder by recipe, with the same training budget.

    python -m benchmarks.claims.camvid DATA [out=DIR] [epochs=6] [only=NAME,NAME]

DATA is CamVid, 11 classes, in PASCAL VOC layout. A row is one run of `deeplabv3plus-scratch` with a few settings
changed, in a process of its own with one thread; a run that was stopped goes on, one that is finished is read. Two
commands with different `only=` and the same `out` share the work; each writes the table of all rows that are done to
`benchmarks/claims/results/camvid.md`. Rare classes are those below 1.5 % of the training pixels; thin ones are pole and
sign_symbol. Images/s are those of training steps by the processor time of that one thread, so that other work on the
machine does not count.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.facts import as_lines, facts
from maskwright.files import atomic_write, write_json

RESULTS = Path(__file__).parent / "results"
RARE = ("pole", "sign_symbol", "fence", "pedestrian", "bicyclist")
THIN = ("pole", "sign_symbol")

# Half precision and channels last, which processors with bfloat16 arithmetic run about twice as fast.
COMMON = ["train.autocast=bfloat16", "train.channels_last=true", "train.workers=1"]
PLAIN = "loss.class_weights=none"
HRNET = ["backbone=hrnet_w18_small", "model.output_stride=none"]
CPP = "model.options={auxiliary: {cpp: [8, 16]}}"

ROWS: dict[str, list[str]] = {
    # losses, on DeepLabV3+
    "cross-entropy": [PLAIN],
    "class weights 1/sqrt(f)": [],
    "loss max-pooling p 1.7": [PLAIN, "loss.name=loss_max_pooling"],
    "loss max-pooling p 1.3": [PLAIN, "loss.name=loss_max_pooling", "loss.options={p: 1.3}"],
    "OHEM": [PLAIN, "loss.name=ohem"],
    "focal": [PLAIN, "loss.name=focal"],
    "Dice": [PLAIN, "loss.name=dice"],
    "Lovasz-softmax": [PLAIN, "loss.name=lovasz_softmax"],
    "RMI": [PLAIN, "loss.name=rmi", "loss.options={ce: softmax}"],
    "CPP at 8 and 16": [PLAIN, CPP, "loss.auxiliary={cpp: 0.4}"],
    "class-uniform crops": [PLAIN, "train.augment.class_uniform=0.5"],
    # decoders, with cross-entropy
    "FCN": [PLAIN, "model.name=fcn"],
    "DeepLabV2": [PLAIN, "model.name=deeplabv2", "loss.auxiliary={scale: 1.0}", "loss.resize=labels"],
    "DeepLabV3": [PLAIN, "model.name=deeplabv3"],
    "PSPNet": [PLAIN, "model.name=pspnet", "loss.auxiliary={aux: 0.4}"],
    "UperNet": [PLAIN, "model.name=upernet", "model.output_stride=none", "loss.auxiliary={aux: 0.4}"],
    "bilinear in the decoder of DUpsampling": [PLAIN, "model.name=dupsampling", "model.options={upsampling: bilinear}"],
    "DUpsampling": [PLAIN, "model.name=dupsampling"],
    "OCR on HRNet": [PLAIN, "model.name=ocrnet", *HRNET, "loss.auxiliary={aux: 0.4}"],
    "hierarchical attention": [PLAIN, "model.name=hmsa", *HRNET, "loss.auxiliary={aux: 0.4, scale: 0.05}"],
    "SeeThroughNet": [
        PLAIN,
        "model.name=seethrough",
        *HRNET,
        "loss.name=rmi",
        "loss.options={ce: softmax}",
        "loss.auxiliary={cpp: 0.4, scale: 0.05}",
    ],
}


def run_row(name: str, data: str, folder: Path, epochs: str) -> dict[str, Any]:
    """One run, and what the table says of it."""
    import torch

    from maskwright.pipeline.run import run
    from maskwright.recipe.load import load_recipe

    torch.set_num_threads(1)
    overrides = [f"data={data}", f"out={folder}", f"epochs={epochs}", *COMMON, *ROWS[name]]
    recipe = load_recipe("deeplabv3plus-scratch", overrides)
    run(recipe)
    scores = json.loads((folder / "metrics.json").read_text())["segmenter"]
    log = [json.loads(line) for line in (folder / "segmenter" / "log.jsonl").read_text().splitlines()]
    iou = {label: row["iou"] or 0.0 for label, row in scores["per_class"].items()}
    return {
        "row": name,
        "settings": ROWS[name],
        "epochs": epochs,
        "miou": scores["miou"],
        "rare": sum(iou[label] for label in RARE) / len(RARE),
        "thin": sum(iou[label] for label in THIN) / len(THIN),
        "pixel_accuracy": scores["pixel_accuracy"],
        "images_per_second": throughput(recipe),
        "memory_mb": max(line["memory_mb"] for line in log if line["event"] == "train"),
        "iou": iou,
        "facts": facts(),
    }


def throughput(recipe: Any, steps: int = 5) -> float:
    """Images per second of processor time in training steps: median, after one that warms up."""
    import torch

    from maskwright.data import open_dataset
    from maskwright.engine.optimizer import create_optimizer
    from maskwright.models.base import parameter_groups
    from maskwright.pipeline.segment import build_segmenter

    labels = open_dataset(recipe.data, recipe.data.train).labels
    model, step = build_segmenter(recipe, labels, torch.device("cpu"), [1.0] * labels.num_classes)
    model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = create_optimizer(parameter_groups(model, recipe.train), recipe.train)
    size, batch_size = recipe.train.augment.crop, recipe.train.batch_size
    batch = {
        "image": torch.randint(0, 256, (batch_size, 3, *size), dtype=torch.uint8),
        "mask": torch.randint(0, labels.num_classes, (batch_size, *size), dtype=torch.uint8),
    }
    batch["image"] = batch["image"].contiguous(memory_format=torch.channels_last)
    seconds = []
    for _ in range(steps + 1):
        start = time.process_time()
        with torch.autocast("cpu", torch.bfloat16):
            loss, _ = step(model, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.process_time() - start)
    return batch_size / sorted(seconds[1:])[steps // 2]


def table(rows: list[dict[str, Any]], epochs: str, found: dict[str, Any]) -> str:
    lines = [
        "# CamVid: losses and decoders with pixel masks",
        "",
        *as_lines(found),
        f"{epochs} epochs at 180x240, ResNet-18 from scratch, one seed, scored on `val` at 480x360. One run a row, "
        "so nothing is known of what another seed would change: read large differences only.",
        "",
        f"Every row: `{' '.join(COMMON)}`, one thread. The command, commit, machine and date of each row are in "
        "`camvid.json`.",
        "",
        "| row | mIoU | rare | thin | pixel accuracy | images/s | peak MB | settings |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['row']} | {row['miou']:.3f} | {row['rare']:.3f} | {row['thin']:.3f} | {row['pixel_accuracy']:.3f} "
            f"| {row['images_per_second']:.1f} | {row['memory_mb']:.0f} "
            f"| `{' '.join(row['settings']) or 'as the recipe'}` |"
        )
    names = list(rows[0]["iou"])
    lines += ["", "IoU per class:", "", "| row | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {row['row']} | " + " | ".join(f"{row['iou'][name]:.2f}" for name in names) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    data, *rest = sys.argv[1:] or [""]
    options = dict(argument.split("=", 1) for argument in rest)
    if not Path(data).is_dir():
        sys.exit(__doc__)
    out, epochs = Path(options.get("out", "runs/camvid")), options.get("epochs", "6")
    if "row" in options:  # the process of one row
        folder = out / folder_name(options["row"])
        write_json(folder / "row.json", run_row(options["row"], data, folder, epochs))
        return
    found = facts()
    for name in options["only"].split(",") if "only" in options else list(ROWS):
        if not (out / folder_name(name) / "row.json").is_file():
            command = [sys.executable, "-m", "benchmarks.claims.camvid", *sys.argv[1:], f"row={name}"]
            subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        files = [out / folder_name(row) / "row.json" for row in ROWS]
        rows = [json.loads(path.read_text()) for path in files if path.is_file()]
        write_json(RESULTS / "camvid.json", {"facts": found, "rows": rows})
        with atomic_write(RESULTS / "camvid.md") as temporary:
            temporary.write_text(table(rows, epochs, found))


def folder_name(row: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in row)


if __name__ == "__main__":
    main()
