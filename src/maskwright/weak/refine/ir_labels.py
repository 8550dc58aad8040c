"""Certain labels for IRN from class activation maps (Ahn, Cho, Kwak, CVPR 2019, section 3.2; its released code).

Two label maps are made, with a high and with a low score for the background, and each is refined by a dense CRF on hard
labels. A class is certain where the strict map shows it, the background where both maps do; the rest is undecided.
Thresholds of the released codes (foreground, background): IRN 0.30, 0.05; ReCAM 0.35, 0.10; AdvCAM 0.35, 0.15.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from maskwright.crf.dense_crf import crf_labels
from maskwright.data import without_masks
from maskwright.data.dataset import Dataset
from maskwright.data.masks import write_mask
from maskwright.data.provenance import mark
from maskwright.data.sample import LabelSpace
from maskwright.engine import distributed
from maskwright.engine.progress import track
from maskwright.errors import DataError
from maskwright.files import is_there
from maskwright.weak.labels import seed_labels
from maskwright.weak.seeds.extract import load_maps
from maskwright.weak.seeds.folders import origin

UNDECIDED = 255


def ir_labels(
    high_res: np.ndarray,
    keys: Sequence[int] | np.ndarray,
    image: np.ndarray,
    foreground_threshold: float,
    background_threshold: float,
    crf: str | None = "irn",
    *,
    mode: str = "lattice",
    scale: float | str = 1.0,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """Certain classes, certain background, and undecided pixels of one image.

    The CRF can delete a small object from both maps, which then becomes certain background.

    Args:
        high_res: `(n, H, W)` maps in 0..1.
        keys: tag position of each map, `(n,)`.
        image: `(H, W, 3)` uint8 RGB.
        foreground_threshold: score of the background where classes are to be certain.
        background_threshold: score of the background where it is to be certain itself; the lower of the two.
        crf: preset of the CRF that both maps go through with a confidence of 0.7, or None.
        mode: of the CRF, see `dense_crf`.
        scale: of the CRF's kernels, see `dense_crf.preset_settings`.
        device: where the CRF is computed.

    Returns:
        `(H, W)` uint8: 0 background, key + 1 a class, 255 undecided; all 0 without maps.

    Raises:
        DataError: image and maps differ in size, a key is above 253, or an unknown preset.
    """
    keys = np.asarray(keys, np.int64)
    if image.shape != (*high_res.shape[1:], 3) or len(keys) != len(high_res):
        raise DataError(
            f"image {image.shape}, maps {high_res.shape}, {len(keys)} keys: expected (H, W, 3), (n, H, W) and n keys"
        )
    if len(keys) == 0:
        return np.zeros(high_res.shape[1:], np.uint8)
    if keys.max() + 1 >= UNDECIDED:
        raise DataError(f"key {keys.max()} is too high: label {UNDECIDED} stands for undecided pixels")
    count = len(keys) + 1
    maps = np.stack(
        [
            seed_labels(high_res, np.arange(len(keys)), threshold, 0, range(1, count))
            for threshold in (foreground_threshold, background_threshold)
        ]
    )
    if crf is not None:
        both = torch.from_numpy(np.stack([image, image])).to(device)
        labels = torch.from_numpy(maps.astype(np.int64)).to(device)
        maps = crf_labels(both, labels, count, preset=crf, mode=mode, scale=scale).cpu().numpy()
    foreground, background = maps
    result = np.append(0, keys + 1).astype(np.uint8)[foreground]
    result[(foreground == 0) & (background != 0)] = UNDECIDED
    return result


def background_of(labels: LabelSpace) -> int:
    """The value of the background, which is told from the classes.

    Raises:
        DataError: the labels have no background class.
    """
    if labels.background is None:
        raise DataError(
            f"IR labels need a background class, the classes are {', '.join(labels.names)}; give background=NAME, or "
            "leave irn out"
        )
    return labels.background


def write_ir_labels(
    dataset: Dataset,
    maps_folder: str | Path,
    folder: str | Path,
    *,
    foreground_threshold: float,
    background_threshold: float,
    crf: str | None = "irn",
    scale: float | str = 1.0,
    device: torch.device | str = "cpu",
) -> dict[str, int]:
    """IR labels of every image that has maps, as palette PNG in the data set's values; resumes where it was stopped.

    Args:
        dataset: images and labels; ground truth is never read.
        maps_folder: of `NAME.npz` maps.
        folder: gets `NAME.png`: background, classes, and the ignore value where undecided.
        foreground_threshold: see `ir_labels`.
        background_threshold: see `ir_labels`.
        crf: see `ir_labels`.
        scale: see `ir_labels`.
        device: where the CRF is computed.

    Returns:
        How often a tagged class has no certain pixel: class name -> images. Only what this process made is counted.

    Raises:
        DataError: the labels have no background class, or a map is missing or does not fit.
    """
    labels = dataset.labels
    folder = Path(folder)
    background = background_of(labels)
    if distributed.is_main():
        mark({folder: "pseudo-masks"}, {"which": "IR labels", "maps": origin(Path(maps_folder))}, ours=True)
    values = np.full(256, labels.ignore_index, np.uint8)
    values[0] = background
    values[1 : 1 + len(labels.foreground)] = labels.foreground
    lost: dict[str, int] = {}
    unmasked = without_masks(dataset)
    known = [index for index in range(len(dataset)) if dataset.tags(index) is not None]
    mine = known[distributed.rank() :: distributed.world_size()]
    for index in track(mine, title="IR labels"):
        path = folder / f"{dataset.names[index]}.png"
        if is_there(path):
            continue
        keys, high_res = load_maps(maps_folder, dataset.names[index])
        found = ir_labels(
            np.asarray(high_res, np.float32),
            keys,
            unmasked[index].image,
            foreground_threshold,
            background_threshold,
            crf,
            scale=scale,
            device=device,
        )
        for key in keys:
            if not (found == key + 1).any():
                name = labels.tag_names[key]
                lost[name] = lost.get(name, 0) + 1
        write_mask(path, values[found], labels)
    distributed.barrier()
    return lost
