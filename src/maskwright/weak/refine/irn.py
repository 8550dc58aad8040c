"""IRN's stages (Ahn et al., CVPR 2019): train IRNet on IR labels, find edges, walk the seed maps within them.

    labels = ...                                                        IR labels, `maskwright.weak.refine.ir_labels`
    train_irnet(recipe, settings, train, labels, folder, device)        -> model.safetensors
    extract_edges(train, network, settings, folder / "edges", device)   -> NAME.npz with edge (and displacement)
    refine_folder(train, maps, folder / "edges", settings, out, device) -> maps as the seed stage writes them

Edges depend on the network alone, refined maps on edges and the walk's settings, masks on maps and thresholds: what is
there already is used again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskwright.data import subset, with_masks, without_masks
from maskwright.data.augment import Augment, nearest_index, normalise
from maskwright.data.dataset import Dataset
from maskwright.data.loading import TrainingSet
from maskwright.data.sample import LabelSpace, Sample
from maskwright.data.sizes import Size, seen_size
from maskwright.engine import distributed
from maskwright.engine.checkpoint import describe, weights_digest
from maskwright.engine.fit import Step, fit
from maskwright.engine.progress import track
from maskwright.errors import DataError
from maskwright.files import atomic_write, read_arrays, written_beside
from maskwright.models.irnet import IRNet, create_irnet, infer_edges
from maskwright.models.layers import evaluating
from maskwright.settings import Recipe
from maskwright.weak.refine.irn_loss import irn_loss
from maskwright.weak.refine.irn_settings import IRNSettings
from maskwright.weak.refine.random_walk import enlarge_walk, random_walk
from maskwright.weak.refine.refinement import build_network
from maskwright.weak.seeds.cam import SeedMaps
from maskwright.weak.seeds.extract import make_views, save_maps
from maskwright.weak.seeds.folders import LARGEST_BATCH, batches_to_make, claim, origin

# Pixels, mirrors included, that go through the network at once.
BATCH_PIXELS = {"cpu": 2**21, "cuda": 2**25}


def train_irnet(
    recipe: Recipe,
    settings: IRNSettings,
    dataset: Dataset,
    labels_folder: str | Path,
    folder: str | Path,
    device: torch.device | str,
    *,
    classifier: str | Path | None = None,
) -> dict[str, Any]:
    """Train IRNet's branches on IR labels; resumes where it was stopped.

    At the end the mean displacement over the training images is measured and kept in the network, whose displacements
    are then free of it. IRN's code takes the mean of batch means; here every image counts alike.

    Args:
        recipe: `random_seed` is read.
        settings: of the network.
        dataset: images; their ground truth is not read.
        labels_folder: `NAME.png` with IR labels: values of `dataset.labels`, its ignore value where undecided.
        folder: gets `log.jsonl`, `state.pt` and `model.safetensors`.
        device: where to train.
        classifier: file of the tag classifier, whose backbone is used where `irn.pretrained` is "classifier".

    Returns:
        What `fit` returns: the last numbers of the log.

    Raises:
        RecipeError: a backbone or weights that cannot be had.
        DataError: no image has IR labels.
    """
    labelled = with_masks(dataset, labels_folder)
    chosen = [index for index in range(len(labelled)) if labelled.has_mask(index)]
    if not chosen:
        raise DataError(f"{labels_folder} has IR labels of none of the {len(dataset)} images; run that stage again")
    network = build_irnet(settings, recipe.random_seed, classifier)
    train, plain = subset(labelled, chosen), subset(dataset, chosen)
    size = settings.train.augment.crop or (512, 512)

    def validate(network: torch.nn.Module) -> dict[str, Any]:
        assert isinstance(network, IRNet)
        mean = mean_displacement(network, plain, size, torch.device(device), batch=settings.train.batch_size)
        network.mean_shift.copy_(mean)
        return {"mean_displacement_y": mean[0].item(), "mean_displacement_x": mean[1].item()}

    made = settings.model_dump(mode="json", include={"backbone", "output_stride", "options"})
    augment = Augment(settings.train.augment, dataset.labels, mean=network.mean)
    return fit(
        network,
        irn_step(network, dataset.labels, settings.train_radius),
        TrainingSet(train, augment, settings.train.seed + recipe.random_seed),
        settings.train,
        folder,
        parameter_groups=irn_parameter_groups(network, settings),
        validate=validate,
        metadata=describe("irnet", made, network, dataset.labels, recipe),
        device=device,
        title="irnet",
    )


def build_irnet(settings: IRNSettings, seed: int = 0, classifier: str | Path | None = None) -> IRNet:
    """The network as it is before training.

    Raises:
        RecipeError: as `create_irnet`; or the backbone should be the classifier's, but none is given.
    """
    return build_network("irn", create_irnet, settings, seed, classifier)


def irn_step(network: IRNet, labels: LabelSpace, radius: float) -> Step:
    """The training step: IR labels are brought to the size of the outputs by the nearest pixel, as Pillow does it."""
    mean, std = network.mean, network.std

    def step(runner: torch.nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        edge_logits, displacements = runner(normalise(batch["image"], mean, std))
        truth = batch["mask"]
        for axis in (1, 2):
            index = nearest_index(truth.shape[axis], edge_logits.shape[axis + 1])
            truth = truth.index_select(axis, torch.from_numpy(index).to(truth.device))
        return irn_loss(
            edge_logits, displacements, truth.long(), labels.num_classes, background=labels.background, radius=radius
        )

    return step


def irn_parameter_groups(network: IRNet, settings: IRNSettings) -> list[dict[str, Any]]:
    """Edge branch at `train.lr`, displacement branch at `displacement_lr` times that."""
    branches: dict[bool, list[torch.nn.Parameter]] = {True: [], False: []}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            branches[name.startswith("edge")].append(parameter)
    rate, decay = settings.train.lr, settings.train.weight_decay
    return [
        {"name": "edge", "params": branches[True], "lr": rate, "weight_decay": decay},
        {
            "name": "displacement",
            "params": branches[False],
            "lr": rate * settings.displacement_lr,
            "weight_decay": decay,
        },
    ]


@torch.no_grad()
def mean_displacement(
    network: IRNet, dataset: Dataset, size: tuple[int, int], device: torch.device, *, batch: int = 16
) -> Tensor:
    """Mean over images and positions of the displacements `(2,)` before any shift, the same in every process.

    Args:
        network: in inference mode, on `device`.
        dataset: images; the top left part of each is seen, padded with the mean colour where it is smaller.
        size: height and width of that part.
        device: where to compute.
        batch: images at once.
    """
    fill = np.rint(np.asarray(network.mean) * 255).astype(np.uint8)
    unmasked = without_masks(dataset)
    mine = range(distributed.rank(), len(dataset), distributed.world_size())
    total = torch.zeros(2, dtype=torch.float64, device=device)
    for start in range(0, len(mine), batch):
        part = mine[start : start + batch]
        canvas = np.tile(fill, (len(part), *size, 1))
        for place, index in enumerate(part):
            image = unmasked[index].image[: size[0], : size[1]]
            canvas[place, : image.shape[0], : image.shape[1]] = image
        images = torch.from_numpy(canvas).to(device).permute(0, 3, 1, 2)
        found = network.displacements(network.taps(normalise(images, network.mean, network.std)), shift=False)
        total += found.mean((2, 3), dtype=torch.float64).sum(0)
    return (distributed.all_reduce_sum(total) / max(1, len(dataset))).float()


def extract_edges(
    dataset: Dataset,
    network: IRNet,
    settings: IRNSettings,
    folder: str | Path,
    device: torch.device | str,
    *,
    size: Size = None,
    displacement: bool = False,
    batch_pixels: int | None = None,
) -> None:
    """Write the edges of every tagged image, `NAME.npz`; resumes where it was stopped; shared by all processes.

    Args:
        dataset: images and tags.
        network: on `device`; runs in inference mode.
        settings: `pad_to` is read.
        folder: gets the files: `edge` `(h4, w4)` float32, and, if asked for, `displacement` `(2, h4, w4)` float32.
        device: where to compute.
        size: images are resized to this first: what the seeds were made with.
        displacement: also the displacements, which instance masks need.
        batch_pixels: pixels, mirrors included, that go through the network at once.

    Raises:
        DataError: the folder holds edges of another network or other settings.
    """
    folder, device, unmasked = Path(folder), torch.device(device), without_masks(dataset)
    made_with = {
        "pad_to": settings.pad_to,
        "size": list(size) if isinstance(size, tuple) else size,
        "displacement": displacement,
    }
    claim(folder, {**made_with, "weights": weights_digest(network)})
    limit = (batch_pixels or BATCH_PIXELS.get(device.type, BATCH_PIXELS["cuda"])) / 2
    jobs = batches_to_make(dataset, folder, size, pixels=limit, tagged_only=True)
    with evaluating(network), written_beside(2 * LARGEST_BATCH) as write:
        for indices in track(jobs, title="edges"):
            images = [unmasked[index].image for index in indices]
            edges, ways = _edges(network, settings, images, size, device, displacement)
            for place, index in enumerate(indices):
                arrays = {"edge": edges[place, 0].cpu().numpy()}
                if ways is not None:
                    arrays["displacement"] = ways[place].cpu().numpy()
                write(_save, folder / f"{dataset.names[index]}.npz", arrays)
    distributed.barrier()


def _edges(
    network: IRNet,
    settings: IRNSettings,
    images: Sequence[np.ndarray],
    size: Size,
    device: torch.device,
    displacement: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """See `infer_edges`; of images that are seen at one size."""
    views = make_views(
        images, [()] * len(images), mean=network.mean, std=network.std, scales=(1.0,), size=size, device=device
    )
    return infer_edges(network, views.images[0], pad_to=settings.pad_to, displacement=displacement)


def refine_folder(
    dataset: Dataset,
    maps_folder: str | Path,
    edges_folder: str | Path,
    settings: IRNSettings,
    folder: str | Path,
    device: torch.device | str,
    *,
    size: Size = None,
    batch: int = 8,
) -> None:
    """Write refined maps `NAME.npz` in the form of seed maps; resumes where it was stopped; shared by all processes.

    Maps of one image are divided by one maximum over its classes, not by each class's own; thresholds of the paper
    (0.25; 0.28 in ReCAM on VOC) are meant for that.

    Args:
        dataset: names, tags and sizes; images are not opened.
        maps_folder: seed maps.
        edges_folder: what `extract_edges` wrote.
        settings: `cam_power`, `radius`, `beta`, `exp_times` and `tolerance` are read.
        folder: gets the files; images without tags get one without maps, images of which nobody said get none.
        device: where to walk.
        size: what the seeds were made with.
        batch: images of one size that walk together.

    Raises:
        DataError: maps or edges are missing or do not fit, or the folder holds maps of other origin.
    """
    folder, maps_folder, edges_folder = Path(folder), Path(maps_folder), Path(edges_folder)
    walk = settings.model_dump(mode="json", include={"cam_power", "radius", "beta", "exp_times", "tolerance"})
    claim(folder, {"walk": walk, "seeds": origin(maps_folder), "edges": origin(edges_folder)})
    jobs = batches_to_make(dataset, folder, size, largest=batch)
    with written_beside(2 * LARGEST_BATCH) as write:
        for indices in track(jobs, title="random walk"):
            names = [dataset.names[index] for index in indices]
            seeds = [load_seeds(maps_folder, name) for name in names]
            edges = [load_edges(edges_folder, name)[0] if len(keys) else None for name, (keys, _) in zip(names, seeds)]
            walked = _walk_together(seeds, names, edges, settings, device)
            for index, (keys, _), maps in zip(indices, seeds, walked, strict=True):
                write(save_maps, folder, dataset.names[index], _walked(keys, maps, size, dataset.size(index)))
    distributed.barrier()


def _walked(keys: np.ndarray, maps: Tensor, size: Size, own: tuple[int, int]) -> SeedMaps:
    """Walked maps `(n, h, w)` of one image of size `own`, in the form of seed maps."""
    high_res = enlarge_walk(maps, seen_size(size, own), own)
    highest = maps.max() if len(maps) else maps.new_zeros(())
    return SeedMaps(torch.from_numpy(keys), maps / torch.where(highest > 0, highest, 1), high_res)


def irn_in_memory(
    network: IRNet,
    settings: IRNSettings,
    samples: Sequence[Sample],
    maps: Sequence[SeedMaps],
    device: torch.device,
    *,
    size: Size = None,
    batch: int = 8,
) -> list[SeedMaps]:
    """Edges and walked maps of a batch of images, without files.

    Args:
        network: on `device`, in inference mode.
        settings: of edges and walk.
        samples: images that the network sees at one size.
        maps: their seed maps, at least one of each.
        device: where to compute.
        size: what the seeds were made with.
        batch: images that are worked on together.
    """
    refined = []
    for start in range(0, len(samples), batch):
        part = samples[start : start + batch]
        edges = _edges(network, settings, [sample.image for sample in part], size, device)[0][:, 0].cpu().numpy()
        seeds = [(one.keys.numpy(), one.cam.cpu().numpy()) for one in maps[start : start + batch]]
        walked = _walk_together(seeds, [sample.name for sample in part], list(edges), settings, device)
        for sample, (keys, _), one in zip(part, seeds, walked, strict=True):
            height, width = sample.image.shape[:2]
            refined.append(_walked(keys, one, size, (height, width)))
    return refined


def load_seeds(folder: str | Path, name: str) -> tuple[np.ndarray, ...]:
    """Tag positions `(n,)` and quarter-size maps `(n, h4, w4)` of one image.

    Raises:
        DataError: there is no such file, or it holds something else.
    """
    arrays = read_arrays(Path(folder) / f"{name}.npz", ("keys", "cam"))
    return arrays["keys"], arrays["cam"]


def load_edges(folder: str | Path, name: str, displacement: bool = False) -> tuple[np.ndarray, ...]:
    """Edges `(h4, w4)` of one image, and its displacements `(2, h4, w4)` if asked for.

    Raises:
        DataError: there is no such file, or it holds something else.
    """
    keys = ("edge", "displacement") if displacement else ("edge",)
    return tuple(read_arrays(Path(folder) / f"{name}.npz", keys).values())


def _walk_together(
    seeds: Sequence[tuple[np.ndarray, ...]],
    names: Sequence[str],
    found: Sequence[np.ndarray | None],
    settings: IRNSettings,
    device: torch.device | str,
) -> list[Tensor]:
    """Walked maps `(n, h, w)` float32 of images of one size, on the device."""
    most = max(len(keys) for keys, _ in seeds)
    shape = seeds[0][1].shape[1:]
    maps, edges = torch.zeros(len(seeds), most, *shape), torch.zeros(len(seeds), 1, *shape)
    for place, ((keys, cam), name, edge) in enumerate(zip(seeds, names, found, strict=True)):
        if edge is None:
            continue
        if edge.shape != cam.shape[1:] or edge.shape != shape:
            raise DataError(
                f"{name}: edges are {edge.shape}, maps {cam.shape[1:]}; both must be a quarter of the size that the "
                "seeds were made with. Make both again with one seeds.size"
            )
        maps[place, : len(keys)] = torch.from_numpy(cam)
        edges[place, 0] = torch.from_numpy(edge)
    if most:
        maps, edges = maps.to(device), edges.to(device)
        maps = random_walk(
            maps.pow(settings.cam_power),
            edges,
            radius=settings.radius,
            beta=settings.beta,
            steps=2**settings.exp_times,
            tolerance=settings.tolerance,
        )
    return [planes[: len(keys)] for planes, (keys, _) in zip(maps, seeds, strict=True)]


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with atomic_write(path) as temporary:
        np.savez(temporary, **arrays)  # type: ignore[arg-type]
