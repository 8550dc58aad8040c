"""L2G (Jiang et al., CVPR 2022): a global network learns from the attention of a local one on views of the image.

The local network is trained to tell the image's tags from every view; seeing less, it attends to more of the object.
Where it attends, per class, is what the global network's maps must say of the same place: attention transfer, or, cut
to a saliency map, shape transfer. The global network is kept; or, to compare with, the local one.

Defaults of the functions are those of the released code on VOC. Where it differs from the paper there is an argument
for it; `l2g_training.PAPER_FORM` has the paper's values. Boxes of views are given by their corners `(B, N, 2)`, int64,
row and column of the upper left pixel in the global view; views come image by image, N of each.
"""

from __future__ import annotations

import math
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from maskwright.errors import RecipeError, unknown_name
from maskwright.weak.networks.recam import first_head_loss
from maskwright.weak.seeds.cam import SeedMaps, Views, by_image, normalise_maps, strided

SAMPLINGS = ("random", "corners", "corners_random", "uniform")


def draw_corners(
    count: int,
    views: int,
    image_size: tuple[int, int],
    view_size: tuple[int, int],
    sampling: str = "corners_random",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Where the views of each image lie.

    Args:
        count: B, images.
        views: N, views of each.
        image_size: height and width of the global view, in pixels.
        view_size: height and width of the local views.
        sampling: `random`: anywhere, as in the paper. `corners`: the four corners (the code on COCO). `corners_random`:
            the four corners, the rest anywhere (the code on VOC). `uniform`: a square number of views in even steps;
            9 views of 320 in 448 pixels are the paper's 3 x 3 with stride 64.
        generator: of the random ones; by default torch's on the CPU, which `fit` seeds for every step.

    Returns:
        `(B, N, 2)` int64 on the CPU. As in the code random offsets stay below the largest one.

    Raises:
        RecipeError: unknown sampling, a number of views that it cannot have, or views larger than the image.
    """
    rows, columns = (whole - view for whole, view in zip(image_size, view_size, strict=True))
    if min(rows, columns) < 0:
        raise RecipeError(
            f"views of {view_size[0]}x{view_size[1]} pixels do not fit into images of {image_size[0]}x{image_size[1]}; "
            "set l2g.view_size lower, or the crop or resize of l2g.train.augment higher"
        )
    check_sampling(sampling, views)
    fixed: list[tuple[int, int]] = []
    if sampling in ("corners", "corners_random"):
        fixed = list(product((0, rows), (0, columns)))
    elif sampling == "uniform":
        side = math.isqrt(views)
        fixed = list(product(_even_steps(rows, side), _even_steps(columns, side)))
    free = [
        torch.randint(max(1, length), (count, views - len(fixed)), generator=generator) for length in (rows, columns)
    ]
    placed = torch.tensor(fixed, dtype=torch.int64).reshape(1, -1, 2).expand(count, -1, -1)
    return torch.cat([placed, torch.stack(free, 2)], 1)


def check_sampling(sampling: str, views: int) -> None:
    """Refuse a number of views that a sampling cannot have.

    Raises:
        RecipeError: unknown sampling, or such a number.
    """
    if sampling not in SAMPLINGS:
        raise RecipeError(unknown_name("sampling of views", sampling, SAMPLINGS))
    fits, wanted = {
        "random": (views >= 1, "at least 1"),
        "corners": (views == 4, "4"),
        "corners_random": (views >= 4, "at least 4"),
        "uniform": (views == math.isqrt(views) ** 2, "a square number of"),
    }[sampling]
    if not fits:
        raise RecipeError(f"l2g.sampling={sampling} takes {wanted} views, found l2g.views={views}")


def _even_steps(length: int, count: int) -> list[int]:
    """Offsets from 0 to `length`; a single one is in the middle."""
    return [length // 2] if count == 1 else [round(index * length / (count - 1)) for index in range(count)]


def cut_views(images: Tensor, corners: Tensor, size: tuple[int, int]) -> Tensor:
    """The views of each image, the same pixels, in one batch.

    Args:
        images: `(B, C, H, W)`, of any type.
        corners: `(B, N, 2)`, on the CPU: reading them from a GPU would wait for it.
        size: height and width of the views.

    Returns:
        `(B * N, C, *size)`, laid out as the images are.
    """
    return torch.cat(
        [
            images[index : index + 1, :, top : top + size[0], left : left + size[1]]
            for index, places in enumerate(corners.tolist())
            for top, left in places
        ]
    )


def normalised_attention(maps: Tensor, eps: float = 1e-8) -> Tensor:
    """Rectified maps `(M, C, h, w)`, each divided by its own maximum plus `eps`; at least float32."""
    positive = maps.relu()
    return normalise_maps(positive.to(torch.promote_types(positive.dtype, torch.float32)), eps)


def local_attention(maps: Tensor, tags: Tensor, *, winner_takes_all: bool = True) -> Tensor:
    """Where the local network attends (eqs. 2 to 5), for the classes that the image shows; no gradient goes back.

    Args:
        maps: of the views, `(B * N, C, h, w)` before any ReLU; C is K, or K + 1 with the background last.
        tags: of the images, `(B, K)`, above 0 where one shows a class; every view counts as showing all of them.
        winner_takes_all: at each position only the highest channel stays (the first of equal ones), as in the code;
            the paper has the maps as they are.

    Returns:
        `(B * N, C, h, w)` in 0..1, at least float32; zero where a class is not tagged.
    """
    shown = F.pad((tags > 0).float(), (0, maps.shape[1] - tags.shape[1]), value=1.0)
    shown = shown.repeat_interleave(len(maps) // len(tags), 0)[:, :, None, None]
    attention = normalised_attention(maps.detach()) * shown
    if not winner_takes_all:
        return attention
    best, channel = attention.max(1, keepdim=True)
    return torch.zeros_like(attention).scatter_(1, channel, best)


def scaled_saliency(saliency: Tensor, *, binary: bool = False) -> Tensor:
    """Saliency `(B, 1, H, W)` in 0..1 divided by each global view's maximum plus 1e-10, as in the code.

    Args:
        saliency: in 0..1.
        binary: instead 1 where it is above one half, 0 elsewhere; the paper's S is a mask.
    """
    if binary:
        return (saliency > 0.5).to(saliency.dtype)
    return normalise_maps(saliency, 1e-10)


def view_saliency(saliency: Tensor, corners: Tensor, view_size: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """The saliency of every view at the size of the local maps: the nearest pixel, as `interpolate` chooses it.

    Only the pixels that are wanted are read.

    Args:
        saliency: of the global views, `(B, 1, H, W)`.
        corners: `(B, N, 2)`.
        view_size: height and width of the views.
        size: height and width of the local maps.

    Returns:
        `(B * N, 1, *size)`.
    """
    places = corners.to(saliency.device)
    rows, columns = (
        places[:, :, axis, None] + torch.arange(count, device=saliency.device) * view // count
        for axis, (view, count) in enumerate(zip(view_size, size, strict=True))
    )
    image = torch.arange(len(saliency), device=saliency.device)[:, None, None, None]
    return saliency[image, 0, rows[..., None], columns[:, :, None]].flatten(0, 1)[:, None]


def shape_target(
    attention: Tensor,
    saliency: Tensor,
    *,
    threshold: float = 0.001,
    background: Literal["binary", "continuous", "none"] = "binary",
    attention_where_empty: bool = False,
) -> Tensor:
    """What the global network must say of every view (eq. 7): attention cut to a mask, times the saliency.

    Args:
        attention: `(M, C, h, w)` in 0..1.
        saliency: of the same views, `(M, 1, h, w)` in 0..1.
        threshold: B = [A > threshold]; 0.001 in the code on VOC, 0.1 on COCO and in the paper.
        background: of the last channel's target. `binary`: `B (1 - S)`, the code on VOC. `continuous`: `A (1 - S)`, the
            code on COCO. `none`: there is no such channel, as in the paper.
        attention_where_empty: a view without any saliency keeps its attention as target, as in the paper; in the code
            its classes are then told to be nowhere.

    Returns:
        `(M, C, h, w)` in 0..1.
    """
    mask = (attention > threshold).to(attention.dtype)
    target = mask * saliency
    if background != "none":
        behind = (mask if background == "binary" else attention)[:, -1:] * (1 - saliency)
        target = torch.cat([target[:, :-1], behind], 1)
    if attention_where_empty:
        empty = saliency.amax((1, 2, 3), keepdim=True) <= 0
        target = torch.where(empty, attention, target)
    return target


def view_maps(
    maps: Tensor,
    corners: Tensor,
    view_size: tuple[int, int],
    size: tuple[int, int],
    stride: int,
    *,
    half_pixel: bool = False,
) -> Tensor:
    """The part of every view in maps of the global view: RoI-align with one sample at the middle of each bin.

    Samples are linear in rows and in columns, which are the same for all channels: two matrix products.

    Args:
        maps: `(B, C, h, w)`.
        corners: `(B, N, 2)`.
        view_size: height and width of the views, in pixels.
        size: height and width of the result.
        stride: pixels per position of the maps.
        half_pixel: the middle of the first position is at half a position, so that a view on the grid of positions is
            cut out exactly. By default it is at 0, as in the code: every sample then is the mean of 2 x 2 neighbours.

    Returns:
        `(B * N, C, *size)`, at least float32; beyond the border its value is repeated.
    """
    wide = torch.promote_types(maps.dtype, torch.float32)
    shift = 0.5 if half_pixel else 0.0
    weights = []
    for axis, (view, count) in enumerate(zip(view_size, size, strict=True)):
        bins = (torch.arange(count, device=maps.device) + 0.5) * (view / stride / count)
        places = corners[:, :, axis, None].to(maps.device) / stride + bins - shift
        length = maps.shape[2 + axis]
        distance = places.clamp(0, length - 1)[..., None] - torch.arange(length, device=maps.device)
        weights.append((1 - distance.abs()).clamp(min=0).to(wide))
    with torch.autocast(maps.device.type, enabled=False):
        rows = torch.einsum("bnih,bchw->bnciw", weights[0], maps.to(wide))
        return torch.einsum("bnciw,bnjw->bncij", rows, weights[1]).flatten(0, 1)


def global_prediction(
    maps: Tensor,
    corners: Tensor,
    view_size: tuple[int, int],
    size: tuple[int, int],
    stride: int,
    *,
    alignment: Literal["roi", "crop"] = "roi",
) -> Tensor:
    """What the global network says of every view, over its classes and the background.

    Args:
        maps: of the global views, `(B, K + 1, h, w)`, before any ReLU.
        corners: `(B, N, 2)`.
        view_size: height and width of the views, in pixels.
        size: height and width of the local maps.
        stride: pixels per position of the maps.
        alignment: `roi`: maps of the view, half a position off, then softmax, as in the code. `crop`: softmax, then the
            view is cut out, as in the paper; exact where views lie on the grid of positions, else between the nearest.

    Returns:
        `(B * N, K + 1, *size)` in 0..1.
    """
    if alignment == "roi":
        return view_maps(maps, corners, view_size, size, stride).softmax(1)
    shares = maps.to(torch.promote_types(maps.dtype, torch.float32)).softmax(1)
    return view_maps(shares, corners, view_size, size, stride, half_pixel=True)


def transfer_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared distance of the prediction from the target, over the channels of the target.

    Args:
        prediction: `(M, K + 1, h, w)`.
        target: `(M, K + 1, h, w)`, or `(M, K, h, w)` where the local network has no background.
    """
    return F.mse_loss(prediction[:, : target.shape[1]], target)


def view_tag_loss(logits: Tensor, tags: Tensor) -> Tensor:
    """The local network's loss: binary cross-entropy, where every view is tagged as its image.

    Args:
        logits: `(B * N, K)`.
        tags: `(B, K)` float.
    """
    return first_head_loss(logits, tags.repeat_interleave(len(logits) // len(tags), 0), "bce")


def l2g_loss(
    global_maps: Tensor,
    local_maps: Tensor,
    tags: Tensor,
    corners: Tensor,
    view_size: tuple[int, int],
    stride: int,
    *,
    saliency: Tensor | None = None,
    weight: float = 10.0,
    global_classification: float = 0.0,
    winner_takes_all: bool = True,
    alignment: Literal["roi", "crop"] = "roi",
    background: Literal["binary", "continuous", "none"] = "binary",
    threshold: float = 0.001,
    binary_saliency: bool = False,
    attention_where_empty: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """`L_cls(local) + weight * L_transfer(global) + global_classification * L_cls(global)`.

    The local network gets its gradient from the first term alone, the global one from the others.

    Args:
        global_maps: of the global network on the images, `(B, K + 1, h, w)` before any ReLU, the background last.
        local_maps: of the local network on their views, `(B * N, K + 1, h', w')`.
        tags: `(B, K)` float, 1 where an image shows a class.
        corners: `(B, N, 2)`, where the views were cut.
        view_size: height and width of the views, in pixels.
        stride: pixels per position of the maps.
        saliency: of the images, `(B, 1, H, W)` in 0..1: shape transfer. Without it, attention transfer.
        weight: of the transfer; in the code 10 on VOC, and 30 on COCO with saliency.
        global_classification: weight of the tag loss on the global network; above 0 the paper found it to do harm.
        winner_takes_all: see `local_attention`.
        alignment: see `global_prediction`.
        background: see `shape_target`; `none` also without saliency leaves the local background out.
        threshold: see `shape_target`.
        binary_saliency: see `scaled_saliency`.
        attention_where_empty: see `shape_target`.

    Returns:
        The loss, and its parts for the log: `tags`, `transfer`, and `global_tags`, which counts only where asked for.
    """
    size = (local_maps.shape[2], local_maps.shape[3])
    classes = tags.shape[1]
    told = view_tag_loss(local_maps[:, :classes].mean((2, 3)), tags)
    attended = local_maps[:, :classes] if background == "none" else local_maps
    target = local_attention(attended, tags, winner_takes_all=winner_takes_all)
    if saliency is not None:
        target = shape_target(
            target,
            view_saliency(scaled_saliency(saliency, binary=binary_saliency), corners, view_size, size),
            threshold=threshold,
            background=background,
            attention_where_empty=attention_where_empty,
        )
    transfer = transfer_loss(
        global_prediction(global_maps, corners, view_size, size, stride, alignment=alignment), target
    )
    whole = first_head_loss(global_maps[:, :classes].mean((2, 3)), tags, "bce")
    loss = told + weight * transfer
    if global_classification:
        loss = loss + global_classification * whole
    return loss, {"tags": told.detach(), "transfer": transfer.detach(), "global_tags": whole.detach()}


@torch.no_grad()
def l2g_maps(network: Any, views: Views, *, quantise: bool = False, shares_where_empty: bool = False) -> list[SeedMaps]:
    """Maps of the global network as L2G takes them; the seed method `l2g`.

    Unlike `cam`: nothing is rectified before the mean over scales and mirrors, and maps are resized bicubically. The
    mean of a view and its mirror is taken before that, since both are linear.

    Args:
        network: has `maps(images) -> (B, K, h, w)` or with the background after the classes, and `num_tags`.
        views: of B images.
        quantise: to 256 levels, as the released code keeps the maps.
        shares_where_empty: a class whose mean is nowhere positive gets the mean of its softmax shares as its map. The
            global network learns from shares alone, which do not say where zero is, so all of a class can lie below
            it. Not in the paper, where such a class has an empty map.

    Returns:
        One entry per image, at least float32.
    """
    height, width = views.size
    images = [index for index, keys in enumerate(views.tags) for _ in keys]
    keys = [key for tagged in views.tags for key in tagged]
    scales = []
    for view in views.images:
        scores = network.maps(view)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        if views.flip:
            straight, mirrored = scores.chunk(2)
            scores = (straight + mirrored.flip(-1)) / 2
        scales.append(scores)
    raw, sizes = [scores[images, keys] for scores in scales], ((strided(height, 4), strided(width, 4)), (height, width))
    means = [_mean_of_scales(raw, size) for size in sizes]
    if shares_where_empty:
        empty = means[1].amax((1, 2)) <= 0
        shares = [scores.softmax(1)[images, keys][empty] for scores in scales]
        for mean, size in zip(means, sizes, strict=True):
            mean[empty] = _mean_of_scales(shares, size)
    found = []
    for mean in means:
        maps = normalise_maps(mean.relu(), 1e-8)
        found.append((maps * 255).round() / 255 if quantise else maps)
    return by_image(found[0], found[1], views.tags)


def _mean_of_scales(scales: list[Tensor], size: tuple[int, int]) -> Tensor:
    """Maps `(M, h, w)` of each scale, resized bicubically, and their mean `(M, *size)`."""
    mean = scales[0].new_zeros(len(scales[0]), *size)
    for maps in scales if len(mean) else ():
        mean += F.interpolate(maps[:, None], size, mode="bicubic", align_corners=False)[:, 0] / len(scales)
    return mean
