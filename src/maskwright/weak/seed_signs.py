"""Signs of good and bad seeds that need no ground truth: boundaries on image edges, plausible areas, stable views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from maskwright.data.dataset import Dataset
from maskwright.data.sample import LabelSpace
from maskwright.engine.progress import track
from maskwright.errors import DataError
from maskwright.settings import SeedSettings
from maskwright.weak.labels import seed_labels
from maskwright.weak.methods import seed_method
from maskwright.weak.seeds.cam import Views
from maskwright.weak.seeds.extract import at_image_size, make_views
from maskwright.weak.seeds.windows import in_windows

# Shares of an image: a tagged class below the first is hardly there, above the second it has swallowed the image.
NEARLY_NOTHING, NEARLY_EVERYTHING = 0.001, 0.95
FEWEST_FOR_FENCES = 8  # images tagged with a class; of fewer nobody can say what is usual
SCALES = (0.75, 1.0, 1.25)  # where the seeds have only one

DEFINITIONS = {
    "miou": "one confusion matrix over the set, background included; null without ground truth",
    "fp, fn": "shares of the union of ground truth and mask that are mask alone and ground truth alone; "
    "iou + fp + fn = 1",
    "single_label, multi_label": "images with exactly one tag and with more; miou_common is over the classes that the "
    "ground truth has in both groups",
    "tag_consistency": "kept: share of the tags whose class has a pixel; extra: share of the classes with a pixel that "
    "are no tag of the image; exact: share of images that show their tags and nothing else",
    "vanished_tags": "images whose mask lost the class, images tagged with it",
    "boundary_agreement": "mean edge strength where two labels meet as a multiple of the image's mean: 1 is chance, "
    "higher is better; mean over images. Edge strength: Sobel gradient, highest of the channels and within one pixel. "
    "Not defined where all pixels have one label (one_label) or one colour (no_edges)",
    "labelled, border": "mean share of the image, and of its outermost pixels, that has a class other than background; "
    "over the images with tags. Objects seldom touch the border: as much of it as of the image is a bad sign",
    "area": "quartiles, over the images tagged with a class, of its share of the pixels that have a label; null for a "
    f"class that is no tag. Out of the ordinary: below {NEARLY_NOTHING} or above {NEARLY_EVERYTHING}, or, with at "
    f"least {FEWEST_FOR_FENCES} images, more than 1.5 quartile distances beyond the quartiles of log(a / (1 - a))",
    "foreground": "mean share of the pixels that is not background",
}


def edge_strength(image: np.ndarray) -> np.ndarray:
    """Magnitude of the Sobel gradient, the highest of the channels, highest among each pixel and its eight neighbours.

    The neighbours make a boundary that is one pixel off count in full, as masks drawn by hand and maps are.

    Args:
        image: `(H, W, 3)` uint8.

    Returns:
        `(H, W)` float32, not negative.
    """
    padded = np.pad(image.astype(np.int16), ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    columns = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    across = (rows[:, 2:] - rows[:, :-2]).astype(np.int32)
    down = (columns[2:] - columns[:-2]).astype(np.int32)
    strength = np.sqrt((across * across + down * down).max(2).astype(np.float32))
    strength = np.pad(strength, 1, mode="edge")
    strength = np.maximum(np.maximum(strength[:-2], strength[1:-1]), strength[2:])
    return np.maximum(np.maximum(strength[:, :-2], strength[:, 1:-1]), strength[:, 2:])


def label_boundaries(labels: np.ndarray, ignore_index: int) -> np.ndarray:
    """Pixels `(H, W)` bool beside (not diagonally) one of another label; next to an ignored pixel nobody knows."""
    found = np.zeros(labels.shape, bool)
    known = labels != ignore_index
    for one, other in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differ = (labels[one] != labels[other]) & known[one] & known[other]
        found[one] |= differ
        found[other] |= differ
    return found


def boundary_agreement(labels: np.ndarray, edges: np.ndarray, ignore_index: int) -> float | str:
    """Mean edge strength at the boundaries of labels, as a multiple of the image's mean edge strength.

    Args:
        labels: `(H, W)` label values.
        edges: what `edge_strength` gives.
        ignore_index: value of pixels without a label.

    Returns:
        1 where boundaries lie as if by chance, higher is better; or why it is not defined: `one_label`, no two
        neighbours differ, or `no_edges`, an image of one colour.
    """
    boundary = label_boundaries(labels, ignore_index)
    if not boundary.any():
        return "one_label"
    mean = float(edges.mean())
    return float(edges[boundary].mean()) / mean if mean > 0 else "no_edges"


def mean_agreement(found: Sequence[float | str]) -> dict[str, Any]:
    """Mean over the images where `boundary_agreement` is defined, and how many images are left out for what reason."""
    numbers = [value for value in found if not isinstance(value, str)]
    return {
        "mean": float(np.mean(numbers)) if numbers else None,
        "images": len(numbers),
        **{reason: sum(value == reason for value in found) for reason in ("one_label", "no_edges")},
    }


def labelled_shares(mask: np.ndarray, labels: LabelSpace) -> tuple[float, float] | None:
    """How much of an image, and how much of its outermost pixels, has a class other than background.

    Args:
        mask: `(H, W)` label values.
        labels: what they mean.

    Returns:
        Two shares of the pixels that have a label; None without a background class, or where no pixel there has one.
    """
    if labels.background is None:
        return None
    shares = []
    for pixels in (mask.ravel(), np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]])):
        known = pixels[pixels != labels.ignore_index]
        if not len(known):
            return None
        shares.append(float(np.mean(known != labels.background)))
    return shares[0], shares[1]


def area_prior(shares: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """How large a class is where it is tagged, and where it is out of the ordinary.

    Log odds log(a / (1 - a)) make nearly nothing and nearly everything alike; 1.5 distances of the quartiles beyond
    the quartiles is Tukey's fence.

    Args:
        shares: of the image's pixels that have a label, `(n,)` in 0..1, n at least 1; one per image with the tag.

    Returns:
        `images`, quartiles `low`, `median`, `high`, and counts `nearly_nothing`, `nearly_everything`; and per image -1
        for nearly nothing, 1 for nearly everything, else 0, `(n,)` int64.
    """
    low, median, high = np.quantile(shares, (0.25, 0.5, 0.75))
    little, much = shares < NEARLY_NOTHING, shares > NEARLY_EVERYTHING
    if len(shares) >= FEWEST_FOR_FENCES:
        bounded = np.clip(shares, 1e-6, 1 - 1e-6)
        odds = np.log(bounded / (1 - bounded))
        first, third = np.quantile(odds, (0.25, 0.75))
        little |= odds < first - 1.5 * (third - first)
        much |= odds > third + 1.5 * (third - first)
    numbers = {
        "images": len(shares),
        "low": float(low),
        "median": float(median),
        "high": float(high),
        "nearly_nothing": int(little.sum()),
        "nearly_everything": int(much.sum()),
    }
    return numbers, much.astype(np.int64) - little


def stability(
    dataset: Dataset,
    network: Any,
    settings: SeedSettings,
    device: torch.device | str,
    *,
    threshold: float,
    sample: int = 32,
) -> dict[str, Any]:
    """How much the seed masks of single views (one scale, mirrored or not) agree with those of all views together.

    A network that is sure of where a class is finds it there at every scale. Agreement is the IoU of a tagged class in
    the two masks; where neither has a pixel of it, it is not defined and left out.

    Args:
        dataset: images and tags; masks are never read.
        network: a tag classifier on `device`, in inference mode.
        settings: method, its options, size and scales; mirrors are always seen. With one scale `SCALES` are taken.
        device: where to compute.
        threshold: score of the background; without a background class it has no effect.
        sample: number of images, spread evenly over those that have tags.

    Returns:
        `iou`, the mean over views of the mean over images and classes; `views` (`scale`, `mirrored`, `iou` each),
        `per_class` (name: mean IoU), `images`, `threshold`, and `undefined`, how many IoUs are not. None where no IoU
        is defined.

    Raises:
        DataError: no image has a tag.
        RecipeError: unknown seed method, or an option that it does not have.
    """
    chosen = seed_method(settings.method)
    chosen.check(settings)
    method, options, network = chosen.maps, settings.options, in_windows(network, settings)
    labels: LabelSpace = dataset.labels
    tagged = [index for index in range(len(dataset)) if dataset.tags(index)]
    if not tagged:
        raise DataError("stability is measured on images with tags, found none; give tags=FILE")
    places = np.linspace(0, len(tagged) - 1, min(max(sample, 1), len(tagged))).round().astype(int)
    scales = settings.scales if len(settings.scales) > 1 else SCALES
    position = {value: index for index, value in enumerate(labels.foreground)}
    ious = np.full((len(places), 2 * len(scales), len(labels.foreground)), np.nan)
    undefined = 0
    for place, index in enumerate(track([tagged[p] for p in places], title="stability")):
        example = dataset[index]
        keys = sorted(position[value] for value in example.tags or ())
        views = make_views(
            [example.image],
            [keys],
            mean=network.mean,
            std=network.std,
            scales=scales,
            size=settings.size,
            device=device,
        )
        found = method(network, views, **options)
        for scale, pair in zip(scales, views.images, strict=True):
            # The image and its mirror as two images, neither of which is seen mirrored.
            found += method(network, Views([pair], (scale,), views.tags * 2, views.size), **options)
        masks = []
        for number, seeds in enumerate(found):
            maps = at_image_size(seeds, example.image.shape[:2]).high_res.cpu().numpy()
            maps = maps[..., ::-1] if number > 0 and number % 2 == 0 else maps
            masks.append(seed_labels(maps, keys, threshold, labels.background, labels.foreground))
        for key in keys:
            whole, *singles = (mask == labels.foreground[key] for mask in masks)
            for view, single in enumerate(singles):
                either = np.count_nonzero(single | whole)
                if either:
                    ious[place, view, key] = np.count_nonzero(single & whole) / either
                else:
                    undefined += 1
    seen = [_mean(ious[:, view]) for view in range(ious.shape[1])]
    defined = [value for value in seen if value is not None]
    return {
        "iou": float(np.mean(defined)) if defined else None,
        "views": [
            {"scale": scale, "mirrored": mirrored, "iou": seen[2 * number + mirrored]}
            for number, scale in enumerate(scales)
            for mirrored in (False, True)
        ],
        "per_class": {name: _mean(ious[:, :, key]) for key, name in enumerate(labels.tag_names)},
        "images": len(places),
        "threshold": threshold,
        "undefined": undefined,
    }


def _mean(values: np.ndarray) -> float | None:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None
