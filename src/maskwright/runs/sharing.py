"""How the labelling of a set is shared: in parts, by an engine; what a person says of it, and what a run remembers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from maskwright.errors import DataError
from maskwright.files import read_json, write_json
from maskwright.runs.folder import RunFolder

# What a result depends on; the rest says who works, and where.
KEPT = ("part", "sample", "keep_maps", "to")


@dataclass(frozen=True)
class Sharing:
    """Labelling in one pass, part by part.

    Args:
        engine: one of `maskwright.weak.engines.ENGINES`.
        workers: processes on this machine or in this cluster; 0 for one each processor, or GPU where there is one.
        device: where each computes; a GPU without a number gives each worker its own.
        task: for the engine `task`: `first`, `i/N` or `last`.
        address: of a cluster that runs already, for the engine `ray`.
        part: images of a part, of a set that has no shards.
        sample: images whose maps are made as files, for what is learned and judged from maps.
        keep_maps: also keep the maps of all images, in the parts' tar files.
        to: folder or address that gets the parts' files; None for the run folder.
        skip_failed: go on without parts that could not be labelled.
    """

    engine: str = "local"
    workers: int = 0
    device: str = "auto"
    task: str | None = None
    address: str | None = None
    part: int = 1000
    sample: int = 1000
    keep_maps: bool = False
    to: str | None = None
    skip_failed: bool = False

    def facts(self, has_shards: bool) -> dict[str, Any]:
        """What the parts' files depend on beside images, networks and settings.

        Args:
            has_shards: of the set, which then are the parts.
        """
        return {"keep_maps": self.keep_maps, **({} if has_shards else {"part": self.part})}


def remember(out: RunFolder, sharing: Sharing) -> None:
    """Keep in a run folder how its images are labelled, for commands that do not say it again."""
    write_json(out.sharing, {key: value for key, value in asdict(sharing).items() if key in KEPT})


def remembered(out: RunFolder, said: Mapping[str, Any] | None) -> Sharing | None:
    """How a run's images are labelled: what is said now, and for the rest what its folder knows; None without either.

    Args:
        out: of the run.
        said: what is said now, by the names of `Sharing`.

    Raises:
        DataError: the file is damaged.
    """
    there = out.sharing.is_file()
    if said is None and not there:
        return None
    kept = read_json(out.sharing) if there else {}
    if not isinstance(kept, dict) or not set(kept) <= set(KEPT):
        raise DataError(f"{out.sharing} does not say how the run is labelled; delete it, and give engine= again")
    return Sharing(**{**kept, **(said or {})})
