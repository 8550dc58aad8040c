"""What losses share that score whole regions: over which images they sum, and the cross-entropy trained beside them."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from maskwright.errors import RecipeError
from maskwright.losses.cross_entropy import cross_entropy

Scope = Literal["batch", "image"]


def check_scope(scope: str) -> None:
    """Refuse a scope that is none.

    Raises:
        RecipeError: neither "batch" nor "image".
    """
    if scope not in ("batch", "image"):
        raise RecipeError(f"scope must be 'batch' or 'image', found {scope!r}")


def with_cross_entropy(loss: Tensor, logits: Tensor, labels: Tensor, weight: float, ignore_index: int) -> Tensor:
    """A loss plus `weight` times the cross-entropy of the same logits `(B, C, H, W)` and labels `(B, H, W)`."""
    return loss if weight == 0 else loss + weight * cross_entropy(logits, labels, ignore_index=ignore_index)
