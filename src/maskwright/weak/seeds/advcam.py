"""AdvCAM (Lee et al., CVPR 2021): images climb to where a class is clearer; the maps on the way are added up.

Two forms. `released` is what the authors' code does and what their numbers come from: an image and its mirror climb
together, the map is Grad-CAM at the last feature map, the gradient is divided by its largest absolute value, and the
image is held within its present range. `equation` is the paper's text: one view at a time, the map divided by its
maximum, the plain gradient, no bounds, and the maps of the last image as well.

Grad-CAM needs no backward pass here. Its channel weights are w_k n+ / P with n+ positions where the class's score is
positive and P positive entries of the gradient, and they multiply a map that is w_k . f again: the result is the
rectified class map times n+ / P. So each step is one forward and one backward pass, and as classes never meet, all
classes of many images go in one batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from maskwright.errors import RecipeError, unknown_name
from maskwright.settings import ClassifierSettings, SeedSettings
from maskwright.weak.seeds.cam import SeedMaps, Views, class_maps, finish
from maskwright.weak.seeds.classes import Weight, network_weight, weight_needs
from maskwright.weak.seeds.method import SeedMethod

Form = Literal["released", "equation"]

# The paper's step, as remembered, and the released code's; both on normalised images.
STEP_SIZES = {"released": 0.08, "equation": 0.008}

# Pixels, over classes and mirrors, that go through the network at once; all of its activations are kept for the
# backward pass, so they are fewer than where only maps are wanted.
BATCH_PIXELS = {"cpu": 2**20, "cuda": 2**22}


class Ascent(NamedTuple):
    """One step of P climbs.

    Args:
        maps: `(V, P, h, w)` of the image before the step, each view's own, not turned back.
        gradient: `(V, P, 3, H, W)` of what is ascended, with respect to that image.
        images: `(V, P, 3, H, W)` after the step.
    """

    maps: Tensor
    gradient: Tensor
    images: Tensor


def steps_at(steps: int, scale: float) -> int:
    """Steps that the released code makes at a scale: at 0.5 about half of them."""
    if scale != 0.5 or steps < 6:
        return steps
    return steps // 2 if steps > 10 else 5


def merge_views(maps: Tensor) -> Tensor:
    """Maps `(V, P, h, w)` of images and, where V is 2, of their mirrors turned back, added: `(P, h, w)`."""
    return maps[0] if len(maps) == 1 else maps[0] + maps[1].flip(-1)


def grad_cam(scores: Tensor, weight: Tensor) -> Tensor:
    """Grad-CAM at the last feature map of the summed rectified scores of one class, as in the released code.

    Args:
        scores: rectified class map of each climb and view, `(V, P, h, w)`.
        weight: of each climb's class, `(P, D)`.

    Returns:
        `(V, P, h, w)`. The channel weights count as constants, so gradients go through the features alone.
    """
    positive = (scores > 0).sum((2, 3)).to(scores.dtype)
    total = (weight > 0).sum(1) * positive.sum(0)  # over all views: they are weighted by their own count only
    return scores * (positive / (total + 1e-12))[:, :, None, None]


def climb(
    network: Any,
    images: Tensor,
    keys: Tensor,
    *,
    steps: int,
    weight: Tensor | None = None,
    form: Form = "released",
    step_size: float | None = None,
    penalty: float = 7.0,
    threshold: float = 0.5,
) -> Iterator[Ascent]:
    """Ascend the score of one class per image, against the scores of all others and against changes of clear regions.

    Released form, with S the rectified class maps, R the sum of both views' Grad-CAM and R0 that of the first step:
    `sum_views(mean S_k - sum_{j != k} mean S_j) - penalty * sum([R / max R > threshold] * |R - R0|)`.

    Args:
        network: has `features(images) -> (B, D, h, w)` and `classifier.weight`; in evaluation mode, since images of a
            batch must not meet.
        images: `(V, P, 3, H, W)`, normalised; the V views of a climb change together in the released form.
        keys: class of each climb, `(P,)` int64.
        steps: how many to make.
        weight: class weight `(K, D)` in place of the classifier's.
        form: `released` or `equation`.
        step_size: 0.08 released, 0.008 in the paper (as remembered) by default.
        penalty: weight of the second term.
        threshold: share of the maximum above which a region counts as clear.

    Yields:
        Every step; one pass forward and one backward each.
    """
    weight = (network.classifier.weight if weight is None else weight).detach().flatten(1)
    step_size = STEP_SIZES[form] if step_size is None else step_size
    first = None
    for _ in range(steps):
        images = images.detach().requires_grad_()
        with torch.enable_grad():
            scores = _scores(network, images, weight)
            if form == "released":
                scores = scores.relu()
                maps = grad_cam(_of_class(scores, keys), weight[keys])
                compared = merge_views(maps)[None]
            else:
                maps = compared = _unit(_of_class(scores, keys).relu())
            if first is None:
                first = compared.detach()
            gain = 2 * _of_class(scores, keys).mean((2, 3)) - scores.mean((3, 4)).sum(2)
            now = compared.detach()
            clear = now / now.amax((2, 3), keepdim=True) > threshold
            objective = gain.sum() - penalty * ((compared - first).abs() * clear).sum()
            (gradient,) = torch.autograd.grad(objective, images)
        yield Ascent(maps.detach(), gradient, images := _moved(images.detach(), gradient, step_size, form))


def _scores(network: Any, images: Tensor, weight: Tensor) -> Tensor:
    """Class maps `(V, P, K, h, w)`, at least float32."""
    scores = class_maps(network.features(images.flatten(0, 1)), weight)
    return scores.to(torch.promote_types(scores.dtype, torch.float32)).unflatten(0, images.shape[:2])


def _of_class(scores: Tensor, keys: Tensor) -> Tensor:
    """The map `(V, P, h, w)` of each climb's class."""
    return scores[:, torch.arange(len(keys), device=keys.device), keys]


def _unit(maps: Tensor) -> Tensor:
    """Maps divided by their maximum, also differentiated; maps of zeros stay."""
    return maps / maps.amax((2, 3), keepdim=True).clamp(min=1e-12)


def _moved(images: Tensor, gradient: Tensor, step_size: float, form: Form) -> Tensor:
    if form == "equation":
        return images + step_size * gradient
    sides = (0, 2, 3, 4)  # both views of a climb, not the other climbs
    moved = images + step_size * gradient / (gradient.abs().amax(sides, keepdim=True) + 1e-12)
    return moved.clamp(images.amin(sides, keepdim=True), images.amax(sides, keepdim=True))


def summed_maps(network: Any, images: Tensor, keys: Tensor, *, steps: int, form: Form, **options: Any) -> Tensor:
    """Sum over a climb of its maps, the mirrors' turned back: `(P, h, w)`; arguments as for `climb`."""
    if form == "released":
        return _total(
            merge_views(step.maps) for step in climb(network, images, keys, steps=steps, form=form, **options)
        )
    views, count = images.shape[:2]
    alone = images.flatten(0, 1)[None]  # a view is a climb of its own
    # The step after the last shows the last image's map; its own move is not used.
    every = climb(network, alone, keys.repeat(views), steps=steps + 1, form=form, **options)
    return merge_views(_total(step.maps[0] for step in every).unflatten(0, (views, count)))


def _total(maps: Iterator[Tensor]) -> Tensor:
    total = next(maps)
    for more in maps:
        total = total + more
    return total


def advcam(
    network: Any,
    views: Views,
    *,
    steps: int = 27,
    step_size: float | None = None,
    penalty: float = 7.0,
    threshold: float = 0.5,
    form: Form = "released",
    fix_scale_weight: bool = False,
    weight: Tensor | Weight | None = None,
    batch_pixels: int | None = None,
) -> list[SeedMaps]:
    """Maps of images that climbed; the seed method `advcam`.

    At scale 0.5 the released code makes about half of the steps and means to make up for it by counting these maps
    twice; but from there on it counts all maps twice, so that after normalisation scale 0.5 weighs half as much as
    the others. That is kept unless `fix_scale_weight` says otherwise.

    Args:
        network: a tag classifier in evaluation mode.
        views: of B images.
        steps: at each scale.
        step_size: see `climb`.
        penalty: see `climb`.
        threshold: see `climb`.
        form: `released` or `equation`.
        fix_scale_weight: count maps twice at scale 0.5 only; released form.
        weight: class weight `(K, D)` in place of the classifier's, or one of ReCAM's options such as "product".
        batch_pixels: pixels, over classes and mirrors, that go through the network at once; less takes less memory.

    Returns:
        One entry per image.

    Raises:
        RecipeError: no step, an unknown form, or a weight option that the network cannot give.
    """
    if form not in STEP_SIZES:
        raise RecipeError(unknown_name("form of advcam", form, STEP_SIZES))
    if steps < 1:
        raise RecipeError(f"advcam needs at least one step, found steps: {steps}")
    if isinstance(weight, str):
        weight = network_weight(network, weight)
    device = views.images[0].device
    owners = torch.tensor([index for index, keys in enumerate(views.tags) for _ in keys], device=device)
    keys = torch.tensor([key for tagged in views.tags for key in tagged], dtype=torch.int64, device=device)
    limit = batch_pixels or BATCH_PIXELS.get(device.type, BATCH_PIXELS["cuda"])
    maps: list[Tensor] = [torch.zeros(0, 1, 1, device=device)] * len(views.images)
    factor = 1.0
    # In this order, because the released code forgets to take the factor of scale 0.5 back.
    for index in sorted(range(len(views.scales)), key=lambda i: views.scales[i]) if len(keys) else ():
        scale = views.scales[index]
        images = views.images[index].unflatten(0, (-1, len(views.tags)))
        released = form == "released"
        doubled = released and scale == 0.5 and steps > 10
        factor = 2.0 if doubled else 1.0 if fix_scale_weight else factor
        together = max(1, limit // (len(images) * images.shape[-2] * images.shape[-1]))
        found = [
            summed_maps(
                network,
                images[:, owners[start : start + together]],
                keys[start : start + together],
                steps=steps_at(steps, scale) if released else steps,
                form=form,
                weight=weight,
                step_size=step_size,
                penalty=penalty,
                threshold=threshold,
            )
            for start in range(0, len(keys), together)
        ]
        maps[index] = factor * torch.cat(found)
    return finish(maps, views.tags, views.size)


def fewer_steps(seeds: SeedSettings, classifier: ClassifierSettings) -> tuple[dict[str, Any], float]:
    """Options of a trial, and the share of the work that they leave."""
    steps, released = seeds.options.get("steps", 27), seeds.options.get("form", "released") == "released"
    work = [(steps_at(steps, scale) if released else steps + 1) * scale**2 for scale in seeds.scales]
    left = [(1 if released else 2) * scale**2 for scale in seeds.scales]
    return {**seeds.options, "steps": 1}, sum(left) / sum(work)


ADVCAM = SeedMethod(
    advcam,
    needs=lambda seeds: weight_needs(seeds.options.get("weight")),
    refuses={"float16": "the gradients that advcam climbs by are too small for it; use bfloat16 or none"},
    cheap=fewer_steps,
    per_class=True,
    batch_pixels=BATCH_PIXELS,
)
