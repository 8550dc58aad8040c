"""What every reader gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from maskwright.data.sample import LabelSpace, Sample

# One path per image, None where an image has no such file; instead of a list None where the set has no such files.
Paths = Sequence[str | Path | None] | None


def channels_of(dataset: Dataset) -> int:
    """Channels of the images of a set, as its `source` says: three but for files that have others."""
    return int(dict(dataset.source).get("channels", 3))


class Dataset(Protocol):
    """What every reader gives: examples by index, and what can be known of them without decoding.

    Five of its attributes are for finding out whether files changed. A set whose examples are in no files of their own
    has None for the paths; what it holds then follows from `source`, or nobody notices that it changed.
    """

    @property
    def labels(self) -> LabelSpace:
        """What mask values and tags mean."""

    @property
    def names(self) -> Sequence[str]:
        """One per image, each once: relative path without suffix."""

    @property
    def source(self) -> dict[str, Any]:
        """Facts for the record of a run: root, split, where tags and classes come from."""

    @property
    def images(self) -> Paths:
        """Where each image is."""

    @property
    def masks(self) -> Paths:
        """Where each mask is; masks may exist without: ask `has_mask`."""

    @property
    def saliency(self) -> Paths:
        """Where each saliency map is; examples may have maps without, from a detector."""

    @property
    def tags_from_masks(self) -> bool:
        """Whether tags follow from the masks, so that asking for them decodes one."""

    @property
    def label_map(self) -> Mapping[int, int] | None:
        """Value in the mask files -> label value, where they are not the same."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample:
        """The example with all that is known of it.

        Raises:
            DataError: a file that cannot be read, or does not fit the others.
        """

    def get(self, index: int, /, with_mask: bool = True) -> Sample:
        """The example; without its mask where `with_mask` is false, which leaves the mask's file closed."""

    def mask(self, index: int, /) -> np.ndarray | None:
        """The mask `(H, W)` uint8 of one image, without decoding the image; None where there is none."""

    def tags(self, index: int, /) -> tuple[int, ...] | None:
        """Label values said to be in one image, ascending; None where nobody said."""

    def has_mask(self, index: int, /) -> bool:
        """Whether `mask` gives one."""

    def size(self, index: int, /) -> tuple[int, int]:
        """`(height, width)` of one image in pixels, without decoding it."""
