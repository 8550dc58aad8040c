"""A segmenter with all that is done before and after it, as one network that an exporter can follow."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskwright.data.augment import normalise
from maskwright.data.sizes import scaled_size, seen_size
from maskwright.errors import RecipeError
from maskwright.inference.predict import Predictor
from maskwright.inference.views import label_maps
from maskwright.models.layers import resize

INPUT = "image"
OUTPUTS = ("labels", "probabilities")
# What the network is shown while it is followed. Sides are no multiples of a stride, so the general case of every
# question about them is kept; large enough for the coarsest map of a half-size image to have several positions.
SAMPLE = (2, 193, 259)


class WholeGraph(nn.Module):
    """From images as they are in files to labels and probabilities, as `Predictor` gives them.

    Args:
        predictor: what is to be followed; its settings say at which sizes and how often the network looks.

    Raises:
        RecipeError: it is applied in a way that no graph can hold.
    """

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        settings = predictor.settings
        run_without = "Export without it: add inference.{}=none to the command"
        if settings.window is not None:
            raise RecipeError(
                f"inference.window={list(settings.window)}: how many windows an image has depends on its size, which a "
                f"graph cannot follow. {run_without.format('window')}"
            )
        if settings.crf is not None:
            raise RecipeError(
                f"inference.crf={settings.crf}: no graph can hold a dense CRF, so masks would differ from those that "
                f"maskwright predict makes of the run. {run_without.format('crf')}; maskwright evaluate with the same "
                "setting says what it costs"
            )
        own = getattr(predictor.model.backbone, "image_size", None)
        if own is not None and settings.size != tuple(own):
            raise RecipeError(
                f"backbone {predictor.model.backbone.name} takes images of {own[0]}x{own[1]} pixels only. Let the file "
                f"bring every image to that size: add inference.size={own[0]},{own[1]}"
            )
        self.model: Any = predictor.model
        self.settings = settings.model_copy(update={"autocast": "none"})
        self.mean, self.std, self.range = predictor.mean, predictor.std, predictor.reading.range
        self.kind = torch.uint8 if predictor.labels.num_classes <= 256 else torch.int32

    @property
    def open_sizes(self) -> bool:
        """Whether the network sees sizes that follow from the image's by a calculation with rounding."""
        settings = self.settings
        return isinstance(settings.size, int) or (settings.size is None and set(settings.scales) != {1.0})

    def seen(self, image: Tensor) -> tuple[Tensor, ...]:
        """The image as the network sees it, and that at each of its scales, where there are others than 1.

        Args:
            image: `(B, H, W, C)` uint8, or with a range the numbers of files, float32.

        Returns:
            `(B, C, h, w)` float32 each, normalised.
        """
        pixels = self._bytes(image.permute(0, 3, 1, 2))
        if self.settings.size is not None:  # as Pillow does it, in whole numbers
            size = seen_size(self.settings.size, (image.shape[1], image.shape[2]), torch.sym_max)
            pixels = F.interpolate(pixels.contiguous(), size=size, mode="bicubic", antialias=True)
        images = normalise(pixels, self.mean, self.std)
        if set(self.settings.scales) == {1.0}:
            return (images,)
        size = (images.shape[2], images.shape[3])
        return images, *(resize(images, scaled_size(size, scale)) for scale in self.settings.scales)

    def _bytes(self, numbers: Tensor) -> Tensor:
        """Numbers of files as bytes, as `data.decode.to_bytes` makes them."""
        if self.range is None:
            return numbers
        low, high = self.range
        wide = numbers.double()
        scaled = (torch.where(wide.isnan(), low, wide) - low) * 255 / (high - low)
        return scaled.clamp(0, 255).round().to(torch.uint8)

    @torch.no_grad()
    def forward(self, image: Tensor, *seen: Tensor) -> tuple[Tensor, Tensor]:
        """What `Predictor` makes of images of one size.

        Args:
            image: `(B, H, W, C)` uint8, or with a range float32; RGB where C is 3.
            seen: what `seen` gives, where it was called before; then of `image` the size alone is read.

        Returns:
            Labels `(B, H, W)` uint8 (int32 with more than 256 classes) and probabilities `(B, C, H, W)` float32.
        """
        own = (image.shape[1], image.shape[2])
        images, *scaled = seen or self.seen(image)
        maps = label_maps(self.model, images, self.settings, scaled)
        several = len(self.settings.scales) > 1 or self.settings.flip
        probabilities = maps if several else resize(maps, images.shape[2:]).softmax(1)
        return resize(maps, own).argmax(1).to(self.kind), resize(probabilities, own)


class Before(nn.Module):
    """What comes before the network, by itself: the image as it is, and as `WholeGraph.seen` gives it."""

    def __init__(self, graph: WholeGraph) -> None:
        super().__init__()
        self.seen = graph.seen

    @torch.no_grad()
    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return image, *self.seen(image)


def followed(graph: WholeGraph) -> torch.export.ExportedProgram:
    """The graph as a program without Python, for any number of images of any one size.

    Raises:
        RecipeError: the network asks about the size of the image, or about its values, in a way that cannot be kept
            open; or that size follows from the image's in a way that takes too long to follow.
    """
    if graph.open_sizes:
        given = f"inference.size={graph.settings.size or 'none'} with inference.scales={list(graph.settings.scales)}"
        raise RecipeError(
            f"{given}: the network sees sizes that follow from the image's by rounding, which torch.export follows too "
            "slowly. Give both sides, as in inference.size=360,480, or take format=onnx"
        )
    with _explained(graph):
        return _export(graph, _sample(graph))


def followed_in_parts(graph: WholeGraph) -> tuple[torch.export.ExportedProgram, torch.export.ExportedProgram]:
    """The same as two programs, so that the network's own sizes are plain numbers: what comes before it, and the rest.

    The first gives what the second takes: the image as it is, and as the network sees it.

    Raises:
        RecipeError: as `followed`, whatever the sizes.
    """
    image = _sample(graph)
    with _explained(graph), torch.no_grad():
        # Sizes of their own, as none follows from another.
        seen = [view[:, :, number:, 3 * number :].contiguous() for number, view in enumerate(graph.seen(image), 1)]
        return _export(Before(graph), image), _export(graph, image, *seen)


def _export(
    module: nn.Module, image: Tensor, *seen: Tensor, free: Sequence[int] = (0, 1, 2)
) -> torch.export.ExportedProgram:
    """A network as a program; `free` are the sides of the first input that stay open."""
    open_side = torch.export.Dim.DYNAMIC
    shapes: tuple[Any, ...] = (dict.fromkeys(free, open_side),)
    if seen:
        shapes += (tuple(dict.fromkeys((0, 2, 3), open_side) for _ in seen),)
    with torch.no_grad(), _in_short():
        return torch.export.export(module, (image, *seen), dynamic_shapes=shapes, strict=False)


@contextmanager
def _in_short() -> Iterator[None]:
    """A block in which operations that take long to follow are others of the same result: timm's convolutions pad by
    `_pad_same`, and ReLU6 is `clamp`, which exporters need not take apart at every layer."""
    convolutions: Any = sys.modules.get("timm.layers.conv2d_same")  # nothing where no network of timm's was built
    functions: list[tuple[Any, str, Any]] = [(F, "hardtanh", _clamp)]
    functions += [(convolutions, "pad_same", _pad_same)] if convolutions is not None else []
    theirs = [(place, name, getattr(place, name)) for place, name, _ in functions]
    try:
        for place, name, ours in functions:
            setattr(place, name, ours)
        yield
    finally:
        for place, name, function in theirs:
            setattr(place, name, function)


def _clamp(images: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    return images.clamp(min_val, max_val)


def _pad_same(
    images: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int] = (1, 1), value: float = 0
) -> Tensor:
    """TensorFlow's padding, as timm does it before a convolution, with sides that stay short as expressions.

    By how much a side is padded depends on what is left when the stride divides it. As a size that is handed on from
    stage to stage it grows with each, and EfficientNet takes minutes to follow. So every side is padded by as much as
    any needs, and what is left decides only where the image begins; what is too much the convolution does not reach.
    """
    for place, (width, step, apart) in enumerate(zip(kernel, stride, dilation), start=images.ndim - 2):
        side: Any = images.shape[place]
        reach = (width - 1) * apart + 1
        before = [max(reach - step + left, 0) // 2 for left in range(step)]
        sides = [max(before), reach - 1] if place == images.ndim - 1 else [0, 0, max(before), reach - 1]
        images = F.pad(images, sides, value=value)
        if len(set(before)) > 1:
            own = torch.sym_max(reach - step + -side % step, 0) // 2
            images = images.index_select(
                place, torch.arange(side + reach - 1, device=images.device) + (max(before) - own)
            )
        else:
            images = images.narrow(place, 0, side + reach - 1)
    return images


def _sample(graph: WholeGraph) -> Tensor:
    shape = torch.Size([*SAMPLE, len(graph.mean)])
    values = torch.arange(shape.numel()).remainder(251).view(shape)
    return values.to(torch.uint8 if graph.range is None else torch.float32)


@contextmanager
def _explained(graph: WholeGraph) -> Iterator[None]:
    """Say of what torch.export cannot follow which network it is in, and what may help."""
    try:
        yield
    except Exception as error:  # whatever operation of whatever network is in the way
        first = str(error).strip().partition("\n")[0].rstrip(".!")
        raise RecipeError(
            f"{type(graph.model).__name__} on {graph.model.backbone.name} cannot be exported for images of every size: "
            f"{first:.300}. Try inference.size=HEIGHT,WIDTH, which lets the network see one size alone"
        ) from error
