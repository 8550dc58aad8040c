"""A folder of saliency maps for a data set: from a detector that needs no training, or from any trained segmenter."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskwright.data import open_dataset, subset
from maskwright.data.provenance import mark
from maskwright.data.saliency import DETECTORS
from maskwright.engine.progress import track
from maskwright.errors import DataError, unknown_name
from maskwright.files import atomic_write
from maskwright.inference.prefetch import prefetched
from maskwright.settings import DataSettings
from maskwright.weak.seeds.folders import claim


def write_saliency(data: DataSettings, out: str | Path, detector: str = "barrier", device: str = "auto") -> int:
    """Write `NAME.png` for every image of the set's two splits; resumes where it was stopped.

    Args:
        data: images; masks and tags are not read.
        out: gets the maps, 8 bit grey, and `maps.json` and `provenance.json`, which say what they were made with.
        detector: one of `maskwright.data.saliency.DETECTORS`; or a run folder or model file of a segmenter, whose
            saliency is 1 - the probability of the background. The recipe `saliency` trains one that tells objects from
            background.
        device: where a segmenter computes.

    Returns:
        How many maps were written now.

    Raises:
        DataError: images that cannot be read, neither such a detector nor such a run, a segmenter without a background,
            or a folder with maps made otherwise or with other files.
    """
    folder = Path(out)
    find, made_with = _detector(detector, device)
    known = (folder / "maps.json").is_file()
    if known:
        claim(folder, made_with)  # before the mark, which must not name another detector than the maps are from
    mark({folder: "saliency maps"}, made_with, ours=known)
    claim(folder, made_with)
    data = data.model_copy(update={"saliency": None})
    written = 0
    for split in dict.fromkeys((data.train, data.val)):
        dataset = open_dataset(data, split)
        missing = [index for index, name in enumerate(dataset.names) if not (folder / f"{name}.png").is_file()]
        chosen = subset(dataset, missing)

        def write(index: int, chosen: Any = chosen) -> None:
            saliency = find(chosen.get(index, with_mask=False).image)
            with atomic_write(folder / f"{chosen.names[index]}.png") as temporary:
                Image.fromarray(saliency).save(temporary, format="PNG")

        # The detectors are compiled or run in torch, so that threads do not wait for each other.
        threads = min(4, os.cpu_count() or 1) if detector in DETECTORS else 1
        done = prefetched(write, range(len(chosen)), workers=threads, ahead=2 * threads)
        for future in track(done, title=f"saliency, {split}", total=len(chosen)):
            future.result()
        written += len(chosen)
    return written


def _detector(name: str, device: str) -> tuple[Callable[[np.ndarray], np.ndarray], dict[str, Any]]:
    """A function from images to maps, and what is to be remembered of it."""
    if name in DETECTORS:
        return DETECTORS[name], {"detector": name}
    if not Path(name).exists():
        raise DataError(
            f"detector={name} is neither a run nor a model file: {unknown_name('detector', name, DETECTORS)}"
        )
    from maskwright.engine.checkpoint import weights_hash
    from maskwright.inference.load import load, model_file

    predictor = load(name, device=device)
    background = predictor.labels.background
    if background is None:
        raise DataError(f"{name}: a segmenter without a background class does not tell objects from it")

    def find(image: np.ndarray) -> np.ndarray:
        return np.rint(255 * (1 - predictor.probabilities(image)[background])).astype(np.uint8)

    trained_on = predictor.metadata["recipe"]["data"]
    return find, {
        "detector": name,
        "weights": weights_hash(model_file(name)),
        "trained_on": {key: trained_on[key] for key in ("root", "train", "masks")},
        "supervision": predictor.metadata["recipe"]["supervision"],
    }
