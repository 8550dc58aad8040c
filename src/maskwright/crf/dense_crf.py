"""Fully connected CRF with Gaussian edge potentials (Kraehenbuehl and Koltun, NeurIPS 2011), by mean-field updates.

Q <- softmax(-U + sum_m w_m K_m Q), Q_0 = softmax(-U), where U is the unary energy and K_m one of two symmetrically
normalised Gaussian kernels, over positions and over positions and colours, self included; Potts compatibility. The
authors' library approximates both kernels by a permutohedral lattice, and published numbers rest on it: mode "lattice"
does the same and agrees with it to about 1e-6. Mode "exact" computes the kernels as written, pixels by pixels, and is
for small images. Mode "fast" runs the lattice at half the resolution; no preset uses it.

Nothing here is differentiable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from maskwright.cpu.threads import in_parts
from maskwright.crf.guided_upsampling import guided_upsample
from maskwright.crf.permutohedral import LANES, CpuLattice, TorchLattice
from maskwright.errors import DataError, unknown_name

PRESETS: dict[str, dict[str, Any]] = {
    # IR labels of IRN, ReCAM and AdvCAM; unary from hard labels.
    "irn": {"gaussian": (3, 3), "bilateral": (50, 5, 10), "iterations": 10},
    # CAM-CRF of PSA, SEAM and EPS; unary from the maps beside a background (1 - highest)^alpha.
    "seam": {"gaussian": (3, 3), "bilateral": (80, 13, 10), "iterations": 10},
    # Test time, unary from the network's probabilities: DeepLabV2-ResNet101, and EPS's comparison.
    "deeplab": {"gaussian": (1, 3), "bilateral": (67, 3, 4), "iterations": 10},
    # DeepLab-LargeFOV (V1), in L2G's fork.
    "largefov": {"gaussian": (3, 3), "bilateral": (121, 5, 4), "iterations": 10},
    # DeepLabV2-VGG16, in L2G's fork.
    "deeplab-vgg16": {"gaussian": (2, 2), "bilateral": (65, 3, 4), "iterations": 10},
}
"""`gaussian` (sigma in pixels, weight), `bilateral` (sigma in pixels, sigma in grey levels, weight), `iterations`."""

MODES = ("lattice", "fast", "exact")
EXACT_PIXELS = 16_384
PIXELS_PER_THREAD = 2**14  # fewer take less time than a thread needs to start
PRESET_SIDE = 500  # longest side of the photographs of PASCAL VOC, on which the presets were chosen


def preset_settings(name: str, size: Sequence[int], scale: float | str = 1.0) -> dict[str, Any]:
    """Kernels and iterations of a preset, for images of a size.

    On images much smaller than those that a preset was chosen on, kernels of as many pixels reach across whole objects
    and delete what is small.

    Args:
        name: one of `PRESETS`.
        size: height and width of the images.
        scale: factor on the standard deviations in pixels; 1: as published; "image": longest side / 500.

    Returns:
        Arguments of `dense_crf`.

    Raises:
        DataError: unknown preset, or a scale that is neither above 0 nor "image".
    """
    if name not in PRESETS:
        raise DataError(unknown_name("CRF preset", name, PRESETS))
    factor = max(size) / PRESET_SIDE if scale == "image" else scale
    if not isinstance(factor, int | float) or not factor > 0:
        raise DataError(f'scale={scale!r} of the CRF: expected a number above 0, or "image"')
    chosen = PRESETS[name]
    (spatial, spatial_weight), (pixels, levels, weight) = chosen["gaussian"], chosen["bilateral"]
    return {
        "gaussian": (spatial * factor, spatial_weight),
        "bilateral": (pixels * factor, levels, weight),
        "iterations": chosen["iterations"],
    }


def unary_from_probabilities(probabilities: Tensor, clip: float = 1e-5) -> Tensor:
    """Energies -log p.

    Args:
        probabilities: any shape, 0..1.
        clip: the least probability that is believed.

    Returns:
        Energies of the same shape.
    """
    return -probabilities.clamp(clip, 1).log()


def unary_from_labels(labels: Tensor, num_labels: int, confidence: float = 0.7) -> Tensor:
    """Energies of hard labels that are right with a given probability, the rest shared by the other labels.

    Args:
        labels: `(..., H, W)` integers in 0..num_labels - 1; none is "unknown".
        num_labels: at least 2.
        confidence: probability of the given label, between 0 and 1.

    Returns:
        Energies `(..., num_labels, H, W)` float32.

    Raises:
        DataError: labels out of range, fewer than two labels, or a confidence not between 0 and 1.
    """
    if num_labels < 2 or not 0 < confidence < 1:
        raise DataError(
            f"{num_labels} labels with confidence {confidence}: expected at least 2 and a confidence between 0 and 1"
        )
    if labels.numel() and not (labels.min() >= 0 and labels.max() < num_labels):
        raise DataError(
            f"labels range over {labels.min().item()}..{labels.max().item()}, expected 0..{num_labels - 1}; values for "
            "ignored pixels must be replaced first"
        )
    given = labels.unsqueeze(-3) == torch.arange(num_labels, device=labels.device)[:, None, None]
    others = -math.log((1 - confidence) / (num_labels - 1))
    return torch.where(given, -math.log(confidence), others).float()


@torch.no_grad()
def dense_crf(
    image: Tensor,
    unary: Tensor,
    *,
    gaussian: Sequence[float],
    bilateral: Sequence[float],
    iterations: int = 10,
    mode: str = "lattice",
) -> Tensor:
    """Label probabilities after mean-field updates.

    Args:
        image: `(H, W, 3)` or `(B, H, W, 3)` uint8 RGB.
        unary: energies `(C, H, W)` or `(B, C, H, W)` on any device; the work is done there.
        gaussian: standard deviation in pixels and weight of the kernel over positions.
        bilateral: standard deviations in pixels and in grey levels, and weight, of the kernel over positions and
            colours.
        iterations: number of updates.
        mode: "lattice", as the authors' library; "exact", for at most 16 384 pixels; "fast", an approximation of
            "lattice" at half the resolution.

    Returns:
        Probabilities of the shape and on the device of `unary`, float32. `PRESETS` holds published settings:
        `dense_crf(image, unary, **PRESETS["deeplab"])`.

    Raises:
        DataError: shapes that do not fit, a unary that is not finite, an unknown mode, settings out of range, or an
            image that is too large for "exact".
    """
    _check(image, unary, gaussian, bilateral, iterations, mode)
    batch = unary if unary.dim() == 4 else unary[None]
    images = (image if image.dim() == 4 else image[None]).to(unary.device)
    settings = (tuple(map(float, gaussian)), tuple(map(float, bilateral)), iterations)
    solve = {"lattice": _lattice, "fast": _fast, "exact": _exact}[mode]
    with torch.autocast(unary.device.type, enabled=False):
        return solve(images, batch.float(), *settings).reshape(unary.shape)


def crf_labels(
    image: Tensor,
    labels: Tensor,
    num_labels: int,
    preset: str = "irn",
    confidence: float = 0.7,
    mode: str = "lattice",
    scale: float | str = 1.0,
) -> Tensor:
    """Hard labels after a CRF on hard labels.

    Args:
        image: see `dense_crf`.
        labels: `(H, W)` or `(B, H, W)` integers in 0..num_labels - 1.
        num_labels: number of labels; with one, nothing is done.
        preset: name in `PRESETS`.
        confidence: see `unary_from_labels`.
        mode: see `dense_crf`.
        scale: see `preset_settings`.

    Returns:
        Labels of the same shape, int64.

    Raises:
        DataError: see `unary_from_labels`, `dense_crf` and `preset_settings`.
    """
    settings = preset_settings(preset, labels.shape[-2:], scale)
    if num_labels == 1:
        return labels.long()
    unary = unary_from_labels(labels, num_labels, confidence)
    return dense_crf(image, unary, mode=mode, **settings).argmax(-3)


def _check(image: Tensor, unary: Tensor, gaussian, bilateral, iterations: int, mode: str) -> None:
    if mode not in MODES:
        raise DataError(unknown_name("CRF mode", mode, MODES))
    expected = (*unary.shape[:-3], *unary.shape[-2:], 3)
    if unary.dim() not in (3, 4) or tuple(image.shape) != expected or image.dtype != torch.uint8:
        raise DataError(
            f"image {tuple(image.shape)} {image.dtype} with unary {tuple(unary.shape)}: expected uint8 (H, W, 3) with "
            " a unary (C, H, W), or both with a leading batch dimension"
        )
    if len(gaussian) != 2 or len(bilateral) != 3 or min(*gaussian, *bilateral) < 0 or iterations < 0:
        raise DataError(
            f"gaussian {gaussian}, bilateral {bilateral}, {iterations} iterations: expected (sigma, weight), (sigma in "
            "pixels, sigma in grey levels, weight), none negative"
        )
    if min(gaussian[0], *bilateral[:2]) == 0:
        raise DataError(f"gaussian {gaussian}, bilateral {bilateral}: a standard deviation is 0; expected more")
    if not torch.isfinite(unary.sum(dtype=torch.float32)):  # a sum needs no second copy
        raise DataError("unary is not finite everywhere; clip probabilities before their logarithm is taken")
    pixels = unary.shape[-2] * unary.shape[-1]
    if mode == "exact" and pixels > EXACT_PIXELS:
        raise DataError(f"{pixels} pixels are too many for mode 'exact' (at most {EXACT_PIXELS}); use mode 'lattice'")


def _mean_field(negative: Any, kernels: Sequence[Any], iterations: int, softmax: Any, logits: Any = None) -> Any:
    """The recursion; `negative` is -U, arrays or tensors in the layout that kernels and softmax share."""
    q = softmax(negative)
    for _ in range(iterations):
        base = negative
        for kernel in kernels:
            base = kernel.add(base, q, logits)
        q = softmax(base)
    return q


def _positions(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Column and row of every pixel, `(2, H, W)` float32."""
    rows, columns = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )
    return torch.stack([columns, rows]).float()


def _bilateral_features(images: Tensor, sigma_xy: float, sigma_rgb: float) -> Tensor:
    """`(B, 5, N)` float32."""
    batch, height, width, _ = images.shape
    places = _positions(height, width, images.device) / sigma_xy
    colours = images.permute(0, 3, 1, 2).float() / sigma_rgb
    return torch.cat([places.expand(batch, -1, -1, -1), colours], 1).flatten(2)


def _lattice(images: Tensor, unary: Tensor, gaussian, bilateral, iterations: int) -> Tensor:
    if unary.device.type == "cpu" and find_spec("numba") is not None:
        return _lattice_cpu(images, unary, gaussian, bilateral, iterations)
    return _lattice_torch(images, unary, gaussian, bilateral, iterations)


def _lattice_torch(images: Tensor, unary: Tensor, gaussian, bilateral, iterations: int) -> Tensor:
    batch, labels, height, width = unary.shape
    kernels = []
    if gaussian[1]:
        places = _positions(height, width, unary.device).flatten(1).T / gaussian[0]
        kernels.append(TorchLattice(places.expand(batch, -1, -1), gaussian[1]))
    if bilateral[2]:
        kernels.append(TorchLattice(_bilateral_features(images, *bilateral[:2]).transpose(1, 2), bilateral[2]))
    negative = -unary.flatten(2).transpose(1, 2).reshape(-1, labels)
    q = _mean_field(negative, kernels, iterations, lambda logits: logits.softmax(1))
    return q.reshape(batch, -1, labels).transpose(1, 2).reshape(unary.shape)


@lru_cache(maxsize=8)
def _gaussian_cpu(height: int, width: int, sigma: float, weight: float) -> CpuLattice:
    """The kernel over positions, which images of one size share."""
    return CpuLattice((_positions(height, width) / sigma).numpy(), weight)


def _lattice_cpu(images: Tensor, unary: Tensor, gaussian, bilateral, iterations: int) -> Tensor:
    from maskwright.crf.permutohedral_cpu import softmax

    batch, labels, height, width = unary.shape
    groups = -(-labels // LANES)

    result = np.empty((batch, labels, height * width), np.float32)

    def solve(index: int) -> None:
        kernels = [_gaussian_cpu(height, width, *gaussian)] if gaussian[1] else []
        if bilateral[2]:
            features = _bilateral_features(images[index : index + 1], *bilateral[:2])[0]
            kernels.append(CpuLattice(features.view(-1, height, width).numpy(), bilateral[2]))
        energies = unary[index].flatten(1)
        # Labels that hardly occur share groups, which the kernels then leave out.
        order = (-energies[:, ::16]).softmax(0).sum(1).argsort(descending=True).tolist()
        # Labels that fill the last group up have no probability.
        negative = np.full((groups, height * width, LANES), -np.inf, np.float32)
        for place, label in enumerate(order):
            np.negative(energies[label].numpy(), out=negative[place // LANES, :, place % LANES])
        q, logits = np.empty_like(negative), np.empty_like(negative)

        def update(logits: np.ndarray) -> np.ndarray:
            in_parts(partial(softmax, logits, q), height * width, PIXELS_PER_THREAD)
            return q

        _mean_field(negative, kernels, iterations, update, logits)
        for place, label in enumerate(order):
            result[index, label] = q[place // LANES, :, place % LANES]

    def solve_part(first: int, end: int) -> None:
        for index in range(first, end):
            solve(index)

    in_parts(solve_part, batch)
    return torch.from_numpy(result).reshape(unary.shape)


class _ExactKernels:
    """The weighted sum of the kernels of one image as one matrix `(N, N)`."""

    def __init__(self, features: Sequence[Tensor], weights: Sequence[float]) -> None:
        self.matrix: Any = 0
        for feature, weight in zip(features, weights):
            distance = sum((axis[:, None] - axis[None]).square_() for axis in feature)
            kernel = distance.mul_(-0.5).exp_()
            root = kernel.sum(1).rsqrt()
            self.matrix += kernel.mul_(weight * root[:, None]).mul_(root)

    def add(self, base: Tensor, q: Tensor, out: Tensor | None = None) -> Tensor:
        return base + self.matrix @ q


def _exact(images: Tensor, unary: Tensor, gaussian, bilateral, iterations: int) -> Tensor:
    results = []
    for index, energies in enumerate(unary):
        places = _positions(energies.shape[1], energies.shape[2], unary.device).flatten(1) / gaussian[0]
        features = _bilateral_features(images[index : index + 1], *bilateral[:2])[0]
        kernels = [_ExactKernels([places, features], [gaussian[1], bilateral[2]])]
        negative = -energies.flatten(1).T
        q = _mean_field(negative, kernels, iterations, lambda logits: logits.softmax(1))
        results.append(q.T.reshape(energies.shape))
    return torch.stack(results)


def _fast(images: Tensor, unary: Tensor, gaussian, bilateral, iterations: int) -> Tensor:
    """The lattice on every other pixel of every other row; what it says to each label is brought to full resolution."""
    guide = images[:, ::2, ::2].contiguous()
    coarse = F.avg_pool2d(unary, 2, ceil_mode=True, count_include_pad=False)
    halved = (gaussian[0] / 2, gaussian[1]), (bilateral[0] / 2, *bilateral[1:])
    q = _lattice(guide, coarse, *halved, iterations)
    # Up to a constant per pixel, the sum of the messages is what turned -U into log Q.
    message = q.clamp_min_(1e-30).log_().add_(coarse)
    return guided_upsample(message, guide, images).contiguous().sub_(unary).softmax(1)
