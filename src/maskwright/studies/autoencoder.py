"""DUpsampling's two experiments without a network (Tian et al., CVPR 2019): P and W by gradient descent, and mIoU*.

P and W. The paper minimises the sum of `|v - W P v|^2` over cells of labels by gradient descent; `fit_label_basis` has
the solution in closed form. No pair of matrices of rank d has a smaller error on the cells that it was fitted to, so
the distance of gradient descent says how well it was trained, and mIoU* what the distance costs.

mIoU*. An encoder that sees the ground truth, in place of a network that sees the image, is trained together with each
decoder: bilinear upsampling of one number a class, or DUpsampling. What comes out is scored against the labels. The
closed forms of `maskwright ceiling` stand beside it. Training optimises what is scored more nearly than they do, but
ends where the steps do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskwright.data import open_dataset
from maskwright.data.dataset import Dataset
from maskwright.data.provenance import against
from maskwright.data.sample import LabelSpace
from maskwright.engine.device import choose_device
from maskwright.engine.progress import track
from maskwright.errors import DataError, RecipeError
from maskwright.files import write_json
from maskwright.losses.cross_entropy import cross_entropy
from maskwright.metrics import ConfusionMatrix
from maskwright.models.base import resize_argmax
from maskwright.models.dupsampling import dupsample, dupsample_argmax, sum_over_cells
from maskwright.models.dupsampling_fit import LabelBasis, LabelPatches, fit_label_basis, label_patches, masks_of
from maskwright.models.layers import resize
from maskwright.settings import DataSettings
from maskwright.studies.ceiling import ratios_of, through_basis, through_bilinear

WAYS = {
    "bilinear": "bilinear, share of each class",
    "bilinear_trained": "bilinear, encoder trained",
    "closed": "DUpsampling, P and W in closed form",
    "descent": "DUpsampling, P and W by descent",
    "dupsampling_trained": "DUpsampling, encoder trained",
}
CELLS = 256  # of a step that trains P and W
CROPS, CROP, HELD = 8, 8, 1000  # crops of a step that trains an encoder; their side in cells; most that are kept
WIDTH = 128  # of the encoder
# Of Adam, for P and W (over r: a cell has more pixels) and for an encoder; they fall to 0 linearly.
BASIS_RATE, ENCODER_RATE = 0.16, 3e-3


class Autoencoder(nn.Module):
    """An encoder from labels to a coarse grid, and a decoder back.

    The encoder is a matrix on the one-hot vector of each cell, P of the paper, and two convolutions of 3 x 3 over the
    cells; the decoder is that of a segmenter.

    Args:
        num_classes: C.
        ratio: r.
        basis: W of DUpsampling as it begins, `(r*r*C, d)`; None for bilinear upsampling.
    """

    def __init__(self, num_classes: int, ratio: int, basis: Tensor | None) -> None:
        super().__init__()
        self.num_classes, self.ratio = num_classes, ratio
        rows = ratio**2 * num_classes
        self.table = nn.Parameter(torch.randn(rows, WIDTH) / ratio)
        self.convolutions = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(WIDTH, num_classes if basis is None else basis.shape[1], 3, padding=1),
        )
        self.basis = None if basis is None else nn.Parameter(ratio * basis)
        self.log_temperature = nn.Parameter(torch.zeros(()))

    def encode(self, labels: Tensor, ignore_index: int) -> Tensor:
        """What stands in each cell, `(B, C or d, h, w)`, of labels `(B, H, W)`."""
        sums = sum_over_cells(labels, self.table, self.num_classes, self.ratio, ignore_index=ignore_index)
        return self.convolutions(sums)

    def forward(self, labels: Tensor, ignore_index: int) -> Tensor:
        """Logits `(B, C, H, W)` of labels `(B, H, W)`."""
        code, (height, width) = self.encode(labels, ignore_index), labels.shape[1:]
        if self.basis is None:
            logits = resize(code, (code.shape[2] * self.ratio, code.shape[3] * self.ratio))
        else:
            logits = dupsample(code, self.basis, self.num_classes, self.ratio)
        return logits[:, :, :height, :width] / self.log_temperature.exp()

    @torch.no_grad()
    def restore(self, labels: Tensor, ignore_index: int) -> Tensor:
        """Labels `(B, H, W)` of labels: the arg-max of `forward`."""
        code, (height, width) = self.encode(labels, ignore_index), labels.shape[1:]
        if self.basis is None:
            found = resize_argmax(code, (code.shape[2] * self.ratio, code.shape[3] * self.ratio))
        else:
            found = dupsample_argmax(code, self.basis, self.num_classes, self.ratio)
        return found[:, :height, :width]


def descend(
    parameters: Iterable[Tensor],
    loss_of: Callable[[np.random.Generator], Tensor],
    steps: int,
    rate: float,
    title: str,
    seed: int,
) -> None:
    """Gradient descent by Adam.

    Args:
        parameters: trained in place.
        loss_of: draws a batch with the generator, and gives its loss.
        steps: number of steps.
        rate: at the first step.
        title: for the progress line.
        seed: of what is drawn.
    """
    optimizer = torch.optim.Adam(parameters, lr=rate)
    rng = np.random.default_rng(seed)
    for step in track(range(steps), title=title):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        optimizer.zero_grad(set_to_none=True)
        loss_of(rng).backward()
        optimizer.step()


def cell_errors(labels: Tensor, encoder: Tensor, decoder: Tensor, num_classes: int, ratio: int) -> Tensor:
    """`|v - W P v|^2` of cells.

    Args:
        labels: `(B, r, r)`, `num_classes` for an ignored pixel, which v is zero at.
        encoder: transpose of P, `(r*r*C, d)`.
        decoder: W, `(r*r*C, d)`.
        num_classes: C.
        ratio: r.

    Returns:
        `(B,)`.
    """
    code = sum_over_cells(labels, encoder, num_classes, ratio, ignore_index=num_classes)[:, :, 0, 0]
    back = F.linear(code, decoder)
    places = labels.flatten(1) + torch.arange(ratio**2, device=labels.device) * num_classes
    there = labels.flatten(1) < num_classes
    of_labels = back.gather(1, places.clamp(max=back.shape[1] - 1))
    return back.square().sum(1) + (there * (1 - 2 * of_labels)).sum(1)


def descend_basis(
    patches: LabelPatches, dim: int, steps: int, device: torch.device, *, seed: int = 0
) -> tuple[Tensor, Tensor, float]:
    """P and W by gradient descent from a random start.

    Args:
        patches: what they are fitted to.
        dim: d.
        steps: of `CELLS` cells each, drawn as often as they occur.
        device: where to compute.
        seed: of the start and of what is drawn.

    Returns:
        The transpose of P and W, `(r*r*C, d)` each, and the mean of `|v - W P v|^2` over the cells.
    """
    draw = torch.Generator().manual_seed(seed)
    size = (patches.rows, dim)
    encoder, decoder = (torch.randn(size, generator=draw) / patches.ratio for _ in range(2))
    encoder, decoder = (start.to(device).requires_grad_() for start in (encoder, decoder))
    cells = torch.from_numpy(patches.labels).view(-1, patches.ratio, patches.ratio)
    shares = patches.weights / patches.weights.sum()
    where = (patches.num_classes, patches.ratio)

    def errors(chosen: Tensor) -> Tensor:
        return cell_errors(chosen.long().to(device), encoder, decoder, *where)

    def loss_of(rng: np.random.Generator) -> Tensor:
        return errors(cells[rng.choice(len(cells), CELLS, p=shares)]).mean()

    descend(
        [encoder, decoder],
        loss_of,
        steps,
        BASIS_RATE / patches.ratio,
        f"P and W by descent, ratio {patches.ratio}",
        seed,
    )
    with torch.no_grad():
        each = torch.cat([errors(part).double().cpu() for part in cells.split(CELLS)])
    return encoder.detach(), decoder.detach(), float(each @ torch.from_numpy(shares))


def train_autoencoder(
    crops: Sequence[np.ndarray],
    labels: LabelSpace,
    ratio: int,
    basis: LabelBasis | None,
    steps: int,
    device: torch.device,
    *,
    seed: int = 0,
) -> Autoencoder:
    """An autoencoder of labels, trained with cross-entropy.

    Args:
        crops: masks of one size.
        labels: what they mean.
        ratio: r.
        basis: what DUpsampling begins with; None for bilinear upsampling.
        steps: of `CROPS` crops each.
        device: where to compute.
        seed: of the start and of what is drawn.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        weight = None if basis is None else torch.from_numpy(basis.weight).float()
        network = Autoencoder(labels.num_classes, ratio, weight).to(device)
    held = torch.from_numpy(np.stack(crops))

    def loss_of(rng: np.random.Generator) -> Tensor:
        chosen = held[rng.integers(len(held), size=CROPS)].long().to(device)
        return cross_entropy(network(chosen, labels.ignore_index), chosen, ignore_index=labels.ignore_index)

    name = "bilinear" if basis is None else "DUpsampling"
    descend(network.parameters(), loss_of, steps, ENCODER_RATE, f"encoder for {name}, ratio {ratio}", seed)
    return network.eval()


def crops_of(masks: Iterable[np.ndarray], side: int, each: int, ignore_index: int, seed: int = 0) -> list[np.ndarray]:
    """Random crops of masks, padded with the ignored value; those without any label are left out.

    Args:
        masks: `(H, W)` uint8.
        side: of a crop in pixels.
        each: crops of a mask.
        ignore_index: value of pixels without a label.
        seed: of the places.

    Returns:
        Crops `(side, side)`.
    """
    rng, found = np.random.default_rng(seed), []
    for mask in masks:
        room = [(0, max(0, side - length)) for length in mask.shape]
        padded = np.pad(mask, room, constant_values=ignore_index)
        for _ in range(each):
            top, left = (int(rng.integers(length - side + 1)) for length in padded.shape)
            crop = padded[top : top + side, left : left + side]
            if (crop != ignore_index).any():
                found.append(crop.copy())
    return found


def autoencoder(
    data: DataSettings,
    *,
    ratio: int | str | Sequence[int] = (8, 16),
    dim: int = 256,
    steps: int = 2000,
    out: str | None = None,
    device: str = "auto",
) -> list[str]:
    """Fit and train all on the training split, score all on the evaluation split.

    Args:
        data: the set; `train` is fitted to, `val` is evaluated on.
        ratio: one or several output strides.
        dim: d; fewer where a cell has fewer.
        steps: of each training.
        out: folder for `autoencoder.json`; default `runs/autoencoder-<data>`.
        device: where to compute.

    Returns:
        A table as lines of text.

    Raises:
        DataError: masks that cannot be used, or none.
        RecipeError: ratios, dimensions or a number of steps that cannot be.
    """
    ratios = ratios_of(ratio)
    if dim < 1 or steps < 1:
        raise RecipeError(f"dim and steps must be at least 1, found dim={dim}, steps={steps}")
    where = choose_device(device)
    fitted, judged = open_dataset(data, data.train), open_dataset(data, data.val)
    folder = Path(out or f"runs/autoencoder-{Path(data.root).name or 'data'}")
    result = {
        "data": data.model_dump(mode="json"),
        "fitted": {"split": data.train, "masks": sum(fitted.has_mask(index) for index in range(len(fitted)))},
        "judged": {"split": data.val, "masks": sum(judged.has_mask(index) for index in range(len(judged)))},
        "steps": steps,
        "ratios": {str(side): _at(side, fitted, judged, dim, steps, where) for side in ratios},
    }
    write_json(folder / "autoencoder.json", result)
    said = against(judged.source)
    return [*table(result), *([f"measured {said}"] if said else []), f"written to {folder}"]


def _at(ratio: int, fitted: Dataset, judged: Dataset, dim: int, steps: int, device: torch.device) -> dict[str, Any]:
    """All ways at one ratio: numbers in a cell, error where one is minimised, scores."""
    labels = fitted.labels
    count, ignored = labels.num_classes, labels.ignore_index
    if not any(judged.has_mask(index) for index in range(len(judged))):
        raise DataError("no image of the split to evaluate on has a mask; choose another with split=")
    patches = label_patches(masks_of(fitted, f"reading masks, ratio {ratio}"), ratio, count, ignore_index=ignored)
    dim = min(dim, patches.rows)
    closed = fit_label_basis(patches, dim)
    weight = torch.from_numpy(closed.weight).float().to(device)
    encoder, decoder, error = descend_basis(patches, dim, steps, device)
    masked = sum(fitted.has_mask(index) for index in range(len(fitted)))
    drawn = crops_of(masks_of(fitted, "cutting crops"), CROP * ratio, -(-HELD // masked), ignored)
    crops = [drawn[place] for place in np.linspace(0, len(drawn) - 1, min(HELD, len(drawn))).round().astype(int)]
    trained = [train_autoencoder(crops, labels, ratio, basis, steps, device) for basis in (None, closed)]

    def descended(truth: Tensor) -> Tensor:
        code = sum_over_cells(truth, encoder, count, ratio, ignore_index=ignored)
        return dupsample_argmax(code, decoder, count, ratio)[:, : truth.shape[1], : truth.shape[2]]

    ways: dict[str, tuple[int, float | None, Callable[[Tensor], Tensor]]] = {
        "bilinear": (count, None, lambda truth: through_bilinear(truth, count, ratio, ignored)),
        "bilinear_trained": (count, None, lambda truth: trained[0].restore(truth, ignored)),
        "closed": (dim, closed.error, lambda truth: through_basis(truth, weight, count, ratio, ignored)),
        "descent": (dim, error, descended),
        "dupsampling_trained": (dim, None, lambda truth: trained[1].restore(truth, ignored)),
    }
    counts = {way: ConfusionMatrix(labels) for way in ways}
    for mask in masks_of(judged, f"evaluating, ratio {ratio}"):
        truth = torch.from_numpy(np.ascontiguousarray(mask))[None]
        for way, (_, _, restore) in ways.items():
            counts[way].update(restore(truth.to(device)).cpu(), truth)
    return {
        way: {"numbers": numbers, "error_per_cell": lost, **counts[way].scores()}
        for way, (numbers, lost, _) in ways.items()
    }


def table(result: dict[str, Any]) -> list[str]:
    """The result as lines."""
    lines = [
        f"mIoU* on {result['judged']['masks']} masks of split {result['judged']['split']}; fitted to, or trained on "
        f"{result['fitted']['masks']} of split {result['fitted']['split']}, {result['steps']} steps",
        "error: mean of |v - W P v|^2 over the cells that were fitted to; the closed form's is the least there is",
    ]
    for ratio, ways in result["ratios"].items():
        lines += ["", f"{f'ratio {ratio}':<38}{'numbers a cell':>16}{'error':>12}{'mIoU*':>10}"]
        for way, name in WAYS.items():
            found = ways[way]
            error = "-" if found["error_per_cell"] is None else f"{found['error_per_cell']:.4g}"
            lines.append(f"{name:<38}{found['numbers']:>16}{error:>12}{100 * found['miou']:>10.2f}")
    return lines
