"""Which class a classifier takes for which, trained with either loss (ReCAM, figure 1): counted, in words, drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskwright.data.dataset import Dataset
from maskwright.data.sizes import Size
from maskwright.models.classifier import load_classifier
from maskwright.weak.networks.classifier import tag_scores

NAMED = 3  # pairs that are named of each loss


@torch.no_grad()
def confusion(model: Path, dataset: Dataset, size: Size, device: torch.device) -> np.ndarray:
    """How often the highest logit is that of each class.

    Args:
        model: file of a tag classifier.
        dataset: of images with one tag each.
        size: as `seeds.size`.
        device: where to compute.

    Returns:
        `(K, K)` int64: images that show the class of the row, whose highest logit is that of the column.
    """
    network = load_classifier(model).to(device)
    highest = tag_scores(network, dataset, size, device).argmax(1)
    count = len(dataset.labels.foreground)
    shown = [dataset.labels.tag_vector(dataset.tags(index) or ()).argmax() for index in range(len(dataset))]
    return np.bincount(np.array(shown) * count + highest, minlength=count**2).reshape(count, count)


def confusion_lines(result: dict[str, Any]) -> list[str]:
    """The pairs of classes that are taken for each other most, as lines: one for each split and loss."""
    lines = []
    for part, by_loss in result["confusion"].items():
        for loss, matrix in by_loss.items():
            counts = np.array(matrix)
            shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
            pairs = sorted(
                ((shares[row, column], row, column) for row, column in zip(*np.nonzero(counts)) if row != column),
                key=lambda pair: (-pair[0], pair[1:]),
            )
            names = result["classes"]
            worst = [f"{names[row]} for {names[column]} {100 * share:.0f} %" for share, row, column in pairs[:NAMED]]
            right = np.trace(counts) / max(1, counts.sum())
            lines.append(
                f"{loss.upper()} on {result['splits'][part]}: {100 * right:.1f} % right; takes "
                f"{', '.join(worst) or 'none for another'}"
            )
    return lines


def plot_confusion(result: dict[str, Any], path: Path) -> None:
    """A matrix for each loss and split, rows in per cent of the images that show the class."""
    from matplotlib.figure import Figure

    names, parts = result["classes"], result["confusion"]
    side = max(3.2, 1.4 + 0.45 * len(names))
    figure = Figure(figsize=(2 * side, len(parts) * side), layout="constrained")
    for across, (part, by_loss) in zip(figure.subplots(len(parts), 2, squeeze=False), parts.items(), strict=True):
        for axes, (loss, matrix) in zip(across, by_loss.items(), strict=True):
            counts = np.array(matrix)
            shares = 100 * counts / np.maximum(1, counts.sum(1, keepdims=True))
            axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
            if len(names) <= 12:
                for (row, column), share in np.ndenumerate(shares):
                    colour = "white" if share > 60 else "black"
                    said = f"{share:.0f}" if counts[row].any() else ""  # a class that no image of the split shows
                    axes.text(column, row, said, ha="center", va="center", color=colour, fontsize=8)
            axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
            axes.set_yticks(range(len(names)), names, fontsize=8)
            axes.set(title=f"{loss.upper()}, split {result['splits'][part]}", xlabel="highest logit", ylabel="class")
    figure.savefig(path, dpi=130)
