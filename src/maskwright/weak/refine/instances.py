"""Instance masks from IRNet's displacements (Ahn et al., CVPR 2019, section 3.4 and its released code).

Every position follows the displacements, which are interpolated bilinearly, until it arrives at a centroid. Positions
that arrive in one connected region of weak displacements are one instance. The map of each class is cut into
instances, each part walks as class maps do, and the parts compete for pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from maskwright.data.dataset import Dataset
from maskwright.data.sample import LabelSpace
from maskwright.data.sizes import Size, seen_size
from maskwright.engine import distributed
from maskwright.engine.progress import track
from maskwright.files import atomic_write, read_arrays, written_beside
from maskwright.weak.refine.irn import load_edges, load_seeds
from maskwright.weak.refine.irn_settings import IRNSettings
from maskwright.weak.refine.random_walk import enlarge_walk, random_walk
from maskwright.weak.seeds.folders import LARGEST_BATCH, claim, origin

ITERATIONS = 300
WEAK_DISPLACEMENT = 2.5
SMALLEST = 0.01


class Instances(NamedTuple):
    """What was found in one image, best first.

    Args:
        classes: label value of each, `(n,)` int64.
        scores: highest score within each, 0 for fragments, `(n,)` float32.
        masks: `(n, H, W)` bool; no pixel is in two of them.
    """

    classes: np.ndarray
    scores: np.ndarray
    masks: np.ndarray


def find_centroids(displacements: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """Where each position arrives by following the displacements.

    Args:
        displacements: `(2, h, w)`, (dy, dx) in positions.
        iterations: how often the displacement at the present place is added; places stay within the image.

    Returns:
        `(2, h, w)`, places as (y, x).
    """
    height, width = displacements.shape[1:]
    limit = displacements.new_tensor([height - 1, width - 1])[:, None, None]
    axes = [torch.arange(length, dtype=displacements.dtype, device=displacements.device) for length in (height, width)]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    for _ in range(iterations):
        grid = (2 * places / limit.clamp(min=1) - 1).flip(0).permute(1, 2, 0)  # (x, y) in -1..1
        way = F.grid_sample(displacements[None], grid[None], padding_mode="border", align_corners=True)[0]
        places = (places + way).clamp(min=torch.zeros_like(limit), max=limit)
    return places


def cluster_centroids(centroids: Tensor, displacements: Tensor, threshold: float = WEAK_DISPLACEMENT) -> np.ndarray:
    """Which instance each position belongs to.

    Args:
        centroids: `(2, h, w)`, where each position arrives.
        displacements: `(2, h, w)`.
        threshold: a displacement shorter than this is weak, in positions.

    Returns:
        `(h, w)` int64 from 0 without gaps; positions that arrive where displacements are strong are one group.
    """
    regions = connected_regions((displacements.norm(dim=0) < threshold).cpu().numpy())
    y, x = centroids.round().long().cpu().numpy()
    _, groups = np.unique(regions[y, x], return_inverse=True)
    return groups.reshape(y.shape)


def connected_regions(mask: np.ndarray) -> np.ndarray:
    """Number of the 4-connected region of each pixel: 1, 2, ... in reading order of their first pixels, 0 outside.

    Args:
        mask: `(H, W)` bool.

    Returns:
        `(H, W)` int64.
    """
    height, width = mask.shape
    # Runs of each row, as positions in the rows laid end to end with a gap between; overlaps join neighbouring rows'.
    flat = np.zeros((height, width + 1), np.int8)
    flat[:, :width] = mask
    change = np.flatnonzero(np.diff(flat.ravel(), prepend=0, append=0))
    starts, ends = change[::2], change[1::2]
    first = np.searchsorted(ends, starts + width + 1, side="right")  # of the runs that touch it from below
    last = np.searchsorted(starts, ends + width + 1, side="left")
    parent = list(range(len(starts)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = run = parent[parent[run]]
        return run

    for run, (low, high) in enumerate(zip(first.tolist(), last.tolist())):
        for below in range(low, high):
            one, other = root(run), root(below)
            parent[max(one, other)] = min(one, other)
    roots = np.array([root(run) for run in range(len(parent))], np.int64)
    _, number = np.unique(roots, return_inverse=True)
    regions = np.zeros(flat.size + 1, np.int64)
    regions[starts] = number + 1
    regions[ends] -= number + 1
    return np.cumsum(regions)[:-1].reshape(height, width + 1)[:, :width]


@torch.no_grad()
def instance_masks(
    cam: Tensor,
    classes: np.ndarray,
    edges: Tensor,
    displacements: Tensor,
    size: tuple[int, int],
    *,
    seen: tuple[int, int] | None = None,
    threshold: float = 0.25,
    radius: float = 5,
    beta: float = 10.0,
    steps: int = 256,
    tolerance: float = 0.0,
    smallest: float = SMALLEST,
) -> Instances:
    """Instances of one image.

    Args:
        cam: `(n, h, w)`, maps of the tagged classes at a quarter of the size.
        classes: label value of each map, `(n,)`.
        edges: `(h, w)` in 0..1.
        displacements: `(2, h, w)`, shifted by their mean.
        size: height and width of the image.
        seen: what the networks saw, where it is another.
        threshold: score of the background, as a share of the highest score.
        radius: see `random_walk`, as for the others.
        beta: exponent of the affinities.
        steps: of the walk.
        tolerance: of the walk.
        smallest: pieces below this share of the image are fragments; they keep a mask but score 0.
    """
    if len(cam) == 0:
        return Instances(np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros((0, *size), bool))
    groups = cluster_centroids(find_centroids(displacements), displacements)
    one_hot = F.one_hot(torch.from_numpy(groups), int(groups.max()) + 1).permute(2, 0, 1).to(cam)
    parts = (cam[:, None] * one_hot).flatten(0, 1)
    owner = np.repeat(np.asarray(classes, np.int64), len(one_hot))
    there = parts.flatten(1).any(1)
    parts, owner = parts[there], owner[there.cpu().numpy()]
    walked = random_walk(parts[None], edges[None, None], radius=radius, beta=beta, steps=steps, tolerance=tolerance)[0]
    scores = enlarge_walk(walked, seen or size, size)
    best, winner = scores.max(0) if len(scores) else (scores.new_zeros(size), torch.zeros(size, dtype=torch.long))
    number = torch.where(best > threshold, winner, -1).cpu().numpy()
    best_score = best.cpu().numpy()

    found: list[tuple[float, int, np.ndarray]] = []
    for part in np.unique(number[number >= 0]):
        pieces = connected_regions(number == part)
        for piece in range(1, pieces.max() + 1):
            mask = pieces == piece
            large_enough = mask.sum() >= smallest * mask.size
            found.append((float(best_score[mask].max()) if large_enough else 0.0, int(owner[part]), mask))
    found.sort(key=lambda entry: -entry[0])
    return Instances(
        np.array([entry[1] for entry in found], np.int64),
        np.array([entry[0] for entry in found], np.float32),
        np.array([entry[2] for entry in found], bool).reshape(-1, *size),
    )


def write_instances(
    dataset: Dataset,
    maps_folder: str | Path,
    edges_folder: str | Path,
    settings: IRNSettings,
    folder: str | Path,
    device: torch.device | str = "cpu",
    *,
    size: Size = None,
    threshold: float = 0.25,
) -> None:
    """Write the instances of every image with tags; resumes where it was stopped; shared by all processes.

    Args:
        dataset: names, tags and sizes; images are not opened.
        maps_folder: seed maps.
        edges_folder: what `extract_edges` wrote with `displacement`.
        settings: `cam_power`, `radius`, `beta`, `exp_times` and `tolerance` are read.
        folder: gets `NAME.npz` with `classes`, `scores` and `masks`, see `Instances`; masks are packed eight to a byte
            along rows, see `load_instances`.
        device: where to walk.
        size: what the seeds were made with.
        threshold: score of the background.

    Raises:
        DataError: maps, edges or displacements are missing, or the folder holds instances of other origin.
    """
    folder, maps_folder, edges_folder, labels = Path(folder), Path(maps_folder), Path(edges_folder), dataset.labels
    walk = settings.model_dump(mode="json", include={"cam_power", "radius", "beta", "exp_times", "tolerance"})
    made_with = {"walk": walk, "threshold": threshold, "size": list(size) if isinstance(size, tuple) else size}
    claim(folder, {**made_with, "seeds": origin(maps_folder), "edges": origin(edges_folder)})
    names = [name for index, name in enumerate(dataset.names) if dataset.tags(index)]
    names = distributed.broadcast([name for name in names if not (folder / f"{name}.npz").is_file()])
    place = {name: index for index, name in enumerate(dataset.names)}
    with written_beside(LARGEST_BATCH) as write:
        for name in track(names[distributed.rank() :: distributed.world_size()], title="instances"):
            keys, cam = load_seeds(maps_folder, name)
            edges, displacements = (torch.from_numpy(a) for a in load_edges(edges_folder, name, displacement=True))
            own = dataset.size(place[name])
            found = instance_masks(
                torch.from_numpy(cam).float().to(device).pow(settings.cam_power),
                label_values(keys, labels),
                edges.to(device),
                displacements.to(device),
                own,
                seen=seen_size(size, own),
                threshold=threshold,
                radius=settings.radius,
                beta=settings.beta,
                steps=2**settings.exp_times,
                tolerance=settings.tolerance,
            )
            write(_save, folder / f"{name}.npz", found)
    distributed.barrier()


def label_values(keys: np.ndarray, labels: LabelSpace) -> np.ndarray:
    """Label values `(n,)` of tag positions `(n,)`."""
    return np.asarray(labels.foreground, np.int64)[keys]


def load_instances(folder: str | Path, name: str) -> Instances:
    """The instances of one image.

    Raises:
        DataError: there is no such file, or it holds something else.
    """
    path = Path(folder) / f"{name}.npz"
    arrays = read_arrays(path, ("masks", "width", "classes", "scores"))
    masks = np.unpackbits(arrays["masks"], axis=-1, count=int(arrays["width"])).astype(bool)
    return Instances(arrays["classes"], arrays["scores"], masks)


def _save(path: Path, found: Instances) -> None:
    with atomic_write(path) as temporary:
        np.savez(
            temporary,
            classes=found.classes,
            scores=found.scores,
            masks=np.packbits(found.masks, axis=-1),
            width=np.int64(found.masks.shape[-1]),
        )
