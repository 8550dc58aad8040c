"""What stages that write a file of maps an image share: whose the folder is, what is missing, what goes together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from maskwright.engine import distributed
from maskwright.errors import DataError
from maskwright.files import read_json, write_json

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


def missing_maps(dataset: Any, folder: Path, tagged: bool = False) -> list[int]:
    """Images whose tags are known (and, if `tagged`, that have any) of which the folder has no file."""
    missing = [
        index
        for index, name in enumerate(dataset.names)
        if (dataset.tags(index) if tagged else dataset.tags(index) is not None)
        and not (folder / f"{name}.npz").is_file()
    ]
    return distributed.broadcast(missing)  # others may have begun to write


def alike_groups(
    dataset: Any,
    indices: Sequence[int],
    size: tuple[int, int] | None,
    pixels: float,
    largest: int = LARGEST_BATCH,
) -> list[list[int]]:
    """This process's groups of images that the network sees at one size."""

    def seen(index: int) -> tuple[int, int]:
        height, width = size or dataset.size(index)
        return height, width

    def groups() -> Iterator[list[int]]:
        for (height, width), group in groupby(sorted(indices, key=seen), key=seen):
            alike = list(group)
            count = int(min(max(1, pixels // (height * width)), largest))
            yield from (alike[start : start + count] for start in range(0, len(alike), count))

    return list(groups())[distributed.rank() :: distributed.world_size()]


def origin(folder: Path) -> Any:
    """What the maps of a folder were made with, or None where it does not say."""
    record = folder / "maps.json"
    return read_json(record) if record.is_file() else None
