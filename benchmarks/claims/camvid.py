"""Pixel masks on real road scenes: every loss and decoder by recipe, with the same training budget.

    python -m benchmarks.claims.camvid DATA [out=DIR] [epochs=6] [only=NAME,NAME]

DATA is CamVid, 11 classes, in PASCAL VOC layout. A row is one run of `deeplabv3plus-quick` with a few settings changed;
a run that was stopped goes on, one that is finished is read. The table stands in `benchmarks/claims/results/camvid.md`.
Rare classes are those below 1.5 % of the training pixels; thin ones are pole and sign_symbol.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.facts import as_lines, facts

RESULTS = Path(__file__).parent / "results"
RARE = ("pole", "sign_symbol", "fence", "pedestrian", "bicyclist")
THIN = ("pole", "sign_symbol")

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
    "bilinear, decoder of DUpsampling": [PLAIN, "model.name=dupsampling", "model.options={upsampling: bilinear}"],
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


def run_row(name: str, settings: list[str], data: str, out: Path, epochs: str) -> dict[str, Any]:
    """One run, and what the table says of it."""
    from maskwright.config import load_recipe
    from maskwright.pipeline import run

    folder = out / "".join(letter if letter.isalnum() else "-" for letter in name)
    run(load_recipe("deeplabv3plus-quick", [f"data={data}", f"out={folder}", f"epochs={epochs}", *settings]))
    scores = json.loads((folder / "metrics.json").read_text())["segmenter"]
    log = [json.loads(line) for line in (folder / "segmenter" / "log.jsonl").read_text().splitlines()]
    train = [line for line in log if line["event"] == "train"]
    iou = {label: row["iou"] or 0.0 for label, row in scores["per_class"].items()}
    return {
        "row": name,
        "settings": settings,
        "miou": scores["miou"],
        "rare": sum(iou[label] for label in RARE) / len(RARE),
        "thin": sum(iou[label] for label in THIN) / len(THIN),
        "pixel_accuracy": scores["pixel_accuracy"],
        "images_per_second": sorted(line["images_per_second"] for line in train)[len(train) // 2],
        "memory_mb": max(line["memory_mb"] for line in train),
        "iou": iou,
    }


def table(rows: list[dict[str, Any]], epochs: str, found: dict[str, Any]) -> str:
    lines = [
        "# CamVid: losses and decoders with pixel masks",
        "",
        *as_lines(found),
        f"{epochs} epochs at 180x240, ResNet-18 from scratch, one seed, scored on `val` at 480x360. One run a row: "
        "differences below about 0.02 are within what another seed changes.",
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
    chosen = options["only"].split(",") if "only" in options else list(ROWS)
    found = facts()
    rows = []
    for name in chosen:
        rows.append(run_row(name, ROWS[name], data, out, epochs))
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "camvid.json").write_text(
            json.dumps({"facts": found, "epochs": epochs, "rows": rows}, indent=1) + "\n"
        )
        (RESULTS / "camvid.md").write_text(table(rows, epochs, found))


if __name__ == "__main__":
    main()
