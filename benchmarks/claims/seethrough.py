"""What reaches SeeThroughNet's class maps and relative masks, with and without a loss on the aggregated map.

    python -m benchmarks.claims.seethrough DATA [out=DIR] [epochs=2] [seeds=0,1]

DATA is CamVid, as for `benchmarks.claims.camvid`. First the norms of the gradients of each head at the first step, on
two photographs at 128x160, by width of the heads; then the row SeeThroughNet of that table with `epochs`, one thread,
with and without `aux: 0.4` among `loss.auxiliary`. Trainings that are done are read from `out`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.claims.camvid import COMMON, RESULTS, ROWS, folder_name
from benchmarks.claims.runs import interval
from benchmarks.facts import as_lines, facts
from maskwright.files import atomic_write, write_json

SIZE = (128, 160)
WEIGHTS: dict[str, dict[str, float]] = {
    "nothing on the aggregate": {"cpp": 0.4},
    "aux: 0.4": {"cpp": 0.4, "aux": 0.4},
}
WIDTHS: dict[str, dict[str, int]] = {
    "as they are": {},
    "narrow": {"channels": 16, "key_channels": 8, "attention_channels": 8, "branch_channels": 16},
}


def overrides(name: str, data: str, folder: Path, epochs: str, seed: int) -> list[str]:
    """Settings of a training: those of the row SeeThroughNet, with other weights."""
    auxiliary = json.dumps({**WEIGHTS[name], "scale": 0.05}).replace('"', "")
    words = [f"data={data}", f"out={folder}", f"epochs={epochs}", f"random_seed={seed}", *COMMON]
    return [*words, *ROWS["SeeThroughNet"], f"loss.auxiliary={auxiliary}"]


def gradient_norms(data: str, widths: dict[str, int], auxiliary: dict[str, float]) -> dict[str, list[float]]:
    """Norms of the first step's gradients, fine to coarse: of the class maps' heads and of the relative masks'."""
    import torch
    from torch.nn import functional as F

    from maskwright.data import open_dataset
    from maskwright.data.augment import normalise
    from maskwright.losses import create_loss
    from maskwright.models import create_model
    from maskwright.settings import DataSettings, LossSettings

    train = open_dataset(DataSettings(root=data), "train")
    samples = [train[0], train[len(train) // 2]]
    torch.manual_seed(0)
    model = create_model(
        "seethrough",
        backbone="hrnet_w18_small",
        num_classes=train.labels.num_classes,
        output_stride=None,
        **widths,
    )
    images = torch.cat(
        [F.interpolate(torch.as_tensor(s.image).permute(2, 0, 1)[None].float(), SIZE, mode="area") for s in samples]
    )
    labels = torch.cat([F.interpolate(torch.as_tensor(s.mask)[None, None].float(), SIZE)[:, 0] for s in samples])
    settings = LossSettings(name="rmi", options={"ce": "softmax"}, auxiliary=auxiliary)
    outputs = model(normalise(images.to(torch.uint8), model.mean, model.std), auxiliary=True)
    create_loss(settings, train.labels)(outputs, labels.long())[0].backward()

    def norm(head: Any) -> float:
        return float(torch.stack([parameter.grad.norm() for parameter in head.parameters()]).norm())

    return {"class maps": list(map(norm, model.coarse)), "relative masks": list(map(norm, model.relative))}


def run_row(name: str, data: str, folder: Path, epochs: str, seed: int) -> dict[str, Any]:
    """One training, and its scores."""
    import torch

    from maskwright.pipeline.run import run
    from maskwright.recipe.load import load_recipe

    torch.set_num_threads(1)
    run(load_recipe("deeplabv3plus-scratch", overrides(name, data, folder, epochs, seed)))
    scores = json.loads((folder / "metrics.json").read_text())["segmenter"]
    log = [json.loads(line) for line in (folder / "segmenter" / "log.jsonl").read_text().splitlines()]
    return {
        "row": name,
        "seed": seed,
        "epochs": epochs,
        "miou": scores["miou"],
        "pixel_accuracy": scores["pixel_accuracy"],
        "last": [line for line in log if line["event"] == "train"][-1],
        "facts": facts(),
    }


def table(norms: list[dict[str, Any]], rows: list[dict[str, Any]], found: dict[str, Any]) -> str:
    lines = [
        "# SeeThroughNet: what reaches its class maps",
        "",
        *as_lines(found),
        f"Norms of the gradients at the first step, two photographs of CamVid at {SIZE[0]}x{SIZE[1]}, HRNet-W18 small "
        "from scratch, RMI with softmax cross-entropy and CPP (.4) at strides 8, 16 and 32. Heads as they are, or 8 to "
        "16 channels wide.",
        "",
        "| heads | loss on the aggregate | class maps, stride 4, 8, 16, 32 | relative masks, stride 8, 16, 32 |",
        "|---|---|---|---|",
    ]
    for row in norms:
        cells = [", ".join(f"{value:.1e}" for value in row[key]) for key in ("class maps", "relative masks")]
        lines.append(f"| {row['heads']} | {row['weights']} | " + " | ".join(cells) + " |")
    if rows:
        lines += [
            "",
            f"The row SeeThroughNet of [camvid.md](camvid.md) with {rows[0]['epochs']} epochs, scored on `val`; with "
            "several random seeds mean ± half width of the 95 % interval.",
            "",
            "| loss on the aggregate | random seeds | mIoU | pixel accuracy |",
            "|---|---|---|---|",
        ]
    for name in WEIGHTS:
        mine = [row for row in rows if row["row"] == name]
        if mine:
            cells = [interval([row[key] for row in mine]) for key in ("miou", "pixel_accuracy")]
            lines.append(f"| {name} | {', '.join(str(row['seed']) for row in mine)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    data, *rest = sys.argv[1:] or [""]
    options = dict(argument.split("=", 1) for argument in rest)
    if not Path(data).is_dir():
        sys.exit(__doc__)
    out, epochs = Path(options.get("out", "runs/seethrough")), options.get("epochs", "2")
    if "row" in options:  # the process of one row
        name, seed = options["row"], int(options["seed"])
        folder = out / folder_name(f"{name} {seed}")
        write_json(folder / "row.json", run_row(name, data, folder, epochs, seed))
        return
    found, rows = facts(), []
    norms = [
        {"heads": heads, "weights": name, **gradient_norms(data, widths, weights)}
        for heads, widths in WIDTHS.items()
        for name, weights in WEIGHTS.items()
    ]
    for seed in map(int, options.get("seeds", "0,1").split(",")):
        for name in WEIGHTS:
            path = out / folder_name(f"{name} {seed}") / "row.json"
            if not path.is_file():
                command = [sys.executable, "-m", "benchmarks.claims.seethrough", *sys.argv[1:]]
                command += [f"row={name}", f"seed={seed}"]
                subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
            rows.append(json.loads(path.read_text()))
            write_json(RESULTS / "seethrough.json", {"facts": found, "gradients": norms, "rows": rows})
            with atomic_write(RESULTS / "seethrough.md") as temporary:
                temporary.write_text(table(norms, rows, found))


if __name__ == "__main__":
    main()
