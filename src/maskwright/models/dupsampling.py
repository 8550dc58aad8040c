"""DUpsampling (Tian, He, Shen, Yan, CVPR 2019, arXiv 1903.02120): labels are reconstructed from a learned basis.

The network predicts, in each cell of its coarse map, coordinates of an `r x r` patch of labels in a linear basis that
was fitted to the training masks (`dupsampling_fit`). Because the reconstruction knows what labels look like, the
decoder can work at the coarse resolution, and low-level features are downsampled to it rather than the other way round.

Channel `(dy*r + dx)*C + k` of the product is class k at pixel (dy, dx) of the cell, class innermost. Of the public
modules one orders them (dx, dy, k) and one is wrong for maps that are not square; weights do not transfer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskwright.data.dataset import Dataset
from maskwright.engine import distributed
from maskwright.errors import DataError, RecipeError
from maskwright.losses.ignore import IGNORE_INDEX, valid_pixels
from maskwright.models.backbone import Backbone
from maskwright.models.base import SegmentationModel
from maskwright.models.layers import ConvBNReLU, initialise, initialise_classifier, resize

if TYPE_CHECKING:
    from maskwright.models.dupsampling_fit import LabelBasis

TILE_BYTES = 2**23


def dupsample(features: Tensor, weight: Tensor, num_classes: int, ratio: int) -> Tensor:
    """Logits of every pixel from coordinates of every cell.

    Args:
        features: `(B, d, h, w)`.
        weight: W, `(r*r*C, d)`.
        num_classes: C.
        ratio: r.

    Returns:
        `(B, C, h*r, w*r)`.
    """
    batch, _, height, width = features.shape
    product = F.conv2d(features, weight[:, :, None, None]).contiguous()
    product = product.view(batch, ratio, ratio, num_classes, height, width)
    return product.permute(0, 3, 4, 1, 5, 2).reshape(batch, num_classes, height * ratio, width * ratio)


def dupsample_argmax(features: Tensor, weight: Tensor, num_classes: int, ratio: int) -> Tensor:
    """`dupsample(...).argmax(1)`, without the full-resolution map of all classes.

    The arg-max is taken cell by cell, and only its result, one byte a pixel, is brought into image order; a few rows of
    cells at a time, so that the product stays within 8 MB, which a processor's cache holds.

    Args:
        features: `(B, d, h, w)`.
        weight: W, `(r*r*C, d)`.
        num_classes: C.
        ratio: r.

    Returns:
        `(B, h*r, w*r)` uint8 (int16 with more than 256 classes).
    """
    batch, dim, height, width = features.shape
    kind = torch.uint8 if num_classes <= 256 else torch.int16
    labels = torch.empty(batch, height, ratio, width, ratio, dtype=kind, device=features.device)
    rows = features.detach().permute(0, 2, 3, 1).reshape(batch * height, width, dim)
    weight = weight.detach()
    result = labels.view(batch * height, ratio, width, ratio)
    step = max(1, TILE_BYTES // (width * len(weight) * features.element_size()))
    if not _compiles(features, weight):
        for first in range(0, len(rows), step):
            tile = F.linear(rows[first : first + step], weight)
            best = tile.view(-1, width, ratio, ratio, num_classes).argmax(-1)
            result[first : first + step] = best.permute(0, 2, 1, 3)
        return labels.view(batch, height * ratio, width * ratio)

    from maskwright.models.dupsampling_cpu import pick_classes

    # Pixels innermost instead of classes, as the kernel wants them.
    weight = weight.view(ratio**2, num_classes, dim).transpose(0, 1).reshape(-1, dim)
    products = features.new_empty(min(step, len(rows)) * width, len(weight))  # one for all, as it stays in the cache
    for first in range(0, len(rows), step):
        tile = rows[first : first + step].flatten(0, 1)
        product = torch.mm(tile, weight.T, out=products[: len(tile)]).view(-1, width, num_classes, ratio**2)
        pick_classes(product.numpy(), result[first : first + step].numpy())
    return labels.view(batch, height * ratio, width * ratio)


def _compiles(features: Tensor, weight: Tensor) -> bool:
    """Whether the compiled kernel can take the product."""
    plain = features.device.type == "cpu" and features.dtype == weight.dtype == torch.float32
    return plain and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()


def compress_labels(
    labels: Tensor, weight: Tensor, num_classes: int, ratio: int, *, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    """Coordinates x of the cells of a label map whose W x is nearest to them, ignored pixels as zero vectors.

    Every pixel picks one row of W, so the one-hot map is never built.

    Args:
        labels: `(B, H, W)` integer; padded with ignore below and on the right to a multiple of the ratio.
        weight: W, `(r*r*C, d)`, orthonormal columns times any number s: then `x = W^T v / s^2`.
        num_classes: C.
        ratio: r.
        ignore_index: value of pixels without a label.

    Returns:
        `(B, d, ceil(H/r), ceil(W/r))`.

    Raises:
        DataError: labels out of range.
    """
    columns = weight / weight.square().sum(0).mean()
    return sum_over_cells(labels, columns, num_classes, ratio, ignore_index=ignore_index)


def sum_over_cells(
    labels: Tensor, table: Tensor, num_classes: int, ratio: int, *, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    """The product of a matrix and the one-hot vector v of every cell of a label map, ignored pixels as zeros.

    Args:
        labels: `(B, H, W)` integer; padded with ignore below and on the right to a multiple of the ratio.
        table: transpose of the matrix, `(r*r*C, d)`.
        num_classes: C.
        ratio: r.
        ignore_index: value of pixels without a label.

    Returns:
        `(B, d, ceil(H/r), ceil(W/r))`.

    Raises:
        DataError: labels out of range.
    """
    height, width = labels.shape[1:]
    valid = F.pad(valid_pixels(labels, num_classes, ignore_index), (0, -width % ratio, 0, -height % ratio))
    padded = F.pad(labels.long(), (0, -width % ratio, 0, -height % ratio))
    batch, down, across = len(labels), padded.shape[1] // ratio, padded.shape[2] // ratio
    pixel = torch.arange(ratio * ratio, device=labels.device).view(ratio, 1, ratio) * num_classes
    rows = padded.view(batch, down, ratio, across, ratio) + pixel
    rows = rows.masked_fill_(~valid.view_as(rows), len(table))
    cells = rows.permute(0, 1, 3, 2, 4).reshape(-1, ratio * ratio)
    sums = F.embedding_bag(cells, torch.cat([table, table.new_zeros(1, table.shape[1])]), mode="sum")
    return sums.view(batch, down, across, -1).permute(0, 3, 1, 2)


def compressed_label_loss(
    features: Tensor,
    labels: Tensor,
    weight: Tensor,
    num_classes: int,
    ratio: int,
    *,
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    """Mean of `|F - P v|^2` over the cells without ignored pixels: the paper's optional first training stage.

    Args:
        features: predicted coordinates F, `(B, d, h, w)`.
        labels: `(B, H, W)` with `h = ceil(H/r)`, `w = ceil(W/r)`.
        weight: W as for `compress_labels`, which gives P v; it gets no gradient.
        num_classes: C.
        ratio: r.
        ignore_index: value of pixels without a label.

    Returns:
        A scalar; a graph-connected 0 where no cell counts.

    Raises:
        DataError: labels of another size, or out of range.
    """
    with torch.no_grad():
        target = compress_labels(labels, weight, num_classes, ratio, ignore_index=ignore_index)
        room = (0, -labels.shape[2] % ratio, 0, -labels.shape[1] % ratio)
        ignored = F.pad((~valid_pixels(labels, num_classes, ignore_index)).to(target.dtype), room, value=1.0)
        counted = F.max_pool2d(ignored[:, None], ratio)[:, 0] == 0
    if features.shape != target.shape:
        raise DataError(
            f"coordinates must be {tuple(target.shape)} for labels {tuple(labels.shape)}, found {tuple(features.shape)}"
        )
    distance = (features - target).square().sum(1)
    return (distance * counted).sum() / counted.sum().clamp(min=1)


def cosine_basis(ratio: int, num_classes: int, dim: int) -> Tensor:
    """A basis that no data is needed for: each class's share of the cell, then waves across it, the longest first.

    These are the directions that best fit labels of which only smoothness is known (a discrete cosine transform).

    Args:
        ratio: r.
        num_classes: C.
        dim: d, at most r*r*C.

    Returns:
        `(r*r*C, d)`, orthonormal columns.
    """
    position = (torch.arange(ratio, dtype=torch.float64) + 0.5) / ratio
    waves = torch.cos(torch.pi * position[:, None] * torch.arange(ratio)) * (2 / ratio) ** 0.5
    waves[:, 0] = ratio**-0.5
    pairs = sorted(((u, v) for u in range(ratio) for v in range(ratio)), key=lambda pair: pair[0] ** 2 + pair[1] ** 2)
    down, across = zip(*pairs[: -(-dim // num_classes)])
    surfaces = waves[:, None, down] * waves[None, :, across]
    return torch.kron(surfaces.flatten(0, 1), torch.eye(num_classes, dtype=torch.float64))[:, :dim].float()


class DUpsampling(SegmentationModel):
    """The downsample-and-fuse decoder with DUpsampling by the backbone's output stride.

    Before training, `prepare` fits the basis to the training masks or reads it from a file; a model that is only built
    has `cosine_basis`.

    Args:
        backbone: gives the feature maps; the ratio r is its coarsest stride (the paper: 16 or 32).
        num_classes: channels of the logits.
        dim: d, coordinates per cell.
        decoder_channels: width of the decoder.
        low_level: which finer feature maps are fused, by number among the backbone's, -1 being the coarsest. The paper
            finds that it matters which, and that very early ones hurt. Default: the two before the coarsest; `[]` for
            none.
        low_level_channels: width that each of them is reduced to.
        upsampling: "dupsampling", or "bilinear" for the same decoder with a classifier and bilinear upsampling.
        label_basis: "fit" to the training masks, "cosine", or a file that `maskwright ceiling` or an earlier run wrote.
        freeze_basis: keep the fitted basis as it is; otherwise it is trained on.
        temperature: divide the logits by a learned temperature. The basis fixes the scale of the logits, which without
            it are too flat. Labels do not depend on it.
        compressed_epochs: passes over the training images in which the network first learns the coordinates of labels,
            by `compressed_label_loss`, before it learns the labels; the paper leaves it open whether this is done.

    Raises:
        RecipeError: an unknown kind of upsampling, feature maps that do not exist, more coordinates than a cell has, or
            a number of epochs that cannot be.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        dim: int = 256,
        decoder_channels: int = 256,
        low_level: Sequence[int] | None = None,
        low_level_channels: int = 48,
        upsampling: Literal["dupsampling", "bilinear"] = "dupsampling",
        label_basis: str = "fit",
        freeze_basis: bool = False,
        temperature: bool = True,
        compressed_epochs: float = 0.0,
    ) -> None:
        super().__init__(backbone, num_classes)
        self.ratio, self.dim = backbone.strides[-1], dim
        rows = self.ratio**2 * num_classes
        if upsampling not in ("dupsampling", "bilinear"):
            raise RecipeError(f"upsampling must be dupsampling or bilinear, found {upsampling!r}")
        if not 1 <= dim <= rows:
            raise RecipeError(f"dim must be 1..{rows} at output stride {self.ratio}, found {dim}")
        if compressed_epochs < 0 or (compressed_epochs and upsampling == "bilinear"):
            raise RecipeError(
                f"compressed_epochs must be at least 0, and 0 with upsampling=bilinear, which has no coordinates to "
                f"learn; found {compressed_epochs}"
            )
        self.upsampling, self.label_basis = upsampling, label_basis
        self.compressed_epochs, self.compressed = compressed_epochs, False
        maps = len(backbone.channels)
        chosen = range(max(0, maps - 3), maps - 1) if low_level is None else low_level
        if any(not -maps <= number < maps or number % maps == maps - 1 for number in chosen):
            raise RecipeError(
                f"low_level names feature maps of {backbone.name} finer than the coarsest: 0..{maps - 2} of strides "
                f"{backbone.strides[:-1]}, found {list(chosen)}"
            )
        self.low_level = sorted({number % maps for number in chosen})
        backbone.use_only([*self.low_level, maps - 1])
        self.reduce = nn.ModuleList(
            ConvBNReLU(backbone.channels[number], low_level_channels, 1) for number in self.low_level
        )
        width = backbone.channels[-1] + low_level_channels * len(self.low_level)
        self.decoder = nn.Sequential(
            ConvBNReLU(width, decoder_channels), ConvBNReLU(decoder_channels, decoder_channels)
        )
        for part in (self.reduce, self.decoder):
            initialise(part)
        if upsampling == "bilinear":
            self.classifier = nn.Conv2d(decoder_channels, num_classes, 1)
            initialise_classifier(self.classifier)
            return
        self.project = nn.Conv2d(decoder_channels, dim, 1)
        initialise_classifier(self.project)
        self.basis = nn.Parameter(torch.empty(rows, dim), requires_grad=not freeze_basis)
        # Times r, the coordinates of a cell of one class are about 1. With orthonormal columns they would be r, and
        # gradient descent on what gives them r * r times slower than on a plain classifier.
        with torch.no_grad():
            self.basis.copy_(self.ratio * cosine_basis(self.ratio, num_classes, dim))
        self.log_temperature = nn.Parameter(torch.zeros(())) if temperature else None

    @property
    def temperature(self) -> float:
        """What the logits are divided by."""
        learned = getattr(self, "log_temperature", None)
        return 1.0 if learned is None else float(learned.detach().exp())

    def decode(self, features: list[Tensor]) -> Tensor:
        """Decoder output `(B, decoder_channels, h, w)` at the resolution of the coarsest feature map."""
        size = features[-1].shape[-2:]
        fine = [reduce(resize(features[number], size)) for number, reduce in zip(self.low_level, self.reduce)]
        return self.decoder(torch.cat([*fine, features[-1]], 1))

    def coordinates(self, features: list[Tensor]) -> Tensor:
        """Coordinates of every cell in the basis, `(B, dim, h, w)`: what `compressed_label_loss` can train."""
        return self.project(self.decode(features))

    def head(self, features: list[Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        """Logits `(B, num_classes, H, W)` at image size, or at that of the coarsest map with bilinear upsampling.

        Within `only_coordinates` the coordinates of every cell stand in their place.
        """
        if self.upsampling == "bilinear":
            return {"logits": self.classifier(self.decode(features))}
        if self.compressed:
            return {"logits": self.coordinates(features)}
        logits = dupsample(self.coordinates(features), self.basis, self.num_classes, self.ratio)
        logits = logits[:, :, : size[0], : size[1]]
        return {"logits": logits if self.log_temperature is None else logits / self.log_temperature.exp()}

    @contextmanager
    def only_coordinates(self) -> Iterator[None]:
        """Inside, `forward(..., upsample=False)` gives coordinates `(B, dim, h, w)`, and what does not make them keeps
        its values."""
        unused = [self.basis, *([] if self.log_temperature is None else [self.log_temperature])]
        unused += [] if self.auxiliary_heads is None else self.auxiliary_heads.parameters()
        trained = [parameter for parameter in unused if parameter.requires_grad]
        self.compressed = True
        for parameter in trained:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            self.compressed = False
            for parameter in trained:
                parameter.requires_grad_(True)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Label of every pixel: the arg-max of `forward`, without its full-size logits.

        Args:
            images: `(B, 3, H, W)`, normalised.

        Returns:
            Labels `(B, H, W)` int64.
        """
        if self.upsampling == "bilinear":
            return super().predict(images)
        coordinates = self.coordinates(self.backbone(images))
        labels = dupsample_argmax(coordinates, self.basis, self.num_classes, self.ratio)
        return labels[:, : images.shape[-2], : images.shape[-1]].long()

    def prepare(self, dataset: Dataset, folder: Path) -> None:
        """Put the label basis in place: from `label_basis`, from the folder, or fitted to the masks and kept there.

        Args:
            dataset: the training set; read only where the basis is fitted.
            folder: gets or has `label_basis.npz`.

        Raises:
            DataError: a file that is missing or belongs to other classes, another stride or fewer dimensions; or masks
                that nothing can be fitted to.
        """
        if self.upsampling == "bilinear" or self.label_basis == "cosine":
            return
        from maskwright.models.dupsampling_fit import LabelBasis, fit_label_basis, label_patches, masks_of

        path = Path(self.label_basis)
        if self.label_basis == "fit":
            path = folder / "label_basis.npz"
            if distributed.is_main() and not path.is_file():
                labels = dataset.labels
                patches = label_patches(
                    masks_of(dataset, "reading masks for the label basis"),
                    self.ratio,
                    self.num_classes,
                    ignore_index=labels.ignore_index,
                )
                fit_label_basis(patches, self.dim).save(path)
            distributed.barrier()
        self.load_basis(LabelBasis.load(path))

    @torch.no_grad()
    def load_basis(self, basis: LabelBasis) -> None:
        """Take over a fitted basis; of a wider one its most important directions.

        Raises:
            DataError: it belongs to another ratio or number of classes, or has fewer dimensions than the model.
        """
        found = (basis.ratio, basis.num_classes)
        if found != (self.ratio, self.num_classes) or basis.weight.shape[1] < self.dim:
            raise DataError(
                f"the label basis was fitted for output stride {basis.ratio}, {basis.num_classes} classes and "
                f"{basis.weight.shape[1]} dimensions; the model has output stride {self.ratio}, {self.num_classes} "
                f"classes and {self.dim} dimensions. Fit it again with label_basis=fit"
            )
        self.basis.copy_(self.ratio * torch.from_numpy(basis.weight[:, : self.dim]))
