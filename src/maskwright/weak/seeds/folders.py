"""What stages that write a file of maps an image share: whose the folder is, what is to be made, what goes together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maskwright.data.batches import equal_batches
from maskwright.data.dataset import Dataset
from maskwright.data.sizes import Size
from maskwright.engine import distributed
from maskwright.errors import DataError
from maskwright.files import is_there, read_json, write_json

LARGEST_BATCH = 64


def claim(folder: Path, made_with: dict[str, Any]) -> None:
    """Note what the maps of a folder are made with; maps of two origins must not lie in one folder.

    Raises:
        DataError: the folder was begun with something else.
    """
    path = folder / "maps.json"
    if path.is_file():
        found = read_json(path)
        differ = [key for key in made_with if found.get(key) != made_with[key]]
        if differ:
            raise DataError(
                f"{folder} holds maps made with other {' and '.join(differ)} "
                f"({', '.join(f'{key}: {found.get(key)}, now {made_with[key]}' for key in differ)}); "
                "delete the folder or choose another one"
            )
    elif distributed.is_main():
        write_json(path, made_with)
    distributed.barrier()


def batches_to_make(
    dataset: Dataset,
    folder: Path,
    size: Size,
    *,
    largest: int = LARGEST_BATCH,
    pixels: float = math.inf,
    tagged_only: bool = False,
) -> list[list[int]]:
    """This process's batches of images of one size, without those of which the folder has every `NAME.npz`.

    Batches are fixed by all images whose tags are known, not by what is missing, and one that is half done is made
    again: other neighbours would be another size of batch, which takes other kernels and rounds otherwise. So a stage
    that was stopped, or shared, ends with the same bits as one that was not. Images with tags and without are never in
    one batch.

    Args:
        dataset: names, tags and sizes.
        folder: of the files.
        size: see `equal_batches`.
        largest: see `equal_batches`.
        pixels: see `equal_batches`.
        tagged_only: leave out the images without tags.
    """
    batches = tagged_batches(dataset, range(len(dataset)), size, largest, pixels, tagged_only)

    def done(batch: list[int]) -> bool:
        return all(is_there(folder / f"{dataset.names[index]}.npz") for index in batch)

    # Others may have begun to write when the last process looks: what the first saw counts.
    missing = distributed.broadcast([batch for batch in batches if not done(batch)])
    return missing[distributed.rank() :: distributed.world_size()]


def tagged_batches(
    dataset: Dataset,
    indices: Sequence[int],
    size: Size,
    largest: int = LARGEST_BATCH,
    pixels: float = math.inf,
    tagged_only: bool = False,
) -> list[list[int]]:
    """Batches of images of one size whose tags are known; images with tags and without are never in one batch.

    Args:
        dataset: tags and sizes.
        indices: of the images that are looked at.
        size: see `equal_batches`.
        largest: see `equal_batches`.
        pixels: see `equal_batches`.
        tagged_only: leave out the images without tags.
    """
    batches: list[list[int]] = []
    for tagged in (True,) if tagged_only else (False, True):
        known = [index for index in indices if (tags := dataset.tags(index)) is not None and bool(tags) == tagged]
        batches += equal_batches(dataset, known, size, largest, pixels)
    return batches


def origin(folder: Path) -> Any:
    """What the maps of a folder were made with, or None where it does not say."""
    record = folder / "maps.json"
    return read_json(record) if record.is_file() else None
