"""What every reader gives."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from maskwright.data.sample import LabelSpace, Sample


class Dataset(Protocol):
    """What every reader gives: examples by index, and what can be known of them without decoding."""

    @property
    def labels(self) -> LabelSpace: ...

    @property
    def names(self) -> list[str]: ...

    @property
    def source(self) -> dict[str, Any]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...

    def mask(self, index: int, /) -> np.ndarray | None: ...

    def tags(self, index: int, /) -> tuple[int, ...] | None: ...

    def has_mask(self, index: int, /) -> bool: ...

    def size(self, index: int, /) -> tuple[int, int]: ...
