"""The one place that decides which pixels count: labels are checked, ignored pixels masked, the rest averaged."""

from __future__ import annotations

import torch
from torch import Tensor

from maskwright.errors import DataError

IGNORE_INDEX = 255


def check_shapes(logits: Tensor, labels: Tensor, *, same_size: bool = True) -> None:
    """Refuse logits and labels that do not belong together.

    Args:
        logits: `(B, C, H, W)`, floating point.
        labels: `(B, H, W)`, integer.
        same_size: also require equal height and width.

    Raises:
        DataError: another number of dimensions, another batch size, another height or width, or a wrong dtype; the
            text holds what was found and what was expected.
    """
    if logits.ndim != 4 or not logits.is_floating_point():
        raise DataError(f"logits must be floating point (B, C, H, W), found {_kind(logits)}")
    if labels.ndim != 3 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise DataError(f"labels must be integer (B, H, W), found {_kind(labels)}")
    batch, _, height, width = logits.shape
    expected = (batch, height, width) if same_size else (batch, *labels.shape[1:])
    if tuple(labels.shape) != expected:
        raise DataError(
            f"labels for logits {tuple(logits.shape)} must be {expected}, found {tuple(labels.shape)}"
            + ("; resize the logits to the labels first" if labels.shape[0] == batch else "")
        )


def valid_pixels(labels: Tensor, num_classes: int, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """Which pixels carry a label.

    Args:
        labels: integer tensor of any shape, values `0..num_classes-1` or `ignore_index`.
        num_classes: number of classes.
        ignore_index: value of pixels without a label, any integer; where it is one of the classes, that one is ignored.

    Returns:
        Bool tensor of the same shape, false where ignored.

    Raises:
        DataError: other values are there. Looked for on the CPU only: elsewhere it would make the host wait for the
            device at every step, and indexing with such a label stops with the device's own error.
    """
    kind = torch.iinfo(labels.dtype)
    # A number that the type cannot hold would be compared as what is left of it: 256 as 0, -1 as 255.
    known = kind.min <= ignore_index <= kind.max
    valid = labels != ignore_index if known else torch.ones_like(labels, dtype=torch.bool)
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        beyond = labels >= num_classes if num_classes <= kind.max else torch.zeros_like(valid)
        wrong = valid & ((labels < 0) | beyond)
        if wrong.any():
            values, counts = labels[wrong].unique(return_counts=True)
            shown = ", ".join(f"{v} ({n} pixels)" for v, n in zip(values[:8].tolist(), counts[:8].tolist()))
            raise DataError(
                f"labels must be 0..{num_classes - 1} or {ignore_index} (ignored), found {shown}"
                + (", ..." if len(values) > 8 else "")
                + "; check the masks with `maskwright data check`, map values with data.label_map"
            )
    return valid


def index_labels(labels: Tensor, valid: Tensor) -> Tensor:
    """Labels as int64 with 0 at ignored pixels, so that they can be used as an index anywhere."""
    return labels.long().masked_fill(~valid, 0)


def flatten_valid(logits: Tensor, labels: Tensor, ignore_index: int = IGNORE_INDEX) -> tuple[Tensor, Tensor]:
    """The valid pixels of a batch as rows.

    Args:
        logits: `(B, C, H, W)`.
        labels: `(B, H, W)`.
        ignore_index: value of pixels without a label.

    Returns:
        Logits `(n, C)` and labels `(n,)` int64, in raster order.

    Raises:
        DataError: shapes that do not fit, or labels out of range (CPU).
    """
    check_shapes(logits, labels)
    valid = valid_pixels(labels, logits.shape[1], ignore_index)
    return logits.movedim(1, -1)[valid], labels[valid].long()


def mean_over_valid(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of the values where `valid`, a scalar; a zero that still belongs to the graph where nothing is valid.

    Args:
        values: any shape. What stands at invalid places changes neither the result nor a gradient.
        valid: bool, the same shape.
    """
    return values.masked_fill(~valid, 0).sum() / valid.sum().clamp(min=1)


def at_least_float32(logits: Tensor) -> Tensor:
    """Half-precision logits as float32: exponentials and sums over a million pixels need it; others as they are."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _kind(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
