"""Maps of a network as it was after each epoch of its training, put together: online attention accumulation.

OAA (Jiang et al., ICCV 2019): while a classifier learns, its attention moves over the parts of an object, and what it
found once should stay. The paper accumulates maps while it trains, of what it trains on: each divided by its maximum,
then at each position the highest of all so far; the mean is an alternative. Here the network is kept after each epoch,
and when the training is over each makes maps of whole images, by whatever method. The paper's second step, a network
that is trained on the accumulated maps, is left to the segmenter.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskwright.engine import distributed
from maskwright.engine.checkpoint import MODEL, save_model
from maskwright.engine.device import half_type
from maskwright.engine.fit import Validate
from maskwright.engine.progress import LOG
from maskwright.errors import DataError
from maskwright.models.classifier import load_classifier
from maskwright.runs.contents import read_log
from maskwright.runs.folder import SNAPSHOTS
from maskwright.settings import SeedSettings
from maskwright.weak.seeds.cam import SeedMaps, Views, normalise_maps
from maskwright.weak.seeds.extract import ready_for_seeds
from maskwright.weak.seeds.method import MapsOf


def keeping_epochs(folder: Path, metadata: dict[str, Any], validate: Validate | None) -> Validate:
    """A validation that also keeps the network, in `snapshots/NNN/model.safetensors`.

    Args:
        folder: of the training.
        metadata: as for `save_model`.
        validate: gives what is logged; None: nothing is.
    """

    def keep(network: torch.nn.Module) -> dict[str, Any]:
        # As many as the log has, which a training that goes on cuts back to where it was: so none is kept twice.
        before = sum(line["event"] == "validate" for line in read_log(folder / LOG))
        if distributed.is_main():
            save_model(folder / SNAPSHOTS / f"{before + 1:03d}" / MODEL, network, metadata)
        distributed.barrier()
        return {} if validate is None else validate(network)

    return keep


def accumulated(maps: MapsOf, settings: SeedSettings, models: Sequence[Path], device: torch.device | str) -> MapsOf:
    """A seed method that takes maps of all of a training's networks; the method itself where one is all that is asked.

    Args:
        maps: the method.
        settings: `accumulate`, `window`, `stride` and `autocast` are read.
        models: of each epoch, as `RunFolder.epochs` finds them; the last is the network that the method is called with.
        device: where to compute.

    Raises:
        DataError: there is no model.
    """
    if settings.accumulate == "none":
        return maps
    if not models:
        raise DataError(
            f"seeds.accumulate={settings.accumulate} needs the network of every epoch, but none was kept; delete the "
            "folder of its stage, which is then trained again"
        )
    half = half_type(settings.autocast, device)
    earlier = [ready_for_seeds(load_classifier(path).to(device), settings, half) for path in models[:-1]]

    def of_all(network: Any, views: Views, **options: Any) -> list[SeedMaps]:
        every = [maps(one, views, **options) for one in (*earlier, network)]
        return [merged(of_image, settings.accumulate) for of_image in zip(*every, strict=True)]

    return of_all


def merged(maps: Sequence[SeedMaps], how: str) -> SeedMaps:
    """One image's maps of several networks as one.

    Args:
        maps: of the same classes, at the same sizes.
        how: `max`, at each position the highest, or `mean`; then divided by its maximum again.
    """

    def together(parts: Sequence[Tensor]) -> Tensor:
        stack = torch.stack(list(parts))
        if stack.numel() == 0:
            return stack[0]
        return normalise_maps(stack.amax(0) if how == "max" else stack.mean(0))

    return SeedMaps(maps[0].keys, together([one.cam for one in maps]), together([one.high_res for one in maps]))
