"""`picture.png`: a few training images of a run with all that was made of them."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from pathlib import Path

import numpy as np

from maskwright.data.dataset import Dataset
from maskwright.data.pictures import heatmap
from maskwright.files import atomic_write
from maskwright.report.gallery import rank_training_images, read_maps, stored_mask
from maskwright.report.pictures import Cell, is_empty, overlay, spread, strip
from maskwright.runs.contents import read_run


def write_picture(
    run_folder: str | PathLike[str],
    dataset: Dataset,
    *,
    predict: Callable[[np.ndarray], np.ndarray] | None = None,
    rows: int = 5,
    path: str | Path | None = None,
) -> Path:
    """Write a contact sheet image | tags | seed | pseudo-mask | prediction | ground truth of a run's training images.

    Tagged examples, spread evenly over the ranking from the worst to the best pseudo-mask; columns of which nothing
    exists are left out.

    Args:
        run_folder: the run folder.
        dataset: the split that was labelled.
        predict: image `(H, W, 3)` uint8 -> mask `(H, W)`, to fill the prediction column; else the masks in
            evaluation/predictions, where the names occur.
        rows: number of examples.
        path: where to; default picture.png in the run folder.

    Returns:
        The path written.
    """
    run, labels = read_run(run_folder), dataset.labels
    ranking = [item for item in rank_training_images(run, dataset) if dataset.tags(item.index)]
    chosen = [ranking[i] for i in spread(len(ranking), rows)]
    table: list[list[Cell]] = []
    for item in chosen:
        sample = dataset[item.index]
        maps = read_maps(run.folder.maps("seeds"), sample.name)
        pseudo = stored_mask(run.folder.masks, sample.name)
        if predict is not None:
            guess: np.ndarray | None = np.asarray(predict(sample.image))
        else:
            guess = stored_mask(run.folder.predictions(), sample.name)
        masks = [pseudo, guess, sample.mask]
        score = None if maps is None else maps[1].max(axis=0)
        tags = [(labels.names[value], labels.palette[value]) for value in sample.tags or ()]
        table.append(
            [
                sample.image,
                tags,
                None if score is None else heatmap(sample.image, score),
                *(None if mask is None else overlay(sample.image, mask, labels) for mask in masks),
            ]
        )
    titles = ["image", "tags", "seed", "pseudo-mask", "prediction", "ground truth"]
    kept = [c for c in range(len(titles)) if any(not is_empty(row[c]) for row in table)]
    sheet = strip([[row[c] for c in kept] for row in table], [titles[c] for c in kept])
    path = Path(path) if path else run.folder.picture
    with atomic_write(path) as temporary:
        sheet.save(temporary, optimize=True)
    return path
