"""Joint augmentation of image, mask and saliency, and the preparation of examples for evaluation.

One example is resampled once: random resize, random scale and random crop become a single resize of only those source
pixels that the crop shows. Everything stays uint8 until `normalise` on the device, so that a loader process sends a
quarter of the bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from maskwright.data.sample import LabelSpace, Sample
from maskwright.data.sizes import Size, seen_size
from maskwright.errors import DataError, RecipeError
from maskwright.settings import AugmentSettings

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# ITU-R 601 luma, the weights of Pillow's conversion to grey.
_LUMA = (0.299, 0.587, 0.114)


class Window(NamedTuple):
    """Where a crop lies along one axis, in pixels of the resized image and of the output."""

    start: int
    length: int
    offset: int
    canvas: int


class _Draws(NamedTuple):
    """Uniform numbers in [0, 1), one for each decision, drawn whether or not its setting is on."""

    side: float
    scale: float
    flip: float
    top: float
    left: float
    brightness: float
    contrast: float
    saturation: float
    hue: float


class Augment:
    """Random variation of training examples: resize or one side, scale, flip, crop with padding, colour jitter.

    All draws of one example come from one call of the generator, always the same number in the same order: switching
    one setting on leaves what the others draw unchanged.

    Geometry is joint. Images are resampled bicubically with Pillow's reducing filter (antialias), saliency bilinearly,
    masks by nearest neighbour. Where the image is smaller than the crop, it lies at a random place and the rest is
    filled: image with the mean colour (zero after `normalise`), mask with the ignore value, saliency with 0.

    Jitter comes after the crop because it then touches fewer pixels. That changes one thing: contrast is measured
    against the mean grey of the visible part, not of the whole image. See `jitter_colors` for what is drawn.

    Args:
        settings: what is varied, and how much.
        labels: gives the ignore value and the order of the tag vector.
        mean: RGB mean in 0..1 that `normalise` will subtract; the padding colour.

    Raises:
        RecipeError: settings that contradict each other or cannot be.
        DataError: an ignore value that does not fit into uint8.
    """

    def __init__(self, settings: AugmentSettings, labels: LabelSpace, *, mean: Sequence[float] = IMAGENET_MEAN) -> None:
        _check_settings(settings)
        if not 0 <= labels.ignore_index <= 255:
            raise DataError(f"masks are uint8, so ignore_index must be in 0..255, found {labels.ignore_index}")
        self.settings = settings
        self.labels = labels
        self.padding = np.rint(np.asarray(mean) * 255).astype(np.uint8)

    def __call__(
        self, sample: Sample, rng: np.random.Generator, *, center: tuple[int, int] | None = None
    ) -> dict[str, torch.Tensor]:
        """Augment one example.

        Args:
            sample: as a reader gives it.
            rng: the only source of randomness.
            center: (row, column) of a pixel of the image that the crop must cover; the crop is drawn evenly from those
                that do, so that the pixel lies in its middle on average.

        Returns:
            `image` (C, h, w) uint8; `mask` (h, w) uint8, all ignore where the sample has none; `tags` (K,) float32
            over `labels.foreground`, zeros where nobody said; `has_mask` and `has_tags`, scalar bool; `saliency`
            (1, h, w) uint8 where the sample has one.

        Raises:
            DataError: mask or saliency of another size than the image.
        """
        _check_sizes(sample)
        settings = self.settings
        draws = _Draws(*rng.random(len(_Draws._fields)).tolist())
        height, width = sample.image.shape[:2]
        size = _target_size(settings, (height, width), draws)
        flip = draws.flip < settings.flip
        crop_height, crop_width = settings.crop or size
        if center is None:
            rows = _window(size[0], crop_height, draws.top)
            columns = _window(size[1], crop_width, draws.left)
        else:
            rows = _window_around(size[0], crop_height, draws.top, (center[0] + 0.5) / height)
            columns = _window_around(size[1], crop_width, draws.left, (center[1] + 0.5) / width)

        pixels = resize_window(sample.image, size, rows, columns, Image.Resampling.BICUBIC)
        pixels = jitter_colors(pixels, *self._factors(draws))
        ignore = self.labels.ignore_index
        example = {
            "image": torch.from_numpy(_place(pixels.transpose(2, 0, 1), rows, columns, flip, self.padding)),
            "mask": torch.full((rows.canvas, columns.canvas), ignore, dtype=torch.uint8),
            "tags": torch.from_numpy(self.labels.tag_vector(sample.tags or ())),
            "has_mask": torch.tensor(sample.mask is not None),
            "has_tags": torch.tensor(sample.tags is not None),
        }
        if sample.mask is not None:
            nearest_rows = nearest_index(height, size[0])[rows.start : rows.start + rows.length]
            nearest_columns = nearest_index(width, size[1])[columns.start : columns.start + columns.length]
            values = sample.mask[nearest_rows][:, nearest_columns]
            example["mask"] = torch.from_numpy(_place(values[None], rows, columns, flip, ignore)[0])
        if sample.saliency is not None:
            values = resize_window(sample.saliency, size, rows, columns, Image.Resampling.BILINEAR)
            example["saliency"] = torch.from_numpy(_place(values[None], rows, columns, flip, 0))
        return example

    def _factors(self, draws: _Draws) -> tuple[float, float, float, float]:
        strength, hue = self.settings.color_jitter, self.settings.hue
        return (
            1 + strength * (2 * draws.brightness - 1),
            1 + strength * (2 * draws.contrast - 1),
            1 + strength * (2 * draws.saturation - 1),
            hue * (2 * draws.hue - 1),
        )


def normalise(
    images: torch.Tensor,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Network input from uint8 images, on the device that they are on.

    Args:
        images: (B, 3, H, W) or (3, H, W) uint8.
        mean: per channel, in 0..1.
        std: per channel, in 0..1.
        dtype: floating type of the result.

    Returns:
        `(images / 255 - mean) / std`, same shape and memory format.
    """
    scale = [1 / (255 * s) for s in std]
    shift = [-m / s for m, s in zip(mean, std)]
    scale_, shift_ = torch.tensor([scale, shift], dtype=torch.float32, device=images.device)[:, :, None, None]
    return images.to(torch.float32).mul_(scale_).add_(shift_).to(dtype)


def prepare(sample: Sample, size: Size = None) -> dict[str, torch.Tensor]:
    """One example for evaluation: nothing random, and the ground truth left as it is.

    Args:
        sample: as a reader gives it.
        size: that the network wants to see, as for `sizes.seen_size`.

    Returns:
        `image` (3, h, w) uint8, resized bicubically; `mask` (H, W) uint8 at its own resolution, where there is one.
    """
    image = sample.image if size is None else resize_image(sample.image, seen_size(size, sample.image.shape))
    example = {"image": torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))}
    if sample.mask is not None:
        example["mask"] = torch.from_numpy(np.array(sample.mask))
    return example


def collate(examples: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Stack examples into a batch; an entry that only some of them have (saliency) is left out.

    Raises:
        DataError: images of different sizes.
    """
    sizes = {tuple(example["image"].shape[1:]) for example in examples}
    if len(sizes) > 1:
        shown = ", ".join(f"{height}x{width}" for height, width in sorted(sizes)[:4])
        raise DataError(
            f"the images of one batch must have one size, found {shown} (height x width); "
            "set augment.crop (or augment.resize with scale 1), or batch_size=1"
        )
    shared = [key for key in examples[0] if all(key in example for example in examples)]
    return torch.utils.data.default_collate([{key: example[key] for key in shared} for example in examples])


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pillow's bicubic resize, with antialias where it reduces.

    Args:
        image: (H, W, C) uint8.
        size: (height, width).

    Returns:
        (height, width, C) uint8; `image` itself if it has that size.
    """
    if image.shape[:2] == tuple(size):
        return image
    if image.shape[2] != 3:  # Pillow would take a fourth channel for transparency
        return _by_channel(resize_image, image, size)
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def _by_channel(resized: Callable[..., np.ndarray], image: np.ndarray, *arguments: Any) -> np.ndarray:
    """What a function of (H, W, 3) gives for (H, W, C), three channels at a time."""
    channels = image.shape[2]
    parts = [[min(first + place, channels - 1) for place in range(3)] for first in range(0, channels, 3)]
    found = [resized(np.ascontiguousarray(image[..., part]), *arguments) for part in parts]
    return np.concatenate(found, axis=2)[..., :channels]


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Nearest-neighbour resize with the same choice of pixels as Pillow's.

    Args:
        mask: (H, W), any type.
        size: (height, width).

    Returns:
        (height, width), same type.
    """
    return mask[nearest_index(mask.shape[0], size[0])][:, nearest_index(mask.shape[1], size[1])]


def nearest_index(source: int, target: int) -> np.ndarray:
    """Source index of each of `target` positions, for a nearest-neighbour resize along one axis.

    Pillow adds the step up in double precision instead of multiplying; so does this, because near ties the two can
    choose different pixels.

    Args:
        source: length before.
        target: length after.

    Returns:
        (target,) int64, each in 0..source-1.
    """
    step = source / target
    steps = np.full(target, step)
    steps[0] = step / 2
    return np.minimum(np.cumsum(steps).astype(np.int64), source - 1)


def resize_window(
    pixels: np.ndarray, size: tuple[int, int], rows: Window, columns: Window, resample: Image.Resampling
) -> np.ndarray:
    """The part of a resized image that a window shows, without making the rest.

    Equal to resizing all, across then down, and cutting, but for ties in rounding: Pillow keeps the source box in
    single precision. Seen on photographs: 3 values in 1000 differ by one grey level, the worst by two.

    Args:
        pixels: (H, W) or (H, W, C) uint8.
        size: (height, width) that the whole image is resized to.
        rows: which rows of the resized image.
        columns: which columns.
        resample: Pillow's bicubic or bilinear filter.

    Returns:
        (rows.length, columns.length) or with C channels, uint8; may share memory with `pixels`.
    """
    height, width = pixels.shape[:2]
    if pixels.ndim == 3 and pixels.shape[2] != 3:
        return _by_channel(resize_window, pixels, size, rows, columns, resample)
    if size == (height, width):
        return pixels[rows.start : rows.start + rows.length, columns.start : columns.start + columns.length]
    reach = 2 if resample == Image.Resampling.BICUBIC else 1
    first_row, last_row, top, bottom = _source_span(height, size[0], rows, reach)
    first_column, last_column, left, right = _source_span(width, size[1], columns, reach)
    part = Image.fromarray(pixels[first_row:last_row, first_column:last_column])
    # Two passes, because recent Pillow chooses their order by cost: a cut would then differ from the whole.
    part = part.resize((columns.length, part.height), resample, box=(left, 0, right, part.height))
    part = part.resize((columns.length, rows.length), resample, box=(0, top, columns.length, bottom))
    return np.asarray(part)


def jitter_colors(
    pixels: np.ndarray, brightness: float, contrast: float, saturation: float, hue: float = 0.0
) -> np.ndarray:
    """Change brightness, contrast, saturation and hue.

    The first three are affine in the colour: times `brightness`; `contrast` as the distance from the image's mean grey;
    `saturation` as the distance from the pixel's own grey. Here they are one colour matrix, rounded and clipped once;
    so done, their order does not matter. torchvision and Pillow's `ImageEnhance` round and clip after each, in a random
    order: the same up to rounding wherever nothing is clipped in between.

    Args:
        pixels: (H, W, 3) uint8; of other channels grey is their mean, and the hue stays.
        brightness: factor, 1 for no change.
        contrast: factor, 1 for no change.
        saturation: factor, 1 for no change, 0 for grey.
        hue: shift in turns of the colour circle, -0.5 to 0.5, through 8-bit HSV as torchvision does on Pillow images.

    Returns:
        (H, W, 3) uint8; `pixels` itself where nothing changes.
    """
    if (brightness, contrast, saturation, hue) == (1, 1, 1, 0):
        return pixels
    if pixels.shape[2] != 3:
        return _jitter_numbers(pixels, brightness, contrast, saturation)
    image = Image.fromarray(pixels)
    if (brightness, contrast, saturation) != (1, 1, 1):
        mean_grey = float(np.asarray(image.convert("L")).mean()) if contrast != 1 else 0.0
        gain = brightness * contrast
        offset = brightness * (1 - contrast) * mean_grey
        matrix: list[float] = []
        for channel in range(3):
            row = [gain * (1 - saturation) * weight for weight in _LUMA]
            row[channel] += gain * saturation
            matrix += [*row, offset]
        image = image.convert("RGB", tuple(matrix))
    shift = round(hue * 256) % 256
    if shift:
        hues, saturations, values = image.convert("HSV").split()
        hues = hues.point([(value + shift) % 256 for value in range(256)])
        image = Image.merge("HSV", (hues, saturations, values)).convert("RGB")
    return np.asarray(image)


def _jitter_numbers(pixels: np.ndarray, brightness: float, contrast: float, saturation: float) -> np.ndarray:
    """Brightness, contrast and saturation of (H, W, C) that are no colours: grey is the mean of the channels."""
    values = pixels.astype(np.float32)
    grey = values.mean(axis=2, keepdims=True)
    values = saturation * values + (1 - saturation) * grey
    values = brightness * (contrast * values + (1 - contrast) * grey.mean())
    return np.rint(values).clip(0, 255).astype(np.uint8)


def _check_settings(settings: AugmentSettings) -> None:
    given = [name for name in ("resize", "long_side", "short_side") if getattr(settings, name) is not None]
    if len(given) > 1:
        raise RecipeError(f"augment.{' and augment.'.join(given)} are ways to say the first size; set one of them")
    for name in ("resize", "crop"):
        size = getattr(settings, name)
        if size is not None and min(size) < 1:
            raise RecipeError(f"augment.{name} must be [height, width] of at least 1 pixel, found {list(size)}")
    for name in ("long_side", "short_side", "scale"):
        bounds = getattr(settings, name)
        if bounds is not None and not 0 < bounds[0] <= bounds[1]:
            raise RecipeError(f"augment.{name} must be [smallest, largest], both above 0, found {list(bounds)}")


def _check_sizes(sample: Sample) -> None:
    size = sample.image.shape[:2]
    for kind, pixels in (("mask", sample.mask), ("saliency map", sample.saliency)):
        if pixels is not None and pixels.shape != size:
            found = "x".join(map(str, pixels.shape))
            raise DataError(
                f"{sample.name}: the {kind} is {found} but its image is {size[0]}x{size[1]} (height x width); "
                "they must have the same size"
            )


def _target_size(settings: AugmentSettings, size: tuple[int, int], draws: _Draws) -> tuple[int, int]:
    """Size (height, width) that the image is resized to before the crop."""
    height, width = settings.resize or size
    bounds = settings.long_side or settings.short_side
    if bounds is not None:
        side = max(size) if settings.long_side else min(size)
        ratio = (bounds[0] + int(draws.side * (bounds[1] - bounds[0] + 1))) / side
        height, width = round(height * ratio), round(width * ratio)
    smallest_scale, largest_scale = settings.scale
    scale = smallest_scale + draws.scale * (largest_scale - smallest_scale)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _window(size: int, crop: int, draw: float) -> Window:
    """Where a crop of `crop` pixels lies on an axis of `size` pixels, for a uniform draw in [0, 1)."""
    place = int(draw * (abs(size - crop) + 1))
    if size >= crop:
        return Window(place, crop, 0, crop)
    return Window(0, size, place, crop)


def _window_around(size: int, crop: int, draw: float, point: float) -> Window:
    """As `_window`, for crops that cover a point, given as a share of the axis; where all is seen, any crop does."""
    if size <= crop:
        return _window(size, crop, draw)
    pixel = min(int(point * size), size - 1)
    first, last = max(0, pixel - crop + 1), min(pixel, size - crop)
    return Window(first + int(draw * (last - first + 1)), crop, 0, crop)


def _place(channels: np.ndarray, rows: Window, columns: Window, flip: bool, padding: int | np.ndarray) -> np.ndarray:
    """Copy (C, h, w) into a new (C, H, W) canvas of `padding`, mirrored left to right if `flip`.

    The mirror image is cut and placed where the draw says, so a flip mirrors what is seen, not where it lies.
    """
    if flip:
        channels = channels[:, :, ::-1]
    canvas = np.empty((len(channels), rows.canvas, columns.canvas), np.uint8)
    if canvas.shape != channels.shape:
        canvas[:] = np.reshape(padding, (-1, 1, 1))
    canvas[:, rows.offset : rows.offset + rows.length, columns.offset : columns.offset + columns.length] = channels
    return canvas


def _source_span(source: int, target: int, window: Window, reach: int) -> tuple[int, int, float, float]:
    """Source pixels [first, last) that a window of a resized axis needs, and the window's ends counted from first."""
    step = source / target
    start, stop = window.start * step, (window.start + window.length) * step
    # Pillow's filter sees neighbours outside the box as long as the image has them; its width grows when reducing.
    margin = reach * max(step, 1.0) + 1
    first = max(0, math.floor(start - margin))
    last = min(source, math.ceil(stop + margin))
    return first, last, start - first, min(stop - first, last - first)
