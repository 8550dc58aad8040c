"""Applying a segmenter: sliding window, several scales and flips, and one pass over a data set for scores and masks.

Two conventions of averaging over scales and flips are in use. Here scores and masks come from the mean of the softmax
probabilities (`predict_probabilities`); `predict_logits` gives the mean of the logits, the other one. With a single
view both have the same arg-max, and neither is built where a label map is all that is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from maskwright.data.augment import normalise, prepare
from maskwright.data.batches import equal_batches
from maskwright.data.dataset import Dataset
from maskwright.data.masks import write_mask
from maskwright.data.provenance import mark
from maskwright.data.sample import LabelSpace
from maskwright.data.sizes import scaled_size
from maskwright.engine import distributed
from maskwright.engine.device import autocast, freed_memory_kept, half_type
from maskwright.engine.progress import track
from maskwright.errors import DataError, RecipeError
from maskwright.files import write_json
from maskwright.inference.prefetch import prefetched
from maskwright.inference.windows import sliding_window
from maskwright.metrics import ConfusionMatrix
from maskwright.models.base import resize_argmax
from maskwright.models.folding import inference_copy
from maskwright.models.layers import evaluating, resize
from maskwright.runs.folder import IMAGES, PREDICTIONS
from maskwright.settings import InferenceSettings

# Pixels that go through a network at once on a CPU, where more only makes maps too large for the caches.
CPU_PIXELS = 2**18


@torch.no_grad()
def predict_logits(
    model: nn.Module, images: Tensor, settings: InferenceSettings, scaled: Sequence[Tensor] = ()
) -> Tensor:
    """Logits, averaged over scales and flips where there are several.

    Args:
        model: a `SegmentationModel`; evaluation mode is used and its own mode restored.
        images: `(B, 3, H, W)`, normalised, already at `settings.size` where that is set.
        settings: `scales`, `flip`, `window`, `stride`, `batch_size` (of windows) and `autocast` are read.
        scaled: the images at each of the scales, where they were resized before.

    Returns:
        `(B, C, H, W)`.
    """
    return _mean_over_views(model, images, settings, torch.clone, scaled)


@torch.no_grad()
def predict_probabilities(
    model: nn.Module,
    images: Tensor,
    settings: InferenceSettings,
    classes: Sequence[int] | None = None,
    scaled: Sequence[Tensor] = (),
) -> Tensor:
    """Softmax probabilities, averaged over scales and flips where there are several.

    Args:
        model: a `SegmentationModel`; evaluation mode is used and its own mode restored.
        images: `(B, 3, H, W)`, normalised, already at `settings.size` where that is set.
        settings: how the model is applied; `size` is not read.
        classes: values of the classes that may be in the images, where that is known; at least one. They share what the
            network gives to all others in proportion to what they have, before the CRF, and the others get 0.
        scaled: the images at each of the scales, where they were resized before.

    Returns:
        `(B, C, H, W)`, summing to 1 over C; with `crf`, after a dense CRF on the images.
    """
    if classes is not None and len(classes) == 1:  # nothing is left to ask the network
        found = images.new_zeros(len(images), _bare(model).num_classes, *images.shape[2:])
        found[:, classes[0]] = 1
        return found
    found = _mean_over_views(model, images, settings, partial(torch.softmax, dim=1), scaled)
    planes = found if classes is None else _shares(found[:, list(classes)])
    if settings.crf is not None:
        planes = _after_crf(planes, images, _bare(model), settings.crf, settings.crf_scale)
    if classes is None:
        return planes
    found.zero_()[:, list(classes)] = planes
    return found


def _shares(found: Tensor) -> Tensor:
    """Planes `(B, n, H, W)` that sum to 1, in proportion to `found`; equal where float32 has nothing but zeros."""
    found = found.clamp(min=torch.finfo(torch.float32).tiny)
    return found / found.sum(1, keepdim=True)


def _after_crf(found: Tensor, images: Tensor, model: Any, preset: str, scale: float | str) -> Tensor:
    from maskwright.crf.dense_crf import dense_crf, preset_settings, unary_from_probabilities

    mean, std = (images.new_tensor(getattr(model, name))[:, None, None] for name in ("mean", "std"))
    pixels = ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    # Colours tell what belongs together; of images of other channels the first three do, or one three times.
    channels = pixels.shape[3]
    if channels != 3:
        pixels = pixels[..., [0, 1, 2] if channels > 3 else [0, 0, 0]]
    kernels = preset_settings(preset, pixels.shape[1:3], scale)
    return dense_crf(pixels, unary_from_probabilities(found), **kernels)


@torch.no_grad()
def predict_labels(
    model: nn.Module,
    images: Tensor,
    settings: InferenceSettings,
    size: tuple[int, int] | None = None,
    classes: Sequence[int] | None = None,
) -> Tensor:
    """The most probable class of every pixel: arg-max of `predict_probabilities`, with neither softmax nor full-size
    logits where one view is all there is.

    Args:
        model: a `SegmentationModel`; evaluation mode is used and its own mode restored.
        images: `(B, 3, H, W)`, normalised, already at `settings.size` where that is set.
        settings: how the model is applied.
        size: height and width of the result, default those of the images; logits or probabilities are brought to it
            bilinearly, last, before the arg-max.
        classes: as for `predict_probabilities`.

    Returns:
        `(B, height, width)` int64.
    """
    own = (images.shape[2], images.shape[3])
    if classes is not None:
        return resize_argmax(predict_probabilities(model, images, settings, classes), size or own)
    if size in (None, own) and _is_plain(settings):
        together = len(images)
        if images.device.type == "cpu":
            together = max(1, CPU_PIXELS // (images.shape[2] * images.shape[3]))
        with evaluating(model), autocast(settings.autocast, images.device):
            return torch.cat([_bare(model).predict(part) for part in images.split(together)])
    return resize_argmax(label_maps(model, images, settings), size or own)


def _is_plain(settings: InferenceSettings) -> bool:
    """Whether the whole image is seen once, at its own size, and the network has the last word."""
    once = settings.window is None and not settings.flip and tuple(settings.scales) == (1.0,)
    return once and settings.crf is None


def label_maps(model: nn.Module, images: Tensor, settings: InferenceSettings, scaled: Sequence[Tensor] = ()) -> Tensor:
    """Maps `(B, C, h, w)` whose bilinear resize and arg-max are the labels, at the least resolution that has it all.

    They are probabilities where several views or a CRF make them, otherwise logits.

    Args:
        model: a `SegmentationModel`; evaluation mode is used and its own mode restored.
        images: `(B, C, H, W)`, normalised, already at `settings.size` where that is set.
        settings: how the model is applied; `size` is not read.
        scaled: the images at each of the scales, where they were resized before.
    """
    if len(settings.scales) > 1 or settings.flip or settings.crf:
        return predict_probabilities(model, images, settings, scaled=scaled)
    if not _is_plain(settings):
        return predict_logits(model, images, settings, scaled)
    with evaluating(model):
        return _at_head(model, images, settings)


def check_scales(scales: Sequence[float], key: str) -> None:
    """Refuse scales that show nothing; `key` is the setting's name.

    Raises:
        RecipeError: none, or one that is not above 0.
    """
    if not scales or min(scales) <= 0:
        raise RecipeError(f"{key} must be one or more numbers above 0, found {list(scales)}")


def _mean_over_views(
    model: nn.Module,
    images: Tensor,
    settings: InferenceSettings,
    activation: Callable[[Tensor], Tensor],
    scaled: Sequence[Tensor] = (),
) -> Tensor:
    """Mean over scales and flips of what `activation` makes of the logits (a new tensor), in float32.

    Images are resized bilinearly without antialias, as test-time scaling is usually done; logits come back to image
    size in one bilinear step from wherever the head left them.
    """
    size = (images.shape[2], images.shape[3])
    check_scales(settings.scales, "inference.scales")
    flips = (False, True) if settings.flip else (False,)
    total: Tensor | None = None
    with evaluating(model):
        for number, scale in enumerate(settings.scales):
            view = scaled[number] if scaled else resize(images, scaled_size(size, scale))
            for flip in flips:
                logits = _logits(model, view.flip(-1) if flip else view, settings)
                values = activation(resize(logits.flip(-1) if flip else logits, size).float())
                total = values if total is None else total.add_(values)
    assert total is not None
    views = len(settings.scales) * len(flips)
    return total if views == 1 else total.div_(views)


def _logits(model: nn.Module, images: Tensor, settings: InferenceSettings) -> Tensor:
    if settings.window is None:
        return _at_head(model, images, settings)

    def in_window(parts: Tensor) -> Tensor:
        return resize(_at_head(model, parts, settings), parts.shape[2:])

    return sliding_window(in_window, images, settings.window, settings.stride, batch_size=settings.batch_size)


def _at_head(model: nn.Module, images: Tensor, settings: InferenceSettings) -> Tensor:
    """Logits at the head's own resolution, at least float32: what follows is not made in half precision."""
    with autocast(settings.autocast, images.device):
        logits = model(images, upsample=False)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def evaluate(
    model: nn.Module,
    dataset: Dataset,
    settings: InferenceSettings,
    device: torch.device | str,
    *,
    folder: str | Path | None = None,
    made_by: Mapping[str, Any] | None = None,
    rank: int | None = None,
    world_size: int | None = None,
    workers: int = 2,
) -> tuple[ConfusionMatrix, list[dict[str, Any]]]:
    """Predict a data set, score it against its ground truth at its own size, and write the predictions if asked.

    Tags are never read. Every image is predicted exactly once, by one of the processes.

    Args:
        model: a `SegmentationModel` (may be wrapped for distribution).
        dataset: images; those without a mask are predicted for `folder` only.
        settings: how the model is applied; `size` resizes images first, predictions always have the mask's size.
        device: where the model is.
        folder: gets `predictions/NAME.png` and `images.json`.
        made_by: what `predictions/provenance.json` says of the model.
        rank: number of this process; default: of the running distribution.
        world_size: count of processes; default: of the running distribution.
        workers: threads that decode images.

    Returns:
        Counts over the images of all processes, and for each image `{"name", "miou", "accuracy"}`, the lowest mIoU
        first; None where an image has no valid pixel, those last.

    Raises:
        DataError: nothing to score and no folder to write to, or a model with another number of classes.
    """
    rank = distributed.rank() if rank is None else rank
    world_size = distributed.world_size() if world_size is None else world_size
    labels = dataset.labels
    if _bare(model).num_classes != labels.num_classes:
        raise DataError(
            f"the model has {_bare(model).num_classes} classes, the data set {labels.num_classes}: "
            f"{', '.join(labels.names)}. Evaluate on data with the classes that it was trained on"
        )
    chosen = [index for index in range(len(dataset)) if folder is not None or dataset.has_mask(index)]
    if not chosen:
        raise DataError("no image of the data set has a mask to score against, and no folder was given for predictions")
    batches = equal_batches(dataset, chosen[rank::world_size], settings.size, settings.batch_size)
    total, images = ConfusionMatrix(labels), []
    loaded = prefetched(
        partial(_load, dataset, settings=settings),
        (index for batch in batches for index in batch),
        workers=workers,
        ahead=2 * settings.batch_size,
    )
    predictions = folder if folder is None else Path(folder) / PREDICTIONS
    if predictions is not None and rank == 0:
        mark({predictions: "predictions"}, made_by or {}, ours=True)
    # Scores and files are made in a thread while the next batch is predicted.
    finished = prefetched(
        lambda item: _finish(*item, labels, predictions),
        _predicted(model, dataset, track(batches, title="evaluating"), loaded, settings, device),
        workers=1,
        ahead=2 * settings.batch_size,
    )
    with freed_memory_kept(device):
        for future in finished:
            counts, image = future.result()
            total = total + counts
            images.append(image)
    total.all_reduce()
    images = [image for part in distributed.gather(images) for image in part]
    images.sort(key=lambda image: (image["miou"] is None, image["miou"] or 0.0, image["name"]))
    if folder is not None and rank == 0:
        write_json(Path(folder) / IMAGES, images)
    return total, images


def _predicted(
    model: nn.Module,
    dataset: Dataset,
    batches: Iterable[list[int]],
    loaded: Iterator[Future[dict[str, Any]]],
    settings: InferenceSettings,
    device: torch.device | str,
) -> Iterator[tuple[str, np.ndarray, Tensor | None]]:
    """Name, labels `(H, W)` uint8 at the example's own size, and ground truth of every image, batch by batch."""
    bare: Any = inference_copy(_bare(model), half_type(settings.autocast, device))
    for batch in batches:
        examples = [next(loaded).result() for _ in batch]
        images = normalise(torch.stack([example["image"] for example in examples]).to(device), bare.mean, bare.std)
        sizes = [example["size"] for example in examples]
        if len(set(sizes)) == 1:
            labels = list(predict_labels(bare, images, settings, sizes[0]).to(torch.uint8).cpu())
        else:  # one pass of the network over all, then each image to its own size
            maps = torch.no_grad()(label_maps)(bare, images, settings)
            labels = [resize_argmax(maps[i : i + 1], size)[0].to(torch.uint8).cpu() for i, size in enumerate(sizes)]
        for index, example, predicted in zip(batch, examples, labels):
            yield dataset.names[index], predicted.numpy(), example["mask"]


def _finish(
    name: str, predicted: np.ndarray, truth: Tensor | None, labels: LabelSpace, folder: Path | None
) -> tuple[ConfusionMatrix, dict[str, Any]]:
    """Counts and scores of one image; its palette PNG is written where there is a folder."""
    counts = ConfusionMatrix(labels)
    if truth is not None:
        counts.update(predicted, truth)
    if folder is not None:
        write_mask(folder / f"{name}.png", predicted, labels)
    scores = counts.scores()
    return counts, {"name": name, "miou": scores["miou"], "accuracy": scores["pixel_accuracy"]}


def _load(dataset: Dataset, index: int, settings: InferenceSettings) -> dict[str, Any]:
    sample = dataset[index]
    example = prepare(sample, settings.size)
    size = sample.image.shape[:2] if sample.mask is None else sample.mask.shape
    return {"image": example["image"], "mask": example.get("mask"), "size": tuple(size)}


def _bare(model: nn.Module) -> Any:
    return model.module if isinstance(model, DistributedDataParallel) else model
