"""Views of images in, seed maps out: for one image, and for a whole data set into a folder."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from maskwright.data import without_masks
from maskwright.data.augment import normalise, resize_image
from maskwright.data.dataset import Dataset
from maskwright.data.sample import Sample
from maskwright.data.sizes import Size, seen_size
from maskwright.engine import distributed
from maskwright.engine.checkpoint import weights_digest
from maskwright.engine.device import autocast, freed_memory_kept, half_type
from maskwright.engine.progress import track
from maskwright.errors import DataError
from maskwright.files import atomic_write, read_arrays, written_beside
from maskwright.inference.features import FeatureStore
from maskwright.models.folding import inference_copy
from maskwright.models.layers import evaluating
from maskwright.settings import SeedSettings
from maskwright.weak.seeds.cam import SeedMaps, Views, class_activation_maps, normalise_maps, strided
from maskwright.weak.seeds.folders import LARGEST_BATCH, batches_to_make, claim
from maskwright.weak.seeds.method import BATCH_PIXELS, MapsOf
from maskwright.weak.seeds.windows import in_windows

SCALES = (1.0, 0.5, 1.5, 2.0)


def make_views(
    images: Sequence[np.ndarray],
    tags: Sequence[Sequence[int]],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    scales: Sequence[float] = SCALES,
    flip: bool = True,
    size: Size = None,
    device: torch.device | str = "cpu",
) -> Views:
    """Normalised images at every scale, with their mirrors.

    Args:
        images: per image `(H, W, 3)` uint8, RGB; of one size, unless `size` is given.
        tags: per image, tag positions.
        mean: RGB mean in 0..1.
        std: RGB standard deviation in 0..1.
        scales: factors on height and width; the products are rounded half to even. Pillow's bicubic filter is used.
        flip: also see the mirror images.
        size: height and width that count as scale 1; None for the images' own.
        device: where the views are put.
    """
    height, width = seen_size(size, images[0].shape)
    rescaled = [_rescaled(image, (height, width), scales) for image in images]
    return _views(rescaled, tags, (height, width), mean=mean, std=std, scales=scales, flip=flip, device=device)


def _rescaled(image: np.ndarray, size: tuple[int, int], scales: Sequence[float]) -> list[np.ndarray]:
    # Straight from the original at every scale: two resamplings in a row would blur.
    return [resize_image(image, (max(1, round(size[0] * s)), max(1, round(size[1] * s)))) for s in scales]


def _views(
    rescaled: Sequence[Sequence[np.ndarray]],
    tags: Sequence[Sequence[int]],
    size: tuple[int, int],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    scales: Sequence[float],
    flip: bool,
    device: torch.device | str,
) -> Views:
    images = []
    for batch in zip(*rescaled, strict=True):
        pixels = torch.from_numpy(np.stack(batch)).to(device, non_blocking=True)
        # Channels stay last in memory, as they came: convolutions like it, and turning them would be one more copy.
        view = normalise(pixels.permute(0, 3, 1, 2), mean, std)
        images.append(torch.cat([view, view.flip(-1)]) if flip else view)
    return Views(images, tuple(scales), [tuple(sorted(keys)) for keys in tags], size)


def extract_maps(
    network: Any,
    image: np.ndarray,
    tags: Sequence[int],
    *,
    method: MapsOf = class_activation_maps,
    scales: Sequence[float] = SCALES,
    flip: bool = True,
    size: Size = None,
    device: torch.device | str = "cpu",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **options: Any,
) -> SeedMaps:
    """Seed maps of one image.

    Args:
        network: a tag classifier in inference mode, on `device`.
        image: `(H, W, 3)` uint8, RGB.
        tags: tag positions that get maps.
        method: the seed method.
        scales: see `make_views`.
        flip: also see the mirror image.
        size: the image is resized to this height and width first; `high_res` comes back at the image's own size.
        device: where to compute.
        mean: RGB mean in 0..1; by default the network's.
        std: RGB standard deviation in 0..1; by default the network's.
        **options: of the method, such as `weight`.
    """
    views = make_views(
        [image],
        [tags],
        mean=network.mean if mean is None else mean,
        std=network.std if std is None else std,
        scales=scales,
        flip=flip,
        size=size,
        device=device,
    )
    height, width = image.shape[:2]
    return at_image_size(method(network, views, **options)[0], (height, width))


def at_image_size(maps: SeedMaps, size: tuple[int, int]) -> SeedMaps:
    """The same maps with `high_res` at another size; `cam` stays a quarter of what the network saw."""
    if maps.high_res.shape[-2:] == size:
        return maps
    if len(maps.keys) == 0:
        return SeedMaps(maps.keys, maps.cam, maps.high_res.new_zeros(0, *size))
    resized = F.interpolate(maps.high_res[None], size, mode="bilinear", align_corners=False)[0]
    return SeedMaps(maps.keys, maps.cam, normalise_maps(resized))


def extract_folder(
    dataset: Dataset,
    network: Any,
    settings: SeedSettings,
    folder: str | Path,
    device: torch.device | str,
    *,
    method: MapsOf = class_activation_maps,
    options: dict[str, Any] | None = None,
    batch_pixels: int | None = None,
    store: FeatureStore | None = None,
) -> None:
    """Write seed maps of every image whose tags are known, one file `NAME.npz` each; resumes where it was stopped.

    Images of equal size go through the network together; reading, resizing and writing happen beside it. Images without
    any tag get a file without maps; images of which nobody said what they show get none. The work is shared by all
    processes; each returns when all are done.

    Args:
        dataset: images and tags; masks are never read here.
        network: a tag classifier on `device` with `mean` and `std`; a copy of it runs, made for inference.
        settings: `size`, `scales`, `flip`, `window`, `stride` and `autocast` are read; the method runs under that, maps
            are float32 anyway.
        folder: gets the files (`keys` int64, `cam` and `high_res` float16, not compressed) and `maps.json`, which says
            what they were made with.
        device: where to compute.
        method: the seed method.
        options: of the method.
        batch_pixels: pixels of the largest scale, mirrors included, that go through the network at once.
        store: maps of the network's backbone, for a method that reads no more of it; images are not opened then.

    Raises:
        DataError: the folder holds maps made with other settings or another network.
        RecipeError: float16 on a CPU, or as `in_windows`.
    """
    folder, device = Path(folder), torch.device(device)
    half = half_type(settings.autocast, device)
    made_with = settings.model_dump(mode="json")
    newer = {
        "autocast": half is not None,
        "window": settings.window,
        "stride": settings.window and settings.stride,
        "accumulate": settings.accumulate != "none",
    }
    for name in (name for name, counts in newer.items() if not counts):
        del made_with[name]  # folders begun before there was the setting go on
    claim(folder, {"seeds": made_with, "weights": weights_digest(network)})
    jobs = batches_to_make(dataset, folder, settings.size, pixels=seeds_per_batch(settings, device, batch_pixels))
    with evaluating(network):
        ready = ready_for_seeds(network, settings, half)
        if store is not None:
            store.make([settings.size], settings.scales)
        done = seed_batches(dataset, ready, settings, jobs, device, method, options or {}, store=store)
        with freed_memory_kept(device):
            for _ in track(_written(done, dataset, folder), title="seed maps", total=sum(map(len, jobs))):
                pass
    distributed.barrier()


def ready_for_seeds(network: Any, settings: SeedSettings, half: torch.dtype | None) -> Any:
    """A copy of a network made for inference, or itself, with weights laid out as views are.

    Args:
        network: in inference mode.
        settings: `window` and `stride` are read.
        half: type of its numbers, where that is not float32.

    Raises:
        RecipeError: as `in_windows`.
    """
    ready: Any = inference_copy(network, half)
    return in_windows(ready.to(memory_format=torch.channels_last), settings)  # otherwise each call turns the weights


def seeds_per_batch(settings: SeedSettings, device: torch.device, batch_pixels: int | None = None) -> float:
    """Pixels of images as the network sees them, before scales and mirrors, that make a batch."""
    limit = batch_pixels or BATCH_PIXELS.get(device.type, BATCH_PIXELS["cuda"])
    return limit / (max(settings.scales) ** 2 * (2 if settings.flip else 1))


def _written(
    done: Iterator[tuple[list[int], list[Sample], list[SeedMaps]]], dataset: Dataset, folder: Path
) -> Iterator[int]:
    """Write maps beside the work and yield each image's index when they are on their way to their file."""
    with written_beside(2 * LARGEST_BATCH, min(4, os.cpu_count() or 1)) as write:
        for indices, _, found in done:
            for index, maps in zip(indices, found, strict=True):
                write(save_maps, folder, dataset.names[index], maps)
                yield index


def load_maps(folder: str | Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Tag positions `(n,)` and full-size maps `(n, H, W)` of one image.

    Raises:
        DataError: there is no such file, or it holds something else.
    """
    arrays = read_arrays(Path(folder) / f"{name}.npz", ("keys", "high_res"))
    return arrays["keys"], arrays["high_res"]


def save_maps(folder: str | Path, name: str, maps: SeedMaps) -> None:
    """Write `NAME.npz`: `keys` int64, `cam` and `high_res` float16; not compressed, since reading is what repeats."""
    with atomic_write(Path(folder) / f"{name}.npz") as temporary:
        np.savez(
            temporary,
            keys=maps.keys.cpu().numpy(),
            cam=maps.cam.to(torch.float16).cpu().numpy(),
            high_res=maps.high_res.to(torch.float16).cpu().numpy(),
        )


def empty_maps(seen: tuple[int, int], size: tuple[int, int]) -> SeedMaps:
    """What an image without tags gets: no map of the right size.

    Args:
        seen: height and width that the network would have seen.
        size: height and width of the image.
    """
    quarter = (strided(seen[0], 4), strided(seen[1], 4))
    return SeedMaps(torch.zeros(0, dtype=torch.int64), torch.zeros(0, *quarter), torch.zeros(0, *size))


class _Heads:
    """A classifier whose images are feature maps already."""

    def __init__(self, network: Any) -> None:
        self.classifier = network.classifier
        self.recam_head = network.recam_head

    def features(self, maps: Tensor) -> Tensor:
        return maps


def _features(
    kept: Sequence[Sequence[Tensor]],
    tags: Sequence[Sequence[int]],
    size: tuple[int, int],
    *,
    scales: Sequence[float],
    flip: bool,
    device: torch.device,
) -> Views:
    """Views whose images are feature maps, from those of each image and its mirror `(2, D, h, w)` at every scale."""
    images = []
    for batch in zip(*kept, strict=True):
        both = torch.stack(batch).to(device).float()
        images.append(torch.cat([both[:, 0], both[:, 1]]) if flip else both[:, 0])
    return Views(images, tuple(scales), [tuple(sorted(keys)) for keys in tags], size)


def seed_batches(
    dataset: Dataset,
    network: Any,
    settings: SeedSettings,
    jobs: Sequence[list[int]],
    device: torch.device,
    method: MapsOf,
    options: dict[str, Any],
    *,
    store: FeatureStore | None = None,
    failed: dict[int, str] | None = None,
) -> Iterator[tuple[list[int], list[Sample], list[SeedMaps]]]:
    """Work through batches of images of one size; what comes next is read beside the network's work.

    Args:
        dataset: images and tags; masks are never read here.
        network: a tag classifier on `device`, ready for inference.
        settings: `size`, `scales`, `flip` and `autocast` are read.
        jobs: indices of each batch, images with tags and without never in one.
        device: where to compute.
        method: the seed method.
        options: of the method.
        store: maps of the network's backbone, for a method that reads no more of it; images are not opened then.
        failed: gets why an image could not be read, which then is left out of its batch; without it that is raised.

    Yields:
        The indices of a batch; its images, without masks, where they were opened, else an empty list; and the maps,
        `high_res` at the size of each image.
    """
    unmasked = without_masks(dataset)
    position = {value: index for index, value in enumerate(dataset.labels.foreground)}

    def load(index: int) -> tuple[Sample | None, list[Any]]:
        if store is not None:
            return None, [store.maps(index, store.seen(index, settings.size, scale))[-1] for scale in settings.scales]
        sample = unmasked[index]
        return sample, _rescaled(sample.image, seen_size(settings.size, dataset.size(index)), settings.scales)

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        loads: deque[dict[int, Future[tuple[Sample | None, list[Any]]]]] = deque()
        for number, job in enumerate(jobs):
            seen = seen_size(settings.size, dataset.size(job[0]))
            for later in jobs[number + len(loads) : number + 2]:  # this batch and the next
                loads.append({index: pool.submit(load, index) for index in later if dataset.tags(index)})
            waiting = loads.popleft()
            if not waiting:
                yield job, [], [empty_maps(seen, dataset.size(index)) for index in job]
                continue
            loaded = {}
            for index, future in waiting.items():
                try:
                    loaded[index] = future.result()
                except DataError as error:
                    if failed is None:
                        raise
                    failed[index] = str(error)
            if not loaded:
                continue
            indices = list(loaded)
            tags = [[position[value] for value in dataset.tags(index) or ()] for index in indices]
            rescaled = [views for _, views in loaded.values()]
            if store is None:
                views = _views(
                    rescaled,
                    tags,
                    seen,
                    mean=network.mean,
                    std=network.std,
                    scales=settings.scales,
                    flip=settings.flip,
                    device=device,
                )
            else:
                views = _features(rescaled, tags, seen, scales=settings.scales, flip=settings.flip, device=device)
            with autocast(settings.autocast, device):
                found = method(network if store is None else _Heads(network), views, **options)
            samples = [sample for sample, _ in loaded.values() if sample is not None]
            sized = [at_image_size(maps, dataset.size(index)) for index, maps in zip(indices, found, strict=True)]
            yield indices, samples, sized
