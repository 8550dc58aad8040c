"""Grad-CAM for segmenters: which places made the network see a class (Selvaraju et al., ICCV 2017; on sets of pixels as
in the SeeThroughNet paper's figures).

The score is the class's logit before the softmax, summed over a set of pixels. The weight of each channel of a layer is
the mean over space of the score's gradient, the map is `ReLU(sum_c weight_c A_c)`. Where a head mixes regions
(attention, OCR), the gradient flows through that as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from maskwright.data.augment import normalise, resize_image
from maskwright.data.masks import read_mask
from maskwright.data.names import normal
from maskwright.data.pictures import heatmap
from maskwright.data.provenance import mark
from maskwright.data.sample import LabelSpace
from maskwright.data.sizes import seen_size
from maskwright.engine.progress import track
from maskwright.errors import DataError, RecipeError, unknown_name
from maskwright.files import atomic_write, remove_unfinished, write_json
from maskwright.inference.files import find_images
from maskwright.inference.predict import Predictor
from maskwright.losses.resizing import resize_labels
from maskwright.models.base import resize_argmax
from maskwright.models.layers import evaluating, resize
from maskwright.runs.folder import EXPLANATIONS, MAPS

REGIONS = ("all", "predicted")


def explain(
    model: nn.Module,
    images: Tensor,
    target_class: int | Sequence[int],
    *,
    region: str | Tensor = "all",
    layer: str | None = None,
    normalised: bool = True,
) -> Tensor:
    """Evidence maps of one class or several.

    Args:
        model: a `SegmentationModel`; evaluation mode is used and its own mode restored.
        images: `(B, 3, H, W)`, normalised.
        target_class: class value, or several, which share the forward pass.
        region: pixels whose logits are summed: "all", "predicted" (where the arg-max is the class), or a mask `(H, W)`
            or `(B, H, W)` with weights.
        layer: a module's name as in `model.named_modules()`; its output must be a feature map, of several the last is
            taken. Default: what the model's classifier reads, or the backbone's coarsest map where a model has none.
        normalised: divide each map by its maximum at the layer's resolution; a map without evidence stays 0.

    Returns:
        Maps `(B, H, W)`, or `(B, K, H, W)` for K classes, float32, at least 0.

    Raises:
        RecipeError: an unknown layer or region, a layer that the logits do not depend on or that gives no feature map,
            or a class that the model does not have.
        DataError: a mask of another size.
    """
    classes = [target_class] if isinstance(target_class, int) else list(target_class)
    count = int(getattr(model, "num_classes", 0))
    wrong = [value for value in classes if not 0 <= value < count]
    if wrong or not classes:
        raise RecipeError(f"the model has the classes 0..{count - 1}, found {wrong}")
    size = (images.shape[-2], images.shape[-1])
    with evaluating(model), _weights_fixed(model), torch.enable_grad(), _recorded(model, layer) as seen:
        logits = model(images, upsample=False)
        features = _feature_map(seen, layer)
        pixels = _pixels(region, logits, classes, size)
        maps = []
        # One backward pass for each class, from the logits to the layer and no further. All classes at once
        # (`is_grads_batched`) would hold the gradient of every class in memory, and not every backbone's kernels can.
        for number, value in enumerate(classes):
            # Images are apart in evaluation mode, so the gradient of their sum is that of each.
            score = (resize(logits[:, value : value + 1], size).float() * pixels[:, number : number + 1]).sum()
            last = number == len(classes) - 1
            (gradient,) = torch.autograd.grad(score, features, retain_graph=not last, allow_unused=True)
            if gradient is None:
                raise RecipeError(f"the logits do not depend on layer {layer!r}; take one on the way to them")
            maps.append(_evidence(model, layer, features, gradient, size, normalised))
    found = torch.cat(maps, 1)
    return found[:, 0] if isinstance(target_class, int) else found


def _evidence(
    model: nn.Module, layer: str | None, features: Tensor, gradient: Tensor, size: tuple[int, int], normalised: bool
) -> Tensor:
    """`(B, 1, H, W)`: the weighted sum of the channels, its positive part, at image size."""
    backbone: Any = getattr(model, "backbone", None)
    inside = layer is not None and layer.startswith("backbone.")
    if inside and getattr(backbone, "channels_last", False):
        features, gradient = features.movedim(-1, 1), gradient.movedim(-1, 1)
    evidence = torch.einsum("bc,bchw->bhw", gradient.float().mean((2, 3)), features.detach().float()).relu()[:, None]
    if normalised:
        evidence = evidence / evidence.amax((2, 3), keepdim=True).clamp(min=torch.finfo(evidence.dtype).tiny)
    # Inside, a backbone sees the image padded to a multiple of what it needs.
    multiple = getattr(backbone, "multiple", 1) if inside else 1
    padded = [side + -side % multiple for side in size]
    return resize(evidence, padded)[..., : size[0], : size[1]]


def _pixels(region: str | Tensor, logits: Tensor, classes: list[int], size: tuple[int, int]) -> Tensor:
    """Weight of each pixel in each class's score, `(B, K, H, W)`."""
    if isinstance(region, Tensor):
        mask = region.to(logits.device, torch.float32)
        if mask.ndim == 2:
            mask = mask.expand(len(logits), -1, -1)
        if tuple(mask.shape) != (len(logits), *size):
            raise DataError(f"a region must be {size} or {(len(logits), *size)}, found {tuple(region.shape)}")
        return mask[:, None].expand(-1, len(classes), -1, -1)
    if region not in REGIONS:
        raise RecipeError(unknown_name("region", region, REGIONS))
    if region == "all":
        return logits.new_ones(1, 1, 1, 1, dtype=torch.float32).expand(len(logits), len(classes), *size)
    labels = resize_argmax(logits.detach(), size)
    return torch.stack([labels == value for value in classes], 1).float()


@contextmanager
def _weights_fixed(model: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient inside the block, so nothing before the layer is kept for the backward pass."""
    trained = [value for value in model.parameters() if value.requires_grad]
    for value in trained:
        value.requires_grad_(False)
    try:
        yield
    finally:
        for value in trained:
            value.requires_grad_(True)


@contextmanager
def _recorded(model: nn.Module, layer: str | None) -> Iterator[list[Tensor]]:
    """The feature maps that a layer gives (or the classifier reads) while the block runs, in the order of its calls."""
    seen: list[Tensor] = []
    modules = dict(model.named_modules())

    def keep(value: Any) -> Any:
        """Record the map and give on a copy, since the next layer may work in place."""
        *others, last = value if isinstance(value, list | tuple) else (value,)
        if not isinstance(last, Tensor):
            raise RecipeError(f"layer {layer!r} gives {type(last).__name__}, expected a feature map (B, C, h, w)")
        if not last.requires_grad:
            last = last.detach().requires_grad_()
        seen.append(last)
        return [*others, last.clone()] if isinstance(value, list) else (*others, last.clone())

    def after(module: nn.Module, inputs: Any, output: Any) -> Any:
        kept = keep(output)
        return kept if isinstance(output, list | tuple) else kept[0]

    classifier = next((module for name, module in modules.items() if name in ("classifier", "ocr.classifier")), None)
    if layer is None and classifier is not None:
        handle = classifier.register_forward_pre_hook(lambda module, inputs: keep(tuple(inputs)))
    else:
        name = layer or "backbone"
        if name not in modules or not name:
            raise RecipeError(unknown_name("layer", name, [known for known in modules if known]))
        handle = modules[name].register_forward_hook(after)
    try:
        yield seen
    finally:
        handle.remove()


def _feature_map(seen: list[Tensor], layer: str | None) -> Tensor:
    """The map to explain by; of several calls on several sizes of the image, that on the largest."""
    if not seen:
        raise RecipeError(f"layer {layer!r} does not run when the model predicts")
    wrong = next((value for value in seen if value.ndim != 4), None)
    if wrong is not None:
        raise RecipeError(
            f"layer {layer!r} gives {tuple(wrong.shape)}, expected a feature map (B, C, h, w); take 'backbone' or a "
            "layer of the head"
        )
    return max(seen, key=lambda value: math.prod(value.shape))


def explain_files(
    predictor: Predictor,
    images: Sequence[str | Path],
    out: str | Path,
    *,
    classes: str | None = None,
    region: str = "all",
    layer: str | None = None,
) -> tuple[list[str], list[str]]:
    """Evidence maps for image files.

    Writes `out/overlays/NAME.CLASS.jpg`, `out/maps/NAME.npz` (`keys` the class values, `cam` float16 `(K, H, W)`), and
    `out/explanations.json`, which a run's report reads where `out` is the run's folder `explanations`.

    Args:
        predictor: what `maskwright.load` gives.
        images: files, folders and globs.
        out: folder to write to.
        classes: names, comma between; default: every class that is predicted in the image, but the background.
        region: "all", "predicted", or the path of a mask of the image's size, whose pixels above 0 count.
        layer: see `explain`.

    Returns:
        Paths of the overlays, and a text for each image that failed.

    Raises:
        RecipeError: an unknown class, layer or region.
        DataError: a mask that cannot be read, or files in `out/overlays` that are no overlays.
    """
    out = Path(out)
    wanted = None if classes is None else [class_value(name, predictor.labels) for name in classes.split(",")]
    chosen = read_region(region)
    found, failures = find_images(images, out)
    if found:
        mark({out / "overlays": "overlays"}, predictor.made_by(), ours=(out / EXPLANATIONS).is_file())
        remove_unfinished(out / MAPS)
    overlays: list[str] = []
    records = []
    for name in track(found, title="explaining"):
        try:
            pixels = predictor.pixels(found[name])
            values = wanted if wanted is not None else predicted_classes(predictor, pixels)
            maps = evidence_maps(predictor, pixels, values, chosen, layer)
        except DataError as error:
            failures.append(f"{found[name]}: {error}")
            continue
        names = [predictor.labels.names[value] for value in values]
        with atomic_write(out / MAPS / f"{name}.npz") as temporary:
            np.savez_compressed(temporary, keys=np.array(values, np.int64), cam=maps.astype(np.float16))
        for label, evidence in zip(names, maps):
            path = out / "overlays" / f"{name}.{label.replace('/', '-')}.jpg"
            with atomic_write(path) as temporary:
                Image.fromarray(heatmap(pixels, evidence)).save(temporary, quality=90)
            overlays.append(str(path))
        image = str(Path(found[name]).resolve())
        records.append({"name": name, "image": image, "classes": names, "region": region, "layer": layer or ""})
    write_json(out / EXPLANATIONS, records)
    return overlays, failures


def read_region(region: str) -> str | np.ndarray:
    """What `region` names: one of `REGIONS`, or a mask `(H, W)`, of a file.

    Raises:
        RecipeError: neither.
        DataError: a mask that cannot be read.
    """
    if region in REGIONS:
        return region
    if not Path(region).is_file():
        raise RecipeError(unknown_name("region", region, REGIONS) + " Or give the path of a mask.")
    return read_mask(region)


def evidence_maps(
    predictor: Predictor, pixels: np.ndarray, values: list[int], region: str | np.ndarray, layer: str | None
) -> np.ndarray:
    """Evidence maps of an image at its own size.

    Args:
        predictor: what `maskwright.load` gives.
        pixels: `(H, W, 3)` uint8, RGB.
        values: of K classes.
        region: as `read_region` gives it; a mask is of the image's size.
        layer: see `explain`.

    Returns:
        `(K, H, W)` float32 in 0..1.

    Raises:
        RecipeError: an unknown layer.
        DataError: a mask of another size.
    """
    height, width = pixels.shape[:2]
    if not values:
        return np.zeros((0, height, width), np.float32)
    size = predictor.settings.size
    seen = pixels if size is None else resize_image(pixels, seen_size(size, pixels.shape))
    image = torch.from_numpy(np.array(seen.transpose(2, 0, 1), order="C"))[None]
    mask: str | Tensor
    if isinstance(region, np.ndarray):
        if region.shape != (height, width):
            raise DataError(f"the region's mask must be {(height, width)} as the image, found {region.shape}")
        mask = resize_labels(torch.from_numpy(region > 0)[None], (seen.shape[0], seen.shape[1]))
    else:
        mask = region
    prepared = normalise(image.to(predictor.device), predictor.mean, predictor.std)
    maps = explain(predictor.model, prepared, values, region=mask, layer=layer)
    return resize(maps, (height, width))[0].cpu().numpy()


def predicted_classes(predictor: Predictor, pixels: np.ndarray) -> list[int]:
    """Values of the classes that are predicted in an image `(H, W, 3)`, but the background."""
    mask = predictor.predict(pixels).mask
    return [int(value) for value in np.unique(mask) if value != predictor.labels.background]


def class_value(name: str, labels: LabelSpace) -> int:
    """The value of a class.

    Raises:
        RecipeError: there is none of that name.
    """
    name = name.strip()
    if normal(name) not in labels.names:
        raise RecipeError(unknown_name("class", name, labels.names))
    return labels.value(name)
