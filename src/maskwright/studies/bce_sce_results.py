"""What the study of two losses found: numbers per epoch from the logs, verdicts in words, a table, and a plot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

COLOURS = {"bce": "#c2571a", "sce": "#1f6fb2"}
# What is measured after an epoch or averaged over it: key, words, whether it is a share that is shown in %.
PANELS = (
    ("accuracy", "accuracy (%)", True),
    ("seed_best", "seed mIoU (%)", True),
    ("gradient_target", "gradient, target's logit", False),
    ("gradient_confusing", "gradient, confusing class's logit", False),
)


def read_epochs(log: Path) -> list[dict[str, Any]]:
    """Per epoch what was measured at its end, and the means over its training steps.

    Args:
        log: `log.jsonl` of a training that logged every step and measured after every epoch.
    """
    from maskwright.runs.contents import read_log

    lines = read_log(log)
    steps = [line for line in lines if line["event"] == "train"]
    epochs: list[dict[str, Any]] = []
    for line in lines:
        if line["event"] == "validate":
            begun = epochs[-1]["step"] if epochs else 0
            own = [step for step in steps if begun < step["step"] <= line["step"]]
            keys = ("loss", "gradient_target", "gradient_confusing")
            means = {key: float(np.mean([step[key] for step in own])) for key in keys}
            epochs.append({**{key: value for key, value in line.items() if key != "event"}, **means})
    return epochs


def verdicts(runs: dict[str, list[dict[str, Any]]], classes: int) -> list[dict[str, Any]]:
    """Whether the paper's claims hold, each with its numbers.

    Args:
        runs: per loss, one entry per repeat with `epochs`.
        classes: K.

    Returns:
        `claim`, `bce` and `sce` (one number per repeat), `holds` (repeats in which SCE's is the larger), `repeats`, and
        `text`. Seeds are left out where there is no ground truth.
    """

    def over_training(epochs: Sequence[dict[str, Any]]) -> float:
        return float(np.mean([epoch["gradient_confusing"] for epoch in epochs]))

    def at_the_end(key: str) -> Callable[[Sequence[dict[str, Any]]], float | None]:
        return lambda epochs: epochs[-1][key]

    asked: list[tuple[str, Callable[[Sequence[dict[str, Any]]], float | None], bool]] = [
        ("SCE pushes the most confusing class down harder", over_training, False),
        ("SCE is more accurate", at_the_end("accuracy"), True),
        ("SCE gives better seeds at the best threshold", at_the_end("seed_best"), True),
        ("SCE gives better seeds at the default threshold", at_the_end("seed_miou"), True),
    ]
    found = []
    for claim, number, share in asked:
        values = {loss: [number(run["epochs"]) for run in runs[loss]] for loss in ("bce", "sce")}
        bce, sce = ([value for value in values[loss] if value is not None] for loss in ("bce", "sce"))
        if not bce or not sce:
            continue
        holds = sum(mine > other for mine, other in zip(sce, bce, strict=True))
        words = "holds" if holds == len(sce) else "does not hold" if not holds else f"holds in {holds} of {len(sce)}"
        shown = [f"{100 * np.mean(v):.1f} %" if share else f"{np.mean(v):.3f}" for v in (sce, bce)]
        text = f"{claim}: {words}. {shown[0]} against {shown[1]}"
        if not share:
            undivided = classes * float(np.mean(bce))
            text += (
                f" (mean gradient over training; BCE's would be {undivided:.3f} without its division by K = {classes})"
            )
        if len(sce) > 1:
            gaps = [100 * (mine - other) if share else mine - other for mine, other in zip(sce, bce, strict=True)]
            text += f"; difference {min(gaps):+.3g} to {max(gaps):+.3g} over {len(sce)} repeats"
        found.append({"claim": claim, "bce": bce, "sce": sce, "holds": holds, "repeats": len(sce), "text": text})
    return found


def table(result: dict[str, Any]) -> list[str]:
    """The result in words, as lines."""
    images = {key: sum(counts.values()) for key, counts in result["images"].items()}
    epochs = result["runs"]["bce"][0]["epochs"][-1]["epoch"]
    lines = [
        f"BCE against SCE on {', '.join(result['classes'])}: {images['learned']} images of split "
        f"{result['splits']['learned']}, {epochs:g} epochs each; evaluated on {images['judged']} of "
        f"{result['splits']['judged']}"
    ]
    if result["confusable_pairs"]:
        worst = [f"{one}/{other} {100 * share:.0f} %" for share, one, other in result["confusable_pairs"][:4]]
        lines.append(f"chosen because told apart worst (50 % is chance): {', '.join(worst)}")
    head = f"{'epoch':<7}" + "".join(
        f"{loss + ' ' + key:>13}" for loss in ("BCE", "SCE") for key in ("acc.", "seeds", "push")
    )
    lines += ["", head]
    rows = [result["runs"][loss] for loss in ("bce", "sce")]
    for place in range(min(len(run["epochs"]) for repeats in rows for run in repeats)):
        cells = []
        for repeats in rows:
            at = [run["epochs"][place] for run in repeats]
            for key, factor, digits in (("accuracy", 100, 1), ("seed_best", 100, 1), ("gradient_confusing", 1, 3)):
                values = [epoch[key] for epoch in at if epoch[key] is not None]
                cells.append(f"{factor * np.mean(values):.{digits}f}" if values else "-")
        lines.append(f"{rows[0][0]['epochs'][place]['epoch']:<7g}" + "".join(f"{cell:>13}" for cell in cells))
    lines += ["", *(verdict["text"] for verdict in result["verdicts"])]
    held = [verdict["holds"] == verdict["repeats"] for verdict in result["verdicts"]]
    parts = "" if all(held) else f" in {sum(held)} of {len(held)} parts"
    lines.append(f"The paper's claim holds here{parts}.")
    if result["verdicts"] and result["verdicts"][0]["repeats"] == 1:
        lines.append("One repeat: a difference of a few points may be chance; give repeats=5.")
    return lines


def plot(result: dict[str, Any], path: Path) -> None:
    """Accuracy, seeds and gradients by epoch for both losses; a band from the lowest to the highest of the repeats."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    for axes, (key, words, share) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        factor = 100 if share else 1
        for loss, repeats in result["runs"].items():
            x = [epoch["epoch"] for epoch in repeats[0]["epochs"]]
            lines = [(key, "-")] + ([("seed_miou", ":")] if key == "seed_best" else [])
            for name, style in lines:
                values = [[epoch[name] for epoch in run["epochs"][: len(x)]] for run in repeats]
                if any(value is None for row in values for value in row):
                    continue
                y = factor * np.array(values)
                label = loss.upper() + {"seed_best": ", best threshold", "seed_miou": ", fixed threshold"}.get(name, "")
                marker = "o" if loss == "bce" else "s"
                axes.plot(x, y.mean(0), style, marker=marker, markersize=3.5, color=COLOURS[loss], label=label)
                if len(y) > 1:
                    axes.fill_between(x, y.min(0), y.max(0), color=COLOURS[loss], alpha=0.15, linewidth=0)
        axes.set(xlabel="epoch", title=words[0].upper() + words[1:])
        if not axes.lines:
            axes.text(0.5, 0.5, "no ground truth", transform=axes.transAxes, ha="center", color="0.4")
        else:
            axes.legend(fontsize=9, edgecolor="none", framealpha=0.85)
        if not share:
            axes.axhline(0, color="0.6", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
    figure.suptitle(f"BCE against SCE: {', '.join(result['classes'])}; evaluated on split {result['splits']['judged']}")
    figure.savefig(path, dpi=130)
