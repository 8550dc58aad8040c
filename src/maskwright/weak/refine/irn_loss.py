"""The losses of IRNet (Ahn et al., CVPR 2019, section 3.2), over all pairs of pixels nearer than a radius.

A pair counts where both pixels have a certain label: P0 of equal background labels, P1 of equal classes, N of different
labels. With the affinity a of `maskwright.weak.refine.random_walk`, displacements D, and delta the way from i to j,

    L = 1/2 (1/2 mean_P0(-log a) + 1/2 mean_P1(-log a) + mean_N(-log(1 - a)))
      + 1/2 (mean_P1 |D_i - D_j - delta| + mean_P0 |D_i - D_j|)

where the last two are also means over both components. Means are over the batch of all processes together: one process
may have none of some kind of pair, and means of means are what makes training on several GPUs collapse.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from maskwright.engine import distributed
from maskwright.weak.refine.random_walk import directions, margin_of, path_offsets

EPS = 1e-5
BACKGROUND, CLASS, DIFFERENT, UNCERTAIN = range(4)  # kinds of pairs; those of the last do not count
TERMS = ("bg_pos", "fg_pos", "neg", "dp_fg", "dp_bg")


def irn_loss(
    edge_logits: Tensor,
    displacements: Tensor,
    labels: Tensor,
    num_classes: int,
    background: int | None = 0,
    radius: float = 10,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch, and its parts for the log.

    In distributed training every process gets the loss of the whole batch, and a gradient whose mean over processes is
    the whole batch's, as `DistributedDataParallel` takes it.

    Args:
        edge_logits: `(B, 1, h, w)`.
        displacements: `(B, 2, h, w)`, (dy, dx), not shifted.
        labels: `(B, h, w)` integers at the size of the outputs; what is not in 0..num_classes - 1 is undecided.
        num_classes: background included: 21 for VOC, 81 for COCO.
        background: the value of the background class, or None.
        radius: of pairs; 10 as published.

    Returns:
        A scalar, float32 or wider, and the five means of `TERMS`.
    """
    kind = torch.promote_types(edge_logits.dtype, torch.float32)
    edges = edge_logits[:, 0].to(kind).sigmoid()
    sums, counts = pair_sums(edges, displacements.to(kind), labels, num_classes, background, radius)
    # Displacements have two components, and the order of the terms is that of `TERMS`.
    counts = torch.cat([counts, 2 * counts[[CLASS, BACKGROUND]]])
    loss, means = weighted_means(sums, counts, [0.25, 0.25, 0.5, 0.5, 0.5])
    return loss.to(kind), dict(zip(TERMS, means.to(kind).unbind(), strict=True))


def weighted_means(sums: Tensor, counts: Tensor, shares: list[float]) -> tuple[Tensor, Tensor]:
    """A weighted sum of means over the batch of all processes together, with the gradient that `irn_loss` says.

    Args:
        sums: `(n,)` float64, of this process, with gradient.
        counts: `(n,)` float64, of what was summed.
        shares: weight of each mean.

    Returns:
        A scalar, and the means `(n,)` without gradient.
    """
    whole, counted = distributed.all_reduce_sum(torch.cat([sums.detach(), counts])).chunk(2)
    divisors, weights = counted + EPS, sums.new_tensor(shares)
    means = whole / divisors
    here = (weights * sums / divisors).sum() * distributed.world_size()
    return (weights * means).sum() + here - here.detach(), means


def kinds_of(labels: Tensor, num_classes: int, background: int | None) -> Tensor:
    """`BACKGROUND` or `CLASS` of each position, or `UNCERTAIN`; labels as for `irn_loss`."""
    certain = (labels >= 0) & (labels < num_classes)
    own = torch.where(labels == background, BACKGROUND, CLASS) if background is not None else CLASS
    return torch.where(certain, own, UNCERTAIN)


def pair_sums(
    edges: Tensor,
    displacements: Tensor,
    labels: Tensor,
    num_classes: int,
    background: int | None = 0,
    radius: float = 10,
) -> tuple[Tensor, Tensor]:
    """What the means are made of; differentiable in edges and displacements.

    Args:
        edges: `(B, h, w)` in 0..1.
        displacements: `(B, 2, h, w)`.
        labels: see `irn_loss`, as for the others.
        num_classes: background included.
        background: its value.
        radius: of pairs.

    Returns:
        Sums of the five `TERMS` and counts of the pairs in P0, P1 and N, float64.
    """
    return _PairSums.apply(edges, displacements, labels, num_classes, background, radius)


class _PairSums(torch.autograd.Function):
    """Direction by direction, with the gradient of each sum beside it: the memory of some images, not of all pairs."""

    @staticmethod
    def forward(
        ctx: Any,
        edges: Tensor,
        displacements: Tensor,
        labels: Tensor,
        num_classes: int,
        background: int | None,
        radius: float,
    ) -> tuple[Tensor, Tensor]:
        batch, height, width = edges.shape
        margin = margin_of(radius)
        rows, columns = height - margin, width - 2 * margin
        sums = torch.zeros(5, dtype=torch.float64, device=edges.device)
        counts = torch.zeros(3, dtype=torch.float64, device=edges.device)
        needs_edges, needs_displacements = ctx.needs_input_grad[:2]
        edge_slopes = edges.new_zeros(3 * edges.numel() if needs_edges else 0)
        way_slopes = displacements.new_zeros(2, *displacements.shape if needs_displacements else (0, 0, 0, 0))

        def at(planes: Tensor, dy: int = 0, dx: int = 0) -> Tensor:
            return planes[..., dy : dy + rows, margin + dx : margin + dx + columns]

        own = kinds_of(labels, num_classes, background)
        certain = own != UNCERTAIN
        position = torch.arange(edges.numel(), device=edges.device).view_as(edges)
        for dy, dx in directions(radius) if rows > 0 and columns > 0 else ():
            kind = torch.where(at(labels) == at(labels, dy, dx), at(own), DIFFERENT)
            kind = torch.where(at(certain) & at(certain, dy, dx), kind, UNCERTAIN)
            groups = [kind == number for number in range(3)]
            counts += torch.stack([group.sum() for group in groups])

            path = path_offsets(dy, dx)
            highest, where = torch.stack([at(edges, y, x) for y, x in path]).max(0)
            low, high = 1 - highest + EPS, highest + EPS
            apart = groups[DIFFERENT]
            energy = -torch.where(apart, high, low).log()
            sums[:3] += torch.stack([(energy * group).sum(dtype=torch.float64) for group in groups])
            if needs_edges:
                slope = torch.where(apart, -1 / high, 1 / low).masked_fill_(kind == UNCERTAIN, 0)
                steps = torch.tensor([y * width + x for y, x in path], device=edges.device)
                target = kind.clamp(max=2) * edges.numel() + at(position) + steps[where]
                edge_slopes.scatter_add_(0, target.flatten(), slope.flatten())

            difference = at(displacements) - at(displacements, dy, dx)
            way = displacements.new_tensor([dy, dx])[:, None, None]
            for number, (group, error) in enumerate(((CLASS, difference - way), (BACKGROUND, difference))):
                chosen = groups[group][:, None]
                sums[3 + number] += (error.abs() * chosen).sum(dtype=torch.float64)
                if needs_displacements:
                    sign = error.sign() * chosen
                    at(way_slopes[number])[:] += sign
                    at(way_slopes[number], dy, dx)[:] -= sign
        ctx.save_for_backward(edge_slopes.view(3, batch, height, width) if needs_edges else edge_slopes, way_slopes)
        ctx.mark_non_differentiable(counts)
        return sums, counts

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        edge_slopes, way_slopes = ctx.saved_tensors
        factors = gradients[0].to(edge_slopes.dtype)
        needs_edges, needs_displacements = ctx.needs_input_grad[:2]
        for_edges = torch.einsum("k,kbhw->bhw", factors[:3], edge_slopes) if needs_edges else None
        for_ways = torch.einsum("k,kbchw->bchw", factors[3:], way_slopes) if needs_displacements else None
        return for_edges, for_ways, None, None, None, None
